"""What a person writes of a spec, with every secret taken out before anything else reads it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae_skill.bundle import Bundle
from mae_skill.dotted import flatten, get_dotted, set_dotted
from mae_skill.errors import MaeError, SpecError, UsageError, unusable_path
from mae_skill.mask_meaning import CLASSES, MASK_VALUES
from mae_skill.origin import BY_AUTO_RECIPE, OriginKind
from mae_skill.placeholders import NOT_GIVEN, has_reference
from mae_skill.reader import read_spec
from mae_skill.resolve import Layers, Resolution, layers_of, nested, raise_all, resolve

from mae_sdk.data.inspect import Asked
from mae_sdk.data.label_file import LabelTable
from mae_sdk.data.reading import CHANNELS, EXIF, PIXELS, VALUE_RANGE, Reading
from mae_sdk.jobs.secrets import ENCRYPTION_REFERENCE, ENCRYPTION_VARIABLE, note_fields
from mae_sdk.plan.data import Survey
from mae_sdk.plan.inferred_fields import preparation
from mae_sdk.run.platform import DEFAULT, platform
from mae_sdk.storage import urls


def read_layers(
    bundle: Bundle,
    action: str,
    spec: Mapping[str, Any] | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    recipe: str | None = None,
) -> tuple[Layers, dict[str, str]]:
    """The layers that a person writes, and the variables that hold what was secret in them.

    Args:
        spec: nested sections, or the path of a file.

    Raises:
        SpecError, UsageError, NotFoundError: a file, recipe or override cannot be read.
    """
    document = read_spec(spec) if isinstance(spec, str) else spec
    if document is not None and not isinstance(document, Mapping):
        raise UsageError(
            "a spec is a mapping of sections or a file", field="spec", got=type(spec).__name__
        )

    note_fields(document)
    note_fields(overrides)
    document = nested(urls.seal_tree(document or {}))
    secrets, notices = _take_keys(bundle, action, document)
    layers = layers_of(bundle, action, document, urls.seal_tree(overrides or {}), recipe)
    layers.notices += notices
    layers.by_auto_recipe = _by_auto_recipe(layers.spec_file)
    _refuse_keys(bundle, action, layers.overrides)
    return layers, secrets


def _by_auto_recipe(spec: Mapping[str, Any]) -> set[str]:
    """The fields of a job's spec that the auto recipe chose, as the job's record says, and that
    still are as they are in its folder."""
    from mae_sdk.jobs.config_file import SPEC
    from mae_sdk.jobs.records import read_record

    folder = get_dotted(spec, "results_dir")
    if not isinstance(folder, str) or not folder or urls.is_remote(folder):
        return set()
    changed: Any = None
    with contextlib.suppress(MaeError, OSError, ValueError):
        changed = read_record(Path(folder)).get("changed")
    told = changed.items() if isinstance(changed, dict) else ()
    origins = {key: str(one.get("origin")) for key, one in told if isinstance(one, dict)}
    chosen = {
        key
        for key, origin in origins.items()
        if origin.startswith(f"{OriginKind.RECIPE} (") or BY_AUTO_RECIPE in origin
    }
    if not chosen:
        return set()
    own: dict[str, Any] = {}
    with contextlib.suppress(MaeError, OSError):
        own = read_spec(Path(folder) / SPEC)
    return {key for key in chosen if get_dotted(own, key) == get_dotted(spec, key)}


def read_reading(
    bundle: Bundle,
    spec: Mapping[str, Any] | str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Reading:
    """How a training run with this spec reads pictures; the rest of the spec may be anything.

    Raises:
        SpecError: a field that says how is wrong, or unknown.
    """
    if not spec and not overrides:
        return Reading()
    layers, _ = read_layers(bundle, "train", spec, overrides)
    found = resolve(bundle, "train", layers)
    known = (CHANNELS, VALUE_RANGE, EXIF, PIXELS)
    given = set(flatten(overrides or {}))
    raise_all(
        [
            error
            for error in found.errors
            if error.field
            and (error.field.startswith(known) or error.field.partition("[")[0] in given)
        ],
        "train",
    )
    return Reading.of(found.spec)


def read_asked(
    bundle: Bundle,
    spec: Mapping[str, Any] | str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Asked:
    """What of a spec somebody set for a training run."""
    if not spec and not overrides:
        return Asked()
    layers, _ = read_layers(bundle, "train", spec, overrides)
    found = resolve(bundle, "train", layers)
    given = {
        key: origin
        for key, origin in found.provenance.items()
        if origin.kind not in OriginKind.unset()
    }
    fields = dict.fromkeys(key.partition("[")[0] for key in given)
    return Asked(nested({key: get_dotted(found.spec, key) for key in fields}), given)


def read_labels(
    bundle: Bundle,
    spec: Mapping[str, Any] | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    role: str = "train",
) -> LabelTable | None:
    """The table of the training images that a spec names, or of those of another role; None where
    it names none."""
    if not spec and not overrides:
        return None
    layers, _ = read_layers(bundle, "train", spec, overrides)
    found = resolve(bundle, "train", layers).spec
    file = get_dotted(found, f"dataset.labels.{role}")
    several = get_dotted(found, "model.multi_label") is True
    columns = get_dotted(found, "dataset.labels.columns")
    return LabelTable(str(file), role, several, columns) if file else None


def read_classes(
    bundle: Bundle,
    spec: Mapping[str, Any] | str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> list[str] | None:
    """The classes alone that a spec takes; None: all."""
    if not spec and not overrides:
        return None
    layers, _ = read_layers(bundle, "train", spec, overrides)
    found = resolve(bundle, "train", layers).spec
    chosen = get_dotted(found, "dataset.classes")
    if not isinstance(chosen, list) or get_dotted(found, "model.task") == "segmentation":
        return None
    return [str(name) for name in chosen]


def read_masks(
    bundle: Bundle,
    spec: Mapping[str, Any] | str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> str | list[str] | None:
    """The masks of the training images that a spec names; of a segmenter that names none
    ``beside``, else None."""
    if not spec and not overrides:
        return None
    layers, _ = read_layers(bundle, "train", spec, overrides)
    found = resolve(bundle, "train", layers).spec
    segments = get_dotted(found, "model.task") == "segmentation"
    sources: Any = get_dotted(found, "dataset.segmentation.train_mask_sources")
    return sources or ("beside" if segments else None)


def read_segmenter(
    bundle: Bundle,
    spec: Mapping[str, Any] | str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """The spec of a segmenter, where somebody says how many classes it has, or which values of its
    masks they are; else None."""
    if not spec and not overrides:
        return None
    layers, _ = read_layers(bundle, "train", spec, overrides)
    found = resolve(bundle, "train", layers)
    origin = found.provenance.get(CLASSES)
    model = {**found.spec["model"], "task": "segmentation"}
    if origin is None or origin.kind in OriginKind.unset():
        listed = get_dotted(found.spec, MASK_VALUES)
        if not isinstance(listed, list) or len(listed) < 2:
            return None
        model["num_classes"] = len(listed)
    return {**found.spec, "model": model, "train": {**found.spec["train"], "stage": "finetune"}}


def take_signatures(found: Resolution, secrets: dict[str, str]) -> None:
    """Move the credentials of URLs out of a merged spec."""
    signed = urls.held(found.spec)
    secrets.update(signed)
    found.notices += [
        f"the credentials of a URL travel in the job's environment, as {name}; "
        "the written spec names the variable"
        for name in signed
    ]


def resolve_spec(
    bundle: Bundle,
    action: str,
    spec: Mapping[str, Any] | str | None,
    overrides: Mapping[str, Any],
    *,
    looks: bool = True,
    count: bool = True,
) -> tuple[Resolution, dict[str, str]]:
    """The spec of a run on this machine that is no job, and the variables that hold its secrets.

    Args:
        looks: look at data, files and devices; False where a plan has done so.
        count: fetch data behind a URL for that, as a plan does.

    Raises:
        SpecError, UsageError, NotFoundError: the spec cannot be read or merged.
    """
    layers, secrets = read_layers(bundle, action, spec, overrides)
    if looks:  # a job's spec has it, and a value that equals a default may be the person's
        try:
            layers.inferred = nested({one.field: one.value for one in preparation(action, layers)})
        except OSError as error:
            raise unusable_path(
                error, flatten(layers.spec_file) | flatten(layers.overrides)
            ) from error
    resources = platform(DEFAULT).resources({})
    found = resolve(
        bundle,
        action,
        layers,
        settle=lambda merged: take_signatures(merged, secrets),
        look=Survey(bundle, action, layers.schema, resources, count).look if looks else None,
    )
    return found, secrets


def _key_fields(bundle: Bundle, action: str) -> list[str]:
    """The fields that hold an encryption key."""
    rows = bundle.spec_params.get(action) or {}
    return sorted({key for key, function in rows.items() if function == "key"} | {"encryption_key"})


def _literal(key: str, value: Any) -> bool:
    """Whether the value is a key itself; null, ``???`` and a reference to a variable are not.

    Raises:
        SpecError: it can be no key. The error does not show it.
    """
    if value is None or value in ("", NOT_GIVEN):
        return False
    if not isinstance(value, str):
        raise SpecError(
            "a key must be text",
            field=key,
            got=f"a {type(value).__name__}",
            expected=f"text, or {ENCRYPTION_REFERENCE}",
            hint="put the key in quotes, if it is one",
        )
    if not value.strip() or has_reference(value):
        raise SpecError(
            "a key must not refer to another field" if value.strip() else "a key must not be blank",
            field=key,
            expected=f"text, or {ENCRYPTION_REFERENCE}",
        )
    return not value.startswith("env:")


def _take_keys(
    bundle: Bundle, action: str, document: dict[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """Move a literal key out of the document, into the job's environment."""
    secrets: dict[str, str] = {}
    notices = []
    for key in _key_fields(bundle, action):
        value = get_dotted(document, key)
        if not _literal(key, value):
            continue
        secrets[ENCRYPTION_VARIABLE] = value
        set_dotted(document, key, ENCRYPTION_REFERENCE)
        notices.append(
            f"{key} travels in the job's environment; the written spec holds {ENCRYPTION_REFERENCE}"
        )
    return secrets, notices


def _refuse_keys(bundle: Bundle, action: str, overrides: Mapping[str, Any]) -> None:
    """A command line is visible to everybody.

    Raises:
        UsageError: a key is literal among the overrides.
    """
    for key in _key_fields(bundle, action):
        if _literal(key, get_dotted(overrides, key)):
            raise UsageError(
                "a literal key among the overrides is visible to everybody on the machine",
                field=key,
                expected=ENCRYPTION_REFERENCE,
                hint=f"export {ENCRYPTION_VARIABLE}, or put the key in a spec file",
            )
