"""The parity gate: an artifact may exist only if it gives the model's answers on real images.

Cosine, largest difference and top-1 agreement are judged image by image; an artifact that differs
fails the job, and the error names the layer where it begins to differ.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from mae_skill.errors import CheckpointError, JobFailedError
from mae_skill.spec import ParitySpec
from torch import Tensor, nn

from mae_runners.deploy.artifact import INPUT_NAME, ArtifactMeta, run_in_parts
from mae_runners.deploy.onnx import session_of, unfused_attention

if TYPE_CHECKING:
    import onnx

Floats = npt.NDArray[np.floating[Any]]

BATCH = 8


@dataclass(frozen=True)
class Thresholds:
    """What counts as the same.

    Attributes:
        min_cosine: the lowest cosine similarity of any image's output with the reference.
        max_abs: the largest difference of any output element, in units of the largest magnitude of
            the reference when that exceeds 1.
        min_top1_agreement: the lowest share of images (classifiers) or pixels (segmenters) whose
            largest logit stays the same.
    """

    min_cosine: float
    max_abs: float
    min_top1_agreement: float


# float32 kernels reorder sums: over all families they differed by some 1e-6 to 1e-5 of the largest
# value; the bounds leave a factor of 20.
# Reduced precision: fp16 has 11 bits, bf16 has 8, int8 has 8 with one scale for a whole tensor. On
# small models of every family that learned digits and photographs, int8 as calibrated here lost at
# most 0.003 of the cosine and 0.07 of the largest logit; wrong scales or weights cost at least
# 0.014 and 0.18, mostly ten times that (tests/long/parity). The bounds lie between.
DEFAULTS = {
    "fp32": Thresholds(0.9999, 1e-3, 1.0),
    "fp16": Thresholds(0.999, 5e-2, 0.95),
    "bf16": Thresholds(0.99, 2e-1, 0.9),
    "int8": Thresholds(0.99, 0.15, 0.9),
}
# On the borders of regions two classes are as good as equal, and rounding decides between them: not
# every pixel can stay. On segmenters of every family that learned to find ink on photographs, int8
# with the default 128 calibration images lost at most 0.0024 of the cosine, 0.12 of the largest
# logit and 0.0013 of the pixels; what cost more than 0.02 of the mIoU lost at least 0.027 of the
# cosine, mostly five times that (tests/long/segmentation). Pixels get more room than these need:
# with many classes more of them are undecided. With 8 calibration images one of the three lost
# 0.038 and 0.5: too few to calibrate on.
PIXELS = {
    "fp32": dataclasses.replace(DEFAULTS["fp32"], min_top1_agreement=0.999),
    "fp16": dataclasses.replace(DEFAULTS["fp16"], min_top1_agreement=0.99),
    "bf16": dataclasses.replace(DEFAULTS["bf16"], min_top1_agreement=0.95),
    "int8": Thresholds(0.98, 0.5, 0.9),
}


def thresholds_for(
    precision: str, spec: ParitySpec | None = None, *, pixels: bool = False
) -> Thresholds:
    """The bounds for a precision; a bound that the spec sets (not None) replaces the default.

    ``pixels``: the outputs are a class for every pixel.
    """
    given = {} if spec is None else spec.model_dump(exclude_none=True)
    return dataclasses.replace((PIXELS if pixels else DEFAULTS)[precision], **given)


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
    reference: Floats,
    candidate: Floats,
    thresholds: Thresholds,
    *,
    logits: bool,
    cuts: Sequence[float] | None = None,
) -> ParityReport:
    """Compares outputs for the same images.

    Args:
        reference: [N, …] float, from torch.
        candidate: the same shape, from the artifact.
        thresholds: what counts as the same.
        logits: outputs are [N, classes] or [N, classes, H, W], so top-1 agreement (of images, of
            pixels) means something.
        cuts: of a multi-label model, the logit from which each class is answered: instead of
            top-1 the share of answers that stay is judged.

    Raises:
        CheckpointError: the shapes differ, or the reference could not tell a broken artifact (not
            finite, or the same for every image, as with a head of zeros).
    """
    reference = np.asarray(reference, dtype=np.float64)
    candidate = np.asarray(candidate, dtype=np.float64)
    if reference.shape != candidate.shape:
        raise CheckpointError(
            "the artifact's output has another shape than the model's",
            got=list(candidate.shape),
            expected=str(list(reference.shape)),
        )
    _check_reference(reference)

    count = len(reference)
    failures: list[str] = []
    finite = np.isfinite(candidate)
    if not finite.all():
        failures.append(f"{int((~finite).sum())} of {candidate.size} outputs are not finite")
        candidate = np.where(finite, candidate, 0.0)

    flat, other = reference.reshape(count, -1), candidate.reshape(count, -1)
    cosine = _cosines(flat, other)
    if cosine.min() < thresholds.min_cosine:
        failures.append(
            f"cosine {cosine.min():.6f} of image {int(cosine.argmin())} is below "
            f"min_cosine {thresholds.min_cosine}"
        )

    difference = np.abs(flat - other)
    worst = int(difference.max(axis=1).argmax())
    element = int(difference[worst].argmax())
    scale = float(max(1.0, np.abs(flat).max()))
    largest = float(difference.max()) / scale
    if largest > thresholds.max_abs:
        failures.append(
            f"image {worst}, element {element}: torch {flat[worst, element]:.6g}, "
            f"artifact {other[worst, element]:.6g}; difference {largest:.3g} (of {scale:.3g}) "
            f"is above max_abs {thresholds.max_abs}"
        )

    agreement = None
    if logits:
        agreement = _agreement(reference, candidate, cuts)
        if agreement < thresholds.min_top1_agreement:
            failures.append(
                f"{'top-1' if cuts is None else 'label'} agreement {agreement:.4f} is below "
                f"min_top1_agreement {thresholds.min_top1_agreement}"
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


def _cosines(one: Floats, other: Floats) -> Floats:
    """Cosine of each row of two matrices [N, D]: [N]; 0 for a row of zeros."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.where(norms > 0, (one * other).sum(axis=1) / np.maximum(norms, 1e-300), 0.0)


def _agreement(reference: Floats, candidate: Floats, cuts: Sequence[float] | None) -> float:
    """The share of equal answers: of the largest logits, or of logits above their `cuts`."""
    expected, answered = (
        outputs.argmax(axis=1) if cuts is None else outputs >= np.asarray(cuts)
        for outputs in (reference, candidate)
    )
    return float((expected == answered).mean())


def _check_reference(reference: Floats) -> None:
    """Raises `CheckpointError` for outputs that any artifact would agree with."""
    if not np.isfinite(reference).all():
        raise CheckpointError(
            "the model's own outputs are not finite: there is nothing to compare with",
            hint="evaluate the checkpoint first",
        )
    if not reference.any() or (len(reference) > 1 and np.ptp(reference, axis=0).max() == 0.0):
        raise CheckpointError(
            "the model gives the same output for every image, so no artifact of it can be checked",
            hint="the head is probably untrained (all zeros): fine-tune it before exporting",
        )


@torch.no_grad()
def torch_outputs(module: nn.Module, images: Tensor) -> Floats:
    """The model's outputs, [N, …] float32, with the attention that training and evaluation use."""
    device = next(module.parameters()).device
    return run_in_parts(lambda part: module(part.to(device)).float().cpu(), images, BATCH).numpy()


def onnx_outputs(model: onnx.ModelProto | Path, meta: ArtifactMeta, images: Tensor) -> Floats:
    """The outputs of an ONNX model or file in ONNX Runtime on the CPU."""
    session = session_of(model)

    def call(part: Tensor) -> Tensor:
        (output,) = session.run([meta.output_name], {INPUT_NAME: part.numpy()})
        return torch.from_numpy(output)

    return _run_artifact(call, meta, images)


def artifact_outputs(path: Path, meta: ArtifactMeta, images: Tensor) -> Floats:
    """The outputs of an exported file: ONNX, TorchScript (``.ts``) or `torch.export` (``.pt2``)."""
    if path.suffix == ".onnx":
        return onnx_outputs(path, meta, images)

    loaded: Callable[[Tensor], Tensor]
    if path.suffix == ".ts":
        loaded = torch.jit.load(str(path))
    else:
        loaded = torch.export.load(str(path)).module()
    with torch.no_grad():
        return _run_artifact(loaded, meta, images)


def _run_artifact(call: Callable[[Tensor], Tensor], meta: ArtifactMeta, images: Tensor) -> Floats:
    fixed = meta.batch > 0
    size = meta.batch if fixed else BATCH
    return run_in_parts(call, images, size, size if fixed else 1).numpy()


def parity_error(
    report: ParityReport,
    meta: ArtifactMeta,
    layer: str | None = None,
    field: str = "export.parity",
) -> JobFailedError:
    """The error of an artifact that differs from its model, for the caller to raise.

    Args:
        layer: the first layer that differs, where it is known.
        field: the spec section of the thresholds.
    """
    place = f"; the first layer that differs is {layer}" if layer else ""
    hint = "calibrate on more images, " if meta.precision == "int8" else ""
    if field == "export.parity":
        hint += "export in fp32, "
    else:
        hint += "build in fp32, keep the layer in fp32 with layers_precision, "

    return JobFailedError(
        f"the {meta.precision} artifact does not agree with the model: "
        f"{'; '.join(report.failures)}{place}",
        field=field,
        got={
            "cosine_min": report.cosine_min,
            "max_abs": report.max_abs,
            "top1_agreement": report.top1_agreement,
        },
        expected="agreement within the thresholds; nothing was written",
        hint=hint + "or, knowing the cost, set looser thresholds",
    )


def first_differing_layer(
    module: nn.Module,
    model: onnx.ModelProto,
    meta: ArtifactMeta,
    images: Tensor,
    thresholds: Thresholds,
) -> str | None:
    """The first submodule, in running order, whose output in the ONNX model differs from torch's.

    None when none of those that can be compared differs.
    """
    outputs = _module_outputs(module, model)
    sample = images[: meta.batch if meta.batch > 0 else 2]
    values = _intermediate_values(model, list(outputs.values()), sample)
    differing: list[str] = []

    def compare_with(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            value = values[outputs[name]]
            if differing or not isinstance(output, Tensor) or value.shape != tuple(output.shape):
                return
            expected = output.double().cpu().flatten(1)
            actual = torch.from_numpy(value.astype(np.float64)).flatten(1)
            cosine = torch.nn.functional.cosine_similarity(expected, actual, dim=1).min()
            if cosine < thresholds.min_cosine or not torch.isfinite(actual).all():
                differing.append(name)

        return hook

    handles = [
        part.register_forward_hook(compare_with(name))
        for name, part in module.named_modules()
        if name in outputs
    ]
    try:
        with torch.no_grad(), unfused_attention(module):
            module(sample.to(next(module.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return differing[0] if differing else None


def _module_outputs(module: nn.Module, model: onnx.ModelProto) -> dict[str, str]:
    """Module path → the tensor that is its output in the graph.

    The exporter names nodes by module path, so that is the output of the last node below the path.
    """
    scopes = {
        f"/{_scope(name)}/": name
        for name, part in module.named_modules()
        if name and not isinstance(part, nn.ModuleList)
    }
    outputs: dict[str, str] = {}
    for node in model.graph.node:
        for end in [match.end() for match in re.finditer("/", node.name)][1:]:
            if node.name[:end] in scopes:
                outputs[scopes[node.name[:end]]] = node.output[0]
    return outputs


def _intermediate_values(
    model: onnx.ModelProto, names: list[str], images: Tensor
) -> dict[str, npt.NDArray[Any]]:
    """Tensor name → value, for inner tensors of a graph."""
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    present = {value.name for value in probe.graph.output}
    probe.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in present
    )

    # Optimizing would fuse nodes, and the tensors between them would be gone.
    session = session_of(probe, optimize=False)
    values = session.run(None, {INPUT_NAME: images.numpy()})
    return dict(zip([output.name for output in session.get_outputs()], values, strict=True))


def _scope(name: str) -> str:
    """A module path as the exporter writes it: a list's element repeats its list, so
    ``encoder.blocks.0.attn`` → ``encoder/blocks/blocks.0/attn``."""
    pieces = name.split(".")
    return "/".join(
        f"{pieces[index - 1]}.{piece}" if piece.isdigit() and index else piece
        for index, piece in enumerate(pieces)
    )
