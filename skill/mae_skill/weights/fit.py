"""What of a file a model takes: exactly all of its backbone, or nothing.

Torch-free: names and shapes are enough, so the plan and the runner decide by the same function.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mae_skill.archs import Arch
from mae_skill.errors import CheckpointError
from mae_skill.weights import layouts
from mae_skill.weights.config import Source, describe, repeated
from mae_skill.weights.names import (
    DECODER,
    FLOATS,
    FUSION,
    HEADS,
    METHOD,
    SEGMENTER,
    Ambiguous,
    Array,
    Recipe,
    Shape,
    Translation,
    flatten,
    form_of,
    guess_arch,
    lists_of_arrays,
    lost_patch_embedding,
    translate,
)

SHOWN = 10
"""Lists of fewer names are shown whole."""

_IMAGENET = 1000  # classes, whose order in published heads is known
_PAPERS_EPS = 1e-6  # of every norm
_WINDOW = 8  # tokens a side of Hiera's mask unit


class Resize(NamedTuple):
    """A position table brought to another grid of rows and columns; ``prefix`` rows stay, and with
    ``window`` the pattern of the windows too."""

    old: tuple[int, int]
    new: tuple[int, int]
    prefix: int
    window: int | None


@dataclass(frozen=True)
class Target:
    """The model that is to be filled.

    Attributes:
        row: the architecture, with the model's patch.
        shapes: every parameter, and the buffers that training changes, by name.
        kind: ``mae`` · ``classifier`` · ``segmenter``.
        token_pool: a ViT classifier that reads its class token.
        heads: attention heads of each stage.
        classes: class names in the order of the head's rows; None where nobody named them: then
            they are the file's own.
        any_patch: ``model.patch_size`` was asked for, so a file's patch convolution is resampled.
        by_name: the rows of a head go by the names of classes that are not known yet.
    """

    row: Arch
    kind: str
    shapes: Mapping[str, Shape]
    input_size: tuple[int, int]
    heads: Sequence[int] = ()
    token_pool: bool = False
    classes: Sequence[str] | None = None
    by_name: bool = False
    any_patch: bool = False

    @property
    def arch(self) -> str:
        return self.row.name

    @property
    def family(self) -> str:
        return self.row.family

    def class_rows(self) -> list[str]:
        """Parameters with a row per class."""
        if self.kind == "classifier":
            stem = "encoder.head" if self.family == "vit" else "encoder.head.fc"
            return [f"{stem}.weight", f"{stem}.bias"]
        if self.kind == "segmenter":
            stems = ("uper.classify.1", "auxiliary.2")
            names = [f"{stem}.{kind}" for stem in stems for kind in ("weight", "bias")]
            return [name for name in names if name in self.shapes]
        return []

    def is_backbone(self, name: str) -> bool:
        """Whether a parameter belongs to the encoder, without its head and the norm before it."""
        return name.startswith("encoder.") and not name.removeprefix("encoder.").startswith(
            (*HEADS, "norm.")
        )


@dataclass
class Fit:
    """What becomes of a file.

    Attributes:
        take: parameter → the file's entries that fill it.
        resized: position tables that change their grid.
        resampled: the patch convolution, where its side changes: the file's and the model's.
        channels: the patch convolution, where its input changes: the file's and the model's.
        rows: parameter with a row per class → pairs (row of the model, row of the file).
        ignored: entry of the file, in our names → why it is left out.
        outside: entries of the file beside the backbone.
        fresh: parameters that keep their initial values.
        head: what became of the head, where there is one.
        where: where in the file the backbone lay.
        share: the share of the backbone's values that come from the file; below 1 it is refused.
        backbone: how many entries of the backbone come from the file.
        assumed: what the file does not say and was taken to be so.
        norm_eps: the ε of its norms, where its description says one.
        classes: names of the rows of the file's head, where it has them.
        warning: what the user should know of it.
        refusal: why the file is not accepted.
    """

    take: dict[str, Recipe] = field(default_factory=dict)
    resized: dict[str, Resize] = field(default_factory=dict)
    resampled: dict[str, tuple[int, int]] = field(default_factory=dict)
    channels: dict[str, tuple[int, int]] = field(default_factory=dict)
    rows: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    head: str = ""
    where: str = ""
    others: list[str] = field(default_factory=list)
    share: float = 0.0
    backbone: int = 0
    assumed: str = ""
    norm_eps: float | None = None
    classes: Sequence[str] | None = None
    warning: str = ""
    refusal: CheckpointError | None = None

    @property
    def adapted(self) -> list[str]:
        """Position tables and the patch convolution, ``name old → new``."""
        changes = {name: (item.old, item.new) for name, item in self.resized.items()}
        changes |= {n: ((old, old), (new, new)) for n, (old, new) in self.resampled.items()}
        sides = [
            f"{name} {old[0]}×{old[1]} → {new[0]}×{new[1]}" for name, (old, new) in changes.items()
        ]
        how = {1: "summed over RGB"}
        return sides + [
            f"{name} {old} → {new} channels ({how.get(new, 'RGB repeated and rescaled')})"
            for name, (old, new) in self.channels.items()
        ]

    @property
    def other_eps(self) -> float | None:
        """The ε of the file's norms where it is not the papers'; the model takes it over."""
        return self.norm_eps if self.norm_eps not in (None, _PAPERS_EPS) else None

    def summary(self) -> str:
        """One line: what was taken, adapted, left out and is fresh."""
        rest = len(self.take) - self.backbone
        parts = [
            f"{self.share:.1%} of the backbone ({self.backbone} entries"
            + (f", from {self.where})" if self.where else ")")
        ]
        if rest:
            names = [name for name in self.take if name not in self._backbone_names]
            parts.append(f"taken beside it: {listed(names)}")
        if self.adapted:
            parts.append(f"adapted: {', '.join(self.adapted)}")
        if self.assumed:
            parts.append(self.assumed)
        if self.other_eps is not None:
            parts.append(f"norms with its ε of {self.other_eps:g}")
        if self.head:
            parts.append(f"head: {self.head}")
        left = [*self.ignored, *self.outside, *(f"{other}.*" for other in self.others)]
        parts.append(f"left out: {listed(left) or 'nothing'}")
        none = "nothing else" if "fresh" in self.head else "nothing"
        parts.append(f"fresh: {listed(self.fresh) or none}")
        return "; ".join(parts)

    _backbone_names: frozenset[str] = frozenset()


def listed(names: Iterable[str]) -> str:
    """Names, all where they are fewer than ten; else by their first parts, with counts."""
    names = list(names)
    if len(names) < SHOWN:
        return ", ".join(names)
    groups: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        # Containers and wrappers say nothing: the group is what comes before a number.
        numbered = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        stem = parts[: numbered if numbered else max(1, len(parts) - 1)]
        key = ".".join(stem)
        groups[key] = groups.get(key, 0) + 1
    shown = [f"{key}.* ({count})" if count > 1 else key for key, count in groups.items()]
    more = f" and {len(shown) - SHOWN} groups more" if len(shown) > SHOWN else ""
    return f"{len(names)} entries: {', '.join(shown[:SHOWN])}{more}"


def fit(
    contents: Mapping[str, Any],
    target: Target,
    name: str,
    file_field: str,
    *,
    unnamed: Sequence[str] = (),
) -> Fit:
    """What ``target`` takes of a file; `Fit.refusal` says why it takes nothing.

    Args:
        contents: of the file: nested mappings with tensors or `pytorch_file.Stub`s, and plain data.
        name: of the file.
        file_field: dotted key that names the file.
        unnamed: class names of a head of as many rows, where the file names none.

    Raises:
        CheckpointError: there is no backbone of a known layout, or there are several.
    """
    state = flatten(contents)
    try:
        found = translate(state)
    except Ambiguous as error:
        raise CheckpointError(
            f"{name} holds several backbones",
            field=file_field,
            got=str(error),
            expected="one",
            hint="save the state dict of the one to use under a name of its own",
        ) from error
    if found is None:
        raise _no_backbone(contents, state, name, file_field)
    patch = found.entries.get("patch_embed.proj.weight")
    source = describe(contents, found.where, patch.shape[0] if patch else None)
    result = _Fitter(found, target, source, name, file_field, unnamed).run()
    result.others += lists_of_arrays(contents)
    result.refusal = result.refusal or _not_values(result, state, name, file_field)
    return result


def _not_values(
    result: Fit, state: Mapping[str, Array], name: str, file_field: str
) -> CheckpointError | None:
    """The error of a file that keeps an entry quantized, sparse or without values."""
    for place, recipe in result.take.items():
        for source in recipe.sources:
            form, counts = form_of(state[source]), place.endswith(".num_batches_tracked")
            if form not in FLOATS and not (counts and form.startswith(("int", "uint"))):
                return CheckpointError(
                    f"{name} keeps {source} in a form that is not its values",
                    field=file_field,
                    got=form,
                    expected="dense float32, float16, bfloat16 or float64",
                    hint="save the weights before they are quantized",
                )
    return None


def _no_backbone(
    contents: Mapping[str, Any], state: Mapping[str, Any], name: str, file_field: str
) -> CheckpointError:
    keys = ", ".join(_printable(key) for key in list(contents)[:8])
    keys += ", …" if len(contents) > 8 else ""
    shown = _brief([_printable(entry) for entry in state], 5)
    looks = layouts.foreign(state)
    hint = "name a file whose entries are a model's parameters"
    if unnamed := lists_of_arrays(contents):
        message = f"{name} holds weights without their names ({unnamed[0]} is a list)"
        hint = "copy them into the model that they average, and save its state dict"
    elif not state:
        message = f"{name} holds no weights"
    elif lost := lost_patch_embedding(state):
        message = f"{name} holds a part of a model: {_printable(lost)} is not there"
        hint = "take the whole file, as the training saved it"
    else:
        message = f"{name} holds no backbone of a known layout"
    return CheckpointError(
        message,
        field=file_field,
        got=(f"this looks like {looks}; " if looks else "")
        + f"top level: {keys or 'nothing'}"
        + (f"; entries: {shown}" if state else ""),
        expected="a state dict of a ViT, ConvNeXt V2 or Hiera, in a container or bare",
        hint=hint,
    )


def _printable(text: Any) -> str:
    return "".join(c if c.isprintable() else "�" for c in str(text))[:80]


def lack_of(found: Fit, name: str, file_field: str | None, model: str) -> CheckpointError | None:
    """The error of a file that is taken as it is and lacks a part of ``model``; its decoder, and
    what helped to train it, it need not have."""
    lacking = [
        entry for entry in found.fresh if not (only_decodes(entry) or entry.startswith(HELPERS))
    ]
    if not lacking:
        return None
    head = f"; its head is {found.head}" if found.head else ""
    hint = "set train.stage, model.num_classes and model.global_pool to the file's"
    norms = ("norm.", "fc_norm.", "head.norm.")
    without = any(entry.removeprefix("encoder.").startswith(norms) for entry in lacking)
    if without and not any(entry.startswith(norms) for entry in found.ignored):
        hint = "no setting makes up for it; train.pretrained_model_path takes the rest of the file"
    return CheckpointError(
        f"{name} lacks a part of the model",
        field=file_field,
        got=f"without {listed(lacking)}{head}",
        expected=f"all of a {model}",
        hint=hint,
    )


HELPERS = ("teacher_projector.", "refiner.")
"""Parts of a pretraining that no action but the training itself reads."""


def only_decodes(entry: str) -> bool:
    """Whether a parameter of an autoencoder is of no use to its features."""
    return entry.startswith(DECODER) and not entry.startswith(FUSION)


class _Fitter:
    def __init__(
        self,
        found: Translation,
        target: Target,
        source: Source,
        name: str,
        file_field: str,
        unnamed: Sequence[str],
    ) -> None:
        self.found, self.target, self.source = found, target, source
        self.name, self.field, self.unnamed = name, file_field, unnamed
        self.unplaced: list[str] = []
        self.clashes: list[str] = []
        self.result = Fit(
            where=found.where,
            others=list(found.others),
            outside=list(found.outside),
            norm_eps=source.norm_eps,
        )

    def run(self) -> Fit:
        result, shapes = self.result, self.target.shapes
        rows = set(self.target.class_rows())
        whole: dict[str, list[str]] = {}  # a decoder or segmenter that does not fit as a whole
        for name, recipe in self.found.entries.items():
            place = next((full for full in (f"encoder.{name}", name) if full in shapes), None)
            if place is None:
                reason = self._reason_to_leave(name)
                if reason is None:
                    self.unplaced.append(name)
                else:
                    result.ignored[name] = reason
                    if self._group(name):
                        whole.setdefault(self._group(name), []).append(name)
            elif place in rows:
                result.take[place] = recipe
            elif text := self._clash(place, recipe):
                if group := self._group(name):
                    whole.setdefault(group, []).append(text)
                    result.ignored[name] = text
                elif self.target.is_backbone(place):
                    self.clashes.append(text)
                else:
                    result.ignored[name] = text
            else:
                result.take[place] = recipe
        self._leave_parts(whole)
        self._head()
        self._account()
        return result

    # ---- entries ---------------------------------------------------------------------------------

    def _group(self, name: str) -> str:
        """The part that is taken whole or not at all: ``decoder``, ``segmenter``, its ``auxiliary``
        head, or none."""
        if self.target.kind == "mae" and name.startswith(DECODER):
            return "" if name.startswith(FUSION) else "decoder"
        if self.target.kind == "segmenter" and name.startswith(SEGMENTER):
            return "auxiliary" if name.startswith("auxiliary.") else "segmenter"
        return ""

    def _reason_to_leave(self, name: str) -> str | None:
        """Why an entry without a place is left out, or None where it must not be."""
        if name.startswith(SEGMENTER):
            return "belongs to a segmenter"
        if name.startswith(DECODER):
            return "belongs to the decoder"
        if name.startswith("norm.") and self.target.family == "vit":
            if self.target.kind == "segmenter":
                return "is the last norm, which comes after the levels"
            return "mean pooling has a norm of its own (fc_norm)"
        if name.startswith("fc_norm.") and self.target.token_pool:
            return "token pooling uses norm"
        if name.startswith(HEADS):
            return "belongs to a classifier"
        return "belongs to a training method" if METHOD.match(name) else None

    def _clash(self, place: str, recipe: Recipe) -> str | None:
        """Why an entry does not fit its place; a position table that can be resized does."""
        wanted = self.target.shapes[place]
        if place.endswith("pos_embed"):
            return self._position(place, recipe)
        shape = recipe.shape
        if place in _PATCHES and len(shape) == 4 and shape[1] == _RGB != wanted[1]:
            self.result.channels[place] = (_RGB, wanted[1])
            shape = (shape[0], wanted[1], *shape[2:])
        if place in _PATCHES and self.target.any_patch and _other_patch(shape, wanted):
            self.result.resampled[place] = (recipe.shape[-1], wanted[-1])
            return None
        if shape == wanted:
            return None
        if place not in _PATCHES and _squeezed(shape) == _squeezed(
            wanted
        ):  # a 1×1 convolution is a linear layer
            return None
        return f"{place} is {list(recipe.shape)} in the file and {list(wanted)} in the model"

    def _position(self, place: str, recipe: Recipe) -> str | None:
        wanted, family = self.target.shapes[place], self.target.family
        text = f"{place} is {list(recipe.shape)} in the file and {list(wanted)} in the model"
        decoder, prefix = place == "decoder_pos_embed", 1 if family == "vit" else 0
        if len(recipe.shape) != 3 or recipe.shape[0] != 1 or recipe.shape[2] != wanted[2]:
            return text
        cell, cell_in_file = self.target.row.patch, self._patch_in_file()
        if decoder:
            tokens_a_side = self.target.row.target_patch // cell
            cell, cell_in_file = cell * tokens_a_side, cell_in_file * tokens_a_side
        height, width = self.target.input_size
        new, tokens = (height // cell, width // cell), recipe.shape[1] - prefix
        old: tuple[int, int] | None
        if self.source.input_size is not None:
            sides = self.source.input_size
            old = (sides[0] // cell_in_file, sides[1] // cell_in_file)
            if math.prod(old) != tokens:
                return f"{text}, and the file says it is for {list(self.source.input_size)} pixels"
        elif (side := math.isqrt(max(tokens, 0))) ** 2 == tokens and tokens > 0:
            old = (side, side)
        elif tokens == math.prod(new):
            old = new
            self.result.assumed = f"{place} taken as {old[0]}×{old[1]}: the file does not say"
        else:
            rows = f"{tokens} positions" + (" and a class token" if prefix else "")
            if prefix and math.isqrt(recipe.shape[1]) ** 2 == recipe.shape[1]:
                return f"{text}: its {recipe.shape[1]} positions have {_NO_TOKEN} among them"
            return f"{text}: {rows} are no square, and the file does not say its size"
        if old != new:
            windowed = family == "hiera" and not decoder and not (old[0] % 8 or old[1] % 8)
            self.result.resized[place] = Resize(old, new, prefix, _WINDOW if windowed else None)
        return None

    def _patch_in_file(self) -> int:
        """Pixels a side of the file's tokens."""
        if self.source.patch:
            return self.source.patch
        kernel = self.found.entries.get("patch_embed.proj.weight")
        if kernel is None or len(kernel.shape) != 4:
            return self.target.row.patch
        side = kernel.shape[-1]
        if self.target.family == "vit":
            return side
        return 4 if side == 7 else self.target.row.patch

    def _leave_parts(self, whole: Mapping[str, list[str]]) -> None:
        """A decoder of another shape is left out whole: a part of one is none."""
        rows = set(self.target.class_rows())
        for group in ("decoder", "segmenter", "auxiliary"):
            entries = [n for n in self.found.entries if self._group(n) == group]
            if not entries:
                continue
            places = {n for n in self.target.shapes if self._group(n) == group}
            lacking = sorted(places - set(self.result.take) - rows)
            if group not in whole and not lacking:
                continue
            why = whole.get(group) or [f"{lacking[0]} is not in the file"]
            for name in entries:
                self.result.take.pop(name, None)
                self.result.resized.pop(name, None)
                self.result.ignored[name] = f"the {group} part is of another shape: {why[0]}"

    # ---- the head --------------------------------------------------------------------------------

    def _head(self) -> None:
        """Rows of a head go to the classes of their names; a head without the norm that it was
        trained on is left out."""
        rows = [name for name in self.target.class_rows() if name in self.result.take]
        if not rows:
            return
        why = self._no_head(rows)
        pairs: list[tuple[int, int]] = []
        named = self.source.classes
        if named is not None and len(named) == self.result.take[rows[0]].shape[0]:
            self.result.classes = named
        if not why:
            pairs, why = self._pairs(self.result.take[rows[0]].shape[0])
        total = self.target.shapes[rows[0]][0]
        if why:
            for name in rows:
                self.result.take.pop(name)
                self.result.ignored[self._short(name)] = why
            self.result.head = f"fresh: {why}"
            return
        for name in rows:
            self.result.rows[name] = pairs
        classes = self.target.classes
        if self.target.by_name and classes is None:
            named = self.result.classes or []
            self.result.head = (
                f"rows of the data's classes among {_brief(named)}, by name; the others fresh"
            )
        elif classes is None:
            self.result.head = f"all {total} rows, in the file's order"
        elif len(pairs) == total:
            moved = "" if all(a == b for a, b in pairs) else ", moved to their new places"
            self.result.head = f"all {total} classes by name{moved}"
        else:
            filled = {new for new, _ in pairs}
            fresh = [label for row, label in enumerate(classes) if row not in filled]
            self.result.head = f"{len(pairs)} of {total} classes by name; fresh: {_brief(fresh)}"

    def _short(self, name: str) -> str:
        return name.removeprefix("encoder.")

    def _no_head(self, rows: Sequence[str]) -> str:
        """Why the file's head does not belong on this model's features."""
        entries, take, shapes = self.found.entries, self.result.take, self.target.shapes
        for name in rows:
            if _squeezed(take[name].shape[1:]) != _squeezed(shapes[name][1:]):
                return f"it takes {list(take[name].shape)}, the model's {list(shapes[name])}"
        if self.target.kind == "segmenter":
            lacking = [n for n in shapes if n.startswith("uper.") and n not in take]
            return "the segmenter below it is not taken" if lacking else ""
        stem = rows[0].rpartition(".")[0]
        if any(name.startswith(("pre_logits.", "head.pre_logits.")) for name in entries):
            return "it follows a layer that is not here (pre_logits)"
        if self.target.family != "vit":
            norm = f"{stem.removesuffix('.fc')}.norm"
        else:
            norm = "encoder.norm" if self.target.token_pool else "encoder.fc_norm"
            other = "fc_norm." if self.target.token_pool else "norm."
            if any(name.startswith(other) for name in entries):
                what = "mean pooling" if self.target.token_pool else "the class token"
                value = "true" if self.target.token_pool else "false"
                return f"it reads {what} (model.global_pool={value} takes it)"
        if not all(f"{norm}.{kind}" in take for kind in ("weight", "bias")):
            return f"the norm before it is not in the file ({norm})"
        return ""

    def _pairs(self, count: int) -> tuple[list[tuple[int, int]], str]:
        """Pairs (row of the model, row of the file) of equal class names, or why there are none."""
        rows = self.target.class_rows()
        total = self.target.shapes[rows[0]][0]
        wanted, named = self.target.classes, self.source.classes
        if self.target.kind == "segmenter" and named is not None and _numbered(named):
            named = None
        if wanted is None and not self.target.by_name:
            if count != total:
                return [], f"it has {count} classes, the model {total}"
            if named is not None and (twice := repeated(named)):
                return [], f"two of its classes have one name: {twice}"
            return [(row, row) for row in range(total)], ""
        if named is None and count == len(self.unnamed):
            named = self.unnamed
        if named is None:
            if count == total and not (self.target.by_name and count == _IMAGENET):
                self.result.warning = (
                    f"the head of {self.name} is not taken: it has {count} classes as the data has,"
                    " but the file does not name them"
                )
            unless = ", unless the data's are ImageNet-1k's"
            known = self.target.by_name and count == _IMAGENET
            return [], f"its {count} classes have no names in the file{unless if known else ''}"
        if twice := repeated(named):
            return [], f"two of its classes have one name: {twice}"
        if wanted is None:
            return [(row, row) for row in range(count)], ""
        places = {_nfc(label): row for row, label in enumerate(named)}
        if len(named) != count or len(places) != count:
            return [], f"its {count} rows are named by {len(places)} different names"
        pairs = [
            (row, places[_nfc(label)]) for row, label in enumerate(wanted) if _nfc(label) in places
        ]
        if not pairs:
            return [], f"none of its classes ({_brief(named)}) is among the data's"
        return pairs, ""

    # ---- the account -----------------------------------------------------------------------------

    def _account(self) -> None:
        result, shapes = self.result, self.target.shapes
        backbone = [name for name in shapes if self.target.is_backbone(name)]
        taken = [name for name in backbone if name in result.take]
        result._backbone_names = frozenset(backbone)
        result.backbone = len(taken)
        values = {name: math.prod(shapes[name]) for name in backbone}
        result.share = sum(values[name] for name in taken) / sum(values.values())
        result.fresh = sorted(set(shapes) - set(result.take))
        absent = [name for name in backbone if name not in result.take]
        absent = [name for name in absent if not any(t.startswith(name) for t in self.clashes)]
        problems = [*self.source.problems(self.target.arch, self.target.heads), *self._post_norm()]
        if self.unplaced or self.clashes or absent or problems:
            result.refusal = self._refuse(absent, problems)

    def _post_norm(self) -> list[str]:
        """A block that normalizes after its layers has the names of one that does so before; the
        order in which it was built is in the file, unless that is sorted."""
        parts = ("attn.proj", "norm1", "mlp.fc2", "norm2")
        built = [f"blocks.0.{part}.weight" for part in parts]
        if [name for name in self.found.entries if name in built] == built:
            return ["its blocks normalize after attention and MLP (post-norm), ours before"]
        return []

    def _refuse(self, absent: Sequence[str], problems: Sequence[str]) -> CheckpointError:
        arch = self.target.arch
        short = [self._short(name) for name in absent]
        raw = [self.found.raw[name] for name in self.unplaced]
        shapes = {name: item.shape for name, item in self.found.entries.items()}
        guess = guess_arch(shapes)
        alike = guess or guess_arch(shapes, any_patch=True)
        family = self._family() or self.target.family
        kin = family == self.target.family  # of another one everything of ours is missing
        lacking = short
        if any(name.endswith(_GRN) for name in shapes):  # a smaller model lacks some blocks' alone
            lacking = [name for name in short if not name.endswith(_GRN)]
        marks = layouts.marks(raw, lacking if kin else (), family=family)
        if any(_NO_TOKEN in text for text in self.clashes):
            marks.append("no position of the class token")
        looks = layouts.foreign(raw) or layouts.model_of(marks, family=family)
        other = self._other_sizes() if alike in (None, arch) and not problems else {}
        if guess == arch:
            guess = None
        elif raw == [] and not self.clashes:
            other = {}  # what lacks its last blocks is rather a file that is not whole
        faults = list(problems)
        if raw:
            faults.append(f"no place for {_brief(raw)} ({len(raw)} of its entries)")
        if self.clashes:  # another patch explains another position table
            first = next((text for text in self.clashes if text.startswith(_PATCHES)), None)
            more = len(self.clashes) - 1
            faults.append((first or self.clashes[0]) + (f", and {more} more" if more else ""))
        if short:
            faults.append(f"without {_brief(short)} ({len(short)} entries)")
        patch = self._other_patch()
        ours = "" if raw or problems else self._our_own(short)
        got = guess or ours or "an architecture that is not ours"
        if other:
            ours = ""
            sizes = " and ".join(f"{key} {value}" for key, value in other.items())
            got = f"a model of this kind with {sizes}"
        if guess is None and alike is not None and patch:
            got = f"{alike} with patches of {patch} pixels"
        if marks or looks:
            parts = [_sentence(marks)] if marks else []
            parts += [f"this looks like {looks}"] if looks else []
            got = f"{': '.join(parts)}; not supported"
        return CheckpointError(
            f"{self.name} does not fit {arch}: " + "; ".join([*self._matched(), *faults]),
            field=self.field,
            got=got,
            expected=f"weights of {arch}: every entry of the backbone in its place",
            hint=self._sizes_hint(other)
            if other and not (marks or looks)
            else _INCOMPLETE
            if ours and short and not (guess or marks or looks)
            else self._hint(guess if not (marks or looks) else None, alike),
        )

    def _family(self) -> str | None:
        """The family of the file, by the stems that tell them apart."""
        entries = self.found.entries
        if "stem.0.weight" in entries or any(name.startswith("stages.") for name in entries):
            return "convnextv2"
        if (patch := entries.get("patch_embed.proj.weight")) is None:
            return None
        return "hiera" if patch.shape[-1] == _HIERA_KERNEL else "vit"

    def _other_sizes(self) -> dict[str, int]:
        """The fields that make a ViT deeper or wider → the file's values, where they differ from
        the model's."""
        if self.target.family != "vit" or self._family() != "vit":
            return {}
        file = {name: recipe.shape for name, recipe in self.found.entries.items()}
        model = {self._short(name): shape for name, shape in self.target.shapes.items()}
        found = {}
        for key, of in (("model.depth", _depth), ("model.embed_dim", _width)):
            if of(file) and of(file) != of(model):
                found[key] = of(file)
        return found

    def _sizes_hint(self, other: Mapping[str, int]) -> str:
        of_row = self.target.row
        row = {"model.depth": sum(of_row.depths), "model.embed_dim": of_row.dims[0]}
        if all(row[key] == value for key, value in other.items()):
            return f"leave out {' and '.join(other)}: the architecture's own fit the file"
        return "set " + " and ".join(f"{key}={value}" for key, value in other.items())

    def _our_own(self, short: Sequence[str]) -> str:
        """What a file of this architecture differs by, where that is the channels of its pictures
        or entries that it lacks; else empty."""
        arch, parts = self.target.arch, []
        others = [text for text in self.clashes if not text.startswith(_PATCHES)]
        if self.clashes:
            channels = self._other_channels()
            if others or channels is None:
                return ""
            parts.append(f"for pictures of {channels} channels")
        if short:
            parts.append(f"without {_brief(self._blocks_of(short))}")
        return f"{arch} {' and '.join(parts)}" if parts else ""

    def _blocks_of(self, lacking: Sequence[str]) -> list[str]:
        """Missing entries; a block of which nothing is there by its own name."""
        found = []
        for name in lacking:
            block = match[0] if (match := _BLOCK.match(name)) else ""
            there = any(entry.startswith(f"{block}.") for entry in self.found.entries)
            found.append(name if not block or there else block)
        return list(dict.fromkeys(found))

    def _other_channels(self) -> int | None:
        """Channels of the file's pictures, where its stem differs from the model's in them
        alone."""
        for place in _PATCHES:
            kernel = self.found.entries.get(self._short(place))
            wanted = self.target.shapes.get(place)
            if kernel and wanted and len(kernel.shape) == len(wanted) == 4:
                alike = (kernel.shape[0], *kernel.shape[2:]) == (wanted[0], *wanted[2:])
                return kernel.shape[1] if alike and kernel.shape[1] != wanted[1] else None
        return None

    def _matched(self) -> list[str]:
        """The share of the backbone that a refused file would fill, where it is not all of it."""
        share = math.floor(1000 * self.result.share) / 1000
        return [f"{share:.1%} of the backbone matched"] if self.result.share < 1 else []

    def _other_patch(self) -> int | None:
        """Pixels a side of the file's tokens, where its patch convolution is not the model's."""
        for place in _PATCHES:
            kernel = self.found.entries.get(self._short(place))
            wanted = self.target.shapes.get(place)
            if kernel and wanted and len(kernel.shape) == 4 and kernel.shape[-1] != wanted[-1]:
                side = kernel.shape[-1]
                return (side + 1) // 2 if self.target.family == "hiera" else side
        return None

    def _hint(self, guess: str | None, alike: str | None) -> str:
        if guess:
            return f"set model.arch to {guess}"
        if alike and alike != self.target.arch and (patch := self._other_patch()):
            return f"set model.arch to {alike} and model.patch_size to {patch}"
        for place in _PATCHES:
            kernel = self.found.entries.get(self._short(place))
            wanted = self.target.shapes.get(place)
            if kernel and wanted and len(kernel.shape) == 4 and kernel.shape[1] != wanted[1]:
                channels = kernel.shape[1]
                return f"set dataset.channels to {channels}, or choose weights of three channels"
            if kernel and wanted and _other_patch(kernel.shape, wanted):
                own = self.target.row.patch
                return (
                    f"set model.patch_size to the file's, {self._other_patch()}, or to the "
                    f"model's own, {own}, to adapt the file"
                )
        return "choose weights of the same architecture"


_INCOMPLETE = "the file is incomplete: fetch it again, or save the whole state dict of its model"
_BLOCK = re.compile(r"(?:stages\.\d+\.)?blocks\.\d+|stages\.\d+\.downsample")
_GRN = ".mlp.grn.weight"
_HIERA_KERNEL = 7  # pixels a side of the convolution that makes its tokens
_NO_TOKEN = "no class token's"
_RGB = 3  # channels of a stem that is adapted to others, as timm does
_PATCHES = ("encoder.patch_embed.proj.weight", "encoder.stem.0.weight")


def _depth(shapes: Mapping[str, Shape]) -> int:
    """How many blocks a ViT's encoder has."""
    return len({name.split(".")[1] for name in shapes if re.match(r"blocks\.\d+\.", name)})


def _width(shapes: Mapping[str, Shape]) -> int:
    """How wide a ViT is; 0 where its patch convolution is missing."""
    shape = shapes.get("patch_embed.proj.weight")
    return shape[0] if shape else 0


def _other_patch(shape: Shape, wanted: Shape) -> bool:
    """Whether a square patch convolution differs from another in its side alone."""
    same = len(shape) == len(wanted) == 4 and shape[:2] == wanted[:2]
    return same and shape[2] == shape[3] != wanted[3]


def _nfc(label: str) -> str:
    return unicodedata.normalize("NFC", label)


def _numbered(labels: Sequence[str]) -> bool:
    """Whether mask values stand in for names."""
    return list(labels) == [str(row) for row in range(len(labels))]


def _squeezed(shape: Shape) -> list[int]:
    return [size for size in shape if size != 1]


def _brief(names: Sequence[str], shown: int = 4) -> str:
    more = ", …" if len(names) > shown else ""
    return ", ".join(list(names)[:shown]) + more


def _sentence(parts: Sequence[str]) -> str:
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return text[:1].upper() + text[1:]
