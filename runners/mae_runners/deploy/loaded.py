"""A trained model as an object: `load_model`, with the preprocessing that it was validated with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from mae_sdk.data.decode import decode, decode_stored
from mae_sdk.data.formats import of_array, of_picture
from mae_sdk.jobs.outputs import fetch, outputs_of
from mae_sdk.jobs.secrets import ENCRYPTION_VARIABLE
from mae_skill.errors import DataError, NotFoundError, UsageError
from mae_skill.spec import AugmentationSpec, InferenceSpec
from PIL import Image
from torch import Tensor

from mae_runners.data.transforms import EvalTransform, Pixels, sample_key
from mae_runners.deploy.artifact import ArtifactMeta, class_names, reading_for
from mae_runners.deploy.eval_pairs import model_input, segmenter
from mae_runners.deploy.features import KINDS, features, on_grid
from mae_runners.deploy.runtimes import Runtime, TorchRuntime, open_runtime, run_batch
from mae_runners.metrics.reconstruction import reconstruction_images
from mae_runners.metrics.windows import classify_pixels

Floats = npt.NDArray[np.float32]


class Prediction(NamedTuple):
    """What a classifier says of a picture.

    Attributes:
        label: the most probable class.
        probability: of it.
        probabilities: of all classes, float32, in the order of `Model.classes`.
        labels: of a multi-label model the classes at or above their thresholds; else the one.
    """

    label: str
    probability: float
    probabilities: Floats
    labels: tuple[str, ...]


class Reconstruction(NamedTuple):
    """What an autoencoder makes of pictures, each uint8 ``[N, H, W, 3]`` in the model's input size.

    Attributes:
        original: as the model is given it.
        masked: hidden units gray.
        reconstructed: hidden units as predicted.
    """

    original: Pixels
    masked: Pixels
    reconstructed: Pixels


class Model:
    """A checkpoint, an export or an engine that answers for pictures.

    Pictures are paths, bytes of a file, PIL images, arrays ``[H, W, C]`` or ``[H, W]``, or tensors
    ``[C, H, W]``; one of these, or a list. They may be of any size, and of the depth and bands
    that the model was trained on.

    Attributes:
        runtime: what computes.
        meta: what it says of itself: architecture, input size, mean and std, classes.
        batch_size: pictures given to it at a time.
    """

    def __init__(self, runtime: Runtime, batch_size: int) -> None:
        self.runtime, self.batch_size = runtime, batch_size
        self.meta: ArtifactMeta = runtime.meta
        self._reading = reading_for(self.meta)
        self._fit = EvalTransform(
            AugmentationSpec(
                input_size=list(self.meta.input_size),
                center_crop=self.meta.center_crop,
                eval_interpolation=self.meta.eval_interpolation,  # type: ignore[arg-type]
            )
        )

    def __repr__(self) -> str:
        meta = self.meta
        return f"<{meta.stage} {meta.arch} {meta.input_size}, {self.runtime.kind}>"

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the probabilities; none of a pretrained model."""
        return class_names(self.meta, None) if self.meta.num_classes else []

    def predict(self, images: Any) -> list[Any]:
        """A `Prediction` a picture; of a segmenter the class of every pixel, int64 ``[H, W]`` at
        the picture's own size.

        Raises:
            UsageError: a pretrained model has no classes.
            DataError, NotFoundError: a picture cannot be read.
        """
        if self.meta.output != "logits":
            raise self._cannot("predict", "a fine-tuned model")
        if self.meta.segments:
            return [labels for part in self._parts(images) for labels in self._segment(part)]
        names, cuts, found = self.classes, self.meta.cuts, []
        for logits in self._run(
            images, lambda pixels: run_batch(self.runtime, self._input(pixels))
        ):
            scores = logits.double()
            shares = scores.softmax(dim=1) if cuts is None else scores.sigmoid()
            for row, own in zip(shares.float().numpy(), scores.tolist(), strict=True):
                best = int(row.argmax())
                labels: tuple[str, ...] = (names[best],)
                if cuts is not None:
                    above = zip(names, own, cuts, strict=True)
                    labels = tuple(name for name, value, cut in above if value >= cut)
                found.append(Prediction(names[best], float(row[best]), row, labels))
        return found

    def embed(self, images: Any, kind: str = "pooled") -> Floats:
        """Features, float32: ``pooled`` ``[N, D]``; ``tokens`` ``[N, T, D]``, a ViT's class token
        first; ``patches`` ``[N, rows, columns, D]``.

        Raises:
            UsageError: an ONNX file or engine that was not exported with these features.
        """
        if kind not in KINDS:
            raise UsageError("unknown features", got=kind, expected=", ".join(KINDS))
        if isinstance(self.runtime, TorchRuntime):
            model, device = self.runtime.model, self.runtime.device

            def call(pixels: Tensor) -> Tensor:
                return features(model, self._input(pixels).to(device), kind).float().cpu()

        else:
            has = self.meta.output
            if has == "logits" or (has == "pooled") != (kind == "pooled") or kind == "tokens":
                raise self._cannot(f"embed {kind!r}", f"its output is {has}: a checkpoint")

            def call(pixels: Tensor) -> Tensor:
                found = run_batch(self.runtime, self._input(pixels))
                height, width = self.meta.input_size
                return found if kind == "pooled" else on_grid(found, (height, width))

        with torch.inference_mode():
            return torch.cat(list(self._run(images, call))).numpy()

    def reconstruct(self, images: Any, seed: int = 0) -> Reconstruction:
        """Pictures with hidden units as the autoencoder fills them in; ``seed`` draws the mask.

        Raises:
            UsageError: not a pretrained model with its decoder.
        """
        runtime = self.runtime
        if self.meta.output == "logits" or not isinstance(runtime, TorchRuntime):
            raise self._cannot("reconstruct", "a pretrained checkpoint")
        if not runtime.decodes:
            raise self._cannot("reconstruct", "weights with a decoder")
        model: Any = runtime.model
        parts, count = [], 0
        with torch.inference_mode():
            for pixels in self._batches(images):
                noise = torch.stack(
                    [_noise(seed, count + row, int(model.num_units)) for row in range(len(pixels))]
                ).to(runtime.device)
                count += len(pixels)
                shown = reconstruction_images(
                    model,
                    self._input(pixels).to(runtime.device),
                    noise,
                    self.meta.mean,
                    self.meta.std,
                )
                parts.append(shown.pixels[:, :3].cpu())
        whole = (torch.cat(parts) * 255.0).round().to(torch.uint8).permute(1, 0, 3, 4, 2).numpy()
        return Reconstruction(*whole)

    def preprocess(self, images: Any) -> Tensor:
        """What the model is given: float32 normalized ``[N, C, H, W]`` (raw uint8 where the graph
        normalizes by itself)."""
        return self._input(torch.cat(list(self._batches(images))))

    # ---- inside ----------------------------------------------------------------------------------

    def _input(self, pixels: Tensor) -> Tensor:
        return model_input(pixels, self.meta)

    def _run(self, images: Any, call: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        for pixels in self._batches(images):
            yield call(pixels)

    def _parts(self, images: Any) -> Iterator[list[Pixels]]:
        """Decoded pictures at their own size, a batch at a time."""
        part: list[Pixels] = []
        for image in _listed(images):
            part.append(self._pixels(image))
            if len(part) == self.batch_size:
                yield part
                part = []
        if part:
            yield part

    def _batches(self, images: Any) -> Iterator[Tensor]:
        """Pictures in the model's size, ``[B, C, H, W]`` in 0 … 255."""
        for part in self._parts(images):
            fitted = np.stack([self._fit.fit(pixels) for pixels in part])  # float32 if one is
            yield torch.from_numpy(fitted).permute(0, 3, 1, 2).contiguous()

    def _segment(self, part: Sequence[Pixels]) -> Iterator[npt.NDArray[np.int64]]:
        predict = segmenter(self.runtime, InferenceSpec().segmentation, self.batch_size)
        tensors = [torch.from_numpy(pixels.copy()).permute(2, 0, 1) for pixels in part]
        with torch.inference_mode():
            for pixels, logits in zip(part, predict(tensors), strict=True):
                yield classify_pixels(logits, pixels.shape[:2])[0].cpu().numpy()

    def _pixels(self, image: Any) -> Pixels:
        """``[H, W, C]`` in 0 … 255 of anything that is a picture."""
        if isinstance(image, (str, os.PathLike)):
            path = Path(image)
            if path.is_dir():
                raise UsageError(
                    f"{path} is a folder, not a picture",
                    got=str(path),
                    expected="the path of a picture, or a list of such paths",
                )
            if not path.is_file():
                raise NotFoundError(f"there is no picture at {path}", got=str(path))
            return decode(path.read_bytes(), str(path), self._reading)
        if isinstance(image, bytes):
            return decode(image, "a picture in memory", self._reading)
        if isinstance(image, Image.Image):
            stored = of_picture(image, self._reading)
            return decode_stored(stored, "a picture in memory", self._reading)
        found = type(image).__name__
        if isinstance(image, Tensor):
            found = f"{str(image.dtype).removeprefix('torch.')} {list(image.shape)}"
            tensor = image.detach().cpu()
            tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            image = (tensor.movedim(0, -1) if tensor.ndim == 3 else tensor).numpy()
        elif hasattr(image, "__array__"):
            image = np.asarray(image)
            found = f"{image.dtype} {list(image.shape)}"
        if not isinstance(image, np.ndarray):
            raise self._no_picture(f"of the type {found}", found)
        if image.dtype.kind not in "uif":
            raise self._no_picture(f"values of the type {image.dtype}, not numbers", found)
        if image.ndim not in (2, 3):
            raise self._no_picture(f"{image.ndim} dimensions", found)
        array = image[:, :, None] if image.ndim == 2 else image
        try:
            return decode_stored(of_array(array), "an array", self._reading)
        except DataError as error:
            raise self._no_picture(error.message, found) from error

    def _no_picture(self, why: str, got: str) -> UsageError:
        bands = self._reading.bands
        return UsageError(
            f"not a picture: {why}",
            got=got,
            expected=f"uint8 or uint16 [H, W, {bands}] or [H, W], a path, bytes of a file, a PIL "
            f"image; a tensor [{bands}, H, W]"
            if self._reading.value_range == "dtype"
            else f"[H, W, {bands}] or [H, W] with values as in training, a path, bytes of a file, "
            f"a PIL image; a tensor [{bands}, H, W]",
        )

    def _cannot(self, what: str, expected: str) -> UsageError:
        return UsageError(f"this model cannot {what}", got=repr(self), expected=expected)


def _listed(images: Any) -> Iterable[Any]:
    """One picture as a list of one."""
    one = isinstance(images, (str, os.PathLike, bytes, Image.Image))
    if isinstance(images, (np.ndarray, Tensor)):
        one = images.ndim <= 3
    if not one and (isinstance(images, Mapping) or not isinstance(images, Iterable)):
        raise UsageError(
            f"not pictures: of the type {type(images).__name__}",
            got=type(images).__name__,
            expected="a picture (a path, bytes of a file, a PIL image, an array, a tensor), or a "
            "list of these",
        )
    found = [images] if one else list(images)
    if not found:
        raise UsageError("no pictures", got="nothing", expected="one, or a list")
    return found


def _noise(seed: int, place: int, units: int) -> Tensor:
    generator = torch.Generator().manual_seed(sample_key(seed, 0, place, "mask") >> 1)
    return torch.rand(units, generator=generator)


def load_model(
    source: str | os.PathLike[str],
    *,
    checkpoint: str = "best",
    results_root: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 32,
) -> Model:
    """A trained model, ready for pictures.

    Args:
        source: a job (its id, an unambiguous prefix, or its folder), a checkpoint, an ONNX file, a
            folder that ``export`` wrote for timm or transformers, or an engine.
        checkpoint: which of a job's: ``best``, ``latest`` or ``epoch:N``.
        results_root: where jobs are; None as for the command line.
        device: None = the GPU where there is one.
        batch_size: pictures given to the model at a time.

    Raises:
        UsageError: an argument is of another type.
        NotFoundError, CheckpointError: there is no such job or file, or it cannot be used.
        DependencyError: it needs a package or a GPU that is missing here.
    """
    if not isinstance(source, (str, os.PathLike)) or not str(source):
        raise UsageError(
            "the model to load is no path and no job",
            field="source",
            got=str(source) or "an empty text" if source is not None else "None",
            expected="a job's id or folder, a checkpoint, an export or an engine, as text or Path",
        )
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise UsageError(
            "no number of pictures", field="batch_size", got=batch_size, expected="1 or more"
        )
    path = Path(source)
    if (path / "job.json").is_file():
        path = _of_job(path.resolve().name, path.resolve().parent, checkpoint)
    elif not path.exists():
        path = _of_job(str(source), results_root, checkpoint)
    key = os.environ.get(ENCRYPTION_VARIABLE)
    return Model(open_runtime(path, _device(device), key), batch_size)


def _device(asked: str | torch.device | None) -> torch.device:
    """Where a model computes: as asked, else on the GPU where there is one."""
    try:
        if not isinstance(asked, (str, torch.device, type(None))):
            raise TypeError(asked)
        return torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, TypeError) as error:
        raise UsageError(
            "there is no such device", field="device", got=str(asked), expected="cpu, cuda, cuda:1"
        ) from error


def _of_job(job: str, root: str | os.PathLike[str] | None, policy: str) -> Path:
    """The model that a job left, brought here where its folder is remote."""
    try:
        found = outputs_of(job, None if root is None else os.fspath(root))
    except NotFoundError as error:
        raise NotFoundError(
            f"{job} is neither a file or folder nor a job",
            got=job,
            expected="a checkpoint, an export, an engine, or a job's id or folder",
            hint=error.hint,
        ) from error
    artifact = found.model(policy)
    fetch([artifact])
    # Of a folder of the model hub the job names the file of weights; its description is beside it.
    return artifact.path.parent if artifact.path.name == "model.safetensors" else artifact.path
