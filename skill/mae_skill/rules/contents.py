"""A file that somebody named is of the kind that its field wants, as far as its first bytes and its
description tell. Pretrained weights and models are judged in `mae_skill.rules.files`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae_skill.archs import ARCHS
from mae_skill.errors import CheckpointError, MaeError
from mae_skill.onnx_file import ONNX_FILE, read_header
from mae_skill.origin import OriginKind
from mae_skill.rules import agreement
from mae_skill.rules.base import Case, Rule
from mae_skill.rules.seen import TRAIN, segments
from mae_skill.weights import header
from mae_skill.weights.config import DESCRIPTION
from mae_skill.weights.resumed import FIELD as RESUMED
from mae_skill.weights.resumed import changed, is_over, other_classes, other_run, said_of

PRETRAINED = "train.pretrained_model_path"
_OURS = "those of a run are <results_dir>/train/model_epoch_*.pth"
_CALIBRATION = "gen_trt_engine.tensorrt.calibration.cal_cache_file"
_ENGINES = {
    "evaluate": ("evaluate.trt_engine", "evaluate.checkpoint"),
    "inference": ("inference.trt_engine", "inference.checkpoint"),
}
_ENGINE_NAMES = (".engine", ".plan", ".trt")


def resumed(case: Case) -> None:
    """The checkpoint to continue from is one of this project's training, of this stage and
    architecture."""
    file = _here(case, RESUMED)
    if file is None:
        return
    if file.is_dir():
        inside = sorted(file.glob("model_epoch_*.pth")) or sorted(file.glob("train/model_*.pth"))
        hint = f"the newest there is {inside[-1].relative_to(file)}" if inside else _OURS
        case.error(RESUMED, "this is a folder", "a checkpoint file", hint, kind=CheckpointError)
        return
    try:
        contents = header.look(file)
    except OSError:
        return  # another rule says that it is not there
    except MaeError as error:
        error.field, error.hint = error.field or RESUMED, error.hint or _OURS
        case.errors.append(error)
        return
    if contents is None:
        return
    wrong = other_run(contents, case.spec, file.name) or _other_classes(case, contents)
    if wrong is not None:
        case.errors.append(wrong)
        return
    if _other_model(case, contents, file.name):
        return
    if case.given(PRETRAINED) and case(PRETRAINED):
        case.warn(PRETRAINED, f"has no effect: the weights are those of {RESUMED}")
    if is_over(contents, case("train.num_epochs")) and not _is_own(case, file):
        epochs = contents["position"]["epoch"]
        case.error(
            "train.num_epochs",
            f"{file.name} is of the end of epoch {epochs}: nothing is left to train",
            f"more than {epochs} epochs in all",
            f"train.num_epochs={epochs + 1} trains one more",
        )
    if changes := changed(contents, case.spec):
        case.warn(RESUMED, said_of(changes))


def _other_classes(case: Case, contents: Mapping[str, Any]) -> MaeError | None:
    """Classes of the training data that the outputs of the checkpoint are not of."""
    counts = (case.facts.data.get(TRAIN) or {}).get("class_counts")
    classifies = case("train.stage") == "finetune" and not segments(case)
    return other_classes(contents, list(counts)) if classifies and counts else None


def _other_model(case: Case, contents: Mapping[str, Any], name: str) -> bool:
    """Refuse to go on with a model of another shape, or of other tasks, than the checkpoint's."""
    said = contents.get(DESCRIPTION)
    arch = ARCHS.get(str(said.get("arch"))) if isinstance(said, Mapping) else None
    if arch is None or not isinstance(said, Mapping):
        return False
    fixed = ["model.", "dataset.channels"]
    if arch.family != "convnextv2":  # which has no table of positions
        fixed.append("dataset.augmentation.input_size")
    others = [
        (field, wanted, actual)
        for field, wanted, actual in agreement.pairs(case.spec, said)
        if wanted != actual and field.startswith(tuple(fixed))
    ]
    for field, wanted, actual in others:
        case.errors.append(
            CheckpointError(
                f"{name}, from which the run goes on, was made with another value",
                field=field,
                got=wanted,
                expected=str(actual),
                hint=f"start a new run from its weights with {PRETRAINED}",
            )
        )
    return bool(others)


def _is_own(case: Case, file: Path) -> bool:
    """Whether the run itself wrote the file: it may be over, and be started again."""
    folder = case("results_dir")
    return bool(folder) and Path(str(folder)).expanduser().resolve() in file.resolve().parents


def graph(case: Case) -> None:
    """What is called an ONNX file is one."""
    key = ONNX_FILE if case.action == "gen_trt_engine" else f"{case.action}.checkpoint"
    file = _here(case, key)
    if file is None or (key != ONNX_FILE and file.suffix.lower() != ".onnx"):
        return
    if file.is_dir():
        case.error(
            key, "this is a folder", "an ONNX file", "name the file inside it", kind=CheckpointError
        )
        return
    try:
        read_header(file)
    except CheckpointError as error:
        error.field, error.got = key, header.kind_of(file) or error.got
        error.expected = "an ONNX file, as the export action writes"
        case.errors.append(error)


def exported(case: Case) -> None:
    """An export starts from a checkpoint, not from another export."""
    file = _here(case, "export.checkpoint")
    if file is not None and file.suffix.lower() in (".onnx", *_ENGINE_NAMES):
        case.error(
            "export.checkpoint",
            "an export, or an engine, is no model that can be exported",
            "a checkpoint, or published weights",
            "name the checkpoint that it was made from",
            kind=CheckpointError,
        )


def engine(case: Case) -> None:
    """An engine is a file of TensorRT's."""
    for key in _ENGINES[case.action]:
        file = _here(case, key)
        called = file is not None and file.suffix.lower() in _ENGINE_NAMES
        if file is None or (key.endswith(".checkpoint") and not called):
            continue
        if found := _other_kind(file):
            expected = "an engine, as the gen_trt_engine action builds"
            case.errors.append(
                CheckpointError(
                    f"{file.name} is no engine",
                    field=key,
                    got=found,
                    expected=expected,
                    hint="mae run gen_trt_engine --parent EXPORT_JOB builds one",
                )
            )


def kept(case: Case) -> None:
    """A file that a build keeps its measurements in, and writes anew, is none of another kind."""
    for key in (_CALIBRATION, "gen_trt_engine.timing_cache"):
        file = _here(case, key)
        found = _other_kind(file) if file is not None else None
        if found and not (key == _CALIBRATION and found == header.TEXT):
            case.error(
                key,
                f"the build writes this file anew, and it is {found}",
                "a new path, or the file of an earlier build",
                "name a path at which nothing lies",
            )


def _other_kind(file: Path) -> str | None:
    """What a file is, where its kind is known; an engine is of none of these kinds."""
    if file.is_dir():
        return "a folder"
    if header.is_safetensors(file):
        return "weights (safetensors)"
    return header.kind_of(file) or ("weights of PyTorch" if header.is_pytorch(file) else None)


def _here(case: Case, key: str) -> Path | None:
    """The path of a field that somebody wrote, where something is there."""
    path = case(key)
    if not case.facts.local_files or not isinstance(path, str) or "://" in path:
        return None
    if case.origin(key) not in OriginKind.written():
        return None
    file = Path(path).expanduser()
    return file if file.exists() else None


RULES = [
    Rule(resumed, ("train",)),
    Rule(graph, ("evaluate", "inference", "gen_trt_engine")),
    Rule(exported, ("export",)),
    Rule(engine, tuple(_ENGINES)),
    Rule(kept, ("gen_trt_engine",)),
]
