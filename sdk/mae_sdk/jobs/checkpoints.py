"""``checkpoints.json``: the checkpoints of a training run, their metrics, and how one is chosen.

The index is the only source of "best": metric and direction are stored in it, never guessed from a
name. A checkpoint that is missing or damaged (size or sha256) is never handed out: *latest* and
*best* step back to the previous good one and say so, an explicit epoch is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from mae_skill.errors import CheckpointError, DataError, NotFoundError, UsageError

from mae_sdk.files import parse_json, read_small, write_json
from mae_sdk.jobs.records import misfit
from mae_sdk.jobs.status import finite, is_number

INDEX_NAME = "checkpoints.json"
POLICIES = "best, latest or epoch:N"

Entry = dict[str, Any]


@dataclass
class Choice:
    """A chosen checkpoint. `notices` lists the checkpoints that were skipped, with reasons."""

    entry: Entry
    reason: str
    notices: list[str] = field(default_factory=list)


def parse_policy(policy: str) -> tuple[str, int | None]:
    """``best``, ``latest`` or ``epoch:N`` (also ``best_model``, ``latest_model``,
    ``from_epoch_number:N``) as (kind, epoch).

    Raises:
        UsageError: for any other text.
    """
    text = str(policy).strip().lower()
    if text in ("best", "best_model"):
        return "best", None
    if text in ("latest", "latest_model"):
        return "latest", None
    match = re.fullmatch(r"(?:epoch|from_epoch_number)[:=](\d+)", text)
    if match:
        return "epoch", int(match[1])
    raise UsageError(
        "unknown checkpoint policy",
        field="checkpoint",
        got=policy,
        expected=POLICIES,
        hint="the newest one is latest; one of an epoch is epoch:N",
    )


def sha256_of(path: Path) -> str:
    """The sha256 of a file in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def choose(index: Mapping[str, Any], policy: str, damaged: Callable[[Entry], str | None]) -> Choice:
    """Choose from the content of an index.

    Args:
        index: the content of ``checkpoints.json``.
        policy: ``best``, ``latest`` or ``epoch:N``.
        damaged: tells what is wrong with the file of an entry, or None.

    Raises:
        NotFoundError: nothing to choose from, or no such epoch.
        CheckpointError: every candidate is damaged, or the one asked for by epoch is.
    """
    kind, epoch = parse_policy(policy)
    entries: list[Entry] = sorted(index.get("checkpoints", []), key=_place)
    if not entries:
        raise NotFoundError(
            "the job has no checkpoint",
            field="checkpoint",
            expected="a training job that saved at least one",
            hint="train it first, or name another job",
        )

    best = index.get("best") or {}
    if kind == "epoch":
        candidates = [entry for entry in reversed(entries) if entry["epoch"] == epoch]
        if not candidates:
            known = sorted({entry["epoch"] for entry in entries})
            raise NotFoundError(
                f"no checkpoint of epoch {epoch}",
                field="checkpoint",
                got=policy,
                expected=f"one of the epochs {_ranges(known)}",
                hint="name one that is kept, or best or latest",
            )
        reason = f"epoch {epoch}"
    elif kind == "best":
        candidates = _best_first(entries, best)
        extreme = "highest" if best["direction"] == "maximize" else "lowest"
        reason = f"best {best['metric']} ({extreme})"
    else:
        candidates, reason = entries[::-1], "latest"

    notices: list[str] = []
    for entry in candidates:
        problem = damaged(entry)
        if problem is None:
            reason += f", epoch {entry['epoch']}"
            value = entry["metrics"].get(best.get("metric", ""))
            if is_number(value):
                reason += f", {best['metric']} {value:.6g}"
            return Choice(entry, reason, notices)

        notices.append(f"{entry['file']} is skipped: {problem}")
        if kind == "epoch":
            break
    raise CheckpointError(
        "no usable checkpoint: " + "; ".join(notices),
        field="checkpoint",
        got=policy,
        hint="ask for another one: latest, or epoch:N; mae jobs show lists them",
        expected="a checkpoint whose file is whole",
    )


TIE = "val_loss"
"""What tells epochs of one score apart: a share of few images is often the same in many epochs,
and the loss on these images says which of them is surest of its answers."""


def tie(loss: Any) -> float:
    """What equals are ordered by, the best first; where it is equal too, the earliest is."""
    return float(loss) if is_number(loss) else math.inf


def _best_first(entries: Sequence[Entry], best: Mapping[str, Any]) -> list[Entry]:
    """The entries that have the deciding metric, the best first; equals as `tie` says.

    Raises:
        NotFoundError: no metric decides, or no entry has it.
    """
    metric = best.get("metric")
    scored = [entry for entry in entries if is_number(entry["metrics"].get(metric))]
    if not scored:
        missing = f"no checkpoint has the metric {metric}"
        raise NotFoundError(
            missing if metric else "the job does not state which metric is best",
            field="checkpoint",
            got="best",
            hint="ask for latest or epoch:N",
        )

    sign = -1 if best["direction"] == "maximize" else 1
    order = [
        (entry["metrics"][metric] * sign, tie(entry["metrics"].get(TIE)), *_place(entry))
        for entry in scored
    ]
    return [scored[index] for index in sorted(range(len(scored)), key=order.__getitem__)]


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] → "0-2, 5"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


class CheckpointIndex:
    """The index of one training folder. One writer (rank 0), any number of readers.

    Args:
        train_dir: the folder that holds the checkpoints and ``checkpoints.json``.
    """

    def __init__(self, train_dir: str | os.PathLike[str]) -> None:
        self.train_dir = Path(train_dir)
        self.path = self.train_dir / INDEX_NAME
        self.notices: list[str] = []

    def read(self) -> dict[str, Any]:
        """The content, ``{"best": {"metric", "direction"} | None, "checkpoints": [...]}``.

        Raises:
            DataError: the index cannot be read.
        """
        try:
            text = read_small(self.path)
        except FileNotFoundError:
            return {"best": None, "checkpoints": []}
        except OSError as error:
            raise _damaged(str(self.path), str(error.strerror or error)) from error
        return read_index(text, str(self.path))

    def unlisted(self, paths: Iterable[Path]) -> list[Path]:
        """Those of the folder's checkpoint files that the index does not know, or not as they
        are."""
        listed = {str(entry["file"]): entry for entry in self.read()["checkpoints"]}
        try:
            written = self.path.stat().st_mtime_ns
        except OSError:
            written = 0
        found = []
        for path in paths:
            entry = listed.get(path.name)
            # Only a file that came after the index can differ from it unseen.
            is_newer = entry is not None and path.stat().st_mtime_ns > written
            if entry is None or (is_newer and self._damage(entry) is not None):
                found.append(path)
        return found

    def add(
        self,
        path: str | os.PathLike[str],
        epoch: int,
        step: int,
        metrics: Mapping[str, Any],
        stage: str | None = None,
        arch: str | None = None,
        input_size: Sequence[int] | None = None,
        **more: Any,
    ) -> Entry:
        """Record a checkpoint that is wholly written. One with the same file name is replaced.

        `more` is kept as it is (JSON types): class count, mean, std, whatever a child job inherits.

        Raises:
            NotFoundError: the file does not exist.
        """
        file = Path(path)
        if not file.is_file():
            raise NotFoundError(
                "checkpoint to record does not exist",
                got=str(file),
                hint="write the file before it is recorded",
            )
        entry: Entry = {
            "file": os.path.relpath(file, self.train_dir),
            "epoch": int(epoch),
            "step": int(step),
            "metrics": finite(dict(metrics)),
            "size": file.stat().st_size,
            "sha256": sha256_of(file),
            "stage": stage,
            "arch": arch,
            "input_size": None if input_size is None else list(input_size),
            **finite(more),
        }
        content = self.read()
        others = [old for old in content["checkpoints"] if old["file"] != entry["file"]]
        content["checkpoints"] = sorted([*others, entry], key=_place)
        write_json(self.path, content)
        return entry

    def set_best_policy(self, metric: str, direction: str) -> None:
        """Store which metric decides and whether it is to ``minimize`` or ``maximize``."""
        if direction not in ("minimize", "maximize"):
            raise UsageError(
                "unknown direction",
                field="direction",
                got=direction,
                expected="minimize or maximize",
                hint="write maximize or minimize",
            )
        content = self.read()
        content["best"] = {"metric": metric, "direction": direction}
        write_json(self.path, content)

    def describe_metrics(self, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        """Store what the metrics of the run are.

        Args:
            metrics: name → ``direction`` and, where it is a share of images, ``images``: of how
                many.
        """
        content = self.read()
        content["metrics"] = {name: dict(about) for name, about in metrics.items()}
        write_json(self.path, content)

    def thin(self, keep: int) -> list[str]:
        """Remove the entries of all but the newest `keep` checkpoints and the best one.

        Returns:
            Their file names, for the writer to delete: the index never names a file that is gone.
        """
        content = self.read()
        entries: list[Entry] = sorted(content["checkpoints"], key=_place)
        kept = {entry["file"] for entry in entries[-keep:]}
        with contextlib.suppress(NotFoundError):  # no metric yet
            kept.add(choose(content, "best", lambda entry: None).entry["file"])
        gone = [str(entry["file"]) for entry in entries if entry["file"] not in kept]
        if gone:
            write_json(
                self.path,
                {
                    **content,
                    "checkpoints": [
                        entry for entry in content["checkpoints"] if entry["file"] in kept
                    ],
                },
            )
        return gone

    def choose(self, policy: str = "best") -> Choice:
        """Like `select`, with the entry and the reasons."""
        return choose(self.read(), policy, self._damage)

    def select(self, policy: str = "best") -> Path:
        """The file that `policy` names; what was skipped is in `notices`.

        Raises:
            NotFoundError, CheckpointError, UsageError: see `choose`.
        """
        choice = self.choose(policy)
        self.notices = choice.notices
        return self.train_dir / str(choice.entry["file"])

    def _damage(self, entry: Entry) -> str | None:
        path = self.train_dir / str(entry["file"])
        if not path.is_file():
            return "the file is missing"
        if not path.resolve().is_relative_to(self.train_dir.resolve()):
            return "it is a link that leads out of its folder"
        if entry["size"] is not None and path.stat().st_size != entry["size"]:
            return f"{path.stat().st_size} bytes instead of {entry['size']}"
        if entry["sha256"] is not None and sha256_of(path) != entry["sha256"]:
            return "its sha256 differs from the recorded one"
        return None


def _place(entry: Entry) -> tuple[int, int]:
    """Where in the run a checkpoint was taken."""
    return entry["epoch"], entry["step"]


class _EntryFields(TypedDict):
    file: str
    epoch: int
    step: int
    metrics: dict[str, Any]


class _Entry(_EntryFields, total=False):
    size: int
    sha256: str
    stage: str | None
    arch: str | None
    input_size: list[int] | None
    num_classes: int | None
    mean: list[float] | None
    std: list[float] | None
    task: str | None
    channels: int
    value_range: list[float] | None
    exif_orientation: bool
    mask_values: list[int] | None


class _Best(TypedDict):
    metric: str
    direction: str


class _IndexFields(TypedDict):
    checkpoints: list[_Entry]


class _Index(_IndexFields, total=False):
    best: _Best | None
    metrics: dict[str, dict[str, Any]]


def read_index(text: str, where: str) -> dict[str, Any]:
    """Parse the text of an index.

    Raises:
        DataError: it is not one, or names a file outside its folder.
    """
    try:
        content = parse_json(text)
    except ValueError as error:
        raise _damaged(where, f"no JSON: {error}") from None

    problem = misfit(content, _Index)
    if problem is not None:
        raise _damaged(where, problem)
    if (content.get("best") or {}).get("direction", "minimize") not in ("minimize", "maximize"):
        raise _damaged(where, "best.direction is neither minimize nor maximize")
    for entry in content["checkpoints"]:
        name = PurePosixPath(entry["file"])
        if not entry["file"] or name.is_absolute() or ".." in name.parts or "\0" in entry["file"]:
            raise _damaged(where, f"{entry['file']!r} is outside its folder")
        entry.setdefault("size", None)
        entry.setdefault("sha256", None)
    return dict(content)


def _damaged(where: str, problem: str) -> DataError:
    return DataError(
        f"the checkpoint index cannot be read: {problem}"[:400],
        got=where,
        expected=f"{INDEX_NAME} as this program writes it",
        hint="to go on from the job, name a checkpoint file; to go on with it, remove the index "
        "and resume: the run lists its checkpoints anew",
    )
