import json
from pathlib import Path
from typing import Any

import mae_runners
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mae_runners.__main__ import resolve
from mae_runners.actions import export
from mae_runners.deploy import onnx as onnx_export
from mae_runners.deploy import triton
from mae_runners.deploy.artifact import ArtifactMeta
from mae_runners.deploy.eval_images import EvalImages, _spread
from mae_runners.models.checkpoint import load_model
from mae_sdk import Skill
from mae_skill.errors import (
    CheckpointError,
    DependencyError,
    JobFailedError,
    MaeError,
    SpecError,
    UsageError,
)
from mae_skill.origin import Origin, OriginKind
from PIL import Image

from tests.support.deploy import (
    CLASSES,
    FAMILIES,
    make_context,
    make_model,
    make_spec,
    save_checkpoint,
    scale_weight,
    write_digits,
)
from tests.support.folders import add_checkpoints, job_folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"), per_class=4)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """One checkpoint a family and stage, made when first asked for."""
    folder, made = tmp_path_factory.mktemp("checkpoints"), {}

    def get(arch: str, stage: str = "finetune") -> Path:
        if (arch, stage) not in made:
            made[arch, stage] = save_checkpoint(
                make_model(arch, stage, FAMILIES[arch]), folder / f"{arch}_{stage}.pth"
            )
        return made[arch, stage]

    return get


def run(tmp_path, checkpoint, digits, **values):
    values = {
        "dataset__val_data_sources": str(digits),
        "export__checkpoint": str(checkpoint),
        **values,
    }
    return export.run(make_spec(**values), make_context("export", tmp_path))


@pytest.mark.parametrize("arch", FAMILIES)
@pytest.mark.parametrize(("stage", "opset"), [("finetune", 12), ("pretrain", 17)])
def test_every_family_exports_at_the_opset_asked_for_with_any_batch(
    arch, stage, opset, checkpoints, digits, tmp_path
):
    result = run(tmp_path, checkpoints(arch, stage), digits, export__opset_version=opset)
    path = Path(result["artefacts"][0])
    assert path == tmp_path / "export" / "model.onnx"
    model = onnx.load(str(path))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert result["parity"]["images"] == 16
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    module, saved = load_model(checkpoints(arch, stage))
    pixels = torch.randn(3, 3, *saved.input_size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = module(pixels) if stage == "finetune" else module.encode(pixels)
    (actual,) = session.run(
        ["logits" if stage == "finetune" else "features"], {"images": pixels.numpy()}
    )
    np.testing.assert_allclose(
        actual, expected.numpy(), atol=1e-4 * max(1.0, float(expected.abs().max()))
    )
    meta = onnx_export.read_meta(model, path)
    assert (meta.arch, meta.stage, meta.input_size, meta.opset) == (
        arch,
        stage,
        list(saved.input_size),
        opset,
    )
    assert meta.classes == (CLASSES if stage == "finetune" else None)


def test_tokens_keep_their_positions(checkpoints, digits, tmp_path):
    result = run(
        tmp_path, checkpoints("hiera_tiny_224", "pretrain"), digits, export__features="tokens"
    )
    session = onnxruntime.InferenceSession(
        result["artefacts"][0], providers=["CPUExecutionProvider"]
    )
    (tokens,) = session.run(["features"], {"images": np.zeros((1, 3, 96, 96), np.float32)})
    assert tokens.ndim == 3


def test_an_existing_file_is_replaced_only_when_allowed(checkpoints, digits, tmp_path):
    target = tmp_path / "export" / "model.onnx"
    target.parent.mkdir()
    target.write_bytes(b"mine")
    with pytest.raises(UsageError) as caught:
        run(tmp_path, checkpoints("vit_tiny_patch16"), digits)
    assert caught.value.field == "export.overwrite"
    assert target.read_bytes() == b"mine"
    run(tmp_path, checkpoints("vit_tiny_patch16"), digits, export__overwrite=True)
    onnx.checker.check_model(str(target))


def test_a_folder_in_the_way_is_refused_and_a_repository_takes_a_second_model(
    checkpoints, digits, tmp_path
):
    (tmp_path / "taken.onnx").mkdir()
    with pytest.raises(UsageError) as caught:
        values = {"export__onnx_file": str(tmp_path / "taken.onnx"), "export__overwrite": True}
        run(tmp_path, checkpoints("vit_tiny_patch16"), digits, **values)
    assert caught.value.field == "export.onnx_file"
    (tmp_path / "export/model_repository/other").mkdir(parents=True)
    run(tmp_path, checkpoints("vit_tiny_patch16"), digits, export__format="triton")
    with pytest.raises(UsageError) as caught:
        run(tmp_path, checkpoints("vit_tiny_patch16"), digits, export__format="triton")
    assert caught.value.field == "export.overwrite"


def test_a_default_architecture_says_nothing_of_a_checkpoint(tmp_path, checkpoints, capsys):
    spec = tmp_path / "spec.yaml"
    weights = checkpoints("vit_tiny_patch16", "pretrain")
    spec.write_text(
        f"export: {{checkpoint: {weights}, features: tokens}}\n"
        f"evaluate: {{checkpoint: {weights}, segmentation: {{window: slide}}}}\n"
    )
    # The default, ConvNeXt V2, takes multiples of 32; the model's own architecture counts.
    resolve("export", str(spec), ["export.input_height=48"])
    resolve("evaluate", str(spec), ["dataset.val_data_sources=s3://b/d"])
    assert "no effect" not in capsys.readouterr().err
    sizes = ["export.input_height=48", "model.arch=convnextv2_base"]
    error, other = resolve("export", str(spec), sizes).errors
    assert other.field == "model.arch"  # and the checkpoint is no ConvNeXt V2
    assert "take this size" in error.message
    (error,) = resolve("export", str(spec), ["train.stage=finetune"]).errors
    assert (error.field, error.expected) == ("train.stage", "pretrain")
    (error,) = resolve("export", str(spec), ["export.onnx_file=model"]).errors
    assert "ends in .onnx" in str(error)


def test_a_graph_that_differs_fails_the_job_says_where_and_leaves_nothing(
    checkpoints, digits, tmp_path, monkeypatch
):
    def spoil(model, meta, spec):
        scale_weight(model, "blocks.5/mlp/fc1/MatMul")

    monkeypatch.setattr(export, "reduce_precision", spoil)
    with pytest.raises(JobFailedError) as caught:
        run(tmp_path, checkpoints("vit_tiny_patch16"), digits)
    assert "first layer that differs is encoder.blocks.5.mlp" in caught.value.message
    assert list((tmp_path / "export").iterdir()) == []


def test_a_head_of_zeros_cannot_be_exported(digits, tmp_path):
    model = make_model("hiera_tiny_224", "finetune", 96)
    with torch.no_grad():
        for name in model.head_parameter_names():
            model.get_parameter(name).zero_()
    with pytest.raises(CheckpointError, match="same output for every image"):
        run(tmp_path, save_checkpoint(model, tmp_path / "zero.pth"), digits)
    assert not (tmp_path / "export" / "model.onnx").exists()


def test_another_size_and_a_fixed_batch_are_exported_and_described(checkpoints, digits, tmp_path):
    values = {"export__input_width": 128, "export__input_height": 64, "export__batch_size": 3}
    result = run(tmp_path, checkpoints("vit_tiny_patch16"), digits, **values)
    session = onnxruntime.InferenceSession(
        result["artefacts"][0], providers=["CPUExecutionProvider"]
    )
    assert session.get_inputs()[0].shape == [3, 3, 64, 128]
    assert result["meta"]["input_size"] == [64, 128]
    assert result["parity"]["passed"]


def test_a_size_that_does_not_fit_names_the_export_field(checkpoints, digits, tmp_path):
    with pytest.raises(SpecError) as caught:
        run(tmp_path, checkpoints("vit_tiny_patch16"), digits, export__input_width=70)
    assert caught.value.field == "export.input_width"


def test_a_program_that_follows_the_words_of_the_result_gets_the_answers_of_the_model(
    checkpoints, digits, tmp_path
):
    result = run(tmp_path, checkpoints("vit_tiny_patch16"), digits)
    assert result["usage"] == {
        "input": "float32, any batch × 3 × 64 × 64: RGB; resized (bicubic, antialiased as Pillow "
        "does) until it covers 73×73 pixels, a longer side rounded down; the center 64×64 cut out, "
        "at half the margin (rounded half to even); divided by 255; mean (0.485, 0.456, 0.406) "
        "subtracted, divided by (0.229, 0.224, 0.225).",
        "output": "logits, any batch × 4: the softmax over the classes gives their probabilities, "
        "in the order of the classes",
    }

    wide = Image.effect_noise((160, 120), 60).convert("RGB")
    wide.save(tmp_path / "wide.png")
    resized = wide.resize((97, 73), Image.Resampling.BICUBIC)
    left, top = round((97 - 64) / 2), round((73 - 64) / 2)
    pixels = np.asarray(resized.crop((left, top, left + 64, top + 64)), np.float32) / 255
    images = ((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)[None]

    session = onnxruntime.InferenceSession(result["artefacts"][0])
    (logits,) = session.run(None, {"images": images.astype(np.float32)})
    (answer,) = mae_runners.load_model(result["artefacts"][0]).predict([tmp_path / "wide.png"])
    exponentials = np.exp(logits[0] - logits.max())
    np.testing.assert_allclose(answer.probabilities, exponentials / exponentials.sum(), atol=1e-5)


def test_preprocessing_inside_the_graph_takes_raw_pixels(checkpoints, digits, tmp_path):
    plain = run(tmp_path / "a", checkpoints("convnextv2_atto"), digits)["artefacts"][0]
    inside = run(
        tmp_path / "b", checkpoints("convnextv2_atto"), digits, export__include_preprocessing=True
    )["artefacts"][0]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 96, 96), dtype=np.uint8)
    spec = make_spec()
    mean, std = (
        np.array(v, np.float32).reshape(1, 3, 1, 1)
        for v in (spec.dataset.augmentation.mean, spec.dataset.augmentation.std)
    )
    results = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
            None, {"images": value}
        )[0]
        for path, value in ((plain, ((pixels / np.float32(255)) - mean) / std), (inside, pixels))
    ]
    np.testing.assert_allclose(results[0], results[1], atol=1e-4)


@pytest.mark.parametrize("kind", ["torchscript", "torch_export"])
def test_torch_formats_agree_and_carry_their_description(kind, checkpoints, digits, tmp_path):
    result = run(tmp_path, checkpoints("convnextv2_atto"), digits, export__format=kind)
    path = result["artefacts"][0]
    extra = {"mae.json": ""}
    if kind == "torchscript":
        torch.jit.load(path, _extra_files=extra)
    else:
        torch.export.load(path, extra_files=extra)
    assert json.loads(json.loads(extra["mae.json"])["mae.arch"]) == "convnextv2_atto"
    assert result["parity"]["cosine_min"] > 0.9999


def test_a_triton_repository_holds_the_model_its_labels_and_a_valid_configuration(
    checkpoints, digits, tmp_path
):
    result = run(tmp_path, checkpoints("convnextv2_atto"), digits, export__format="triton")
    folder = tmp_path / "export" / "model_repository" / "convnextv2_atto_finetune"
    assert {Path(file).relative_to(folder).as_posix() for file in result["artefacts"]} == {
        "config.pbtxt",
        "labels.txt",
        "1/model.onnx",
    }
    assert (folder / "labels.txt").read_text().split() == CLASSES
    config = parse_config((folder / "config.pbtxt").read_text())
    assert (config.name, config.max_batch_size, config.platform) == (
        folder.name,
        triton.MAX_BATCH,
        "onnxruntime_onnx",
    )
    session = onnxruntime.InferenceSession(
        str(folder / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    for declared, actual in (
        (config.input[0], session.get_inputs()[0]),
        (config.output[0], session.get_outputs()[0]),
    ):
        assert declared.name == actual.name
        assert list(declared.dims) == actual.shape[1:]
    assert config.HasField("dynamic_batching")


def test_a_fixed_batch_is_declared_in_full_to_triton():
    meta = ArtifactMeta(
        "a",
        "finetune",
        [32, 64],
        [0.5] * 3,
        [0.5] * 3,
        "logits",
        None,
        7,
        preprocessing=True,
        batch=4,
    )
    config = parse_config(triton.config_text("m", meta, [7], max_batch=8))
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [4, 3, 32, 64]
    assert list(config.output[0].dims) == [4, 7]


def parse_config(text: str):
    """The text as the server's own message (``tritonclient`` ships it); an unknown field is an
    error."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_weights_above_the_limit_go_beside_the_file_and_leave_with_it(checkpoints, tmp_path):
    module, saved = load_model(checkpoints("vit_tiny_patch16"))
    meta = ArtifactMeta(
        "vit_tiny_patch16",
        "finetune",
        list(saved.input_size),
        saved.mean,
        saved.std,
        "logits",
        CLASSES,
        len(CLASSES),
    )
    graph = onnx_export.to_onnx(onnx_export.deployable(module, meta), meta)
    path = tmp_path / "big.onnx"
    files = onnx_export.save(graph, path, overwrite=False, limit=1_000_000)
    assert [file.name for file in files] == ["big.onnx", "big.onnx.data"]
    assert path.stat().st_size < 1_000_000
    assert sorted(file.name for file in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data"]
    onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    onnx_export.save(onnx.load(str(path)), path, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["big.onnx"]


def test_an_explicit_value_that_contradicts_the_checkpoint_is_refused_and_a_default_gives_way(
    checkpoints, digits, tmp_path
):
    values = {
        "dataset__val_data_sources": str(digits),
        "export__checkpoint": str(checkpoints("vit_tiny_patch16")),
        "dataset__augmentation__input_size": 96,
    }
    provenance = {
        "dataset.augmentation.input_size": Origin(OriginKind.OVERRIDE),
        "model.arch": Origin(OriginKind.DEFAULT),
    }
    context = make_context("export", tmp_path, provenance)
    with pytest.raises(SpecError) as caught:
        export.run(make_spec(**values), context)
    error = caught.value  # one problem is the error itself: a job shows its field and value
    assert (error.field, error.got) == ("dataset.augmentation.input_size", [96, 96])


def test_without_data_the_gate_uses_a_real_photograph_and_says_so(checkpoints, tmp_path):
    spec = make_spec(export__checkpoint=str(checkpoints("vit_tiny_patch16")))
    result = export.run(spec, make_context("export", tmp_path))
    assert "photograph" in result["parity"]["images_from"]


def test_tracing_on_a_gpu_that_is_not_there_is_a_missing_dependency(
    checkpoints, digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DependencyError) as caught:
        run(tmp_path, checkpoints("vit_tiny_patch16"), digits, export__on_cpu=False)
    assert caught.value.exit_code == 7


def test_int8_for_onnx_runtime_is_calibrated_on_the_users_images_and_smaller(
    checkpoints, digits, tmp_path
):
    full = run(tmp_path / "a", checkpoints("vit_tiny_patch16"), digits)
    small = run(tmp_path / "b", checkpoints("vit_tiny_patch16"), digits, export__data_type="int8")
    assert small["kpis"]["size_mb"] < full["kpis"]["size_mb"] / 3
    assert "dataset.val_data_sources" in small["parity"]["calibration"]
    assert small["kpis"]["parity_cosine"] > 0.99
    with pytest.raises(SpecError) as caught:
        run(
            tmp_path / "c",
            checkpoints("vit_tiny_patch16"),
            digits,
            export__data_type="int8",
            export__opset_version=12,
        )
    assert caught.value.field == "export.opset_version"


def test_fp16_for_onnx_runtime_is_half_the_size_and_behind_the_same_gate(
    checkpoints, digits, tmp_path
):
    full = run(tmp_path / "a", checkpoints("vit_tiny_patch16"), digits)
    half = run(tmp_path / "b", checkpoints("vit_tiny_patch16"), digits, export__data_type="fp16")
    assert half["kpis"]["size_mb"] < full["kpis"]["size_mb"] * 0.55
    assert 1e-6 < half["parity"]["max_abs"] < 1e-2
    session = onnxruntime.InferenceSession(half["artefacts"][0], providers=["CPUExecutionProvider"])
    assert {value.type for value in (*session.get_inputs(), *session.get_outputs())} == {
        "tensor(float)"
    }
    with pytest.raises(JobFailedError) as caught:
        run(
            tmp_path / "c",
            checkpoints("vit_tiny_patch16"),
            digits,
            export__data_type="fp16",
            export__parity__max_abs=1e-7,
        )
    assert caught.value.field == "export.parity"


def test_calibration_images_are_spread_over_all_classes(digits):
    spec = make_spec(
        gen_trt_engine__tensorrt__calibration__cal_batch_size=2,
        gen_trt_engine__tensorrt__calibration__cal_batches=2,
    )
    spec.dataset.val_data_sources = str(digits)
    meta = ArtifactMeta(
        "a", "finetune", [32, 32], [0.5] * 3, [0.25] * 3, "logits", CLASSES, len(CLASSES)
    )
    source = EvalImages(spec, str(digits), meta, labeled=True)
    labels = [int(label) for batch in _spread(source, 2, 4) for label in batch["label"]]
    assert labels[0] == 0
    assert labels[-1] == len(CLASSES) - 1
    assert len(set(labels)) >= 3


@pytest.mark.parametrize("global_pool", [False, True])
def test_a_format_is_judged_by_what_the_parent_pools(tmp_path: Path, global_pool: bool) -> None:
    model = {"arch": "vit_tiny_patch16", "num_classes": 3, "global_pool": global_pool}
    spec = {
        "train": {"stage": "finetune"},
        "model": model,
        "dataset": {"augmentation": {"input_size": 64}},
    }
    known = {"arch": "vit_tiny_patch16", "input_size": [64, 64], "num_classes": 3}
    folder = job_folder(tmp_path, "t1", "train", spec=spec)
    add_checkpoints(folder, [0.5], whole=True, said={**known, "model": model}, **known)

    def plan(format: str) -> Any:
        return Skill().plan(
            "export",
            parent_job_id="t1",
            results_root=str(tmp_path),
            spec_overrides={"export.format": format},
        )

    assert plan("timm").spec["model"]["global_pool"] is global_pool
    if global_pool:
        with pytest.raises(MaeError, match="reads the class token"):
            plan("transformers")
    else:
        assert plan("transformers").spec["model"]["global_pool"] is False
