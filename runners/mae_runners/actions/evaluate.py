"""evaluate: how good is a checkpoint, an ONNX file or an engine, on labelled images (`dataset.val_data_sources`)?

A classifier: top-1, top-5, per class, confusion matrix. A segmenter: mean IoU, accuracies, IoU of each class. A pretrained model: nearest
neighbours and a linear probe on its features, and its reconstruction loss. Always the same preprocessing as inference, and how fast the artefact is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mae_sdk.files import write_json
from mae_skill.errors import SpecError
from torch import Tensor

from mae_runners import distributed as ranks
from mae_runners.actions.evaluate_segmenter import segment
from mae_runners.deploy import artefact, runtimes
from mae_runners.deploy.eval_images import Images
from mae_runners.deploy.onnx import example_input
from mae_runners.deploy.runtimes import measure, run_batch
from mae_runners.metrics import classification as metrics
from mae_runners.metrics.probe_folds import probe


def run(spec: Any, context: Any) -> dict[str, Any]:
    """Evaluates and writes `metrics.json` (and the confusion matrix); returns ``{"kpis", "artefacts", "device", "model"}``."""
    runtime = runtimes.open_artefact(spec, context, "evaluate")
    with ranks.process_group(context):
        if runtime.meta.segments:
            figures, files = segment(spec, context, runtime)
            if context.is_main:
                figures["speed"] = speed(runtime, example_input(runtime.meta, 1))
        else:
            figures, files = (classify if runtime.meta.output == "logits" else judge_features)(
                spec, context, runtime
            )
    if not context.is_main:
        return {}
    figures["model"] = {
        "kind": runtime.kind,
        "arch": runtime.meta.arch,
        "stage": runtime.meta.stage,
        "precision": runtime.meta.precision,
    }
    path = context.action_dir / "metrics.json"
    write_json(path, figures)
    names = (
        "mIoU",
        "mAcc",
        "aAcc",
        "ACC_all",
        "ACC_top5",
        "val_loss",
        "mean_class_accuracy",
        "knn_acc",
        "linear_acc",
        "reconstruction_loss",
    )
    kpis = {name: figures[name] for name in names if figures.get(name) is not None}
    kpis |= {
        f"latency_{name}": value
        for name, value in figures["speed"].get("batch_1", {}).items()
        if name != "repetitions"
    }
    kpis["best_images_per_s"] = figures["speed"]["best"]["images_per_s"]
    return {
        "kpis": kpis,
        "artefacts": [str(file) for file in [path, *files]],
        "device": str(runtime.device),
        "model": figures["model"],
    }


def classify(spec: Any, context: Any, runtime: Any) -> tuple[dict[str, Any], list[Path]]:
    """Classification figures of a fine-tuned artefact, summed over ranks without counting an image twice."""
    meta = runtime.meta
    images = Images(
        spec,
        artefact.need_source(spec, "val_data_sources", "evaluate"),
        meta,
        labelled=True,
        classes=meta.classes,
    )
    classes = artefact.class_names(meta, images.dataset.classes)
    count = len(classes)
    sums = torch.zeros(count * count + 2, dtype=torch.float64)  # confusion matrix, top-k hits, loss
    k = min(metrics.TOP_K, count)
    size = artefact.batch_size(spec.evaluate, spec)
    first: Tensor | None = None
    with context.progress(-(-len(images) // (size * context.world_size)), "evaluate") as progress:
        for batch in images.batches(size, rank=context.rank, world=context.world_size):
            first = batch["input"][:1] if first is None else first
            logits, labels = run_batch(runtime, batch["input"]), batch["label"]
            sums[: count * count] += torch.bincount(
                labels * count + logits.argmax(dim=1), minlength=count * count
            )
            sums[-2] += (logits.topk(k, dim=1).indices == labels[:, None]).any(dim=1).sum()
            sums[-1] += torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            progress.advance()
    sums = ranks.add_up(context, sums)
    if not context.is_main:
        return {}, []
    confusion = sums[: count * count].reshape(count, count).numpy().astype(np.int64)
    figures = metrics.summarise(confusion, int(sums[-2]), float(sums[-1]), classes)
    figures["unreadable"] = images.dataset.corrupt
    figures["speed"] = speed(runtime, first)
    return figures, metrics.write_confusion(confusion, classes, context.action_dir)


def judge_features(spec: Any, context: Any, runtime: Any) -> tuple[dict[str, Any], list[Path]]:
    """Feature quality of a pretrained artefact. Probes want all features in one place, so rank 0 does them; loss needs the decoder, so
    torch."""
    if not context.is_main:
        return {}, []
    name = "probe_val_data_sources" if spec.dataset.probe_val_data_sources else "val_data_sources"
    source = artefact.need_source(spec, name, "evaluate")
    decoder = getattr(runtime, "model", None)
    units = int(decoder.num_units) if decoder is not None else None
    features, labels, classes, loss, first = embed(spec, context, runtime, source, units, None)
    figures: dict[str, Any] = {
        "images": len(features),
        "notes": [],
        "features": runtime.meta.output,
    }
    if loss is not None:
        figures["reconstruction_loss"] = loss
    else:
        figures["notes"].append(
            "no reconstruction loss: an exported artefact has no decoder; evaluate the checkpoint for it"
        )
    if labels is None:
        figures["notes"].append(f"no probe: dataset.{name} has no class folders")
    else:
        bank = None
        if spec.dataset.probe_train_data_sources:
            known, targets, _, _, _ = embed(
                spec, context, runtime, spec.dataset.probe_train_data_sources, None, classes
            )
            if targets is None:
                raise SpecError(
                    "the probe's bank has no labels",
                    field="dataset.probe_train_data_sources",
                    expected="one folder per class",
                )
            bank = (known, targets)
        elif int(torch.bincount(labels)[labels.unique()].min()) < 2:
            raise SpecError(
                "a probe without a bank needs two images of every class",
                field=f"dataset.{name}",
                hint="set dataset.probe_train_data_sources, or add images",
            )
        figures |= probe(features, labels, k=spec.train.probe.k, seed=spec.train.seed, bank=bank)
    for note in figures["notes"]:
        context.log(note)
    figures["speed"] = speed(runtime, first)
    return figures, []


def embed(
    spec: Any, context: Any, runtime: Any, source: Any, units: int | None, classes: list[str] | None
) -> tuple[Tensor, Tensor | None, list[str], float | None, Tensor | None]:
    """Features [N, D], labels [N] (None when there are none), class names, mean reconstruction loss (with `units`), one input image."""
    images = Images(
        spec, source, runtime.meta, labelled=classes is not None, classes=classes, num_units=units
    )
    size = artefact.batch_size(spec.evaluate, spec)
    parts, labels, loss, first = [], [], 0.0, None
    with context.progress(-(-len(images) // size), "features") as progress:
        for batch in images.batches(size):
            first = batch["input"][:1] if first is None else first
            output = run_batch(runtime, batch["input"])
            parts.append(output.mean(dim=1) if output.ndim == 3 else output)
            labels.append(batch["label"])
            if units is not None:
                with torch.inference_mode():
                    result = runtime.model(
                        batch["input"].to(runtime.device), batch["noise"].to(runtime.device)
                    )
                loss += float(result.loss) * len(batch["input"])
            progress.advance()
    features, known = torch.cat(parts), torch.cat(labels)
    labelled = known if (known >= 0).all() else None
    return (
        features,
        labelled,
        images.dataset.classes,
        None if units is None else loss / len(features),
        first,
    )


def speed(runtime: Any, first: Tensor | None) -> dict[str, Any]:
    """Latency and throughput of the artefact on this machine."""
    assert first is not None, "an empty source is refused before"
    return {
        **measure(runtime, first, seconds=0.5),
        "device": str(runtime.device),
        "threads": torch.get_num_threads(),
    }
