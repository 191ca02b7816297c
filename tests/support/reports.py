"""Job folders for reports, written as a runner would have left them, and pages read as text."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml
from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.jobs.status import StatusWriter

HOSTILE = "<script>alert(1)</script>"


def write_job(
    root: Path,
    name: str,
    action: str = "train",
    state: str = records.COMPLETE,
    *,
    spec: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    epochs: int = 0,
    failure: dict[str, Any] | None = None,
    **record: Any,
) -> Path:
    """The folder of a job that has ended as `state`."""
    folder = root / name
    (folder / action).mkdir(parents=True)
    content: Any = {
        "id": name,
        "action": action,
        "created_at": records.now(),
        "launch": {"command": ["python", "-m", "runner"], "result": f"{action}/result.json"},
        **record,
    }
    records.new_attempt(content)
    records.advance(content, records.RUNNING)
    if state != records.RUNNING:
        more = {} if failure is None else {"failure": failure}
        records.advance(content, state, **more)
    files.write_json(folder / records.RECORD_NAME, content)
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec or {}), encoding="utf-8")
    if result is not None:
        files.write_json(folder / action / "result.json", result)
    _write_epochs(folder, action, epochs)
    if isinstance((result or {}).get("kpis"), dict):
        status = StatusWriter(folder / "status.json")
        status.success(f"{action} finished", kpi=(result or {})["kpis"])
    return folder


def write_answers(
    root: Path, name: str, hits: int, images: int = 24, *, place: str = "/d/test", **record: Any
) -> Path:
    """An evaluation that has the first `hits` of its images right, with its answers to each."""
    folder = write_job(
        root,
        name,
        "evaluate",
        spec={"model": {"arch": "small"}, "train": {"stage": "finetune"}},
        data={"dataset.val_data_sources": {"uri": place, "images": images, "digest": place}},
        result={"kpis": {"ACC_all": hits / images}, "shares": {"ACC_all": images}},
        **record,
    )
    rows: list[tuple[Any, ...]] = [("path", "label", "true_label")]
    rows += [(f"{place}/{one}.png", "a" if one < hits else "b", "a") for one in range(images)]
    with (folder / "evaluate/results.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder


def _write_epochs(folder: Path, action: str, epochs: int) -> None:
    status = StatusWriter(folder / "status.json")
    status.started(f"{action} started")
    rows: list[tuple[Any, ...]] = [("step", "epoch", "name", "value")]
    for epoch in range(epochs):
        for step in range(epoch * 4 + 1, epoch * 4 + 5):
            rows += [(step, epoch, "train_loss_step", 2.0 / step), (step, epoch, "lr", 1e-3)]
            rows += [(step, epoch, "grad_norm", 1.0 / step)]
        kpi = {"train_loss": 1.0 / (epoch + 1), "val_loss": 1.2 / (epoch + 1), "ACC_all": 0.75}
        status.running(
            f"epoch {epoch}",
            epoch=epoch,
            step=epoch * 4 + 4,
            max_epoch=epochs,
            time_per_epoch=2.0,
            peak_memory_mb=100.0,
            kpi=kpi,
        )
    if epochs:
        with (folder / action / "metrics.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)


def write_study(root: Path, name: str, images: int, values: list[float | None]) -> Path:
    """A study whose trials reached these values; None: pruned."""
    folder = write_job(root, name, kind="automl", spec={"train": {"stage": "finetune"}}, result={})
    (folder / "automl").mkdir()
    rows: list[list[Any]] = [["trial", "state", "ACC_all", "best_epoch", "seconds", "lr", "child"]]
    for trial, value in enumerate(values):
        child = f"{name}.t{trial:03d}"
        state = "PRUNED" if value is None else "COMPLETE"
        rows.append([trial, state, value or 0.1, 1, 3.5, 10 ** -(trial + 1), child])
        trial_folder = write_job(root, child, kind="trial", trial=trial, result={}, epochs=2)
        about = {"ACC_all": {"direction": "maximize", "images": images}}
        index = {"best": {"metric": "ACC_all", "direction": "maximize"}, "checkpoints": []}
        files.write_json(trial_folder / "train/checkpoints.json", {**index, "metrics": about})
    with (folder / "automl/trials.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    best = max(range(len(values)), key=lambda trial: values[trial] or 0.0)
    files.write_json(
        folder / "automl/best.json", {"trial": best, "child": f"{name}.t{best:03d}", "pareto": []}
    )
    study = {
        "options": {"max_trials": len(values)},
        "objectives": [{"metric": "ACC_all", "direction": "maximize"}],
        "space": {"knobs": [{"name": "lr", "low": 1e-6, "high": 1.0, "log": True}]},
        "keys": {},
        "concurrency": 1,
        "spec": {},
    }
    files.write_json(folder / "automl/study.json", study)
    return folder


class _Reader(HTMLParser):
    """What a page holds: its text, its tags with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self._quiet, self._goes_on = 0, False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._quiet += tag == "style"
        self._goes_on = tag == "wbr"  # where a word may break, it need not

    def handle_endtag(self, tag: str) -> None:
        self._quiet -= tag == "style"

    def handle_data(self, data: str) -> None:
        if self._goes_on and self.words:
            self.words[-1] += data
        elif not self._quiet:
            self.words.append(data)
        self._goes_on = False


class Page:
    """A written report."""

    def __init__(self, html: str) -> None:
        reader = _Reader()
        reader.feed(html)
        self.html, self.tags = html, reader.tags
        self.text = " ".join(" ".join(reader.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of every element of that name."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def outside(self) -> list[str]:
        """Everything that a browser would fetch."""
        loads = ("img", "script", "iframe")
        found = [a["src"] for name, a in self.tags if name in loads and "src" in a]
        found += [a.get("href", "") for name, a in self.tags if name == "link"]
        return [one for one in found if not one.startswith("data:")]


def read_page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def json_of(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
