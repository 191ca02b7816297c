"""How a picture becomes a model's input, and what its output means, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mae_runners.deploy.artifact import ArtifactMeta
from mae_runners.models.checkpoint import CheckpointMeta


def preparation(saved: CheckpointMeta | ArtifactMeta, *, normalized: bool = True) -> str:
    """What is done to a stored picture, in order.

    Args:
        normalized: also what makes numbers near 0 of 0 … 255; False where the graph does it.
    """
    height, width = saved.input_size
    bands = {1: "Gray", 3: "RGB"}.get(saved.channels, f"{saved.channels} channels")
    if saved.value_range:
        low, high = saved.value_range
        bands += f"; stored values {low:g} … {high:g} brought to 0 … 255, others clipped"

    shown = [math.floor(side / saved.center_crop) for side in (height, width)]
    rounded = "down" if shown[0] == shown[1] else "to the nearest"
    text = (
        f"{bands}; resized ({saved.eval_interpolation}, antialiased as Pillow does) until it "
        f"covers {shown[0]}×{shown[1]} pixels, a longer side rounded {rounded}; the center "
        f"{height}×{width} cut out, at half the margin (rounded half to even)"
    )
    if saved.task == "segmentation":
        text = f"{bands}; a picture, or a window of it, of {height}×{width} pixels"
    if normalized:
        mean, std = _listed(saved.mean), _listed(saved.std)
        text += f"; divided by 255; mean {mean} subtracted, divided by {std}"
    return text + "."


def usage(meta: ArtifactMeta, shape: Sequence[int]) -> dict[str, str]:
    """``input`` and ``output`` of an exported file, a sentence each, for who feeds it.

    Args:
        shape: of the output of one image.
    """
    batch = "any batch" if meta.batch < 0 else f"batch {meta.batch}"
    height, width = meta.input_size
    kind = "uint8" if meta.preprocessing else "float32"
    prepared = preparation(meta, normalized=not meta.preprocessing)
    if meta.preprocessing:
        prepared += " The graph normalizes."
    size = " × ".join(str(side) for side in (meta.channels, height, width))

    given = " × ".join(map(str, shape))
    return {
        "input": f"{kind}, {batch} × {size}: {prepared}",
        "output": f"{meta.output_name}, {batch} × {given}: {_meaning(meta)}",
    }


def _meaning(meta: ArtifactMeta) -> str:
    if meta.output == "pooled":
        return "one feature vector per image"
    if meta.output == "tokens":
        return "one feature vector per token"
    order = "in the order of the classes" if meta.classes else "by number"
    if meta.multi_label:
        cuts = "its threshold" if meta.thresholds else "0.5"
        return (
            f"the sigmoid of each is the probability of a class, {order}; from {cuts} on it holds"
        )
    where = " of each pixel" if meta.segments else ""
    return f"the softmax over the classes{where} gives their probabilities, {order}"


def _listed(values: Sequence[float]) -> str:
    """``(0.485, 0.456, 0.406)``."""
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
