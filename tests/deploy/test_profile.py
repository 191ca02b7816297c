"""Engines and exports: what an ONNX file cannot serve is refused when planned and when run, and
parity says whose pictures it saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from mae_runners.actions import export, gen_trt_engine
from mae_skill.errors import CheckpointError, MaeError, SpecError
from mae_skill.onnx_file import OnnxHeader, read_header
from mae_skill.origin import Origin, OriginKind
from mae_skill.rules import check_rules
from mae_skill.rules.base import Facts
from onnx import TensorProto, helper, numpy_helper

from tests.support.deploy import (
    FAMILIES,
    make_context,
    make_model,
    make_spec,
    save_checkpoint,
    write_digits,
)

ARCH = "convnextv2_atto"
RTX = {"gen_trt_engine__backend": "tensorrt_rtx", "gen_trt_engine__targets": ["8.6"]}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), per_class=4)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> dict[int, Path]:
    """One model as ONNX: any batch (-1), batch 1, batch 4."""
    folder, made = tmp_path_factory.mktemp("exported"), {}
    checkpoint = save_checkpoint(make_model(ARCH, "finetune", FAMILIES[ARCH]), folder / "m.pth")
    for batch in (-1, 1, 4):
        made[batch] = folder / f"{batch}.onnx"
        spec = make_spec(
            export__checkpoint=str(checkpoint),
            export__onnx_file=str(made[batch]),
            export__batch_size=batch,
            dataset__val_data_sources=str(digits),
        )
        export.run(spec, make_context("export", folder))
    return made


def planned(onnx_file: Path | str, **values: Any) -> tuple[list[MaeError], list[str]]:
    """What a plan says of the engine: errors and warned fields."""
    spec = make_spec(gen_trt_engine__onnx_file=str(onnx_file), **RTX, **values).model_dump()
    origins = {key.replace("__", "."): Origin(OriginKind.OVERRIDE) for key in values}
    errors, notices = check_rules("gen_trt_engine", spec, origins, Facts(local_files=True))
    return errors, [str(notice.field) for notice in notices]


def built(onnx_file: Path, folder: Path, digits: Path, **values: Any) -> dict[str, Any]:
    spec = make_spec(
        gen_trt_engine__onnx_file=str(onnx_file),
        dataset__val_data_sources=str(digits),
        **RTX,
        **values,
    )
    origins = {key.replace("__", "."): Origin(OriginKind.OVERRIDE) for key in values}
    return gen_trt_engine.run(spec, make_context("gen_trt_engine", folder, origins))


SETTINGS = "gen_trt_engine__tensorrt__"
MISFITS = [
    (1, {f"{SETTINGS}max_batch_size": 8}, "max_batch_size"),
    (1, {f"{SETTINGS}opt_batch_size": 2, f"{SETTINGS}max_batch_size": 2}, "max_batch_size"),
    (4, {f"{SETTINGS}max_batch_size": 1}, "max_batch_size"),
    (4, {f"{SETTINGS}max_batch_size": 8}, "max_batch_size"),
    (4, {"gen_trt_engine__batch_size": 2}, "batch_size"),
    (-1, {f"{SETTINGS}min_batch_size": 4, f"{SETTINGS}max_batch_size": 2}, "opt_batch_size"),
    (-1, {f"{SETTINGS}opt_batch_size": 9, f"{SETTINGS}max_batch_size": 8}, "opt_batch_size"),
    (-1, {"dataset__augmentation__input_size": 64}, "input_size"),
    (-1, {"export__input_height": 64}, "input_height"),
    (1, {"export__input_width": 128}, "input_width"),
]


@pytest.mark.parametrize(("batch", "values", "field"), MISFITS)
def test_a_profile_that_the_file_cannot_serve_is_refused_when_planned_and_when_run(
    batch: int,
    values: dict[str, Any],
    field: str,
    files: dict[int, Path],
    digits: Path,
    tmp_path: Path,
) -> None:
    errors, _ = planned(files[batch], **values)
    assert [error.field.rpartition(".")[2] for error in errors] == [field]
    with pytest.raises(SpecError) as caught:
        built(files[batch], tmp_path, digits, **values)
    assert (caught.value.field, caught.value.message) == (errors[0].field, errors[0].message)
    assert list(tmp_path.rglob("*.engine")) == []


@pytest.mark.parametrize("kind", [OriginKind.PARENT, OriginKind.SPEC_FILE])
def test_the_size_that_a_model_was_trained_at_is_not_asked_of_an_export_of_another(
    kind: OriginKind, files: dict[int, Path]
) -> None:
    size = {"dataset__augmentation__input_size": 64}
    spec = make_spec(gen_trt_engine__onnx_file=str(files[-1]), **RTX, **size)
    origins = {"dataset.augmentation.input_size": Origin(kind)}
    facts = Facts(local_files=True)
    assert check_rules("gen_trt_engine", spec.model_dump(), origins, facts)[0] == []
    gen_trt_engine.check_profile(spec, origins, onnx.load(str(files[-1])))


@pytest.mark.parametrize(
    ("batch", "values", "profile"),
    [
        (1, {}, (1, 1, 1)),
        (4, {}, (4, 4, 4)),
        (4, {"gen_trt_engine__batch_size": 4}, (4, 4, 4)),
        (-1, {"gen_trt_engine__batch_size": 3}, (3, 3, 3)),
        (-1, {f"{SETTINGS}max_batch_size": 8}, (1, 1, 8)),
    ],
)
def test_the_description_of_an_engine_says_its_real_profile(
    batch: int,
    values: dict[str, Any],
    profile: tuple[int, int, int],
    files: dict[int, Path],
    digits: Path,
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorrt_rtx")
    errors, warned = planned(files[batch], **values)
    assert errors == []
    assert ("gen_trt_engine.tensorrt.opt_batch_size" in warned) == (profile == (1, 1, 8))
    result = built(files[batch], tmp_path, digits, **values)
    beside = json.loads(Path(result["artefacts"][1]).read_text())
    assert tuple(beside["profile"].values()) == profile


@pytest.mark.parametrize(
    "content", [b"", b"no onnx at all", b"\x3a\xff\xff\xff\xff\x0f", bytes(100)]
)
def test_a_file_that_is_no_onnx_is_one_error(content: bytes, tmp_path: Path, digits: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(CheckpointError):
        read_header(tmp_path / "x.onnx")
    assert planned(tmp_path / "x.onnx")[0] == []  # the runner, which has the reader, says why


def test_a_file_that_is_reduced_is_refused_when_planned(
    files: dict[int, Path], tmp_path: Path
) -> None:
    model = onnx.load(str(files[-1]))
    for entry in model.metadata_props:
        entry.value = '"int8"' if entry.key == "mae.precision" else entry.value
    onnx.save(model, str(tmp_path / "int8.onnx"))
    assert "already reduced" in planned(tmp_path / "int8.onnx")[0][0].message
    assert planned(tmp_path / "not-here-yet.onnx")[0] == []


def test_a_graph_that_takes_other_images_than_its_description_says_is_refused(
    files: dict[int, Path], digits: Path, tmp_path: Path
) -> None:
    model = onnx.load(str(files[-1]))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, str(tmp_path / "edited.onnx"))
    with pytest.raises(CheckpointError, match="other images than it says"):
        built(tmp_path / "edited.onnx", tmp_path, digits)


@pytest.mark.parametrize("batch", [-1, 1, 4])
def test_the_header_is_what_onnx_reads(batch: int, files: dict[int, Path]) -> None:
    model = onnx.load(str(files[batch]))
    dims = model.graph.input[0].type.tensor_type.shape.dim
    header = read_header(files[batch])
    assert header.dims == tuple(dim.dim_value or None for dim in dims)
    wanted = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert header.properties == {k: v for k, v in wanted.items() if k.startswith("mae.")}
    assert header.properties["mae.batch"] == batch


def test_weights_that_are_listed_as_inputs_are_not_taken_for_images(tmp_path: Path) -> None:
    import numpy as np

    weight = numpy_helper.from_array(np.zeros((5, 5), np.float32), "weight")
    entries = [
        helper.make_tensor_value_info("weight", TensorProto.FLOAT, [5, 5]),
        helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 64, 96]),
    ]
    graph = helper.make_graph([], "g", entries, [], [weight])
    onnx.save(helper.make_model(graph), str(tmp_path / "m.onnx"))
    assert read_header(tmp_path / "m.onnx") == OnnxHeader((None, 3, 64, 96), {})


@pytest.mark.parametrize("named", [True, False])
def test_parity_names_its_pictures_in_plan_log_and_result(
    named: bool, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_checkpoint(make_model(ARCH, "finetune", FAMILIES[ARCH]), tmp_path / "m.pth")
    values = {"dataset__val_data_sources": str(digits)} if named else {}
    spec = make_spec(export__checkpoint=str(checkpoint), **values)
    result = export.run(spec, make_context("export", tmp_path))["parity"]
    said = capsys.readouterr()
    _, notices = check_rules("export", spec.model_dump())
    warned = any("sample photograph" in notice.message for notice in notices)
    assert warned != named
    assert result["images"] == len(result["names"]) == 16
    if named:
        held = {str(path) for path in digits.rglob("*.png")}
        assert result["source"] == "dataset.val_data_sources"
        assert set(result["names"]) == held
        assert result["names"][0] in said.out + said.err
    else:
        assert (result["source"], set(result["names"])) == (
            "sample photograph",
            {"grace_hopper.jpg"},
        )
        assert "sample photograph" in said.out + said.err
