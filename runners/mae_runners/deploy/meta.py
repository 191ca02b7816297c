"""What an exported artefact says about itself: enough to preprocess for it and to name its outputs, with no checkpoint at hand.

In an ONNX file the fields are metadata properties named ``mae.<field>`` (JSON values); an engine, which has no room for them, gets
``<engine>.json`` beside it. Input and output names are fixed: ``images`` [B, 3, H, W]; ``logits`` [B, classes] for a classifier,
[B, classes, H, W] for a segmenter, ``features`` [B, D] (pooled) or [B, N, D] (tokens) for a backbone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from mae_skill.errors import CheckpointError

PREFIX = "mae."
INPUT_NAME = "images"
FORMAT_VERSION = 1


@dataclasses.dataclass
class ArtefactMeta:
    """The self-description of an ONNX file or engine.

    Attributes:
        arch, stage, task: as in the checkpoint; ``task`` is ``classification`` or ``segmentation``.
        input_size: [height, width] in pixels.
        mean, std: per channel, of pixels in [0, 1].
        output: ``logits`` | ``pooled`` | ``tokens``.
        classes: class names in output order, or None.
        num_classes: width of the logits, or None for features.
        preprocessing: True when the graph takes raw uint8 pixels and normalises them itself.
        precision: ``fp32`` | ``fp16`` | ``bf16`` | ``int8``: what the heavy layers compute in. Inputs and outputs stay float32.
        batch: -1 = any, else the fixed batch size.
        opset: ONNX opset, 0 for other formats.
        checkpoint_sha256: digest of the checkpoint file it was made from.
    """

    arch: str
    stage: str
    input_size: list[int]
    mean: list[float]
    std: list[float]
    output: str
    classes: list[str] | None = None
    num_classes: int | None = None
    preprocessing: bool = False
    precision: str = "fp32"
    batch: int = -1
    opset: int = 17
    checkpoint_sha256: str | None = None
    task: str = "classification"
    format: int = FORMAT_VERSION

    @property
    def segments(self) -> bool:
        """Whether the output is a class for every pixel."""
        return self.output == "logits" and self.task == "segmentation"

    @property
    def output_name(self) -> str:
        return "logits" if self.output == "logits" else "features"

    def to_properties(self) -> dict[str, str]:
        """``mae.<field>`` → JSON text."""
        return {
            PREFIX + name: json.dumps(value) for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_properties(cls, properties: dict[str, str], path: Path) -> ArtefactMeta:
        """The inverse of `to_properties`; unknown properties are left alone.

        Raises:
            CheckpointError: the file does not describe itself, so nothing can be preprocessed for it.
        """
        values: dict[str, Any] = {
            key[len(PREFIX) :]: json.loads(text)
            for key, text in properties.items()
            if key.startswith(PREFIX)
        }
        known = {field.name for field in dataclasses.fields(cls)}
        needed = ("arch", "stage", "input_size", "mean", "std", "output")
        missing = [name for name in needed if name not in values]
        if missing:
            raise CheckpointError(
                f"{path.name} carries no description of itself",
                got=f"without {', '.join(PREFIX + name for name in missing)}",
                expected="an artefact written by the export or gen_trt_engine action",
                hint="export the checkpoint again with the export action",
            )
        return cls(**{name: value for name, value in values.items() if name in known})


def sidecar(path: Path) -> Path:
    """The description beside an engine: ``model.engine`` → ``model.engine.json``."""
    return path.with_name(path.name + ".json")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return (
            hashlib.file_digest(stream, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else _digest_blocks(stream)
        )


def _digest_blocks(stream: Any) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
