"""The parity table: every architecture × both stages × two input sizes, exported to ONNX and
compared with torch in ONNX Runtime on
real images.

    python benchmarks/parity.py [--archs NAME …] [--images 4] [-o benchmarks/results/parity]

Large and huge architectures keep their full width and get fewer blocks (the column says how many);
weights are random, with heads and GRN given
values that matter (freshly made ones are zero, and zeros agree with anything). Writes ``<out>.md``
and ``<out>.json``; exit 1 if any row fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from mae_runners.deploy import onnx as onnx_export
from mae_runners.deploy import parity
from mae_runners.deploy.artifact import ArtifactMeta
from mae_runners.deploy.eval_images import sample_photograph
from mae_runners.models import build_classifier, build_mae
from mae_skill import archs
from mae_skill.spec.model import ModelSpec
from mae_skill.spec.train import TrainSpec

CLASSES = 10
OPSETS = {"finetune": 17, "pretrain": 12}


def sizes(arch: archs.Arch) -> list[list[int]]:
    """The usual square, and a rectangle of 6 × 10 (ViT) or 3 × 5 units."""
    rows, columns = (6, 10) if arch.family == "vit" else (3, 5)
    return [[224, 224], [rows * arch.unit, columns * arch.unit]]


def shorten(arch: archs.Arch) -> archs.Arch:
    """The architecture, with fewer blocks at full width where the whole would cost gigabytes."""
    if "large" not in arch.name and "huge" not in arch.name:
        return arch
    return dataclasses.replace(arch, depths=(4,) if arch.family == "vit" else (1, 1, 2, 1))


def make(arch: str, stage: str, size: list[int]) -> Any:
    """A model with random weights, none of them without effect."""
    torch.manual_seed(0)
    spec = ModelSpec(arch=arch, num_classes=CLASSES, decoder_embed_dim=64, decoder_num_heads=4)
    model = (
        build_classifier(spec, size) if stage == "finetune" else build_mae(spec, TrainSpec(), size)
    )
    heads = model.head_parameter_names()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if stage == "finetune" and name in heads and parameter.dim() > 1:
                parameter.normal_(std=0.2)
            elif "grn" in name:
                parameter.normal_(std=0.3)
    return model.eval()


def row(arch: str, stage: str, size: list[int], images: int) -> dict[str, Any]:
    """One line of the table."""
    model = make(arch, stage, size)
    meta = ArtifactMeta(
        arch,
        stage,
        size,
        [0.485, 0.456, 0.406],
        [0.229, 0.224, 0.225],
        "logits" if stage == "finetune" else "pooled",
        opset=OPSETS[stage],
    )
    module = onnx_export.deployable(model, meta)
    pixels = sample_photograph(meta, images)
    begin = time.perf_counter()
    graph = onnx_export.to_onnx(module, meta)
    seconds = time.perf_counter() - begin
    report = parity.compare(
        parity.torch_outputs(module, pixels),
        parity.onnx_outputs(graph, meta, pixels),
        parity.thresholds_for("fp32"),
        logits=meta.output == "logits",
    )
    return {
        "arch": arch,
        "stage": stage,
        "size": size,
        "opset": meta.opset,
        "blocks": archs.ARCHS[arch].depth,
        "parameters_m": round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1),
        "cosine": report.cosine_min,
        "max_abs": report.max_abs,
        "top1": report.top1_agreement,
        "export_s": round(seconds, 1),
        "passed": report.passed,
    }


def table(rows: list[dict[str, Any]], versions: str) -> str:
    """The rows as Markdown."""
    head = (
        "| arch | stage | size | opset | blocks | parameters, M"
        " | 1 − cosine | max abs | top-1 | passed |"
    )
    lines = [f"# ONNX against torch\n\n{versions}\n", head, "|---" * 10 + "|"]
    for r in rows:
        top1 = "–" if r["top1"] is None else f"{r['top1']:.2f}"
        lines.append(
            f"| {r['arch']} | {r['stage']} | {r['size'][0]}×{r['size'][1]} | {r['opset']} "
            f"| {r['blocks']} | {r['parameters_m']} | {max(0.0, 1 - r['cosine']):.1e} "
            f"| {r['max_abs']:.1e} | {top1} | {'yes' if r['passed'] else 'NO'} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="ONNX against torch, all architectures.")
    parser.add_argument("--archs", nargs="+", default=list(archs.ARCHS), choices=list(archs.ARCHS))
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("-o", "--output", type=Path, help="write FILE.md and FILE.json")
    args = parser.parse_args(argv)
    rows = []
    for name in args.archs:
        whole = archs.ARCHS[name]
        archs.ARCHS[name] = shorten(whole)
        try:
            for stage in OPSETS:
                for size in sizes(whole):
                    rows.append(row(name, stage, size, args.images))
                    print(json.dumps(rows[-1]), flush=True)
        finally:
            archs.ARCHS[name] = whole
    import onnxruntime

    about = f"float32, CPU, {args.images} crops of a photograph a row."
    versions = f"torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, {about}"
    print(table(rows, versions))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.with_suffix(".md").write_text(table(rows, versions))
        args.output.with_suffix(".json").write_text(
            json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n"
        )
    return 0 if all(r["passed"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
