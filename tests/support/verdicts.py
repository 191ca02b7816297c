"""Generated specs through every caller of the resolver: plan, validate, the foreground command, MCP
and a job."""

from __future__ import annotations

import json
import random
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mae_runners.__main__ import resolve as resolve_in_the_runner
from mae_sdk import MaeError, Plan, Skill
from mae_sdk.cli.main import main
from mae_sdk.mcp_server import answer, tools
from mae_skill.dotted import set_dotted
from mae_skill.reader import dump_yaml
from mae_skill.resolve import raise_all

from tests.support.images import write_imagefolder
from tests.support.web import serving

SKILL = Skill()
PLAN = next(tool for tool in tools(SKILL) if tool.name == "plan")
Verdict = tuple[int, frozenset[tuple[str | None, str]]]
Case = tuple[str, dict[str, Any], dict[str, Any]]
"""Action, spec, overrides."""


@contextmanager
def some_places(root: Path) -> Iterator[dict[str, str]]:
    """Data, weights and a server below a folder, by name."""
    write_imagefolder(root / "data", classes=2, per_class=2)
    with tarfile.open(root / "data.tar", "w") as archive:
        archive.add(root / "data", "data")
    (root / "empty").mkdir()
    (root / "weights.pth").write_bytes(b"")
    (root / "model.onnx").write_bytes(b"")
    with serving() as web:
        web.files["data.tar"] = (root / "data.tar").read_bytes()
        names = {path.name: str(path) for path in root.iterdir()}
        yield {
            "root": str(root),
            "web": web.url("data.tar"),
            "no web": web.url("no.tar"),
            **names,
        }


def generated(number: int, places: dict[str, str]) -> Case:
    """A spec that may be right, wrong in one place, or wrong in several."""
    draw = random.Random(number)
    action = draw.choice(["train"] * 6 + ["evaluate", "inference", "export", "gen_trt_engine"])
    elsewhere = [places["web"], places["no web"], None]
    data = [places["data"]] * 6 + [places["empty"], "/nowhere", *elsewhere]
    weights = [places["weights.pth"], "/nowhere.pth", "https://host.invalid/w.pth", None]
    fields: dict[str, list[Any]] = {
        "dataset.train_data_sources": data,
        "dataset.val_data_sources": data,
        "dataset.test_data_sources": data,
        "dataset.val_fraction": [0.2, 1.5, None],
        "dataset.batch_size": [2, "4", 0, "many"],
        "dataset.augmentation.input_size": [64, [64, 96], 100, "big"],
        "dataset.augmentation.min_scale": [0.2, 2.0],
        "model.arch": ["vit_tiny_patch16", "VIT_TINY_PATCH16", "hiera_tiny_224", "resnet50"],
        "model.num_classes": [2, 2, 3, -1],
        "model.task": ["classification", "segmentation"],
        "model.decoder_num_heads": [8, 7],
        "train.stage": ["pretrain", "finetune", "FINETUNE", "tune"],
        "train.num_epochs": [1, 2.0, "3", 0.5],
        "train.num_gpus": [1, 1, 2],
        "train.gpu_ids": [[0], [0, 0], [0, 3]],
        "train.accelerator": ["cpu", "cpu", "auto", "gpu"],
        "train.precision": ["bf16", "FP32", "half"],
        "train.optim.lr": [1e-4, "1e-4", -1.0],
        "train.optim.min_lr": [0.0, 1.0],
        "train.optim.lr_scheduler": ["cosine", "MultiStep"],
        "train.optim.monitor_name": ["train_loss", "val_loss"],
        "train.pretrained_model_path": weights,
        "train.resume_training_checkpoint_path": weights,
        "train.epochs": [3],
        "evaluate.checkpoint": weights,
        "inference.checkpoint": weights,
        "export.checkpoint": weights,
        "export.onnx_file": [str(Path(places["root"]) / "out.onnx"), "/out.bin", None],
        "gen_trt_engine.onnx_file": [places["model.onnx"], "/nowhere.onnx", None],
        "mode.arch": ["vit_tiny_patch16"],
    }
    shorthand = SKILL.bundle.info["spec_shorthand_keys"]
    needed = {
        "train": ["dataset.train_data_sources"],
        "evaluate": ["dataset.val_data_sources", "evaluate.checkpoint"],
        "inference": ["dataset.test_data_sources", "inference.checkpoint"],
        "export": ["export.checkpoint"],
        "gen_trt_engine": ["gen_trt_engine.onnx_file"],
    }[action]

    spec: dict[str, Any] = SKILL.bundle.template(action) if draw.random() < 0.3 else {}
    for key in sorted({*draw.sample(sorted(fields), draw.randint(0, 6)), *needed}):
        good_first = fields[key][0] if draw.random() < 0.6 else draw.choice(fields[key])
        set_dotted(spec, key, good_first)
    overrides: dict[str, Any] = {}
    for key in draw.sample(sorted(fields), draw.randint(0, 3)):
        words = [word for word, full in shorthand.items() if full == key]
        name = words[0] if words and draw.random() < 0.7 else key
        overrides[name] = draw.choice(fields[key])
    return action, spec, overrides


def verdict_of(document: dict[str, Any]) -> Verdict:
    problems = document.get("problems") or [document]
    found = frozenset((problem["field"], problem["code"]) for problem in problems)
    return int(document["exit_code"]), found


def judged(call: Callable[..., None], *arguments: Any) -> Verdict:
    try:
        call(*arguments)
    except MaeError as error:
        return verdict_of(error.to_dict())
    return 0, frozenset()


def words(overrides: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]


def by_validate(capsys: pytest.CaptureFixture[str], case: Case, file: Path) -> Verdict:
    action, _, overrides = case
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["validate", action, "-e", str(file), *words(overrides), "--json"])
    printed = capsys.readouterr()
    return (0, frozenset()) if not ended.value.code else verdict_of(json.loads(printed.err))


def by_mcp(case: Case, root: Path) -> Verdict:
    action, spec, overrides = case
    asked = {"action": action, "spec": spec, "spec_overrides": overrides}
    document, failed = answer(
        SKILL, PLAN, {**asked, "automl_policy": "off", "results_root": str(root)}
    )
    return verdict_of(document) if failed else (0, frozenset())


def by_plan(case: Case, root: Path, plans: list[Plan]) -> None:
    action, spec, overrides = case
    options = {"automl_policy": "off", "results_root": str(root)}
    plans.append(SKILL.plan(action, spec=spec, spec_overrides=overrides, **options))


def in_the_runner(case: Case, file: Path) -> None:
    action, _, overrides = case
    raise_all(resolve_in_the_runner(action, str(file), words(overrides)).errors, action)


def check_verdicts(
    numbers: range,
    places: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Counter[int]:
    """Every caller gives these generated specs one verdict; how often each exit code was."""
    for name in ("RANK", "MAE_JOB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between tries of what is not there
    file, root = tmp_path / "spec.yaml", tmp_path / "out"
    seen = Counter[int]()
    for number in numbers:
        case = generated(number, places)
        action, spec, overrides = case
        file.write_text(dump_yaml(spec))
        plans: list[Plan] = []
        verdicts = {
            "plan": judged(by_plan, case, root, plans),
            "validate": by_validate(capsys, case, file),
            "runner": judged(in_the_runner, case, file),
            "mcp": by_mcp(case, root),
        }
        assert len(set(verdicts.values())) == 1, (number, action, spec, overrides, verdicts)
        seen[verdicts["plan"][0]] += 1
        if plans:
            job = tmp_path / "job.yaml"
            job.write_text(dump_yaml(plans[0].spec))
            with monkeypatch.context() as inside:
                inside.setenv("MAE_JOB_DIR", str(tmp_path))
                found = resolve_in_the_runner(action, str(job), [])
            assert (found.errors, found.spec) == ([], plans[0].spec)
    return seen
