"""The default bounds of reduced precision, on models that learned real digits and photographs: sane
artifacts pass, broken ones do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mae_runners.deploy import onnx as onnx_export
from mae_runners.deploy import parity
from mae_runners.deploy.artifact import ArtifactMeta
from mae_runners.deploy.eval_images import GATE_IMAGES_INT8
from mae_runners.models import build_classifier, build_mae
from PIL import Image

from tests.support.deploy import make_spec
from tests.support.images import digits, photo
from tests.support.reduced import broken_graphs, sane_graphs

SIZE = 64
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
ARCHS = ["vit_tiny_patch16", "convnextv2_atto", "hiera_tiny_224"]
HELD_OUT = 128


def pictures(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalized images [N, 3, 64, 64] and labels [N]; the last `HELD_OUT` are never trained on."""
    if kind == "digits":
        images, labels = digits()
        chosen = np.random.default_rng(0).permutation(len(images))[:1500]
        sized = [
            np.asarray(
                Image.fromarray(images[i])
                .resize((SIZE, SIZE), Image.Resampling.BICUBIC)
                .convert("RGB")
            )
            for i in chosen
        ]
        targets = torch.from_numpy(labels[chosen])
    else:
        sized = [np.asarray(photo(i, SIZE, SIZE)) for i in range(900)]
        targets = torch.arange(900) % 4
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (
        torch.from_numpy(np.stack(sized)).permute(0, 3, 1, 2).float() / 255 - mean
    ) / std, targets


def trained(
    arch: str, stage: str, images: torch.Tensor, labels: torch.Tensor, epochs: int = 5
) -> Any:
    torch.manual_seed(0)
    small = {"model__decoder_embed_dim": 64, "model__decoder_num_heads": 4}
    spec = make_spec(
        model__arch=arch, model__num_classes=int(labels.max()) + 1, train__stage=stage, **small
    )
    model: Any = (
        build_classifier(spec.model, SIZE)
        if stage == "finetune"
        else build_mae(spec.model, spec.train, SIZE)
    )
    count = len(images) - HELD_OUT
    rate = 1e-3 if arch.startswith("convnext") else 5e-4
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=epochs * (count // 50)
    )
    for _ in range(epochs):
        for chosen in torch.randperm(count)[: count // 50 * 50].view(-1, 50):
            if stage == "finetune":
                loss = torch.nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
            else:
                loss = model(images[chosen], torch.rand(50, model.num_units)).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def judged(
    graph: Any, meta: ArtifactMeta, images: torch.Tensor, reference: np.ndarray, precision: str
) -> parity.ParityReport:
    outputs = parity.onnx_outputs(graph, meta, images)
    thresholds = parity.thresholds_for(precision)
    return parity.compare(reference, outputs, thresholds, logits=meta.output == "logits")


def figures(report: parity.ParityReport) -> str:
    return f"1 - cosine {1 - report.cosine_min:.1e}  max abs {report.max_abs:.1e}"


@pytest.mark.parametrize("kind", ["digits", "photographs"])
@pytest.mark.parametrize("arch", ARCHS)
def test_sane_classifiers_pass_the_defaults_and_broken_ones_fail_them(arch: str, kind: str) -> None:
    images, labels = pictures(kind)
    model = trained(arch, "finetune", images, labels)
    classes = int(labels.max()) + 1
    meta = ArtifactMeta(arch, "finetune", [SIZE, SIZE], MEAN, STD, "logits", None, classes)
    module = onnx_export.deployable(model, meta)
    graph = onnx_export.to_onnx(module, meta)
    gated = images[-GATE_IMAGES_INT8:]
    reference = parity.torch_outputs(module, gated)
    correct = torch.from_numpy(reference).argmax(1) == labels[-len(gated) :]
    print(f"\n{arch}, {kind}: accuracy {correct.float().mean():.2f}")
    for precision, name, reduced in sane_graphs(graph, images):
        report = judged(reduced, meta, gated, reference, precision)
        print(f"  {name:40} {figures(report)}  top-1 {report.top1_agreement:.3f}")
        assert report.passed, (name, report.failures)
    for name, reduced in broken_graphs(graph, images):
        report = judged(reduced, meta, gated, reference, "int8")
        print(f"  {name:40} {figures(report)}  top-1 {report.top1_agreement:.3f}")
        assert not report.passed, name


@pytest.mark.parametrize("arch", ARCHS)
def test_sane_features_of_a_pretrained_model_pass_the_defaults(arch: str) -> None:
    images, labels = pictures("photographs")
    model = trained(arch, "pretrain", images, labels, epochs=3)
    for output in ("pooled", "tokens"):
        meta = ArtifactMeta(arch, "pretrain", [SIZE, SIZE], MEAN, STD, output)
        module = onnx_export.deployable(model, meta)
        graph = onnx_export.to_onnx(module, meta)
        gated = images[-GATE_IMAGES_INT8:]
        reference = parity.torch_outputs(module, gated)
        for precision, name, reduced in sane_graphs(graph, images):
            report = judged(reduced, meta, gated, reference, precision)
            print(f"  {arch} {output} {name:32} {figures(report)}")
            assert report.passed, (output, name, report.failures)
