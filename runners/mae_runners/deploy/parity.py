"""Does an artefact give the same answers as the model it was made from? Cosine, largest difference and top-1 agreement, image by image."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from mae_skill.errors import CheckpointError


@dataclass(frozen=True)
class Thresholds:
    """What counts as the same.

    Attributes:
        min_cosine: the lowest cosine similarity an image's output may have with the reference.
        max_abs: the largest difference of any output element, in units of the largest magnitude of the reference when that exceeds 1.
        min_top1_agreement: the least share of images whose largest logit stays the same (classifiers), or of pixels (segmenters).
    """

    min_cosine: float
    max_abs: float
    min_top1_agreement: float


# float32 kernels reorder sums: differences of some 1e-6 to 1e-5 of the largest value were seen over all families; the bounds leave a
# factor of 20.
# Reduced precision: fp16 has 11 bits, bf16 has 8, int8 has 8 with one scale for a whole tensor. On small models of every family that learnt
# digits and photographs, int8 as calibrated here lost at most 0.003 of the cosine and 0.07 of the largest logit; wrong scales or weights cost
# at least 0.014 and 0.18, mostly ten times that (tests/long/parity). The bounds lie between.
DEFAULTS = {
    "fp32": Thresholds(0.9999, 1e-3, 1.0),
    "fp16": Thresholds(0.999, 5e-2, 0.95),
    "bf16": Thresholds(0.99, 2e-1, 0.9),
    "int8": Thresholds(0.99, 0.15, 0.9),
}
# On the borders of regions two classes are as good as equal, and rounding decides between them: not every pixel can stay. On segmenters of
# every family that learnt to find ink on photographs, int8 with the default 128 calibration images lost at most 0.0024 of the cosine, 0.12 of
# the largest logit and 0.0013 of the pixels; what cost more than 0.02 of the mIoU lost at least 0.027 of the cosine, mostly five times that
# (tests/long/segmentation). Pixels get more room than these need: with many classes more of them are undecided. With 8 calibration images
# one of the three lost 0.038 and 0.5: too few to calibrate on.
PIXELS = {
    "fp32": dataclasses.replace(DEFAULTS["fp32"], min_top1_agreement=0.999),
    "fp16": dataclasses.replace(DEFAULTS["fp16"], min_top1_agreement=0.99),
    "bf16": dataclasses.replace(DEFAULTS["bf16"], min_top1_agreement=0.95),
    "int8": Thresholds(0.98, 0.5, 0.9),
}


def thresholds_for(precision: str, spec: Any = None, *, pixels: bool = False) -> Thresholds:
    """The bounds for a precision; a bound the spec's ``parity`` section sets (not None) replaces the default.

    ``pixels``: the outputs are a class for every pixel.
    """
    default = (PIXELS if pixels else DEFAULTS)[precision]
    named = {
        field.name: getattr(spec, field.name, None) for field in dataclasses.fields(Thresholds)
    }
    return dataclasses.replace(
        default, **{name: value for name, value in named.items() if value is not None}
    )


@dataclass(frozen=True)
class ParityReport:
    """The figures of one comparison; `failures` is empty when it passed."""

    images: int
    cosine_min: float
    cosine_mean: float
    max_abs: float
    scale: float
    top1_agreement: float | None
    worst_image: int
    worst_element: list[int]
    failures: list[str]

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "passed": self.passed}


def compare(
    reference: np.ndarray, candidate: np.ndarray, thresholds: Thresholds, *, logits: bool
) -> ParityReport:
    """Compares outputs for the same images.

    Args:
        reference: [N, ...] float, from torch.
        candidate: the same shape, from the artefact.
        thresholds: what counts as the same.
        logits: outputs are [N, classes] or [N, classes, H, W], so top-1 agreement (of images, of pixels) means something.

    Raises:
        CheckpointError: the reference itself says nothing (not finite, or the same for every image, as with a head of zeros): any artefact
            would pass, so no comparison is made.
    """
    reference = np.asarray(reference, dtype=np.float64)
    candidate = np.asarray(candidate, dtype=np.float64)
    if reference.shape != candidate.shape:
        raise CheckpointError(
            "the artefact's output has another shape than the model's",
            got=list(candidate.shape),
            expected=str(list(reference.shape)),
        )
    if not np.isfinite(reference).all():
        raise CheckpointError(
            "the model's own outputs are not finite: there is nothing to compare with",
            hint="evaluate the checkpoint first",
        )
    count = len(reference)
    flat, other = reference.reshape(count, -1), candidate.reshape(count, -1)
    if not flat.any() or (count > 1 and np.ptp(flat, axis=0).max() == 0.0):
        raise CheckpointError(
            "the model gives the same output for every image, so no artefact of it can be checked",
            hint="the head is probably untrained (all zeros): fine-tune it before exporting",
        )
    failures: list[str] = []
    finite = np.isfinite(other)
    if not finite.all():
        failures.append(f"{int((~finite).sum())} of {other.size} outputs are not finite")
        other = np.where(finite, other, 0.0)
    norms = np.linalg.norm(flat, axis=1) * np.linalg.norm(other, axis=1)
    cosine = np.where(norms > 0, (flat * other).sum(axis=1) / np.maximum(norms, 1e-300), 0.0)
    difference = np.abs(flat - other)
    worst = int(difference.max(axis=1).argmax())
    element = int(difference[worst].argmax())
    scale = float(max(1.0, np.abs(flat).max()))
    largest = float(difference.max()) / scale
    agreement = (
        float((reference.argmax(axis=1) == other.reshape(reference.shape).argmax(axis=1)).mean())
        if logits
        else None
    )
    if cosine.min() < thresholds.min_cosine:
        failures.append(
            f"cosine {cosine.min():.6f} of image {int(cosine.argmin())} is below min_cosine {thresholds.min_cosine}"
        )
    if largest > thresholds.max_abs:
        failures.append(
            f"image {worst}, element {element}: torch {flat[worst, element]:.6g}, artefact {other[worst, element]:.6g}; "
            f"difference {largest:.3g} (of {scale:.3g}) is above max_abs {thresholds.max_abs}"
        )
    if agreement is not None and agreement < thresholds.min_top1_agreement:
        failures.append(
            f"top-1 agreement {agreement:.4f} is below min_top1_agreement {thresholds.min_top1_agreement}"
        )
    return ParityReport(
        images=count,
        cosine_min=float(cosine.min()),
        cosine_mean=float(cosine.mean()),
        max_abs=largest,
        scale=scale,
        top1_agreement=agreement,
        worst_image=worst,
        worst_element=[int(i) for i in np.unravel_index(element, reference.shape[1:])],
        failures=failures,
    )
