"""What a caller asks for: a request, checked for types before anything is planned."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mae_skill.dotted import flatten
from mae_skill.errors import MaeError, UsageError, unusable_path
from mae_skill.placeholders import NOT_GIVEN
from mae_skill.spelling import nearest
from mae_skill.texts import no_url

from mae_sdk.jobs.other_sdk import OPTIONS


@dataclass(frozen=True)
class Request:
    """What a caller asks for; every field is an option of `Skill.plan` and `Skill.create_job`.

    Attributes:
        spec: a whole or partial spec (nested sections, or the path of a file); None: the action's
            template alone.
        train_datasets, eval_dataset, inference_dataset: data source URIs, as the bundle's
            ``data_sources`` name them.
        sources: the same for sources of any name: ``{"calibration_dataset": URI}``.
        parent_job_id: the job whose model this one takes: an id or a prefix.
        foreign_parent: take the model of a job that was made with another bundle.
        checkpoint: which of the parent's: ``best`` (default), ``latest``, ``epoch:N``.
        ptm: pretrained weights: a path or URL.
        automl_policy: ``auto``, ``on`` (the same, and refused where none can be) or ``off``.
        request: the person's own words, which may turn AutoML off.
        automl: AutoML options.
        spec_overrides: dotted or shorthand key → value.
        recipe: a published preset, or ``auto``: what is open is fitted to data, device and budget.
        budget: time of a run for the auto recipe: ``10m``, ``2h``, ``8gpuh``.
        env: environment of the job; never written.
        platform: where it runs.
        platform_options: settings of the platform, which go before those of the site's file.
        on: a machine to plan for, which one is not on: ``8xA100-80G,nodes=4``, with `price`, such
            as ``2.5/gpuh``. Such a plan is not launched.
        images: the number of training images where they are not here to be counted. Such a plan is
            launched where they are behind a URL, or in a folder that the platform mounts.
        results_root: folder or URL of the job folders.
        idempotency_key: the same key gives the first job that was made with it; where another job
            is asked for, a notice says what differs.
    """

    action: str
    spec: Mapping[str, Any] | str | None = field(
        default=None, repr=False
    )  # may hold a key until the plan has moved it
    train_datasets: Any = None
    eval_dataset: Any = None
    inference_dataset: Any = None
    sources: Mapping[str, Any] = field(default_factory=dict)
    parent_job_id: str | None = None
    checkpoint: str | None = None
    foreign_parent: bool = False
    ptm: str | None = None
    automl_policy: Any = None
    request: str | None = None
    automl: Mapping[str, Any] = field(default_factory=dict, repr=False)
    spec_overrides: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    budget: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    platform: str = "local"
    platform_options: Mapping[str, Any] = field(default_factory=dict)
    on: str | None = None
    images: str | None = None
    price: str | None = None
    results_root: str | None = None
    idempotency_key: str | None = None
    skill_dir: str | None = None

    def field_of(self, place: Any) -> str | None:
        """The field that holds a path or URL, as an error shows it; None where none does."""
        from mae_sdk.storage import urls

        document = self.spec if isinstance(self.spec, Mapping) else {"spec": self.spec}
        given = {
            **{name: getattr(self, name) for name in ("results_root", "ptm", *_SOURCES)},
            **self.sources,
            **flatten(self.spec_overrides),
            **flatten(document),
        }
        return next(
            (
                key
                for key, value in given.items()
                for one in (value if isinstance(value, (list, tuple)) else [value])
                if isinstance(one, str) and one and place in (one, urls.redact(one))
            ),
            None,
        )

    def unusable_path(self, error: OSError) -> MaeError:
        """What the system said of a path of this request, with the field that holds it."""
        document = self.spec if isinstance(self.spec, Mapping) else {"spec": self.spec}
        given = {
            **{name: getattr(self, name) for name in ("results_root", "ptm", *_SOURCES)},
            **self.sources,
            **flatten(self.spec_overrides),
            **flatten(document),
        }
        return unusable_path(error, given)

    @classmethod
    def of(cls, action: str, options: Mapping[str, Any], skill_dir: str | None = None) -> Request:
        """The request of a call's keyword arguments.

        Raises:
            UsageError: an option is unknown.
        """
        known = {item.name for item in fields(cls)} - {"action", "skill_dir"}
        unknown = sorted(set(options) - known)
        if unknown:
            near = nearest(unknown[0], known)
            hint = f"did you mean {near}?" if near else None
            said = [f"{name}: {OPTIONS[name]}" for name in unknown if name in OPTIONS]
            hint = "; ".join(said) or hint
            raise UsageError(
                "unknown option",
                field=unknown[0],
                got=unknown,
                expected=", ".join(sorted(known)),
                hint=hint,
            )
        given = {name: value for name, value in options.items() if value is not None}
        if isinstance(given.get("images"), (int, float)) and not isinstance(given["images"], bool):
            given["images"] = str(given["images"])
        given = {
            name: _as_text(value) if name in _PATHS else value for name, value in given.items()
        }
        if isinstance(given.get("sources"), Mapping):
            given["sources"] = {name: _as_text(uri) for name, uri in given["sources"].items()}
        _check_types(action, given)
        for name in _DOCUMENTS:
            if name in given and not isinstance(given[name], str):
                given[name] = _plain(given[name])
        return cls(action=action, skill_dir=skill_dir, **given)

    @property
    def all_sources(self) -> dict[str, Any]:
        """Source name → URI, of those given."""
        named = {name: getattr(self, name) for name in _SOURCES if getattr(self, name)}
        return {**self.sources, **named}


_FLAGS = ("foreign_parent",)
_TEXTS = (
    "parent_job_id",
    "checkpoint",
    "ptm",
    "request",
    "recipe",
    "budget",
    "platform",
    "on",
    "images",
    "price",
    "results_root",
    "idempotency_key",
)
_SOURCES = ("train_datasets", "eval_dataset", "inference_dataset")
_PATHS = ("spec", "parent_job_id", "ptm", "results_root", *_SOURCES)
_MAPPINGS = ("automl", "spec_overrides", "env", "platform_options", "sources")
_DOCUMENTS = ("spec", "spec_overrides", "automl", "platform_options")


def _as_text(value: Any) -> Any:
    """A path, or a list of them, as text."""
    if isinstance(value, (list, tuple)):
        return [_as_text(one) for one in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _plain(value: Any) -> Any:
    """A copy in which numpy's scalars and arrays are Python's numbers and lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    convert = getattr(value, "tolist", None)
    return convert() if callable(convert) else value


def _check_types(action: Any, given: Mapping[str, Any]) -> None:
    """Refuse an option of a kind that it cannot be.

    Raises:
        UsageError: it names the first of them.
    """
    for name, value in {
        "action": action,
        **{name: given[name] for name in _TEXTS if name in given},
    }.items():
        if not isinstance(value, str) or "\0" in value:
            raise UsageError(
                "must be a string",
                field=name,
                got=repr(value),
                expected="a string",
                hint="give one text",
            )
    for name in _FLAGS:
        if not isinstance(given.get(name, False), bool):
            raise UsageError(
                "not true or false",
                field=name,
                got=repr(given[name]),
                hint="give true or false",
                expected="true or false",
            )
    for name in (
        *(name for name in _TEXTS if name != "request"),
        *_SOURCES,
    ):  # a variable of the shell that was never set
        if given.get(name) in ("", NOT_GIVEN):
            raise UsageError(
                "must not be empty" if given[name] == "" else "must be given: it is still ???",
                field=name,
                got=given[name],
                expected="a value, or leave the option out",
                hint="give a value, or leave it out; is a variable of the shell not set?",
            )
    _check_sources(given)
    for name in _PATHS:
        if name == "spec":  # every value of it is looked at by its key
            continue
        if (broken := no_url(given.get(name))) is not None:
            _refuse_url(name, broken)
    _check_mappings(given)


def _check_sources(given: Mapping[str, Any]) -> None:
    """Refuse what is no source of data, and one that is given twice."""
    more = given.get("sources")
    more = more if isinstance(more, Mapping) else {}
    for name, value in {**more, **{name: given.get(name, []) for name in _SOURCES}}.items():
        if value in ("", None, NOT_GIVEN):
            raise UsageError(
                "must not be empty",
                field=name,
                got=value,
                expected="a path or URL",
                hint="give a value, or leave it out; is a variable of the shell not set?",
            )
        if name in more and name in _SOURCES and given.get(name):
            raise UsageError(
                f"{name} is given twice",
                field=name,
                got=[more[name], given[name]],
                expected="one of them",
                hint="leave one of the two out",
            )
        several = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(one, (str, os.PathLike)) for one in several):
            raise UsageError(
                "not a data source",
                field=name,
                got=repr(value),
                expected="a path or URL, or a list of them",
                hint="give a path or URL as a text, or a list of such texts",
            )


def _check_mappings(given: Mapping[str, Any]) -> None:
    """Refuse options that are no mapping, and values that no record can hold."""
    for name in _MAPPINGS:
        value = given.get(name, {})
        if not isinstance(value, Mapping) or not all(isinstance(key, str) and key for key in value):
            raise UsageError(
                "not a mapping of names to values",
                field=name,
                got=repr(value),
                expected="a mapping whose keys are text",
                hint="give names with their values, such as {name: value}",
            )
    for name in _DOCUMENTS:
        if (odd := _not_plain(given.get(name))) is not None:
            raise UsageError(
                "not a JSON-compatible value",
                field=name,
                got=repr(odd),
                expected="strings, numbers, booleans, null, lists, mappings",
                hint="give plain values: numbers, texts, lists and mappings of these",
            )
    for name, value in given.get("env", {}).items():
        if not isinstance(value, (str, int, float)) or "=" in name or "\0" in f"{name}{value}":
            raise UsageError(
                "not an environment setting",
                field=f"env.{name}",
                got=repr(value),
                expected="a name without '=' and a text",
                hint="write NAME=VALUE",
            )


def _not_plain(value: Any, depth: int = 64) -> Any:
    """The first value inside `value` that no spec can hold (one that is too deep, or holds itself,
    among them), or None.
    """
    if isinstance(value, (Mapping, list, tuple)) and depth:
        inside = value.values() if isinstance(value, Mapping) else value
        return next(
            (odd for item in inside if (odd := _not_plain(item, depth - 1)) is not None), None
        )
    plain = (
        value is None
        or isinstance(value, (str, int, float))
        or callable(getattr(value, "tolist", None))
    )  # numpy's scalars, arrays
    return None if plain else value


def _refuse_url(name: str, url: str) -> None:
    """The error of an option that holds no URL: of one that names nothing, in its own words.

    Raises:
        UsageError: always.
    """
    from mae_sdk.storage import urls

    try:
        urls.check(url)
    except UsageError as error:
        if error.message != "this is not a URL":
            error.field = name
            raise
    raise UsageError(
        "not a URL",
        field=name,
        got=url,
        expected="scheme://host/path",
        hint="write the scheme, two slashes, the host or bucket, and the path",
    )
