"""What a file or its folder says of its model beside names and shapes: classes, size, and what
names cannot show (activation, heads)."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae_skill.archs import ARCHS

CONFIG = "config.json"
"""The key under which the description in a model's folder travels with its contents."""

PREPROCESSOR = "preprocessor_config.json"

DESCRIPTION = "mae"
"""The key of this project's own description: in a checkpoint, and in the ``config.json`` of a
folder that ``export`` wrote."""

_FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's number of a filter → its name, of those that are offered here."""

_EXACT_GELU = ("gelu", "gelu_python")


@dataclass(frozen=True)
class Source:
    """What a file says beside its weights.

    Attributes:
        classes: names of its head's rows, in order; None where it does not say.
        input_size: height and width in pixels that its position tables are for.
        patch: pixels per side of its tokens.
        activation: of its MLPs.
        heads: attention heads of each stage.
        norm_eps: the ε of its norms, where it says one.
    """

    classes: Sequence[str] | None = None
    input_size: tuple[int, int] | None = None
    patch: int | None = None
    activation: str | None = None
    heads: tuple[int, ...] = ()
    norm_eps: float | None = None
    unit_attention: tuple[bool, ...] = field(default=())

    def problems(self, arch: str, heads: Sequence[int]) -> list[str]:
        """Why it is another model than ``arch``, although names and shapes may agree."""
        found = []
        if self.activation and self.activation not in _EXACT_GELU:
            found.append(f"its activation is {self.activation}; {arch} has GELU")
        if self.heads and heads and tuple(self.heads) != tuple(heads):
            theirs, ours = (", ".join(map(str, counts)) for counts in (self.heads, heads))
            text = f"it has {theirs} attention heads, the model {ours}"
            found.append(text + (" (see model.num_heads)" if len(self.heads) == 1 else ""))
        if self.unit_attention and self.unit_attention != (True, True, False, False):
            found.append("it attends inside mask units in other stages")
        return found


def repeated(names: Sequence[str]) -> str:
    """The first name that two rows of a head have, with the rows; empty where all differ."""
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        first = rows.setdefault(unicodedata.normalize("NFC", name), row)
        if first != row:
            return f"{name} (rows {first} and {row})"
    return ""


def normalization(path: Path) -> dict[str, Any]:
    """``{"mean", "std", "file"}`` of the pictures that the model at ``path`` was trained on, a
    value a channel, where its folder says them: in transformers' ``preprocessor_config.json``, or
    timm's or this project's ``config.json``; else nothing.

    Args:
        path: the folder, or the file of weights in it.
    """
    folder = path if path.is_dir() else path.parent
    for file in (PREPROCESSOR, CONFIG):
        try:
            found = json.loads((folder / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(found, Mapping):
            continue
        inner = found.get(DESCRIPTION) or found.get("pretrained_cfg")
        inner = inner if isinstance(inner, Mapping) else found
        values = {
            "mean": _for_all(inner.get("image_mean", inner.get("mean"))),
            "std": _for_all(inner.get("image_std", inner.get("std"))),
        }
        if found.get("do_normalize") is False:  # the model sees the pixels as they are
            values = {"mean": [0.0] * 3, "std": [1.0] * 3}
        if _per_channel(values["mean"], values["std"]):
            return {**_rescaled(found, values), "file": file}
    return {}


def preparation(path: Path) -> dict[str, Any]:
    """How the folder of somebody else's model says that its pictures are prepared; nothing of this
    project's own, whose checkpoints say it themselves.

    Args:
        path: the folder, or the file of weights in it.

    Returns:
        What it says of ``mean`` and ``std``, ``input_size`` ([height, width]), ``center_crop``
        (the share of the short side that is seen), ``eval_interpolation`` (the filter of the
        resizing), and of what is done otherwise here ``squeezes`` (whole pictures are squeezed
        into the size), ``pads`` (they are padded to a square), ``keeps`` (they are not resized) and
        ``floors`` (the offset of the cut is rounded down), each as ``(value, file)``.
    """
    if not path.is_dir() and path.suffix not in (".safetensors", ".bin"):
        return {}  # a checkpoint may lie beside another model's description
    folder = path if path.is_dir() else path.parent
    config, processor = (_read(folder / file) for file in (CONFIG, PREPROCESSOR))
    if DESCRIPTION in config or not (config or processor):
        return {}
    known = normalization(path)
    found: dict[str, Any] = {word: known[word] for word in ("mean", "std") if known.get(word)}
    said = {word: (value, known["file"]) for word, value in found.items()}

    inner = config.get("pretrained_cfg")
    inner = inner if isinstance(inner, Mapping) else config
    if "architecture" in config or "crop_pct" in inner:
        found = {"center_crop": inner.get("crop_pct")}
        found["squeezes"] = inner.get("crop_mode") == "squash"
        found["pads"] = inner.get("crop_mode") == "border"
        found["eval_interpolation"] = inner.get("interpolation")
    elif processor:
        found = {**_of_processor(processor), "eval_interpolation": _filter_of(processor)}
    else:
        found = {}
    file = PREPROCESSOR if processor and "input_size" in found else CONFIG
    size = found.get("input_size") or _of_config(config).input_size
    crop = found.get("center_crop")
    if size and min(size) > 0:
        said["input_size"] = (list(size), file)
    if isinstance(crop, (int, float)) and not isinstance(crop, bool) and 0 < crop <= 1:
        said["center_crop"] = (float(crop), file)
    if found.get("eval_interpolation") in _FILTERS.values():
        source = CONFIG if "architecture" in config or "crop_pct" in inner else PREPROCESSOR
        said["eval_interpolation"] = (found["eval_interpolation"], source)
    others = ("squeezes", "pads", "keeps", "floors")
    said |= {word: (True, file) for word in others if found.get(word)}
    return said


def misread(path: Path) -> dict[str, tuple[str, Any, str]]:
    """What the folder of somebody else's model says and cannot be taken, by the dotted key that it
    is for: name in the file, value and file. Under an empty key a file that is no JSON object.

    Args:
        path: the folder, or the file of weights in it.
    """
    if not path.is_dir() and path.suffix not in (".safetensors", ".bin"):
        return {}
    folder = path if path.is_dir() else path.parent
    for file in (CONFIG, PREPROCESSOR):
        if (folder / file).is_file() and _object(folder / file) is None:
            return {"": (file, "no JSON object", file)}
    config = _read(folder / CONFIG)
    if DESCRIPTION in config:
        return {}

    said, inner = preparation(path), config.get("pretrained_cfg")
    inner = inner if isinstance(inner, Mapping) else config if "architecture" in config else {}
    taken = {
        "input_size": "input_size",
        "mean": "mean",
        "std": "std",
        "crop_pct": "center_crop",
        "interpolation": "eval_interpolation",
    }
    found = {
        f"dataset.augmentation.{word}": (name, inner[name], CONFIG)
        for name, word in taken.items()
        if inner.get(name) is not None and word not in said
    }
    processor = {} if inner else _read(folder / PREPROCESSOR)
    if _resamples(processor) and _filter_of(processor) not in _FILTERS.values():
        field = "dataset.augmentation.eval_interpolation"
        found[field] = ("resample", processor["resample"], PREPROCESSOR)
    names, count = config.get("label_names"), classes_said({CONFIG: config})
    if names and count and (not (read := _names(names)) or len(read) != count or repeated(read)):
        found["dataset.classes"] = ("label_names", names, CONFIG)
    return found


def model_settings(path: Path) -> dict[str, Any]:
    """Dotted key → value of the model that the folder of somebody else's says: its architecture
    and shape where it is one of ours, and of a classifier its stage and classes. Empty of this
    project's own, whose checkpoints say it themselves.

    Args:
        path: the folder, or the file of weights in it.
    """
    if not path.is_dir() and path.suffix not in (".safetensors", ".bin"):
        return {}
    config = _read((path if path.is_dir() else path.parent) / CONFIG)
    if DESCRIPTION in config:
        return {}
    said = _of_timm(config) if "architecture" in config else _of_transformers(config)
    if count := classes_said({CONFIG: config}):
        said |= {"train.stage": "finetune", "model.num_classes": count}
        if config.get("problem_type") == "multi_label_classification":
            said["model.multi_label"] = True
    return said


def _of_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    arguments = config.get("model_args")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    name = re.sub(r"_\d+$", "", str(config["architecture"]).partition(".")[0])
    patch = re.search(r"_patch(\d+)", name)
    if name not in ARCHS and patch is not None:  # of other patches than those in the name
        start = name[: patch.start()] + "_patch"
        name = next((one for one in ARCHS if one.startswith(start)), name)
    name = name if name in ARCHS else f"{name}_224"
    if name not in ARCHS:
        return {}

    arch = ARCHS[name]
    side = arguments.get("patch_size", int(patch[1]) if patch else arch.patch)
    shape = {word: arguments.get(word) for word in ("embed_dim", "depth", "num_heads", "mlp_ratio")}
    said = _shaped(name, side, shape if arch.family == "vit" else {})
    if arch.family == "vit":
        said["model.global_pool"] = arguments.get("global_pool", "token") == "avg"
    return said


def _of_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    kind = config.get("model_type")
    if kind in ("convnextv2", "hiera"):
        widths = config.get("hidden_sizes") if kind == "convnextv2" else config.get("embed_dim")
        for name, arch in ARCHS.items():
            own = list(arch.dims) if kind == "convnextv2" else arch.dims[0]
            same = arch.family == kind and config.get("depths") == list(arch.depths)
            if same and own == widths:
                return {"model.arch": name}
    width, blocks = config.get("hidden_size"), config.get("num_hidden_layers")
    if kind not in ("vit", "vit_mae") or not isinstance(width, int) or width < 1:
        return {}
    vits = [name for name, arch in ARCHS.items() if arch.family == "vit"]
    name = next((one for one in vits if ARCHS[one].dims == (width,)), vits[0])
    inner = config.get("intermediate_size")
    shape = {
        "embed_dim": width,
        "depth": blocks,
        "num_heads": config.get("num_attention_heads"),
        "mlp_ratio": inner / width if isinstance(inner, int) else None,
    }
    return {**_shaped(name, config.get("patch_size"), shape), "model.global_pool": False}


def _shaped(name: str, patch: Any, shape: Mapping[str, Any]) -> dict[str, Any]:
    """An architecture, with what of a model's shape is not its own."""
    arch = ARCHS[name]
    own = {
        "patch_size": arch.patch,
        "embed_dim": arch.dims[0],
        "depth": arch.depths[0],
        "num_heads": arch.heads[0] if arch.heads else None,
        "mlp_ratio": arch.mlp_ratio,
    }
    said: dict[str, Any] = {"model.arch": name}
    for word, value in {"patch_size": patch, **shape}.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value != own[word]:
            said[f"model.{word}"] = value
    return said


def _read(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file; an empty one where there is none."""
    return _object(path) or {}


def _object(path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, Mapping) else None


def _of_processor(found: Mapping[str, Any]) -> dict[str, Any]:
    """Size and crop of an image processor of transformers: a whole picture squeezed into a size,
    or its short side resized and the center cut out."""
    size = found.get("size", found.get("crop_size"))
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else None
    whole = _sides(size)
    keeps = found.get("do_resize") is False
    if found.get("do_center_crop") and (cut := _sides(found.get("crop_size"))):
        side = edge or (min(whole) if whole else None)
        if keeps:
            return {"input_size": cut, "keeps": True}
        if not isinstance(side, (int, float)) or side <= 0:
            return {"input_size": cut}
        return {"input_size": cut, "center_crop": min(1.0, min(cut) / side), "floors": True}
    if keeps:  # its size has no effect there
        return {"input_size": whole, "keeps": True}
    if isinstance(edge, int):  # ConvNeXt's: from 384 on it squeezes
        share = found.get("crop_pct")
        squeezes = share is not None and edge >= 384
        return {
            "input_size": (edge, edge),
            "center_crop": 1.0 if squeezes else share or 1.0,
            "squeezes": squeezes,
        }
    return {"input_size": whole, "center_crop": 1.0, "squeezes": True} if whole else {}


def _resamples(found: Mapping[str, Any]) -> bool:
    """Whether an image processor says by which filter it resizes."""
    return found.get("resample") is not None and found.get("do_resize") is not False


def _filter_of(found: Mapping[str, Any]) -> Any:
    """The name of an image processor's filter; its own value where it is none of those here, and
    None where it says none."""
    if _resamples(found):
        value = found["resample"]
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return _FILTERS.get(value, value) if is_number else value
    kind = str(found.get("image_processor_type", found.get("feature_extractor_type", "")))
    of_vit = kind.startswith("ViT") and found.get("do_resize") is not False
    return "bilinear" if of_vit else None  # transformers' default; of others it is bicubic


def _sides(value: Any) -> tuple[int, int] | None:
    """Height and width of a processor's size: a number, or an object with both."""
    if isinstance(value, Mapping):
        value = [value.get("height"), value.get("width")]
        return _size(value) if all(isinstance(side, int) for side in value) else None
    return _size(value)


def _rescaled(found: Mapping[str, Any], values: dict[str, list[float]]) -> dict[str, list[float]]:
    """Mean and std of pixels in 0 … 1, where a preprocessor's are of pixels times its
    ``rescale_factor``, or of pixels in 0 … 255 without ``do_rescale``."""
    factor = found.get("rescale_factor", 1 / 255)
    factor = 1.0 if found.get("do_rescale") is False else factor
    if not isinstance(factor, (int, float)) or isinstance(factor, bool) or factor <= 0:
        return values
    most = 255 * factor
    if abs(most - 1) < 1e-3:  # as written, to the last digit
        return values
    return {name: [item / most for item in value] for name, value in values.items()}


def _for_all(value: Any) -> Any:
    """A list of three where one number is given for all channels; other values as they are."""
    one = value[0] if isinstance(value, list) and len(value) == 1 else value
    return [one] * 3 if isinstance(one, (int, float)) and not isinstance(one, bool) else value


def _per_channel(*lists: Any) -> bool:
    """Whether each is a list of numbers, as long as the others."""
    return all(
        isinstance(value, list)
        and 0 < len(value) == len(lists[0])
        and all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in value)
        for value in lists
    )


def is_own(contents: Mapping[str, Any]) -> bool:
    """Whether this project's training wrote a file with these contents."""
    return DESCRIPTION in contents and "state_dict" in contents


def own_description(contents: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a checkpoint, or a folder that ``export`` wrote, says of its model; None for others."""
    config = contents.get(CONFIG)
    holder = contents if is_own(contents) else config if isinstance(config, Mapping) else {}
    found = holder.get(DESCRIPTION)
    return found if isinstance(found, Mapping) and "input_size" in found else None


_SHAPE = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")
_PICTURES = ("mean", "std", "center_crop", "eval_interpolation")
_READING = ("value_range", "exif_orientation")


def own_settings(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key → value of the settings that this project's own file was trained with: of its
    architecture, its shape and its pictures. Empty for files of others."""
    own = own_description(contents)
    model = own.get("model") if own is not None else None
    if own is None or not isinstance(model, Mapping) or own.get("arch") not in ARCHS:
        return {}
    size = own["input_size"]
    square = isinstance(size, list) and len(set(size)) == 1
    return {
        "model.arch": str(own["arch"]),
        **{f"model.{name}": model.get(name) for name in _SHAPE},
        "dataset.augmentation.input_size": size[0] if square else size,
        **{f"dataset.augmentation.{name}": own[name] for name in _PICTURES if own.get(name)},
        **({} if (channels := model.get("in_chans", 3)) == 3 else {"dataset.channels": channels}),
        **{f"dataset.{name}": own[name] for name in _READING if own.get(name) is not None},
    }


def describe(contents: Mapping[str, Any], where: str, width: int | None = None) -> Source:
    """What the contents of a file say of the model at ``where``.

    Args:
        width: of its tokens.
    """
    own = own_description(contents)
    if own is not None:
        model = own.get("model")
        patch = model.get("patch_size") if isinstance(model, Mapping) else None
        eps = model.get("norm_eps") if isinstance(model, Mapping) else None
        return Source(
            _names(own.get("classes")),
            _size(own["input_size"]),
            patch if isinstance(patch, int) else None,
            norm_eps=float(eps) if isinstance(eps, (int, float)) else None,
        )
    config = contents.get(CONFIG)
    if isinstance(config, Mapping):
        return _of_config(config)
    activation = None
    if isinstance(arch := contents.get("arch"), str):  # timm's training script
        activation = _activation_of(arch)
    # The paper's ViT-S has 12 heads where everybody's has 6 (Chen et al., arXiv 2104.02057).
    moco = re.search(r"(^|\.)(base|momentum)_encoder$", where) and width == 384
    return Source(activation=activation, heads=(12,) if moco else ())


def classes_said(contents: Mapping[str, Any]) -> int | None:
    """How many classes the ``config.json`` of somebody else's classifier says; None where it says
    no classifier."""
    config = contents.get(CONFIG)
    if not isinstance(config, Mapping) or DESCRIPTION in config:
        return None
    if "architecture" in config:  # timm's
        arguments = config.get("model_args")
        inner = arguments if isinstance(arguments, Mapping) else {}
        count = inner.get("num_classes", config.get("num_classes"))
        return count if isinstance(count, int) and count > 0 else None
    names = config.get("architectures")
    if not isinstance(names, list) or not any("ForImageClass" in str(name) for name in names):
        return None
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, Mapping) and labels else 2  # transformers' default


def _of_config(config: Mapping[str, Any]) -> Source:
    """A ``config.json`` of transformers or timm."""
    if isinstance(name := config.get("architecture"), str):
        arguments = config.get("model_args")
        arguments = arguments if isinstance(arguments, Mapping) else {}
        activation = arguments.get("act_layer") or _activation_of(name)
        heads = arguments.get("num_heads")
        labels = config.get("label_names")
        trained = config.get("pretrained_cfg")
        trained = trained if isinstance(trained, Mapping) else config
        labels = labels if labels is not None else trained.get("label_names")
        size = arguments.get("img_size") or list(trained.get("input_size") or [])[1:]
        patch = arguments.get("patch_size")
        return Source(
            classes=_names(labels),
            input_size=_size(size),
            patch=patch if isinstance(patch, int) else None,
            activation=activation if isinstance(activation, str) else None,
            heads=(heads,) if isinstance(heads, int) else (),
        )
    heads = config.get("num_attention_heads", config.get("num_heads"))
    heads = [heads] if isinstance(heads, int) else heads
    unit = config.get("masked_unit_attention")
    activation, eps = config.get("hidden_act"), config.get("layer_norm_eps")
    return Source(
        classes=_labels(config.get("id2label")),
        input_size=_size(config.get("image_size")),
        activation=activation if isinstance(activation, str) else None,
        heads=tuple(heads) if isinstance(heads, list) else (),
        norm_eps=float(eps) if isinstance(eps, (int, float)) else None,
        unit_attention=tuple(unit) if isinstance(unit, list) else (),
    )


def _activation_of(arch: str) -> str | None:
    return "quick_gelu" if "quickgelu" in arch else None


def _labels(labels: Any) -> list[str] | None:
    """Class names of ``id2label``; None where transformers numbered them itself."""
    if not isinstance(labels, Mapping):
        return None
    try:
        ordered = [str(labels[key]) for key in sorted(labels, key=int)]
    except (TypeError, ValueError):
        return None
    return None if all(re.fullmatch(r"LABEL_\d+", label) for label in ordered) else ordered


def _names(value: Any) -> list[str] | None:
    if isinstance(value, (list, tuple)) and value and all(isinstance(n, str) for n in value):
        return list(value)
    return None


def _size(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, (list, tuple)) and len(value) == 2:
        numbers = all(isinstance(one, (int, float)) for one in value)
        return (int(value[0]), int(value[1])) if numbers else None
    return None
