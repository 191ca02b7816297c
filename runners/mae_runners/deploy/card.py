"""The model card of a folder for the model hub: what was trained on what, how well, and how its
pictures are prepared. It names data and files by their last part, never by a path or URL of here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_skill.archs import ARCHS
from mae_skill.dotted import get_dotted
from mae_skill.errors import MaeError
from mae_skill.reader import parse_yaml
from mae_skill.spelling import one_line
from mae_skill.weights.hand_on import cannot_prepare

from mae_runners.deploy.usage import preparation
from mae_runners.models.checkpoint import CheckpointMeta

_CLASSES_SHOWN = 20
_TRAINING = (
    ("train.num_epochs", "epochs"),
    ("dataset.batch_size", "images a device takes at a time"),
    ("train.optim.lr", "learning rate"),
    ("train.mask_ratio", "share of units hidden"),
    ("train.seed", "seed"),
)


def card(
    format: str, saved: CheckpointMeta, checkpoint: Path, use: str, notes: str, license: str | None
) -> str:
    """The text of a README.md in the hub's layout.

    Args:
        checkpoint: the file that was exported; the job folder around it says what it was trained
            on.
        use: lines of Python that load the folder.
        notes: what the reader must know of this format.
    """
    pretrained = saved.stage == "pretrain"
    task = "image-feature-extraction" if pretrained else "image-classification"
    arch = ARCHS[saved.arch]
    front = {
        "library_name": format,
        "pipeline_tag": task,
        "license": license or "unknown",
        "tags": [task, "masked-autoencoder", format],
    }
    header = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())
    what = (
        "the encoder of a masked autoencoder, pretrained without labels"
        if pretrained
        else f"a classifier of {saved.num_classes} classes"
        + (", of which a picture may have several" if saved.multi_label else "")
    )
    return f"""---
{header}
---
# {arch.title}: {what}

Architecture `{saved.arch}`, input {saved.input_size[0]}×{saved.input_size[1]} pixels, tokens of \
{saved.model.get("patch_size") or arch.patch} pixels.

## Use

```python
{use.strip()}
```

{notes.strip()}

## Preprocessing

{_preparation(format, saved)}

{_classes(saved)}## Training

{training(checkpoint)}

## Figures

{figures(checkpoint)}

## License

{_license(license)}
"""


def _preparation(format: str, saved: CheckpointMeta) -> str:
    """How a picture becomes the model's input, and what of it the folder's own code cannot do."""
    unprepared = cannot_prepare(format, saved.channels, saved.value_range)
    return preparation(saved) + (f"\n\n{unprepared}." if unprepared else "")


def _classes(saved: CheckpointMeta) -> str:
    if not saved.classes:
        return ""
    shown = ", ".join(one_line(label) for label in saved.classes[:_CLASSES_SHOWN])
    more = len(saved.classes) - _CLASSES_SHOWN
    text = f"## Classes\n\n{shown}{f' and {more} more' if more > 0 else ''}\n\n"
    if not saved.multi_label:
        return text
    cuts = saved.thresholds or [0.5] * len(saved.classes)
    text += (
        "A picture may be of several classes, or of none: the probability of each is the sigmoid "
        "of its logit, and the picture is of it from its threshold on.\n\n"
        "| class | threshold |\n|---|---|\n"
    )
    pairs = zip(saved.classes[:_CLASSES_SHOWN], cuts, strict=False)
    rows = "".join(f"| {one_line(label)} | {cut:.6g} |\n" for label, cut in pairs)
    return f"{text}{rows}\n"


def training(checkpoint: Path) -> str:
    """What the job folder around a checkpoint says of its training."""
    spec = _spec_of(checkpoint)
    if not spec:
        return "The file that this was made from says nothing of its training."
    rows = [f"- stage: {get_dotted(spec, 'train.stage')}"]
    if sources := _names(get_dotted(spec, "dataset.train_data_sources")):
        rows.append(f"- images: {sources}")
    if start := _names(get_dotted(spec, "train.pretrained_model_path")):
        rows.append(f"- started from: {start}")
    for key, words in _TRAINING:
        value = get_dotted(spec, key)
        if value is not None:
            rows.append(f"- {words}: {value}")
    return "\n".join(rows)


def figures(checkpoint: Path) -> str:
    """The metrics that the index beside a checkpoint has of it."""
    try:
        entries = CheckpointIndex(checkpoint.parent).read()["checkpoints"]
    except (MaeError, OSError):
        entries = []
    found = next((entry for entry in entries if entry.get("file") == checkpoint.name), None)
    metrics = (found or {}).get("metrics") or {}
    numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
    if found is None or not numbers:
        return "None are recorded with the checkpoint."
    lines = [f"| after epoch {found['epoch']} | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value:.6g} |" for name, value in numbers.items())])


def _license(license: str | None) -> str:
    if license:
        return f"{one_line(license)}, as its exporter states."
    return (
        "Its exporter states none. Weights that training started from, and the pictures, may "
        "bring terms of their own."
    )


def _spec_of(checkpoint: Path) -> Mapping[str, Any]:
    path = checkpoint.parent.parent / "spec.yaml"
    try:
        found = parse_yaml(path.read_text(encoding="utf-8"), path.name)
    except (OSError, ValueError, MaeError):
        return {}
    return found if isinstance(found, dict) and "train" in found else {}


def _names(value: Any) -> str:
    """The last parts of paths and URLs."""
    values = value if isinstance(value, list) else [value] if value else []
    return ", ".join(
        one_line(PurePosixPath(str(item).split("?")[0].rstrip("/")).name) for item in values
    )
