"""Features to look at: a map in two dimensions, and what lies nearest to a few images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mae_runners.metrics.gallery import Gallery, tile_of_item
from mae_runners.metrics.reconstruction import spread

MAX_POINTS = 600  # of a map
QUERIES, NEAREST = 6, 5


def principal_axes(features: Tensor) -> tuple[np.ndarray, float]:
    """Features ``[N, D]`` on their two principal axes: float ``[N, 2]``, and the share of the
    variance that these hold. The sign of an axis is fixed: its largest coordinate is positive."""
    centered = features.double() - features.double().mean(dim=0)
    _, sizes, axes = torch.linalg.svd(centered, full_matrices=False)
    places = centered @ axes[:2].T
    if places.shape[1] < 2:
        places = F.pad(places, (0, 2 - places.shape[1]))
    signs = places.gather(0, places.abs().argmax(dim=0, keepdim=True)).sign()
    total = float(sizes.square().sum())
    share = float(sizes[:2].square().sum()) / total if total > 0 else 0.0
    return (places * torch.where(signs == 0, 1.0, signs)).numpy(), share


def umap_places(features: Tensor, seed: int) -> np.ndarray | None:
    """Features ``[N, D]`` in the plane by UMAP (arXiv 1802.03426); None where it is not installed
    or the images are too few for it."""
    if len(features) < 20:
        return None
    try:
        from umap import UMAP
    except ImportError:
        return None
    fitted = UMAP(n_components=2, random_state=seed, n_jobs=1, metric="cosine")
    places: np.ndarray = fitted.fit_transform(features.float().numpy())
    return places


def show_features(
    gallery: Gallery,
    features: Tensor,
    labels: Tensor | None,
    indices: Sequence[int],
    classes: Sequence[str],
    dataset: Any,
    seed: int,
    *,
    umap: bool = True,
    epoch: int | None = None,
    whose: str = "images",
    by: str = "",
) -> None:
    """Puts a map of the features and the neighbors of some images into the gallery.

    Args:
        features: ``[N, D]`` of the images at ``indices`` of ``dataset``.
        labels: int64 ``[N]``; None without labels.
        classes: names, in label order.
        dataset: as `Notable.show` takes it.
        umap: a second map by UMAP, where that is installed.
        epoch: of the training, whose model gave the features.
        whose: the images, in words: ``validation images``.
        by: what the colors are, where that is not the true class.
    """
    features = features.float().cpu()
    keep = torch.isfinite(features).all(dim=1)
    features = features[keep]
    indices = [index for index, kept in zip(indices, keep.tolist(), strict=True) if kept]
    labels = None if labels is None else labels.cpu()[keep]
    if len(features) < 3:
        return
    known = labels.numpy() if labels is not None else np.full(len(features), -1)
    members = dataset.source.members
    shown = spread(known, seed, MAX_POINTS)
    drawn = features[shown]

    places, share = principal_axes(drawn)
    maps: list[tuple[str, np.ndarray, float | None]] = [("PCA", places, share)]
    if umap and (found := umap_places(drawn, seed)) is not None:
        maps.append(("UMAP", found, None))
    about = (
        f"{len(shown)} of {len(features)} {whose}"
        if len(shown) < len(features)
        else (f"{len(shown)} {whose}")
    )
    for method, points, explained in maps:
        gallery.add_map(
            {
                "method": method,
                "points": [
                    [round(float(x), 4), round(float(y), 4), int(known[place])]
                    for (x, y), place in zip(points, shown, strict=True)
                ],
                "names": [str(members[indices[place]]) for place in shown],
                "classes": [str(name) for name in classes] if labels is not None else [],
                "explained": explained,
                "note": f"Pooled features of {about}." + (f" Colors: {by}." if by else ""),
                "epoch": epoch,
            }
        )
    _show_neighbors(gallery, features, known, indices, classes, dataset, seed, epoch, whose, by)


def _show_neighbors(
    gallery: Gallery,
    features: Tensor,
    labels: np.ndarray,
    indices: Sequence[int],
    classes: Sequence[str],
    dataset: Any,
    seed: int,
    epoch: int | None,
    whose: str,
    by: str,
) -> None:
    points = F.normalize(features, dim=1)
    count = min(NEAREST, len(points) - 1)
    rows, about = [], []
    for query in spread(labels, seed + 1, QUERIES):
        near = points @ points[query]
        near[query] = -torch.inf
        nearest = near.topk(count).indices.tolist()
        items = [dataset[0, indices[place]] for place in (query, *nearest)]
        if not all(item["valid"] for item in items):
            continue
        rows.append([tile_of_item(item["image"]) for item in items])
        note = ""
        if labels[query] >= 0:
            same = sum(labels[place] == labels[query] for place in nearest)
            of = f"have its {by}" if by else "are of its class"
            note = f"{same} of {count} {of}, {classes[labels[query]]}"
        about.append({"name": str(dataset.source.members[indices[query]]), "note": note})
    columns = ["image", *(f"nearest {place + 1}" for place in range(count))]
    note = f"Nearest of the {whose} of the map, by the cosine of their pooled features."
    gallery.add("neighbors", rows, about, columns, note=note, epoch=epoch)
