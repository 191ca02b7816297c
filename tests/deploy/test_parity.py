import numpy as np
import onnx
import pytest
import torch
from mae_runners.deploy import onnx as onnx_export
from mae_runners.deploy import parity
from mae_runners.deploy.artifact import ArtifactMeta
from mae_skill.errors import CheckpointError
from mae_skill.spec import ParitySpec

from tests.support.deploy import CLASSES, make_model, scale_weight

FP32 = parity.DEFAULTS["fp32"]


def outputs(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(6, 4))


def test_equal_outputs_pass_and_a_difference_names_image_element_and_both_values():
    reference = outputs()
    assert parity.compare(reference, reference + 1e-7, FP32, logits=True).passed
    broken = reference.copy()
    broken[3, 2] += 0.5
    report = parity.compare(reference, broken, FP32, logits=True)
    assert not report.passed
    assert report.worst_image == 3
    assert report.worst_element == [2]
    assert any(
        "image 3, element 2" in failure and f"{broken[3, 2]:.6g}" in failure
        for failure in report.failures
    )


def test_a_changed_answer_fails_even_when_cosine_and_difference_are_within_bounds():
    reference = np.array([[1.0, 1.0 - 1e-5], [0.0, 1.0]])
    candidate = reference[:, ::1].copy()
    candidate[0] = reference[0, ::-1]
    report = parity.compare(reference, candidate, FP32, logits=True)
    assert report.top1_agreement == 0.5
    assert len(report.failures) == 1
    assert "top-1" in report.failures[0]


def test_not_finite_outputs_of_the_artifact_fail():
    candidate = outputs()
    candidate[0, 0] = np.nan
    assert "not finite" in parity.compare(outputs(), candidate, FP32, logits=True).failures[0]


@pytest.mark.parametrize(
    "reference", [np.zeros((4, 3)), np.tile([[1.0, 2.0, 3.0]], (4, 1)), np.full((4, 3), np.inf)]
)
def test_a_model_that_says_nothing_cannot_be_compared_with(reference):
    with pytest.raises(CheckpointError):
        parity.compare(reference, reference, FP32, logits=True)


def test_bounds_of_the_spec_replace_the_defaults_of_the_precision():
    chosen = parity.thresholds_for("int8", ParitySpec(min_cosine=0.5))
    assert chosen.min_cosine == 0.5
    assert chosen.max_abs == parity.DEFAULTS["int8"].max_abs


def test_the_first_layer_that_differs_is_named():
    model = make_model("vit_tiny_patch16", "finetune", 64)
    meta = ArtifactMeta(
        "vit_tiny_patch16",
        "finetune",
        [64, 64],
        [0.5] * 3,
        [0.25] * 3,
        "logits",
        CLASSES,
        len(CLASSES),
    )
    module = onnx_export.deployable(model, meta)
    graph = onnx_export.to_onnx(module, meta)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert parity.first_differing_layer(module, graph, meta, images, FP32) is None
    scale_weight(graph, "blocks.7/mlp/fc1/MatMul")
    onnx.checker.check_model(graph)
    where = parity.first_differing_layer(module, graph, meta, images, FP32)
    assert where is not None
    assert where.startswith("encoder.blocks.7.mlp")
