"""A Triton Inference Server model repository: ``<repository>/<model>/config.pbtxt`` and
``<model>/1/model.onnx``.

The text is protobuf text format of `inference.ModelConfig`; the tests parse it with the message
class that the PyPI package ``tritonclient`` ships (``tritonclient.grpc.model_config_pb2``).
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from mae_sdk.files import atomic_folder
from mae_skill.spelling import one_line

from mae_runners.deploy.artifact import INPUT_NAME, ArtifactMeta, check_target

PLATFORM = "onnxruntime_onnx"
MAX_BATCH = 64  # for artifacts that take any batch
QUEUE_DELAY_US = 500  # how long a request may wait for others to share its batch
LABELS = "labels.txt"


def config_text(name: str, meta: ArtifactMeta, output_dims: list[int], *, max_batch: int) -> str:
    """The config.pbtxt of one model.

    Args:
        name: model name, equal to its folder's.
        output_dims: shape of the output without the batch.
        max_batch: the largest batch; an artifact with a fixed batch gets 0 (no batching by the
            server) and full shapes.
    """
    fixed = meta.batch > 0
    lead = [meta.batch] if fixed else []
    dtype = "TYPE_UINT8" if meta.preprocessing else "TYPE_FP32"
    labels = ""
    if meta.classes and not meta.segments:
        labels = f"\n    label_filename: {json.dumps(LABELS)}"
    batching = ""
    if not fixed:
        batching = f"\ndynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_US} }}"
    described = "".join(
        f"\nparameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}"
        for key, value in meta.to_properties().items()
    )
    return f"""name: {json.dumps(name)}
platform: {json.dumps(PLATFORM)}
max_batch_size: {0 if fixed else max_batch}
input [
  {{
    name: {json.dumps(INPUT_NAME)}
    data_type: {dtype}
    dims: {[*lead, meta.channels, *meta.input_size]}
  }}
]
output [
  {{
    name: {json.dumps(meta.output_name)}
    data_type: TYPE_FP32
    dims: {[*lead, *output_dims]}{labels}
  }}
]{batching}{described}
"""


def model_folder(root: Path, meta: ArtifactMeta) -> Path:
    """A model's folder in a repository; its name is the model's."""
    return root / re.sub(r"[^A-Za-z0-9_]+", "_", f"{meta.arch}_{meta.stage}")


def write_repository(
    root: Path,
    meta: ArtifactMeta,
    onnx_files: list[Path],
    output_dims: list[int],
    *,
    overwrite: bool,
) -> list[Path]:
    """Lays an exported ONNX file (and its data file, if any) out as a one-model repository at
    `root`, all at once.

    Returns:
        The files, configuration first.

    Raises:
        UsageError: the model's folder exists and `overwrite` is not set.
    """
    target = model_folder(root, meta)
    check_target(target, overwrite)
    with atomic_folder(target, replace=True) as draft:
        (draft / "1").mkdir()
        for source in onnx_files:
            # Names stay: an ONNX file refers to its data file by name.
            shutil.copy2(source, draft / "1" / source.name)
        (draft / "config.pbtxt").write_text(
            config_text(target.name, meta, output_dims, max_batch=MAX_BATCH)
        )
        if meta.classes:
            labels = "".join(f"{one_line(label)}\n" for label in meta.classes)
            (draft / LABELS).write_text(labels, encoding="utf-8")

    return sorted(
        (path for path in target.rglob("*") if path.is_file()),
        key=lambda path: path.name != "config.pbtxt",
    )
