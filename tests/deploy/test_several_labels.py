"""A model of pictures with several labels goes on as one, in every format and as an engine."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mae_runners import load_model
from mae_runners.actions import export, gen_trt_engine
from mae_runners.deploy import runtimes
from PIL import Image

from tests.support.deploy import (
    CLASSES,
    make_context,
    make_model,
    make_spec,
    save_checkpoint,
    write_digits,
)

SHAPES = {
    "vit_tiny_patch16": {"embed_dim": 64, "depth": 2, "num_heads": 2, "global_pool": False},
    "convnextv2_atto": {},
}
THRESHOLDS = [0.2, 0.45, 0.5, 0.7]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"), per_class=2, size=40)


@pytest.fixture(scope="module")
def files(digits):
    return sorted(digits.rglob("*.png"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, digits):
    """A checkpoint of an architecture, or what the export makes of it; each made once."""
    folders, done = {}, {}

    def get(arch, format):
        if arch not in folders:
            folders[arch] = tmp_path_factory.mktemp(arch)
            model = make_model(arch, "finetune", 32, **SHAPES[arch])
            file = folders[arch] / "model.pth"
            save_checkpoint(model, file, multi_label=True, thresholds=THRESHOLDS)
            done[arch, "checkpoint"] = file
        if (arch, format) not in done:
            spec = make_spec(
                export__checkpoint=str(done[arch, "checkpoint"]),
                export__format=format,
                dataset__val_data_sources=str(digits),
            )
            result = export.run(spec, make_context("export", folders[arch]))
            assert result["kpis"]["parity_cosine"] > 0.9999
            name = "model.onnx" if format == "onnx" else format
            done[arch, format] = folders[arch] / "export" / name
        return done[arch, format]

    return get


@pytest.mark.parametrize("format", ["onnx", "timm", "transformers"])
@pytest.mark.parametrize("arch", SHAPES)
def test_every_format_comes_back_with_the_same_probabilities_and_labels(made, files, arch, format):
    wanted = load_model(made(arch, "checkpoint")).predict(files)
    assert any(abs(sum(row.probabilities) - 1) > 0.05 for row in wanted), "no softmax"
    model = load_model(made(arch, format))
    assert (model.meta.multi_label, model.meta.thresholds) == (True, THRESHOLDS)
    for ours, theirs in zip(wanted, model.predict(files), strict=True):
        np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-5)
        assert theirs.labels == ours.labels


@pytest.mark.parametrize("arch", SHAPES)
def test_the_pipeline_of_transformers_takes_a_sigmoid_of_each_class(made, files, arch):
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    folder = made(arch, "transformers")
    theirs = AutoModelForImageClassification.from_pretrained(folder).eval()
    assert theirs.config.problem_type == "multi_label_classification"
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    ask = pipeline("image-classification", model=theirs, image_processor=processor)
    ours = load_model(made(arch, "checkpoint")).predict(files)
    for file, own in zip(files, ours, strict=True):
        answer = {one["label"]: one["score"] for one in ask(Image.open(file), top_k=4)}
        found = [answer[name] for name in CLASSES]
        np.testing.assert_allclose(found, own.probabilities, atol=1e-3)


def test_the_sigmoid_of_timms_logits_is_the_probability(made, files):
    folder = made("vit_tiny_patch16", "timm")
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(theirs)
    prepare = timm.data.create_transform(**config, is_training=False)
    images = torch.stack([prepare(Image.open(file).convert("RGB")) for file in files])
    with torch.inference_mode():
        found = theirs(images).sigmoid().numpy()
    ours = load_model(made("vit_tiny_patch16", "checkpoint")).predict(files)
    np.testing.assert_allclose(found, [row.probabilities for row in ours], atol=1e-5)


@pytest.mark.parametrize("format", ["timm", "transformers"])
def test_the_card_says_what_a_logit_means_and_each_threshold(made, format):
    text = (made("vit_tiny_patch16", format) / "README.md").read_text()
    assert "a classifier of 4 classes, of which a picture may have several" in text
    assert "the sigmoid of its logit" in text
    for name, cut in zip(CLASSES, THRESHOLDS, strict=True):
        assert f"| {name} | {cut} |" in text


@pytest.mark.parametrize("data_type", ["fp32", "fp16"])
def test_an_engine_knows_the_labels_and_thresholds_of_its_graph(made, digits, tmp_path, data_type):
    file = made("convnextv2_atto", "onnx")
    result = gen_trt_engine.run(
        make_spec(
            gen_trt_engine__onnx_file=str(file),
            gen_trt_engine__backend="tensorrt_rtx",
            gen_trt_engine__targets=["8.6"],
            gen_trt_engine__tensorrt__data_type=data_type,
            dataset__val_data_sources=str(digits),
        ),
        make_context("gen_trt_engine", tmp_path),
    )
    said = runtimes.read_engine_description(Path(result["artefacts"][0]))
    assert (said["multi_label"], said["thresholds"]) == (True, THRESHOLDS)
    assert said["classes"] == CLASSES
    assert (result["parity"] or {"passed": data_type == "fp32"})["passed"]
