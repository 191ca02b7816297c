"""The default bounds of reduced precision for segmenters that learned to find ink on photographs:
sane artifacts pass, broken ones do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mae_runners.data import to_input
from mae_runners.deploy import onnx as onnx_export
from mae_runners.deploy import parity
from mae_runners.deploy.artifact import ArtifactMeta
from mae_runners.deploy.eval_images import GATE_IMAGES_INT8
from mae_runners.metrics.confusion import count_pairs
from mae_runners.metrics.iou import iou_metrics
from mae_runners.models import build_segmenter
from mae_runners.tasks.losses import PixelLoss

from tests.support.deploy import make_spec
from tests.support.inked import inked
from tests.support.reduced import broken_graphs, sane_graphs

SIZE, CLASSES = 64, 2
# Of the mIoU: a broken layer that costs less does no harm (a turned sign beside a residual path).
COST = 0.02
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
#: family → steps of 16 pictures, learning rate
ARCHS = {
    "vit_tiny_patch16": (150, 1e-3),
    "convnextv2_atto": (150, 2e-3),
    "hiera_tiny_224": (100, 5e-4),
}


def pictures(group: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalized images [N, 3, 64, 64] and classes [N, 64, 64], 255 = ignored."""
    pairs = [inked(group, number, size=SIZE) for number in range(count)]
    images = torch.from_numpy(np.stack([np.asarray(image) for image, _ in pairs])).permute(
        0, 3, 1, 2
    )
    masks = torch.from_numpy(np.stack([np.asarray(mask) for _, mask in pairs]).astype(np.int64)) - 1
    return to_input(images, MEAN, STD), masks.masked_fill(masks < 0, 255)


def trained(arch: str, images: torch.Tensor, masks: torch.Tensor) -> Any:
    torch.manual_seed(0)
    steps, rate = ARCHS[arch]
    head = {"model__segmentation__channels": 32, "model__segmentation__auxiliary_channels": 16}
    spec = make_spec(
        model__arch=arch,
        model__task="segmentation",
        model__num_classes=CLASSES,
        train__stage="finetune",
        model__drop_path_rate=0.0,
        **head,
    )
    model: Any = build_segmenter(spec.model, SIZE).train()
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(images), (16,))
        loss = PixelLoss(255, auxiliary_weight=0.4)(model(images[chosen]), masks[chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def score(logits: np.ndarray, masks: torch.Tensor) -> float:
    matrix = count_pairs(masks, torch.from_numpy(logits).argmax(1), logits.shape[1], 255)
    return float(iou_metrics(matrix)["mIoU"])


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("arch", list(ARCHS))
def test_sane_segmenters_pass_the_defaults_and_broken_ones_fail_them(arch: str) -> None:
    images, masks = pictures("training", 400)
    model = trained(arch, images, masks)
    gated, truth = pictures("judged", GATE_IMAGES_INT8)
    meta = ArtifactMeta(
        arch, "finetune", [SIZE, SIZE], MEAN, STD, "logits", None, CLASSES, task="segmentation"
    )
    graph = onnx_export.to_onnx(onnx_export.deployable(model, meta), meta)
    reference = parity.torch_outputs(onnx_export.deployable(model, meta), gated)
    print(
        f"\n{arch}: mIoU {score(reference, truth):.3f},"
        f" ink {(reference.argmax(1) > 0).mean():.3f} of the pixels"
    )

    def report_on(name: str, reduced: Any, precision: str) -> tuple[parity.ParityReport, float]:
        outputs = parity.onnx_outputs(reduced, meta, gated)
        thresholds = parity.thresholds_for(precision, pixels=True)
        report = parity.compare(reference, outputs, thresholds, logits=True)
        reached = score(outputs, truth)
        figures = (
            f"1 - cosine {1 - report.cosine_min:.1e}  max abs {report.max_abs:.1e}"
            f"  pixels {report.top1_agreement:.4f}"
        )
        print(f"  {name:44} {figures}  mIoU {reached:.3f}")
        return report, reached

    wrong, whole = [], score(reference, truth)
    for precision, name, reduced in sane_graphs(graph, images):
        report, _ = report_on(name, reduced, precision)
        if name != "int8, 8 calibration images":  # eight images are too few to promise anything
            wrong += [] if report.passed else [f"{name}: {report.failures}"]
    caught = 0
    for name, reduced in broken_graphs(graph, images):
        report, reached = report_on(name, reduced, "int8")
        caught += not report.passed
        if reached < whole - COST:
            wrong += [f"{name} passed"] if report.passed else []
    assert whole > 0.7 and caught >= 5, "the segmenter learned, and what is broken shows"
    assert not wrong
