"""What an ONNX file that is here allows an engine to be."""

from __future__ import annotations

from pathlib import Path

from mae_skill.errors import CheckpointError
from mae_skill.onnx_file import (
    INPUT_SIZE,
    ONNX_FILE,
    OnnxHeader,
    precision_error,
    profile_errors,
    read_header,
    said_now,
)
from mae_skill.origin import OriginKind
from mae_skill.rules.base import Case, Rule


def engine_profile(case: Case) -> None:
    """The engine's batch sizes and input are those that its ONNX file can serve."""
    header = _header(case)

    def chosen(key: str) -> bool:
        if key == INPUT_SIZE:
            return said_now([case.origin(key)])
        return case.origin(key) not in {None, *OriginKind.unset()}

    case.errors += profile_errors(case, chosen, header)
    if header is not None:
        reduced = precision_error(header.properties)
        case.errors += [reduced] if reduced else []

    largest, tuned = (f"gen_trt_engine.tensorrt.{name}_batch_size" for name in ("max", "opt"))
    dynamic = int(case("gen_trt_engine.batch_size") or -1) <= 0
    if dynamic and int(case(largest) or 1) > 1 and not chosen(tuned):
        case.warn(
            tuned,
            f"the engine is tuned for a batch of {case(tuned) or 1}, its default, and takes up to "
            f"{case(largest)}: set it to the batch that will be used most",
        )


def _header(case: Case) -> OnnxHeader | None:
    """What the file says; None where it is not here, or is none that a plan can read (the runner
    then says why)."""
    path = case(ONNX_FILE)
    if not case.facts.local_files or not isinstance(path, str) or "://" in path:
        return None
    file = Path(path).expanduser()
    if not file.is_file():
        return None
    try:
        return read_header(file)
    except CheckpointError:
        return None


def parity_pictures(case: Case) -> None:
    """An export is compared with its model on pictures: whose?"""
    sources = ("val_data_sources", "test_data_sources", "train_data_sources")
    if not any(case(f"dataset.{name}") for name in sources):
        case.warn(
            "dataset.val_data_sources",
            "no pictures of yours: parity will be judged on crops of the sample photograph that "
            "matplotlib installs; name some by --eval-dataset",
        )


RULES = [
    Rule(engine_profile, ("gen_trt_engine",)),
    Rule(parity_pictures, ("export",)),
]
