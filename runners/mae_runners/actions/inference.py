"""inference: what does a model say about images (`dataset.test_data_sources`)?

A classifier: `results.csv` with path, label (class name), probability, and the runners-up.
A segmenter: label maps, colored masks and overlays (`mae_runners.actions.predict_segmenter`).
A pretrained model: `embeddings.npy` with `embeddings.csv` (row → path), and images of what it
reconstructs. Preprocessing is evaluate's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mae_sdk.files import atomic_file, write_csv
from mae_skill.spec import ExperimentSpec
from mae_skill.spelling import one_line
from PIL import Image

from mae_runners.actions.predict_segmenter import predict_segmenter
from mae_runners.context import RunContext
from mae_runners.data import left_out
from mae_runners.deploy import artefact
from mae_runners.deploy.eval_images import EvalImages
from mae_runners.deploy.runtimes import Runtime, TorchRuntime, open_artefact, run_batch
from mae_runners.distributed import connected
from mae_runners.metrics import reconstruction
from mae_runners.metrics.feature_map import show_features
from mae_runners.metrics.gallery import Gallery, tile_of
from mae_runners.metrics.notable import answers_of, lines_of

SHEET, LEAST = 36, 12  # images of the contact sheet, and of the least certain


def run(spec: ExperimentSpec, context: RunContext) -> dict[str, Any]:
    """Runs the model over the test images and writes its answers.

    Returns:
        ``{"kpis", "artefacts", "device"}``.
    """
    runtime = open_artefact(spec, context, "inference")
    if runtime.meta.segments:
        return predict_segmenter(spec, context, runtime)
    source = artefact.need_source(spec, "test_data_sources", "inference")
    classifies = runtime.meta.output == "logits"
    mae: Any = None
    if isinstance(runtime, TorchRuntime) and runtime.decodes and not classifies:
        mae = runtime.model
    units = None if mae is None else int(mae.num_units)
    images = EvalImages(spec, source, runtime.meta, labelled=False, num_units=units)

    size = artefact.batch_size(spec.inference, spec)
    rows: list[tuple[int, np.ndarray]] = []
    with connected(context) as ranks:
        batches = -(-len(images) // (size * context.world_size))
        with context.progress(batches, "inference") as progress:
            for batch in images.batches(size, rank=context.rank, world=context.world_size):
                outputs = run_batch(runtime, batch["input"])
                rows += zip(batch["index"].tolist(), outputs.numpy(), strict=True)
                progress.advance()
        parts = ranks.gather_on_first(rows)
        bad = ranks.gather_on_first(images.dataset.corrupt)
    if not context.is_main:
        return {}

    answers = sorted((row for part in parts for row in part), key=lambda row: row[0])
    paths = [images.dataset.path(index) for index, _ in answers]
    stacked = np.stack([output for _, output in answers])
    folder = context.action_dir
    if classifies:
        names = artefact.class_names(runtime.meta, None)
        files = [write_results(folder, paths, stacked, names, int(spec.inference.top_k))]
        indices = [index for index, _ in answers]
        show_answers(folder, images, indices, stacked, names, int(spec.train.seed))
    else:
        files = write_embeddings(folder, paths, stacked)
        show_embeddings(folder, images, [i for i, _ in answers], stacked, int(spec.train.seed))
    if mae is not None:
        files += write_reconstructions(mae, images, runtime, spec.train.seed, folder)

    unreadable = sorted({path for part in bad for path in part})
    for path in unreadable:
        context.log(f"warning: unreadable, so not in the results: {one_line(path)}")
    left = {"dataset.test_data_sources": left_out(unreadable)}
    return {
        "kpis": {"images": len(paths), "unreadable": len(images) - len(paths)},
        "artefacts": [str(file) for file in files],
        "device": str(runtime.device),
        **({"left_out": left} if unreadable else {}),
    }


def write_results(
    folder: Path, paths: list[str], logits: np.ndarray, classes: list[str], top_k: int
) -> Path:
    """``results.csv``: path, label, probability, class_index, then label_2, probability_2 … up to
    the ``top_k`` most probable classes; rows in the order of the source."""
    probabilities = torch.from_numpy(logits).double().softmax(dim=1)
    values, indices = probabilities.topk(min(top_k, len(classes)), dim=1)
    header = ["path", "label", "probability", "class_index"]
    for place in range(2, values.shape[1] + 1):
        header += [f"label_{place}", f"probability_{place}"]

    def row(path: str, value: list[float], index: list[int]) -> list[object]:
        others = [
            cell
            for v, i in zip(value[1:], index[1:], strict=True)
            for cell in (classes[i], f"{v:.6f}")
        ]
        return [path, classes[index[0]], f"{value[0]:.6f}", index[0], *others]

    rows = map(row, paths, values.tolist(), indices.tolist())
    return write_csv(folder / "results.csv", header, rows)


def write_embeddings(folder: Path, paths: list[str], features: np.ndarray) -> list[Path]:
    """``embeddings.npy`` float32 [N, D] (or [N, tokens, D]) and ``embeddings.csv`` (row, path)."""
    array = folder / "embeddings.npy"
    with atomic_file(array) as temporary, temporary.open("wb") as stream:
        np.save(stream, features.astype(np.float32))
    return [array, write_csv(folder / "embeddings.csv", ["row", "path"], enumerate(paths))]


def show_embeddings(
    folder: Path, images: EvalImages, indices: list[int], features: np.ndarray, seed: int
) -> None:
    """Puts a map of the embeddings and the neighbors of some images into the report's gallery."""
    pooled = torch.from_numpy(features)
    pooled = pooled.mean(dim=1) if pooled.ndim == 3 else pooled
    gallery = Gallery(folder)
    labels = torch.from_numpy(np.asarray(images.dataset.labels))[indices]
    known = labels if bool((labels >= 0).all()) else None
    show_features(gallery, pooled, known, indices, images.dataset.classes, images.dataset, seed)
    gallery.save()


def show_answers(
    folder: Path,
    images: EvalImages,
    indices: list[int],
    logits: np.ndarray,
    classes: list[str],
    seed: int,
) -> None:
    """Puts a contact sheet into the report's gallery: images spread over the answers, each with its
    class and probability; and the least certain ones."""
    scores = torch.from_numpy(logits)
    unknown = torch.full((len(scores),), -1)
    answers = answers_of(scores, unknown, torch.tensor(indices))
    chosen = reconstruction.spread(scores.argmax(dim=1).numpy(), seed, SHEET)
    least = sorted(range(len(answers)), key=lambda place: answers[place].margin)[:LEAST]
    gallery, dataset = Gallery(folder), images.dataset
    kinds = (
        ("answers", chosen, f"{len(chosen)} of {len(answers)} images, spread over the answers."),
        ("uncertain", least, "Where the two likeliest classes are closest."),
    )
    for kind, places, note in kinds:
        rows, about = [], []
        for place in places:
            one = answers[place]
            item = dataset[0, one.place]
            if not item["valid"]:
                continue
            rows.append([tile_of(item["image"])])
            lines = lines_of(one, classes)
            if kind == "uncertain":
                lines.append(f"{classes[one.second]} {100 * (one.confidence - one.margin):.0f} %")
            about.append({"name": str(dataset.source.members[one.place]), "lines": lines})
        gallery.add(kind, rows, about, note=note)
    gallery.save()


@torch.inference_mode()
def write_reconstructions(
    mae: Any, images: EvalImages, runtime: Runtime, seed: int, folder: Path
) -> list[Path]:
    """``reconstructions.png``: `reconstruction.board` of images spread over the classes; no file
    where none of them can be read."""
    batch = images.at(reconstruction.spread(images.dataset.labels, seed))
    if not len(batch["input"]):
        return []
    valid, meta = batch["valid"], runtime.meta
    pixels, noise = batch["input"].to(runtime.device), batch["noise"][valid].to(runtime.device)
    found = reconstruction.reconstruction_images(mae, pixels, noise, meta.mean, meta.std)
    found, top = reconstruction.with_losses(found, mae.patch_losses(pixels, noise))
    source = images.dataset.source
    names = [source.members[index] for index in batch["index"][valid].tolist()]
    gallery = Gallery(folder)
    reconstruction.show_reconstructions(gallery, found, names, top, None)
    gallery.save()

    path = folder / "reconstructions.png"
    Image.fromarray(reconstruction.board(found, names)).save(path)
    return [path]
