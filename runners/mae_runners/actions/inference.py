"""inference: what does a model say of images (`dataset.test_data_sources`)?

A classifier: `results.csv` with path, label (class name), probability, and the runners-up. A segmenter: label maps, coloured masks and
overlays (see `mae_runners.actions.predict_segmenter`). A pretrained model: `embeddings.npy` with `embeddings.csv` (row → path), and pictures
of what it reconstructs. Preprocessing is evaluate's.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mae_sdk.files import atomic_file
from torch import Tensor

from mae_runners import distributed as ranks
from mae_runners.actions.predict_segmenter import segment
from mae_runners.deploy import artefact, runtimes
from mae_runners.deploy.eval_images import Images
from mae_runners.deploy.runtimes import run_batch

PICTURES = 8


def run(spec: Any, context: Any) -> dict[str, Any]:
    """Runs the model over the test images and writes its answers; returns ``{"kpis", "artefacts"}``."""
    runtime = runtimes.open_artefact(spec, context, "inference")
    if runtime.meta.segments:
        return segment(spec, context, runtime)
    source = artefact.need_source(spec, "test_data_sources", "inference")
    classifies = runtime.meta.output == "logits"
    decoder = getattr(runtime, "model", None)
    images = Images(
        spec,
        source,
        runtime.meta,
        labelled=False,
        num_units=None if classifies or decoder is None else int(decoder.num_units),
    )
    size = artefact.batch_size(spec.inference, spec)
    rows: list[tuple[int, np.ndarray]] = []
    pictures: list[Tensor] = []
    with ranks.process_group(context):
        with context.progress(
            -(-len(images) // (size * context.world_size)), "inference"
        ) as progress:
            for batch in images.batches(size, rank=context.rank, world=context.world_size):
                outputs = run_batch(runtime, batch["input"])
                rows += zip(batch["index"].tolist(), outputs.numpy(), strict=True)
                if "noise" in batch and context.is_main and sum(map(len, pictures)) < PICTURES:
                    pictures.append(reconstruct(runtime, batch))
                progress.advance()
        parts = ranks.gather(context, rows)
    if not context.is_main:
        return {}
    answers = sorted((row for part in parts for row in part), key=lambda row: row[0])
    paths = [images.dataset.path(index) for index, _ in answers]
    stacked = np.stack([output for _, output in answers])
    if classifies:
        names = artefact.class_names(runtime.meta, None)
        files = [
            write_results(context.action_dir, paths, stacked, names, int(spec.inference.top_k))
        ]
    else:
        files = write_embeddings(context.action_dir, paths, stacked)
        if pictures:
            files.append(
                write_pictures(
                    context.action_dir / "reconstructions.png", torch.cat(pictures)[:PICTURES]
                )
            )
    for path in images.dataset.corrupt:
        context.warn(f"unreadable, so not in the results: {path}")
    kpis = {"images": len(paths), "unreadable": len(images) - len(paths)}
    return {"kpis": kpis, "artefacts": [str(file) for file in files], "device": str(runtime.device)}


def write_results(
    folder: Path, paths: list[str], logits: np.ndarray, classes: list[str], top_k: int
) -> Path:
    """``results.csv``: path, label, probability, class_index, then label_2, probability_2 … up to the ``top_k`` most probable classes;
    rows in the order of the source."""
    probabilities = torch.from_numpy(logits).double().softmax(dim=1)
    values, indices = probabilities.topk(min(top_k, len(classes)), dim=1)
    header = ["path", "label", "probability", "class_index"]
    header += [
        f"{name}_{rank}"
        for rank in range(2, values.shape[1] + 1)
        for name in ("label", "probability")
    ]
    target = folder / "results.csv"
    with atomic_file(target) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for path, value, index in zip(paths, values.tolist(), indices.tolist(), strict=True):
            others = [
                cell
                for v, i in zip(value[1:], index[1:], strict=True)
                for cell in (classes[i], f"{v:.6f}")
            ]
            writer.writerow([path, classes[index[0]], f"{value[0]:.6f}", index[0], *others])
    return target


def write_embeddings(folder: Path, paths: list[str], features: np.ndarray) -> list[Path]:
    """``embeddings.npy`` float32 [N, D] (or [N, tokens, D]) and ``embeddings.csv`` (row, path)."""
    array, index = folder / "embeddings.npy", folder / "embeddings.csv"
    with atomic_file(array) as temporary, temporary.open("wb") as stream:
        np.save(stream, features.astype(np.float32))
    with index.open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["row", "path"])
        writer.writerows(enumerate(paths))
    return [array, index]


@torch.inference_mode()
def reconstruct(runtime: Any, batch: dict[str, Tensor]) -> Tensor:
    """Original, masked and reconstructed pictures [B, 3 (which), 3, H, W], pixels in [0, 1]."""
    model = runtime.model
    images, noise = batch["input"].to(runtime.device), batch["noise"].to(runtime.device)
    height, width = images.shape[-2:]
    hidden = (
        model(images, noise)
        .mask.float()
        .view(len(images), 1, height // model.unit, width // model.unit)
    )
    hidden = hidden.repeat_interleave(model.unit, dim=2).repeat_interleave(model.unit, dim=3)
    mean, std = (
        torch.tensor(values, device=images.device).view(1, 3, 1, 1)
        for values in (runtime.meta.mean, runtime.meta.std)
    )
    original, rebuilt = (part * std + mean for part in (images, model.reconstruct(images, noise)))
    masked = original * (1.0 - hidden) + 0.5 * hidden
    return torch.stack([original, masked, rebuilt], dim=1).clamp(0.0, 1.0).float().cpu()


def write_pictures(path: Path, pictures: Tensor) -> Path:
    """One row an image: original, masked, reconstructed; two pixels of white between them."""
    from PIL import Image

    count, kinds, _, height, width = pictures.shape
    gap = 2
    canvas = np.full((count * (height + gap) - gap, kinds * (width + gap) - gap, 3), 255, np.uint8)
    for row, column in np.ndindex(count, kinds):
        y, x = row * (height + gap), column * (width + gap)
        canvas[y : y + height, x : x + width] = (
            (pictures[row, column].permute(1, 2, 0).numpy() * 255.0).round().astype(np.uint8)
        )
    Image.fromarray(canvas).save(path)
    return path
