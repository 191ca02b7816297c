import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from mae_runners.actions import evaluate, export, gen_trt_engine
from mae_runners.deploy import precision, runtimes
from mae_runners.deploy import tensorrt as tensorrt_build
from mae_runners.deploy.artifact import sidecar
from mae_skill.errors import (
    CheckpointError,
    DependencyError,
    JobFailedError,
    NotFoundError,
    SpecError,
    UsageError,
)
from onnx import TensorProto, helper, numpy_helper

from tests.support.deploy import (
    FAMILIES,
    make_context,
    make_model,
    make_spec,
    save_checkpoint,
    write_digits,
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"), per_class=4)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, digits):
    """ONNX files of the families, fine-tuned, opset 17, any batch."""
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def get(arch: str) -> Path:
        if arch not in made:
            checkpoint = save_checkpoint(
                make_model(arch, "finetune", FAMILIES[arch]), folder / f"{arch}.pth"
            )
            target = folder / f"{arch}.onnx"
            spec = make_spec(
                export__checkpoint=str(checkpoint),
                export__onnx_file=str(target),
                dataset__val_data_sources=str(digits),
            )
            export.run(spec, make_context("export", folder))
            made[arch] = target
        return made[arch]

    return get


def build(folder, onnx_file, digits, **values):
    defaults = {
        "gen_trt_engine__onnx_file": str(onnx_file),
        "gen_trt_engine__backend": "tensorrt_rtx",
        "gen_trt_engine__targets": ["8.6"],
        "gen_trt_engine__tensorrt__max_batch_size": 4,
        "dataset__val_data_sources": str(digits),
    }
    return gen_trt_engine.run(
        make_spec(**{**defaults, **values}), make_context("gen_trt_engine", folder)
    )


@pytest.mark.parametrize(
    ("arch", "data_type"),
    [("convnextv2_atto", "fp16"), ("convnextv2_atto", "int8"), ("vit_tiny_patch16", "bf16")],
)
def test_a_real_engine_is_built_with_no_gpu_and_describes_itself(
    arch, data_type, exported, digits, tmp_path
):
    result = build(tmp_path, exported(arch), digits, gen_trt_engine__tensorrt__data_type=data_type)
    engine, beside = (Path(file) for file in result["artefacts"])
    description = json.loads(beside.read_text())
    assert engine.stat().st_size == description["engine_bytes"] > 1_000_000
    assert (description["arch"], description["precision"], description["targets"]) == (
        arch,
        data_type.lower(),
        ["8.6"],
    )
    assert description["profile"] == {"minimum": 1, "optimum": 1, "maximum": 4}
    assert result["parity"]["passed"]
    assert runtimes.read_engine_description(engine) == description


def test_the_converted_graph_is_typed_where_the_naive_conversion_is_not(exported):
    model = precision.convert(onnx.load(str(exported("convnextv2_atto"))), "fp16")
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    assert norms
    for node in norms:
        assert {kinds[name] for name in node.input} == {onnx.TensorProto.FLOAT16}
    for node in (node for node in model.graph.node if node.op_type == "ReduceL2"):
        assert kinds[node.input[0]] == onnx.TensorProto.FLOAT
    assert (
        model.graph.input[0].type.tensor_type.elem_type
        == model.graph.output[0].type.tensor_type.elem_type
        == onnx.TensorProto.FLOAT
    )


def test_a_layer_keeps_the_precision_it_is_given(exported):
    model = precision.convert(
        onnx.load(str(exported("convnextv2_atto"))), "fp16", [("*/head/*Gemm", "fp32")]
    )
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == gemm.input[1])
    assert weight.data_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("entry", ["*/grn/*", "*/grn/*:fp8", ":fp16", "*nothing_like_this*:fp32"])
def test_a_layer_rule_that_is_malformed_or_matches_nothing_is_refused(
    entry, exported, digits, tmp_path
):
    values = {
        "gen_trt_engine__tensorrt__layers_precision": [entry],
        "gen_trt_engine__tensorrt__data_type": "fp16",
    }
    with pytest.raises(SpecError) as caught:
        build(tmp_path, exported("convnextv2_atto"), digits, **values)
    assert caught.value.field == "gen_trt_engine.tensorrt.layers_precision"
    assert not (tmp_path / "gen_trt_engine" / "model.engine").exists()


def test_an_unknown_target_lists_the_known_ones(exported, digits, tmp_path):
    with pytest.raises(SpecError) as caught:
        build(tmp_path, exported("convnextv2_atto"), digits, gen_trt_engine__targets=["9.9"])
    assert caught.value.field == "gen_trt_engine.targets"
    assert "8.9" in caught.value.expected


def test_an_unknown_data_type_is_an_error_never_a_silent_fp32(exported, digits, tmp_path):
    spec = make_spec(
        gen_trt_engine__onnx_file=str(exported("convnextv2_atto")),
        gen_trt_engine__backend="tensorrt_rtx",
    )
    spec.gen_trt_engine.tensorrt.data_type = "FP7"
    with pytest.raises(SpecError) as caught:
        gen_trt_engine.run(spec, make_context("gen_trt_engine", tmp_path))
    assert caught.value.field == "gen_trt_engine.tensorrt.data_type"


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
def test_a_missing_library_is_exit_7_with_what_to_install(
    backend, exported, digits, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(DependencyError) as caught:
        build(
            tmp_path,
            exported("convnextv2_atto"),
            digits,
            gen_trt_engine__backend=backend,
            gen_trt_engine__targets=[],
        )
    assert caught.value.exit_code == 7
    assert f"mae-skill[{tensorrt_build.PACKAGES[backend]}]" in caught.value.hint


def test_the_full_library_without_a_gpu_is_exit_7(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DependencyError) as caught:
        tensorrt_build.choose_targets(object(), "tensorrt", [])
    assert "tensorrt_rtx" in caught.value.hint


def test_without_a_gpu_the_default_is_every_target_that_builds_in_every_type(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    targets = tensorrt_build.choose_targets(
        tensorrt_build.load_backend("tensorrt_rtx"), "tensorrt_rtx", []
    )
    assert {"8.0", "8.6", "8.9", "12.0"} <= set(targets)
    assert "7.5" not in targets  # its float32 products do not build


def test_a_file_that_is_not_ours_or_not_there_is_refused(digits, tmp_path):
    foreign = tmp_path / "foreign.onnx"
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [output]
    )
    onnx.save(onnx.helper.make_model(graph), str(foreign))
    with pytest.raises(CheckpointError, match="no description"):
        build(tmp_path, foreign, digits)
    (tmp_path / "damaged.onnx").write_bytes(b"\x00not a model")
    with pytest.raises(CheckpointError):
        build(tmp_path, tmp_path / "damaged.onnx", digits)
    with pytest.raises(NotFoundError):
        build(tmp_path, tmp_path / "missing.onnx", digits)


def test_a_profile_out_of_order_is_refused(exported, digits, tmp_path):
    with pytest.raises(SpecError) as caught:
        build(
            tmp_path,
            exported("convnextv2_atto"),
            digits,
            gen_trt_engine__tensorrt__opt_batch_size=9,
        )
    assert caught.value.field == "gen_trt_engine.tensorrt.opt_batch_size"


def test_calibration_is_kept_used_again_and_bound_to_its_file(exported, digits, tmp_path):
    cache = tmp_path / "scales.json"
    int8 = {
        "gen_trt_engine__tensorrt__data_type": "int8",
        "gen_trt_engine__tensorrt__calibration__cal_cache_file": str(cache),
    }
    first = build(tmp_path / "a", exported("convnextv2_atto"), digits, **int8)
    again = build(tmp_path / "b", exported("convnextv2_atto"), digits, **int8)
    assert "images of" in first["engine"]["calibration"]
    assert "cache" in again["engine"]["calibration"]
    assert first["parity"]["max_abs"] == again["parity"]["max_abs"]
    with pytest.raises(CheckpointError, match="another ONNX file"):
        build(tmp_path / "c", exported("vit_tiny_patch16"), digits, **int8)
    cache.write_text("not json")
    with pytest.raises(CheckpointError, match="not a calibration cache"):
        build(tmp_path / "d", exported("convnextv2_atto"), digits, **int8)


def test_int8_without_images_is_refused_and_never_calibrated_on_something_else(exported, tmp_path):
    spec = make_spec(
        gen_trt_engine__onnx_file=str(exported("convnextv2_atto")),
        gen_trt_engine__backend="tensorrt_rtx",
        gen_trt_engine__tensorrt__data_type="int8",
    )
    with pytest.raises(SpecError) as caught:
        gen_trt_engine.run(spec, make_context("gen_trt_engine", tmp_path))
    assert caught.value.field == "gen_trt_engine.tensorrt.calibration.cal_image_dir"


def test_a_reduced_graph_that_differs_builds_no_engine(exported, digits, tmp_path):
    values = {
        "gen_trt_engine__tensorrt__data_type": "int8",
        "gen_trt_engine__parity__min_cosine": 0.9999999,
    }
    with pytest.raises(JobFailedError) as caught:
        build(tmp_path, exported("vit_tiny_patch16"), digits, **values)
    assert caught.value.field == "gen_trt_engine.parity"
    assert list((tmp_path / "gen_trt_engine").iterdir()) == []


def test_an_engine_is_not_overwritten_runs_only_on_a_gpu_and_keeps_its_description(
    exported, digits, tmp_path
):
    engine = Path(build(tmp_path, exported("convnextv2_atto"), digits)["artefacts"][0])
    with pytest.raises(UsageError) as refused:
        build(tmp_path, exported("convnextv2_atto"), digits)
    assert refused.value.field == "gen_trt_engine.overwrite"
    spec = make_spec(evaluate__trt_engine=str(engine), dataset__val_data_sources=str(digits))
    with pytest.raises(DependencyError) as caught:
        evaluate.run(spec, make_context("evaluate", tmp_path))
    assert "8.6" in caught.value.expected
    engine.write_bytes(engine.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match="another engine"):
        runtimes.read_engine_description(engine)
    sidecar(engine).unlink()
    with pytest.raises(CheckpointError, match="no readable description"):
        runtimes.read_engine_description(engine)


def test_an_engine_is_known_by_its_description_whatever_its_name_and_never_lands_on_a_folder(
    exported, digits, tmp_path
):
    target = tmp_path / "model.bin"
    build(tmp_path, exported("vit_tiny_patch16"), digits, gen_trt_engine__trt_engine=str(target))
    with pytest.raises(DependencyError, match="an engine runs on an NVIDIA GPU"):
        runtimes.open_runtime(target, torch.device("cpu"))
    (tmp_path / "folder.engine").mkdir()
    with pytest.raises(UsageError) as caught:
        values = {
            "gen_trt_engine__trt_engine": str(tmp_path / "folder.engine"),
            "gen_trt_engine__overwrite": True,
        }
        build(tmp_path, exported("vit_tiny_patch16"), digits, **values)
    assert caught.value.field == "gen_trt_engine.trt_engine"


@pytest.mark.parametrize("smallest, largest", [(3, 8), (8, 8)])
def test_an_engine_gets_no_batch_outside_its_profile(smallest, largest):
    class Strict:
        smallest_batch, largest_batch, fixed_batch = smallest, largest, None

        def run(self, images, stay=False):
            assert smallest <= len(images) <= largest
            return images.flatten(1).sum(dim=1, keepdim=True)

    images = torch.arange(10 * 3.0).view(10, 3, 1, 1)
    assert torch.equal(
        runtimes.run_batch(Strict(), images), images.flatten(1).sum(dim=1, keepdim=True)
    )
    figures = runtimes.measure(Strict(), images, seconds=0.0)
    assert all(smallest <= int(size) <= largest for size in figures["batches"])


def test_few_repetitions_have_no_95th_percentile_in_any_file():
    class Quick:
        smallest_batch, largest_batch, fixed_batch = 1, 1, 1

        def run(self, images):
            return images

    image = torch.zeros(1, 3, 1, 1)
    few = runtimes.measure(Quick(), image, seconds=60.0, max_repeats=19)["batch_1"]
    assert few["repetitions"] == 19 and few["median_ms"] >= 0 and "p95_ms" not in few
    many = runtimes.measure(Quick(), image, seconds=60.0, max_repeats=20)["batch_1"]
    assert many["min_ms"] <= many["p95_ms"] <= many["max_ms"]


def test_the_variance_of_a_written_out_layer_norm_stays_in_float32():
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Pow", ["x", "two"], ["square"], name="pow"),
        helper.make_node("ReduceMean", ["square"], ["mean"], name="mean", axes=[-1], keepdims=1),
        helper.make_node("Add", ["mean", "epsilon"], ["sum"], name="add"),
        helper.make_node("Sqrt", ["sum"], ["root"], name="sqrt"),
        helper.make_node("Div", ["x", "root"], ["y"], name="div"),
    ]
    weights = [
        numpy_helper.from_array(np.float32(number), name)
        for name, number in (("two", 2.0), ("epsilon", 1e-6))
    ]
    ends = [[value(name, TensorProto.FLOAT, [1, 8])] for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "norm", *ends, weights),
        opset_imports=[helper.make_opsetid("", 12)],
    )
    precision.convert(model, "fp16")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {entry.name: entry.type.tensor_type.elem_type for entry in inferred.graph.value_info}
    assert {types[name] for name in ("square", "mean", "sum", "root")} == {
        TensorProto.FLOAT
    }  # 300² is beyond float16
    assert (
        types[next(node for node in model.graph.node if node.name == "div").input[0]]
        == TensorProto.FLOAT16
    )
