"""Models and files that an action works on or writes."""

from __future__ import annotations

from pathlib import Path

from mae_skill.errors import DataError, NotFoundError
from mae_skill.origin import OriginKind
from mae_skill.rules.base import Case, Rule

MODEL = {
    "evaluate": "evaluate.checkpoint",
    "inference": "inference.checkpoint",
    "export": "export.checkpoint",
    "gen_trt_engine": "gen_trt_engine.onnx_file",
}
"""The field of an action's model."""

RUNS_ENGINES = ("evaluate", "inference")


def model(case: Case) -> None:
    """An action other than training works on one model."""
    key, engine = MODEL[case.action], f"{case.action}.trt_engine"
    runs_engine = case.action in RUNS_ENGINES and case(engine)
    if not case(key) and not runs_engine:
        case.error(key, "no model given", "a file", f"set {key}, or pass --parent JOB")
    elif case(key) and runs_engine:
        case.error(engine, f"{key} is given too", "one of the two")


def onnx_name(case: Case) -> None:
    """An ONNX file is recognized by its name."""
    path = case("export.onnx_file")
    if path and case("export.format") == "onnx" and not str(path).endswith(".onnx"):
        case.error("export.onnx_file", "must end in .onnx", "a path that ends in .onnx")


def named_files(case: Case) -> None:
    """Files that somebody named for this run are here, where the run is."""
    if not case.facts.local_files:
        return
    for key in _read(case):
        if case.origin(key) not in OriginKind.written():
            continue
        value = case(key)
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, str) and "://" not in path and not Path(path).expanduser().exists():
                kind = DataError if key.endswith("sources") else NotFoundError
                case.errors.append(
                    kind(
                        "there is no such file or folder",
                        field=key,
                        got=path,
                        expected="a path that exists, or a URL",
                    )
                )


def _read(case: Case) -> list[str]:
    """The fields whose files the action reads; its data is counted elsewhere."""
    if case.action == "train":
        keys = ["train.resume_training_checkpoint_path"]
        if not _goes_on(case):
            keys.append("train.pretrained_model_path")
        if case("train.stage") == "pretrain" and case("train.probe.interval"):
            keys += ["dataset.probe_train_data_sources", "dataset.probe_val_data_sources"]
        return keys
    engine = [f"{case.action}.trt_engine"] if case.action in RUNS_ENGINES else []
    return [MODEL[case.action], *engine]


def _goes_on(case: Case) -> bool:
    """Whether training continues from a checkpoint: then pretrained weights are not read."""
    if case("train.resume_training_checkpoint_path"):
        return True
    root, own = case("results_dir"), case("train.results_dir")
    folder = Path(own) if own else Path(root) / "train" if root else None
    return folder is not None and any(folder.expanduser().glob("model_epoch_*.pth"))


RULES = [
    Rule(onnx_name, ("export",)),
    Rule(model, tuple(MODEL)),
    Rule(named_files, ("train", *MODEL)),
]
