"""evaluate: how good is a checkpoint, an ONNX file or an engine on `dataset.val_data_sources`?

A classifier: top-1, top-5, per class, confusion matrix. A segmenter: mean IoU, accuracies, IoU of
each class. A pretrained model: nearest neighbors, a linear and an attentive probe on its features,
RankMe, and its reconstruction loss. Always with inference's preprocessing, and with the artifact's
speed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from mae_sdk.data.survey import shared_images
from mae_sdk.files import write_json
from mae_skill.classes import by_position
from mae_skill.errors import DataError, SpecError
from mae_skill.spec import ExperimentSpec
from mae_skill.spelling import spelled
from torch import Tensor

from mae_runners.actions.evaluate_segmenter import evaluate_segmenter
from mae_runners.actions.results import (
    Leading,
    true_labels,
    write_label_results,
    write_results,
)
from mae_runners.context import RunContext
from mae_runners.data import left_out, table_of
from mae_runners.deploy import artifact
from mae_runners.deploy.eval_images import EvalImages
from mae_runners.deploy.onnx import example_input
from mae_runners.deploy.runtimes import (
    Runtime,
    TorchRuntime,
    described,
    measure,
    open_artifact,
    run_batch,
)
from mae_runners.distributed import Ranks, connected
from mae_runners.metrics import doubts
from mae_runners.metrics.classification import ClassificationMetrics, class_metrics
from mae_runners.metrics.confusion import write_confusion
from mae_runners.metrics.feature_map import show_features
from mae_runners.metrics.gallery import Gallery, tile_of, tile_of_item
from mae_runners.metrics.multi_label import DEFINITIONS as LABEL_DEFINITIONS
from mae_runners.metrics.multi_label import MultiLabelMetrics
from mae_runners.metrics.notable import Answer, Notable
from mae_runners.metrics.notable_labels import LabelMistakes, lines_of, show_pairs, surest
from mae_runners.metrics.probe import cross_validated, probe_accuracy, rankme
from mae_runners.metrics.reconstruction import (
    HEAT,
    heat_colors,
    reconstruction_images,
    show_reconstructions,
    spread,
    with_losses,
)
from mae_runners.metrics.saliency import gradient_map
from mae_runners.models.mae import MaskedAutoencoder

KPIS = (
    "mIoU",
    "mAcc",
    "aAcc",
    "ACC_all",
    "ACC_top5",
    "mAP",
    "val_loss",
    "balanced_accuracy",
    "mean_class_accuracy",
    "f1_macro",
    "f1_weighted",
    "f1_micro",
    "auroc",
    "ece",
    "knn_acc",
    "linear_acc",
    "attentive_acc",
    "rankme",
    "reconstruction_loss",
)
SHARES = ("ACC_all", "ACC_top5", "knn_acc", "linear_acc", "attentive_acc")
"""The metrics that are shares of the images."""

LISTED = 5
"""Classes that ``results.csv`` lists for each image."""
MOST_VALUES = 2**29
"""Of the features of patches that an attentive probe is given, 2 GiB: beyond, there is none."""


Said = TypeVar("Said")


def run(spec: ExperimentSpec, context: RunContext) -> dict[str, Any]:
    """Evaluates and writes `metrics.json`; of a classifier also `results.csv` and the confusion
    matrix.

    Returns:
        ``{"kpis", "artefacts", "device", "model", "shares"}`` (metric → the number of images that
        it is a share of), ``left_out`` where images were unreadable, and ``doubts`` where the model
        tells nothing.
    """
    runtime = open_artifact(spec, context, "evaluate")
    with connected(context) as ranks:
        if runtime.meta.segments:
            metrics, files = evaluate_segmenter(spec, context, runtime, ranks)
            if context.is_main:
                metrics["speed"] = speed(runtime, example_input(runtime.meta, 1))
        elif runtime.meta.multi_label:
            metrics, files = evaluate_labels(spec, context, runtime, ranks)
        elif runtime.meta.output == "logits":
            metrics, files = evaluate_classifier(spec, context, runtime, ranks)
        else:
            metrics, files = evaluate_features(spec, context, runtime)
    if not context.is_main:
        return {}

    metrics["model"] = described(runtime)
    shares = {name: metrics["images"] for name in SHARES if metrics.get(name) is not None}
    doubted = metrics.get("doubts") or []
    for one in doubted:
        context.warn(one)
    judged_by = metrics.pop("source", "dataset.val_data_sources")
    unreadable = {
        judged_by: metrics.get("unreadable"),
        "dataset.probe_train_data_sources": metrics.pop("bank_unreadable", None),
    }
    left = {key: left_out(names) for key, names in unreadable.items() if names}
    path = context.action_dir / "metrics.json"
    write_json(path, metrics)

    kpis = {name: metrics[name] for name in KPIS if metrics.get(name) is not None}
    single = metrics["speed"].get("batch_1", {})
    known = ("median_ms", "p95_ms", "images_per_s")
    kpis |= {f"latency_{name}": single[name] for name in known if name in single}
    kpis["best_images_per_s"] = metrics["speed"]["best"]["images_per_s"]
    return {
        "kpis": kpis,
        "artefacts": [str(file) for file in [path, *files]],
        "device": str(runtime.device),
        "model": metrics["model"],
        "shares": shares,
        **({"doubts": doubted} if doubted else {}),
        **({"left_out": left} if left else {}),
    }


@dataclass
class Walked(Generic[Said]):
    """One walk of all ranks over the images.

    Attributes:
        places: of the images, in the order of `answers`, which are what each batch was given;
            empty but on the first rank.
        first: one input image of this rank.
        unreadable: names of images that could not be read.
    """

    places: list[int]
    answers: list[Said]
    first: Tensor | None
    unreadable: list[str]

    @property
    def order(self) -> list[int]:
        """The indices that put the images in the source's order."""
        return sorted(range(len(self.places)), key=self.places.__getitem__)


def walk(
    spec: ExperimentSpec,
    context: RunContext,
    runtime: Runtime,
    ranks: Ranks,
    images: EvalImages,
    sums: ClassificationMetrics | MultiLabelMetrics,
    answer: Callable[[Tensor, Mapping[str, Tensor]], Said],
) -> Walked[Said]:
    """Runs the model over this rank's share of the images, adds to `sums`, and joins what the ranks
    have; no image is counted twice.

    Args:
        answer: what to keep of a batch, from logits ``[B, C]`` and the batch.
    """
    size = artifact.batch_size(spec.evaluate, spec)
    said: list[tuple[list[int], Said]] = []
    first: Tensor | None = None
    with context.progress(-(-len(images) // (size * context.world_size)), "evaluate") as progress:
        for batch in images.batches(size, rank=context.rank, world=context.world_size):
            first = batch["input"][:1] if first is None else first
            logits = run_batch(runtime, batch["input"])
            sums.add(logits, batch["label"])
            said.append((batch["index"].tolist(), answer(logits, batch)))
            progress.advance()

    sums.join(ranks)
    answers = [one for part in ranks.gather_on_first(said) for one in part]
    unreadable = sorted({path for part in ranks.gather(images.dataset.corrupt) for path in part})
    return Walked(
        [place for places, _ in answers for place in places],
        [one for _, one in answers],
        first,
        unreadable,
    )


def judged_images(spec: ExperimentSpec, runtime: Runtime) -> EvalImages:
    """The labeled images that a classifier is judged on."""
    meta = runtime.meta
    return EvalImages(
        spec,
        artifact.need_source(spec, "val_data_sources", "evaluate"),
        meta,
        labeled=True,
        classes=meta.classes,
        labels=table_of(spec.dataset, "val", several=meta.multi_label),
    )


def evaluate_classifier(
    spec: ExperimentSpec, context: RunContext, runtime: Runtime, ranks: Ranks
) -> tuple[dict[str, Any], list[Path]]:
    """Metrics of a classifier, summed over ranks without counting an image twice."""
    meta, images = runtime.meta, judged_images(spec, runtime)
    classes = artifact.class_names(meta, images.dataset.classes)
    if not meta.classes and context.is_main and (order := by_position(classes)):
        context.warn(f"evaluate.checkpoint: {order}")
    there = {int(label) for label in images.dataset.labels if label >= 0}
    if len(there) < 2 <= len(classes):
        context.warn(
            "dataset.val_data_sources: the images are of one class alone: their accuracy says "
            "nothing of the others"
        )
    sums = ClassificationMetrics(len(classes), confusion=True)
    notable = Notable()

    def leading(logits: Tensor, batch: Mapping[str, Tensor]) -> Leading:
        notable.add(logits, batch["label"], batch["index"])
        return Leading.of(logits, LISTED)

    walked = walk(spec, context, runtime, ranks, images, sums, leading)
    parts = ranks.gather_on_first((notable.mistakes, notable.uncertain))
    if not context.is_main:
        return {}, []
    everything = {one for part in parts for kind in part for one in kind}
    show_notable(everything, images, classes, context)
    if spec.evaluate.gradient_maps:
        show_gradients(spec, context, runtime, images, classes)
    metrics = {
        "ACC_top5": None,  # says nothing of five classes or fewer
        **sums.summary(spec.dataset.val_data_sources),
        "reliability": sums.reliability,
        "images": sums.images,
        **class_metrics(sums.confusion, classes, sums.areas),
        "doubts": doubts.of_classes(sums.confusion, classes),
        "unreadable": walked.unreadable,
        "speed": speed(runtime, walked.first),
    }
    table = answered(walked, images, classes, context)
    return metrics, [table, *write_confusion(sums.confusion, classes, context.action_dir)]


def answered(
    walked: Walked[Leading], images: EvalImages, classes: list[str], context: RunContext
) -> Path:
    """``results.csv`` of what was said of the images, in the source's order."""
    return write_results(
        context.action_dir,
        [images.dataset.path(place) for place in walked.places],
        Leading.joined(walked.answers),
        classes,
        order=walked.order,
        true=true_labels(images.dataset, walked.places, classes),
    )


def evaluate_labels(
    spec: ExperimentSpec, context: RunContext, runtime: Runtime, ranks: Ranks
) -> tuple[dict[str, Any], list[Path]]:
    """Metrics of a classifier whose images may be of several classes, at the thresholds that the
    model brings."""
    meta, images = runtime.meta, judged_images(spec, runtime)
    classes = artifact.class_names(meta, images.dataset.classes)
    sums = MultiLabelMetrics(len(classes), meta.thresholds or [0.5] * len(classes))
    wrong = LabelMistakes()

    def kept(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        wrong.add(logits, batch["label"], batch["index"])
        return logits

    walked = walk(spec, context, runtime, ranks, images, sums, kept)
    parts = ranks.gather_on_first(wrong.found(sums.chosen))
    if not context.is_main:
        return {}, []
    truth: Any = images.dataset.targets
    pairs = [
        (one[1], lines_of(one, truth[one[1]], sums.chosen, classes))
        for one in surest(one for part in parts for one in part)
    ]
    gallery = Gallery(context.action_dir)
    show_pairs(gallery, images.dataset, pairs)
    gallery.save()
    if spec.evaluate.gradient_maps:
        context.warn("evaluate.gradient_maps: not drawn of a model of several labels")
    assert meta.cuts is not None
    per_class = sums.per_class(classes)
    table = write_label_results(
        context.action_dir,
        [images.dataset.path(place) for place in walked.places],
        torch.cat(walked.answers),
        meta.cuts,
        classes,
        LISTED,
        order=walked.order,
        true=true_labels(images.dataset, walked.places, classes),
    )
    return {
        **sums.summary(spec.dataset.val_data_sources),
        "reliability": sums.reliability,
        "images": sums.images,
        "per_class": per_class,
        "doubts": doubts.of_labels(per_class, sums.images, sums.spreads),
        "definitions": LABEL_DEFINITIONS,
        "unreadable": walked.unreadable,
        "speed": speed(runtime, walked.first),
    }, [table]


def show_notable(
    answers: Iterable[Answer], images: EvalImages, classes: list[str], context: RunContext
) -> None:
    """Puts the most confident mistakes and the least certain images into the report's gallery."""
    notable, gallery = Notable(), Gallery(context.action_dir)
    notable.merge(answers)
    notable.show(gallery, images.dataset, classes)
    gallery.save()


def show_gradients(
    spec: ExperimentSpec,
    context: RunContext,
    runtime: Runtime,
    images: EvalImages,
    classes: list[str],
) -> None:
    """Puts `gradient_map` of images spread over the classes into the report's gallery."""
    if not isinstance(runtime, TorchRuntime):
        context.warn("evaluate.gradient_maps: only a checkpoint has gradients; none were drawn")
        return
    wanted = int(spec.evaluate.gradient_maps)
    batch = images.at(spread(images.dataset.labels, int(spec.train.seed), wanted))
    rows, about = [], []
    for pixels, shown, label, place in zip(
        batch["input"],
        batch["image"][batch["valid"]],
        batch["label"][batch["valid"]].tolist(),
        batch["kept"].tolist(),
        strict=True,
    ):
        model, image = runtime.module, pixels.to(runtime.device)
        with torch.no_grad():
            chosen = int(model(image[None])[0].argmax())
        tile = tile_of_item(shown)
        rows.append([tile, *gradient_tiles(tile, gradient_map(model, image, chosen))])
        note = f"taken for {classes[chosen]}, is {classes[label]}"
        about.append({"name": str(images.dataset.source.members[place]), "note": note})
    gallery = Gallery(context.action_dir)
    note = (
        "How much the logit of the answer changes with each pixel (SmoothGrad), of each image from "
        "0 to its own 99th percentile; the last column lays it over the image in gray."
    )
    columns = ["image", "gradient of the answer", "over the image"]
    scale = {"colors": HEAT, "low": "no influence", "high": "the most"}
    gallery.add("attention", rows, about, columns, note=note, scale=scale)
    gallery.save()


def gradient_tiles(picture: np.ndarray, strength: Tensor) -> list[np.ndarray]:
    """A map in 0…1 ``[H, W]`` alone in colors, and over its picture, uint8 ``[H, W, 3]`` each."""
    heat, share = heat_colors(strength[None])[0], strength.cpu()
    # Of the picture only its gray, darkened: what is bright in it must not look important.
    gray = torch.from_numpy(picture).float().mean(dim=2) / 255 * 0.5
    return [tile_of(heat), tile_of((1 - share) * gray + share * heat)]


class Features(NamedTuple):
    """What `embed` makes of a source.

    Attributes:
        features: ``[N, D]``.  labels: int64 ``[N]``, None where some image has none.
        patches: ``[N, P, D]``, None where there are none to be had, or too many: ``why``.
        classes: names, in label order.  loss: mean reconstruction loss, where it was asked for.
        first: one input image.  unreadable: images that could not be read.
        indices: where the images are in ``source``, the data set as the model saw it.
    """

    features: Tensor
    labels: Tensor | None
    classes: list[str]
    loss: float | None
    first: Tensor | None
    unreadable: list[str]
    indices: list[int]
    source: EvalImages
    patches: Tensor | None
    why: str


def evaluate_features(
    spec: ExperimentSpec, context: RunContext, runtime: Runtime
) -> tuple[dict[str, Any], list[Path]]:
    """Feature quality of a pretrained artifact.

    Probes want all features in one place, so rank 0 does them. The loss needs the decoder, which
    only a checkpoint has.
    """
    if not context.is_main:
        return {}, []
    name = "probe_val_data_sources" if spec.dataset.probe_val_data_sources else "val_data_sources"
    source = artifact.need_source(spec, name, "evaluate")
    mae: Any = runtime.model if isinstance(runtime, TorchRuntime) and runtime.decodes else None
    units = None if mae is None else int(mae.num_units)
    found = embed(spec, context, runtime, source, units=units)

    metrics: dict[str, Any] = {
        "images": len(found.features),
        "notes": [],
        "source": f"dataset.{name}",
        "features": runtime.meta.output,
        "rankme": rankme(found.features.cpu()),
        "rankme_max": min(found.features.shape),
        "rankme_images": len(found.features),
        "unreadable": found.unreadable,
    }
    if found.loss is not None:
        metrics["reconstruction_loss"] = found.loss
    elif isinstance(model := getattr(runtime, "model", None), MaskedAutoencoder) and model.refiner:
        metrics["notes"].append(
            "no reconstruction loss: the encoder was refined, and its decoder is the one of before"
        )
    else:
        metrics["notes"].append(
            "no reconstruction loss: there is no decoder in the file; "
            "evaluate a checkpoint of the pretraining for it"
        )
    if found.labels is None:
        metrics["notes"].append(f"no probe: dataset.{name} has no class folders")
    else:
        metrics |= probe(spec, context, runtime, found, found.labels, f"dataset.{name}")
        counts = torch.bincount(found.labels, minlength=len(found.classes)).numpy()
        known = {name: metrics[name] for name in SHARES if metrics.get(name) is not None}
        metrics["doubts"] = doubts.of_probes(known, counts, found.classes)
        metrics["most_frequent"] = {
            "class": spelled(found.classes[int(counts.argmax())]),
            "share": float(counts.max() / counts.sum()),
        }
        if "attentive_acc" not in metrics:
            metrics["notes"].append(f"no attentive probe: {found.why or 'none for the bank'}")

    for note in metrics["notes"]:
        context.log(note)
    show_pretrained(spec, context, runtime, found, decodes=units is not None)
    metrics["speed"] = speed(runtime, found.first)
    return metrics, []


def show_pretrained(
    spec: ExperimentSpec, context: RunContext, runtime: Runtime, found: Features, *, decodes: bool
) -> None:
    """Puts the map of the features, neighbors and reconstructions into the report's gallery."""
    gallery, seed, dataset = Gallery(context.action_dir), int(spec.train.seed), found.source.dataset
    if decodes:
        add_reconstructions(gallery, runtime, found.source, seed)
    show_features(
        gallery,
        found.features,
        found.labels,
        found.indices,
        found.classes,
        dataset,
        seed,
        whose="images judged",
    )
    gallery.save()


@torch.inference_mode()
def add_reconstructions(gallery: Gallery, runtime: Runtime, images: EvalImages, seed: int) -> None:
    """Reconstructions of images spread over the classes, with the loss of each patch."""
    assert isinstance(runtime, TorchRuntime)
    model: Any = runtime.model
    batch = images.at(spread(images.dataset.labels, seed))
    if not len(batch["input"]):
        return
    pixels = batch["input"].to(runtime.device)
    noise = batch["noise"][batch["valid"]].to(runtime.device)
    made = reconstruction_images(model, pixels, noise, runtime.meta.mean, runtime.meta.std)
    shown, top = with_losses(made, model.patch_losses(pixels, noise))
    names = [str(images.dataset.source.members[place]) for place in batch["kept"].tolist()]
    show_reconstructions(gallery, shown, names, top, None)


def probe(
    spec: ExperimentSpec,
    context: RunContext,
    runtime: Runtime,
    found: Features,
    labels: Tensor,
    field: str,
) -> dict[str, Any]:
    """``knn_acc, linear_acc, attentive_acc, k, protocol``: with the spec's bank, else by
    cross-validation.

    Raises:
        SpecError: the bank has no labels; or there is none, and a class has one image only.
    """
    k = int(spec.train.probe.k)
    if spec.dataset.probe_train_data_sources:
        bank = embed(spec, context, runtime, spec.dataset.probe_train_data_sources)
        if bank.labels is None:
            raise SpecError(
                "the probe's bank has no labels",
                field="dataset.probe_train_data_sources",
                expected="one folder per class",
            )
        labels = _as_in_the_bank(labels, found.classes, bank.classes, field)
        twins = shared_images(bank.source.dataset.source, found.source.dataset.source)
        if twins["count"]:
            context.warn(
                f"{field}: {twins['count']} of the {twins['compared']} images that were compared "
                "are in dataset.probe_train_data_sources too, each its own nearest neighbor; the "
                f"scores flatter: {' = '.join(dict.fromkeys(twins['pairs'][0]))}"
            )
        both = None
        if bank.patches is not None and found.patches is not None:
            both = bank.patches, found.patches
        accuracy: dict[str, Any] = probe_accuracy(
            bank.features, bank.labels, found.features, labels, k=k, patches=both
        )
        protocol = f"taught on a bank of {len(bank.labels)} labeled images"
        return {**accuracy, "k": k, "protocol": protocol, "bank_unreadable": bank.unreadable}

    if int(torch.bincount(labels)[torch.unique(labels)].min()) < 2:
        raise SpecError(
            "a probe without a bank needs two images of every class",
            field=field,
            hint="set dataset.probe_train_data_sources, or add images",
        )
    accuracy = cross_validated(
        found.features, labels, k=k, seed=spec.train.seed, patches=found.patches
    )
    return {"k": k, **accuracy}


def _as_in_the_bank(labels: Tensor, names: list[str], bank: list[str], field: str) -> Tensor:
    """Labels that number `names`, as numbers of the classes of the bank.

    Raises:
        DataError: the bank lacks a class.
    """
    place = {name: number for number, name in enumerate(bank)}
    if unknown := [names[at] for at in torch.unique(labels).tolist() if names[at] not in place]:
        raise DataError(
            "classes are not among those of dataset.probe_train_data_sources",
            field=field,
            got=", ".join(unknown[:5]),
            expected="class folders named as those of the bank",
            hint="rename the folders, or add images of these classes to the bank",
        )
    return torch.tensor([place.get(name, -1) for name in names])[labels]


def patch_features(runtime: Runtime, images: Tensor, output: Tensor) -> Tensor | None:
    """Features of the patches ``[B, P, D]`` of a batch with this ``output``; None where the
    artifact has pooled ones alone."""
    if output.ndim == 3:
        return output
    if not isinstance(runtime, TorchRuntime) or runtime.meta.preprocessing:
        return None
    model: Any = runtime.model
    with torch.inference_mode():
        tokens: Tensor = model.encode(images.to(runtime.device), pool=False).float().cpu()
    return tokens


def embed(
    spec: ExperimentSpec,
    context: RunContext,
    runtime: Runtime,
    source: Any,
    *,
    units: int | None = None,
) -> Features:
    """Features of every image of a source.

    Args:
        units: number of mask units, to compute the reconstruction loss too.
    """
    images = EvalImages(spec, source, runtime.meta, labeled=False, num_units=units)
    size = artifact.batch_size(spec.evaluate, spec)
    model: Any = runtime.model if isinstance(runtime, TorchRuntime) else None
    parts: list[Tensor] = []
    patches: list[Tensor] = []
    why = ""
    labels: list[Tensor] = []
    indices: list[int] = []
    loss, first = 0.0, None
    with context.progress(-(-len(images) // size), "features") as progress:
        for batch in images.batches(size):
            first = batch["input"][:1] if first is None else first
            output = run_batch(runtime, batch["input"])
            parts.append(output.mean(dim=1) if output.ndim == 3 else output)
            if bool((batch["label"] < 0).any()):
                why = why or "not all images have labels"
            if not why:
                tokens = patch_features(runtime, batch["input"], output)
                if tokens is None:
                    why = "the file gives pooled features alone"
                elif tokens[0].numel() * len(images) > MOST_VALUES:
                    why = f"the patches of {len(images)} images have more than 2 GiB of features"
                else:
                    patches.append(tokens)
            labels.append(batch["label"])
            indices += batch["index"].tolist()
            if units is not None:
                pixels, noise = (batch[name].to(runtime.device) for name in ("input", "noise"))
                with torch.inference_mode():
                    loss += float(model(pixels, noise).loss) * len(pixels)
            progress.advance()

    features, known = torch.cat(parts), torch.cat(labels)
    return Features(
        features=features,
        labels=known if bool((known >= 0).all()) else None,
        classes=images.dataset.classes,
        loss=None if units is None else loss / len(features),
        first=first,
        unreadable=images.dataset.corrupt,
        indices=indices,
        source=images,
        patches=None if why else torch.cat(patches),
        why=why,
    )


def speed(runtime: Runtime, first: Tensor | None) -> dict[str, Any]:
    """Latency and throughput of the artifact on this machine, and how busy that was: ``load``, its
    processes that ran or waited to in the minute before, of so many ``cores``."""
    assert first is not None, "an empty source is refused before"
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {
        "load": load,
        "cores": os.cpu_count(),
        **measure(runtime, first),
        "device": str(runtime.device),
        "threads": torch.get_num_threads(),
    }
