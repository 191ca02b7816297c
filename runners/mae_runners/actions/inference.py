"""inference: what does a model say about images (`dataset.test_data_sources`)?

A classifier: `results.csv` with path, label (class name), probability, and the runners-up.
A segmenter: label maps, colored masks and overlays (`mae_runners.actions.predict_segmenter`).
A pretrained model: images of what it reconstructs. Embeddings of either: `embeddings.npy` with
`embeddings.csv` and `embeddings.parquet` (row → path), and the nearest neighbors. Preprocessing is
evaluate's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mae_sdk.files import atomic_file, write_csv
from mae_skill.errors import SpecError
from mae_skill.spec import ExperimentSpec
from mae_skill.spelling import one_line
from PIL import Image
from torch import Tensor

from mae_runners.actions.predict_segmenter import predict_segmenter
from mae_runners.actions.results import (
    Leading,
    nearest_thresholds_first,
    true_labels,
    write_label_results,
    write_results,
)
from mae_runners.context import RunContext
from mae_runners.data import NO_TABLE, left_out, table_of
from mae_runners.deploy import artifact
from mae_runners.deploy.eval_images import EvalImages
from mae_runners.deploy.features import features
from mae_runners.deploy.runtimes import Runtime, TorchRuntime, described, open_artifact, run_batch
from mae_runners.distributed import connected
from mae_runners.metrics import reconstruction
from mae_runners.metrics.feature_map import show_features
from mae_runners.metrics.gallery import Gallery, labeled_sheet, png, tile_of_item
from mae_runners.metrics.neighbors import nearest
from mae_runners.metrics.notable import answers_of, lines_of

NEIGHBORS_SHOWN = 8  # of an image in the picture
SHEET, LEAST = 36, 12  # images of the contact sheet, and of the least certain


def run(spec: ExperimentSpec, context: RunContext) -> dict[str, Any]:
    """Runs the model over the test images and writes its answers.

    Returns:
        ``{"kpis", "artefacts", "device", "model"}``, and of a classifier ``answered``: class →
        images; of one of several labels ``multi_label``; of a segmenter what `predict_segmenter`
        has.
    """
    runtime = open_artifact(spec, context, "inference")
    answer_all = predict_segmenter if runtime.meta.segments else predict
    result = answer_all(spec, context, runtime)
    return {**result, "model": described(runtime)} if result else {}


def predict(spec: ExperimentSpec, context: RunContext, runtime: Runtime) -> dict[str, Any]:
    """`run` of a model that gives a class or features of an image."""
    source = artifact.need_source(spec, "test_data_sources", "inference")
    classifies = runtime.meta.output == "logits"
    kind = wanted_features(spec, runtime)
    k = int(spec.inference.neighbors)
    mae: Any = None
    if isinstance(runtime, TorchRuntime) and runtime.decodes and not classifies:
        mae = runtime.model
    units = None if mae is None else int(mae.num_units)
    several = runtime.meta.multi_label
    images = EvalImages(
        spec,
        source,
        runtime.meta,
        labeled=False,
        num_units=units,
        labels=table_of(spec.dataset, "test", several=several) if classifies else NO_TABLE,
    )

    _enough(k, len(images))
    parts, bad = _answers(spec, context, runtime, images, kind, pooled=k > 0)
    if not context.is_main:
        return {}

    done = sorted((row for part in parts for row in part), key=lambda row: row[0])
    paths = [images.dataset.path(index) for index, _ in done]
    positions = [index for index, _ in done]
    folder, files = context.action_dir, []
    answered: dict[str, int] = {}
    names = artifact.class_names(runtime.meta, None) if classifies else []
    if classifies:
        scores = torch.from_numpy(np.stack([found.logits for _, found in done]))
        files += write_classes(spec, runtime, images, positions, scores, folder)
        answered = counts_of(scores, names, runtime.meta.cuts)
    if kind is not None:
        features = np.stack([found.features for _, found in done])
        files += write_embeddings(folder, paths, features)
        if missing := parquet_missing():
            context.log(f"embeddings.parquet is not written: {missing}")
    pooled = torch.from_numpy(np.stack([found.pooled for _, found in done])) if k else None
    if kind is not None or pooled is not None:
        taken = (scores.argmax(dim=1), names) if classifies else None
        shown = torch.from_numpy(features) if pooled is None else pooled
        show_embeddings(folder, images, positions, shown, int(spec.train.seed), taken)
    if pooled is not None:
        files += write_neighbors(pooled, k, paths, positions, images, spec.train.seed, folder)
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
        **({"answered": answered} if answered else {}),
        **({"multi_label": True} if several else {}),
        **({"left_out": left} if unreadable else {}),
    }


def _answers(
    spec: ExperimentSpec,
    context: RunContext,
    runtime: Runtime,
    images: EvalImages,
    kind: str | None,
    *,
    pooled: bool,
) -> tuple[list[list[tuple[int, Answer]]], list[list[str]]]:
    """Of each rank the answers, by the image's place, and the paths of what it could not read; on
    the first rank alone."""
    size = artifact.batch_size(spec.inference, spec)
    rows: list[tuple[int, Answer]] = []
    with connected(context) as ranks:
        batches = -(-len(images) // (size * context.world_size))
        with context.progress(batches, "inference") as progress:
            for batch in images.batches(size, rank=context.rank, world=context.world_size):
                answers = answer(runtime, batch["input"], kind, pooled=pooled)
                rows += zip(batch["index"].tolist(), answers, strict=True)
                progress.advance()

        return ranks.gather_on_first(rows), ranks.gather_on_first(images.dataset.corrupt)


def counts_of(
    scores: Tensor, classes: Sequence[str], cuts: Sequence[float] | None
) -> dict[str, int]:
    """Class → how many images are taken for it, of logits ``[N, C]``; of images that may be of
    several classes, how many have each.

    Args:
        cuts: the logits from which an image of several classes is taken to be of each.
    """
    if cuts:
        counts = (scores >= torch.tensor(cuts)).sum(dim=0)
    else:
        counts = torch.bincount(scores.argmax(dim=1), minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


class Answer(NamedTuple):
    """What a model says of one image; None where it was not asked for.

    Attributes:
        logits: ``[classes]``.
        features: of the kind that the spec names.
        pooled: ``[D]``, for neighbors.
    """

    logits: Any
    features: Any
    pooled: Any


def wanted_features(spec: ExperimentSpec, runtime: Runtime) -> str | None:
    """The kind of features to write, or None.

    Raises:
        SpecError: the file does not give what the spec asks for.
    """
    asked, has = spec.inference.features, runtime.meta.output
    kind = asked or ("none" if has == "logits" else "pooled" if has == "pooled" else has)
    if isinstance(runtime, TorchRuntime):
        return None if kind == "none" else kind
    for key, needed in (("features", kind), ("neighbors", "pooled")):
        wanted = spec.inference.neighbors > 0 if key == "neighbors" else needed != "none"
        if wanted and needed != has:
            raise SpecError(
                f"this {runtime.kind} file gives {has}, not {needed} features",
                field=f"inference.{key}",
                got=getattr(spec.inference, key),
                expected="what the file gives",
                hint="run the checkpoint instead",
            )
    return None if kind == "none" else kind


def answer(runtime: Runtime, images: Tensor, kind: str | None, *, pooled: bool) -> list[Answer]:
    """The answers for a batch ``[B, 3, H, W]``."""
    count = len(images)
    logits: Any = [None] * count
    found: dict[str, Tensor] = {}
    classifies = runtime.meta.output == "logits"
    kinds = {*([kind] if kind else []), *(["pooled"] if pooled else [])}
    if not isinstance(runtime, TorchRuntime):
        output = run_batch(runtime, images)
        found = {} if classifies else {runtime.meta.output: output}
        logits = output.numpy() if classifies else logits
    else:
        model: Any = runtime.model
        with torch.inference_mode():
            batch = images.to(runtime.device, non_blocking=True)
            for name in sorted(kinds):
                found[name] = features(model, batch, name).float()
            if classifies and "pooled" in found:  # the head reads what is there already
                logits = model.encoder.head_layer()(found["pooled"]).float().cpu().numpy()
            elif classifies:
                logits = run_batch(runtime, images).numpy()
    arrays = {name: value.cpu().numpy() for name, value in found.items()}
    written = arrays[kind] if kind else [None] * count
    near = arrays["pooled"] if pooled else [None] * count
    return [Answer(*row) for row in zip(logits, written, near, strict=True)]


def write_classes(
    spec: ExperimentSpec,
    runtime: Runtime,
    images: EvalImages,
    positions: list[int],
    scores: Tensor,
    folder: Path,
) -> list[Path]:
    """``results.csv`` of logits ``[N, C]`` of the images at `positions`; some of them in the
    report's gallery, and with their names and answers as pictures beside the table."""
    names, seed = artifact.class_names(runtime.meta, None), int(spec.train.seed)
    paths = [images.dataset.path(index) for index in positions]
    true = true_labels(images.dataset, positions, names)
    top_k, sort = int(spec.inference.top_k), spec.inference.sort == "uncertainty"
    if cuts := runtime.meta.cuts:
        order = nearest_thresholds_first(scores, cuts) if sort else None
        table = write_label_results(
            folder, paths, scores, cuts, names, top_k, order=order, true=true
        )
        return [table, *show_labels(folder, images, positions, scores, cuts, names, seed)]

    order = Leading.of(scores, 2).least_certain_first() if sort else None
    table = write_results(folder, paths, Leading.of(scores, top_k), names, order=order, true=true)
    return [table, *show_answers(folder, images, positions, scores, names, seed)]


def write_embeddings(folder: Path, paths: list[str], features: np.ndarray) -> list[Path]:
    """``embeddings.npy`` float32 [N, D] ([N, tokens, D], [N, rows, columns, D]), ``embeddings.csv``
    (row, path), and with pyarrow ``embeddings.parquet`` (path, embedding: the values in a row, with
    the shape of one image in the schema's metadata)."""
    array = folder / "embeddings.npy"
    with atomic_file(array) as temporary, temporary.open("wb") as stream:
        np.save(stream, features.astype(np.float32))
    index = write_csv(folder / "embeddings.csv", ["row", "path"], enumerate(paths))
    if parquet_missing():
        return [array, index]

    import pyarrow
    from pyarrow import parquet

    flat = pyarrow.array(features.astype(np.float32).reshape(-1))
    width = int(np.prod(features.shape[1:]))
    columns = {"path": paths, "embedding": pyarrow.FixedSizeListArray.from_arrays(flat, width)}
    shape = {"shape": str(list(features.shape[1:]))}
    table = folder / "embeddings.parquet"
    with atomic_file(table) as temporary:
        parquet.write_table(pyarrow.table(columns).replace_schema_metadata(shape), temporary)
    return [array, index, table]


def parquet_missing() -> str:
    """What is to be installed for Parquet files; empty where nothing is."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        return "pip install 'mae-skill[parquet]'"
    return ""


def _enough(k: int, count: int) -> None:
    """Raises `SpecError` where ``count`` images are too few to have ``k`` neighbors each."""
    if k and k >= count:
        raise SpecError(
            "there are not so many other images",
            field="inference.neighbors",
            got=k,
            expected=f"at most {count - 1}",
        )


def write_neighbors(
    pooled: Tensor,
    k: int,
    paths: list[str],
    positions: list[int],
    images: EvalImages,
    seed: int,
    folder: Path,
) -> list[Path]:
    """``neighbors.csv`` (path, then path and cosine of each neighbor) and ``neighbors.png``: some
    images, spread over the classes, each beside its nearest.

    Raises:
        SpecError: there are not so many other images.
    """
    _enough(k, len(paths))
    rows, cosines = nearest(pooled, k)
    header = ["path"]
    for place in range(1, k + 1):
        header += [f"neighbor_{place}", f"cosine_{place}"]
    lines = []
    for path, row, values in zip(paths, rows.tolist(), cosines.tolist(), strict=True):
        line = [path]
        for at, value in zip(row, values, strict=True):
            line += [paths[at], f"{value:.6f}"]
        lines.append(line)
    table = write_csv(folder / "neighbors.csv", header, lines)

    shown = reconstruction.spread(np.asarray(images.dataset.labels)[positions], seed)
    columns = [[row, *rows[row, :NEIGHBORS_SHOWN].tolist()] for row in shown]
    places = sorted({positions[row] for line in columns for row in line})
    batch = images.at(places)
    kept = dict(zip(batch["kept"].tolist(), batch["image"][batch["valid"]], strict=True))
    pixels = torch.stack([torch.stack([kept[positions[row]] for row in line]) for line in columns])
    titles = ["image", *(f"neighbor {place}" for place in range(1, len(columns[0])))]
    board = reconstruction.board(
        reconstruction.Reconstructions(pixels.float() / 255.0, titles),
        [images.dataset.source.members[positions[row]] for row in shown],
    )
    picture = folder / "neighbors.png"
    Image.fromarray(board).save(picture)
    return [table, picture]


def show_embeddings(
    folder: Path,
    images: EvalImages,
    indices: list[int],
    pooled: Tensor,
    seed: int,
    answers: tuple[Tensor, list[str]] | None,
) -> None:
    """Puts a map of the embeddings and the neighbors of some images into the report's gallery.

    Args:
        pooled: ``[N, D]``, or of every token or place, of which the mean is taken.
        answers: of a classifier the class ``[N]`` that it takes each image for, and the classes'
            names: the colors where the true classes are not known.
    """
    if pooled.ndim > 2:  # tokens [N, L, D], or a map [N, H, W, D]
        pooled = pooled.flatten(1, -2).mean(dim=1)
    gallery = Gallery(folder)
    labels = torch.from_numpy(np.asarray(images.dataset.labels))[indices]
    known = labels if bool((labels >= 0).all()) and images.dataset.classes else None
    names, by = images.dataset.classes, ""
    if known is None and answers is not None:
        (known, names), by = answers, "answer of the model"
    show_features(gallery, pooled, known, indices, names, images.dataset, seed, by=by)
    gallery.save()


def show_answers(
    folder: Path,
    images: EvalImages,
    indices: list[int],
    scores: Tensor,
    classes: list[str],
    seed: int,
) -> list[Path]:
    """Puts a contact sheet into the report's gallery: images spread over the answers, each with its
    class and probability; and the least certain ones. ``answers.png`` and ``uncertain.png`` are the
    same with the words in them."""
    unknown = torch.full((len(scores),), -1)
    answers = answers_of(scores, unknown, torch.tensor(indices))
    chosen = reconstruction.spread(scores.argmax(dim=1).numpy(), seed, SHEET)
    least = sorted(range(len(answers)), key=lambda place: answers[place].margin)[:LEAST]
    gallery, dataset, files = Gallery(folder), images.dataset, []
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
            rows.append([tile_of_item(item["image"])])
            lines = lines_of(one, classes)
            if kind == "uncertain":
                second = 100 * (one.confidence - one.margin)
                lines.append(f"then {classes[one.second]} ({second:.0f} %)")
            about.append({"name": str(dataset.source.members[one.place]), "lines": lines})
        gallery.add(kind, rows, about, note=note)
        files += write_sheet(folder / f"{kind}.png", rows, about)
    gallery.save()
    return files


def write_sheet(
    path: Path, rows: Sequence[Sequence[np.ndarray]], about: Sequence[dict[str, Any]]
) -> list[Path]:
    """A `labeled_sheet` of rows of one tile each; no file of none."""
    if not rows:
        return []
    with atomic_file(path) as temporary:
        temporary.write_bytes(png(labeled_sheet([row[0] for row in rows], about)))
    return [path]


def show_labels(
    folder: Path,
    images: EvalImages,
    indices: list[int],
    scores: Tensor,
    cuts: list[float],
    classes: list[str],
    seed: int,
) -> list[Path]:
    """Puts a contact sheet into the report's gallery: images spread over their most probable
    classes, each with the labels it was given; ``answers.png`` is the same with the words in it."""
    chosen = reconstruction.spread(scores.argmax(dim=1).numpy(), seed, SHEET)
    shares, rows, about = scores.sigmoid(), [], []
    for row in chosen:
        item = images.dataset[0, indices[row]]
        if not item["valid"]:
            continue
        rows.append([tile_of_item(item["image"])])
        taken = [place for place, cut in enumerate(cuts) if scores[row, place] >= cut]
        lines = [f"{classes[place]} ({100 * float(shares[row, place]):.0f} %)" for place in taken]
        name = str(images.dataset.source.members[indices[row]])
        about.append({"name": name, "lines": lines[:4] or ["no label"]})
    gallery = Gallery(folder)
    note = f"{len(chosen)} of {len(scores)} images, spread over the most probable classes."
    gallery.add("answers", rows, about, note=note)
    gallery.save()
    return write_sheet(folder / "answers.png", rows, about)


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
