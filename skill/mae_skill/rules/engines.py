"""What an ONNX file that is here allows an engine to be."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mae_skill.errors import CheckpointError, DependencyError, SpecError
from mae_skill.onnx_file import (
    INPUT_SIZE,
    LAYERS,
    ONNX_FILE,
    OnnxHeader,
    int8_layers_error,
    matches_of,
    node_names,
    parse_layers_precision,
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


_TYPES = {
    "export": "export.data_type",
    "gen_trt_engine": "gen_trt_engine.tensorrt.data_type",
}
_CALIBRATION = "gen_trt_engine.tensorrt.calibration."


def calibration(case: Case) -> None:
    """int8 is calibrated on pictures that somebody names: scales of others would be wrong."""
    if case(_TYPES[case.action]) != "int8":
        return
    folder, cache = case(f"{_CALIBRATION}cal_image_dir"), case(f"{_CALIBRATION}cal_cache_file")
    here = case.facts.local_files
    builds = case.action == "gen_trt_engine"
    if builds and cache and (not here or Path(str(cache)).expanduser().exists()):
        return
    key = f"{_CALIBRATION}cal_image_dir" if builds else "dataset.val_data_sources"
    mend = "name some by --eval-dataset, or in dataset.train_data_sources"
    if builds and folder:
        named = Path(str(folder)).expanduser()
        if here and "://" not in str(folder) and not _holds_files(named):
            what = "is empty" if named.is_dir() else "is not there"
            case.error(
                key,
                f"int8 needs calibration images, and this folder {what}",
                "a folder or archive with images like those the model will see",
                mend,
            )
        return
    if not case("dataset.train_data_sources") and not case("dataset.val_data_sources"):
        case.error(
            key,
            "int8 needs calibration images, and none are named",
            "a folder or archive with images like those the model will see",
            mend,
        )


def _holds_files(path: Path) -> bool:
    """Whether a path is a file, or a folder with one somewhere in it."""
    if not path.is_dir():
        return path.exists()
    return any(names for _, _, names in os.walk(path, followlinks=True))


def opset(case: Case) -> None:
    """Scales of each channel, and bfloat16, came with opset 13."""
    key = "export.opset_version"
    kind, version = case("export.data_type"), case(key)
    if kind in ("int8", "bf16") and version is not None and version < 13:
        case.error(
            key,
            f"{kind} needs what opsets below 13 do not have",
            "13 or above",
            f"set {key}=17, or export.data_type=fp32",
        )


def traced_on_gpu(case: Case) -> None:
    """A GPU to trace on is there."""
    key = "export.on_cpu"
    if case(key) is False and case.facts.gpus == 0:
        case.error(
            key,
            f"{case.facts.machine} has no GPU to trace on",
            "true",
            f"set {key}=true: the file is the same",
            kind=DependencyError,
        )


def not_replaced(case: Case) -> None:
    """What is there is replaced only by who says so."""
    name = "onnx_file" if case.action == "export" else "trt_engine"
    key, overwrite = f"{case.action}.{name}", f"{case.action}.overwrite"
    path = case(key)
    writes = case.action != "export" or case("export.format") == "onnx"
    if not writes or not isinstance(path, str) or "://" in path or case(overwrite):
        return
    written = case.origin(key) in OriginKind.written()
    if written and case.facts.local_files and Path(path).expanduser().is_file():
        case.error(
            key,
            "this file exists already",
            "a path where nothing is",
            f"name another path, or set {overwrite}=true to replace it",
        )


def layers(case: Case) -> None:
    """Layers that keep another type are there, and the type is one of theirs."""
    try:
        rules = parse_layers_precision(case(LAYERS) or [])
        path = case(ONNX_FILE)
        if rules and _header(case) is not None and isinstance(path, str):
            with suppress(OSError, ValueError, EOFError):
                matches_of(rules, node_names(Path(path).expanduser()))
    except SpecError as error:
        case.errors.append(error)
        return
    if case(_TYPES["gen_trt_engine"]) == "int8" and (refused := int8_layers_error(rules)):
        case.errors.append(refused)


BUILT = (
    *("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.1", "10.3", "11.0", "12.0", "12.1"),
)
"""Compute capabilities of GPUs that engines are built for, as far as they are known here."""


def targets(case: Case) -> None:
    """Targets are GPUs that there are, and of a builder that asks for them."""
    key = "gen_trt_engine.targets"
    named = case(key) or []
    if named and case("gen_trt_engine.backend") == "tensorrt":
        case.error(
            key,
            "tensorrt builds for the GPU at hand only",
            "an empty list",
            "set gen_trt_engine.backend=tensorrt_rtx for other targets",
        )
    elif unknown := [one for one in named if one not in BUILT]:
        case.warn(
            key,
            f"{', '.join(unknown)}: no GPU that engines are built for is known by this compute "
            f"capability ({', '.join(BUILT)}); the library may refuse it",
        )


def one_batch(case: Case) -> None:
    """A batch that is fixed leaves the profile without effect."""
    fixed = int(case("gen_trt_engine.batch_size") or -1)
    for name in ("min", "opt", "max"):
        key = f"gen_trt_engine.tensorrt.{name}_batch_size"
        if fixed > 0 and case.given(key) and int(case(key) or fixed) != fixed:
            case.warn(
                key,
                f"has no effect: gen_trt_engine.batch_size={fixed} is the one batch that the "
                "engine takes; -1 leaves it to the profile",
            )


def key_is_set(case: Case) -> None:
    """The variable that holds the key is there."""
    reference, variables = str(case("encryption_key") or ""), case.facts.variables
    name = reference.removeprefix("env:")
    if not case.facts.local_files or variables is None or not case.given("encryption_key"):
        return
    if reference.startswith("env:") and name not in variables and not name.startswith("MAE_"):
        case.error(
            "encryption_key",
            f"the variable {name} is not set",
            "a variable of the environment that holds the key",
            f"export {name}=…, or give it with --env {name}=…",
        )


RULES = [
    Rule(calibration, ("export", "gen_trt_engine")),
    Rule(opset, ("export",)),
    Rule(traced_on_gpu, ("export",)),
    Rule(not_replaced, ("export", "gen_trt_engine")),
    Rule(layers, ("gen_trt_engine",)),
    Rule(targets, ("gen_trt_engine",)),
    Rule(one_batch, ("gen_trt_engine",)),
    Rule(key_is_set),
    Rule(engine_profile, ("gen_trt_engine",)),
    Rule(parity_pictures, ("export",)),
]
