"""Settings of a platform: what it declares, the site's file, and the caller's own.

A site writes its settings once, in ``$MAE_PLATFORMS`` or ``~/.config/mae/platforms.yaml``::

    slurm:
      partition: gpu
      account: vision

``--platform-option partition=debug`` wins over the file. What a job was given is kept in its
record, so that a resume and the trials of a study get the same.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mae_skill.errors import MaeError, UsageError
from mae_skill.spelling import nearest

from mae_sdk.run.registry import BUILT_IN, names

FILE_VARIABLE = "MAE_PLATFORMS"
_EXPECTED = "a YAML file of platform: {setting: value}, such as slurm: {partition: gpu}"
IMAGE = (r"[\w][\w./:@-]*", "the name of an image, such as registry/mae-skill:1")
"""`Option.form` of a container's image."""


class Option(NamedTuple):
    """One setting of a platform.

    Attributes:
        help: what it does, in one line.
        kind: ``str``, ``int``, ``float``, ``bool``, ``list`` (of texts; one text is a list of one)
            or ``dict`` (of texts).
        default: where it is not given.
        least: the smallest number.
        form: what a text, or every text of a list, is written as: a regular expression, and words
            for people.
    """

    help: str
    kind: type = str
    default: Any = None
    least: float | None = None
    form: tuple[str, str] | None = None


def settings_file() -> Path:
    """The file of the site's settings; it need not exist."""
    named = os.environ.get(FILE_VARIABLE)
    if named:
        return Path(named).expanduser()
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "mae" / "platforms.yaml"


def of_the_site(platform: str) -> dict[str, Any]:
    """The settings of the site's file for a platform.

    Raises:
        UsageError: the file is named and missing, or is no mapping of platforms to settings.
    """
    from mae_skill.reader import parse_yaml

    path = settings_file()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if os.environ.get(FILE_VARIABLE):
            raise UsageError(
                "the file of platform settings is missing",
                field=FILE_VARIABLE,
                got=str(path),
                expected=_EXPECTED,
                hint=f"write it, or unset {FILE_VARIABLE}",
            ) from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the file of platform settings cannot be read: {error}",
            field=FILE_VARIABLE,
            got=str(path),
            expected=_EXPECTED,
            hint=f"mend it or its permissions, or unset {FILE_VARIABLE}",
        ) from None

    try:
        content = parse_yaml(text, str(path)) or {}
    except MaeError as error:
        raise UsageError(
            error.message,
            field=FILE_VARIABLE,
            got=str(path),
            expected=_EXPECTED,
            hint=error.hint or "mend the YAML at the line that is named",
        ) from error
    if isinstance(content, Mapping):
        _check_names(content, path)
    section = content.get(platform) or {} if isinstance(content, Mapping) else None
    if not isinstance(section, Mapping):
        raise UsageError(
            "not a mapping of settings",
            field=f"{path.name}: {platform}",
            got=str(path),
            expected=_EXPECTED,
            hint=f"write {platform}: {{partition: gpu}}, or leave {platform} out"
            if platform == "slurm"
            else f"`mae platforms {platform}` lists its settings",
        )
    return dict(section)


def _check_names(content: Mapping[str, Any], path: Path) -> None:
    """Refuse the misspelled name of a platform. One that is like none may be installed elsewhere.

    Raises:
        UsageError: a name is like that of a platform, and is none.
    """
    unknown = [str(name) for name in content if name not in BUILT_IN]
    known = names() if unknown else []
    for name in unknown:
        near = nearest(name.lower(), known)
        if name not in known and near:
            raise UsageError(
                f"no such platform, in {path}",
                field=FILE_VARIABLE,
                got=name,
                expected=" or ".join(sorted(known)),
                hint=f"did you mean {near}?",
            )


def name_site_file(error: MaeError, platform: str, given: Mapping[str, Any]) -> None:
    """Say in an error of a setting that its value is of the site's file, where it is.

    Args:
        given: the caller's own settings.
    """
    section, _, name = (error.field or "").partition(".")
    if section != "platform_options" or name in given:
        return
    with contextlib.suppress(MaeError):
        path = str(settings_file())
        if name in of_the_site(platform) and path not in error.message:
            error.message += f" ({name} is of {path})"


def settle(platform: str, known: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a job on a platform: the caller's, the site's, the defaults.

    Raises:
        UsageError: one is unknown, of another kind, or holds credentials.
    """
    merged = {**of_the_site(platform), **given}
    for name, value in merged.items():
        option = known.get(name)
        of_file = "" if name in given else f" as the one in {settings_file()}"
        if option is None:
            near = nearest(name, known)
            raise UsageError(
                f"the platform {platform} has no such setting" + of_file,
                field=f"platform_options.{name}",
                got=name,
                expected=", ".join(sorted(known)) or "no settings",
                hint=f"did you mean {near}?" if near else None,
            )
        try:
            merged[name] = _value(name, option, value)
        except UsageError as error:
            error.message += "" if name in given else f", in {settings_file()}"
            raise
    defaults = {name: one.default for name, one in known.items() if one.default is not None}
    return {**defaults, **{k: v for k, v in merged.items() if v is not None}}


def _value(name: str, option: Option, value: Any) -> Any:
    from mae_sdk.jobs.secrets import has_credentials

    kind = option.kind
    words = [value] if not isinstance(value, (list, Mapping)) else list(value)
    if isinstance(value, Mapping):
        words = list(value.values())
    if any(isinstance(word, str) and "://" in word and has_credentials(word) for word in words):
        raise UsageError(
            "credentials do not go into a setting, which the job's record shows",
            field=f"platform_options.{name}",
            hint="give them to the engine's own client, by its file or environment",
        )

    if value is None:
        return None
    if kind is list and not isinstance(value, (list, Mapping)):
        value = [value]
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if fits and kind is dict:
        value = {str(key): str(item) for key, item in value.items()}
    if fits and kind is list:
        value = [str(item) for item in value]
    odd = isinstance(value, str) and any(ord(letter) < 32 for letter in value)
    if not fits or odd:
        raise UsageError(
            "not a value of this setting",
            field=f"platform_options.{name}",
            got=value,
            expected=f"a value of type {kind.__name__}",
        )
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    if option.form is not None:
        pattern, words_of_it = option.form
        for text in texts:
            if not re.fullmatch(pattern, text):
                raise UsageError(
                    "not a value of this setting",
                    field=f"platform_options.{name}",
                    got=text,
                    expected=words_of_it,
                    hint=f"{name}: {option.help}",
                )
    if option.least is not None and isinstance(value, (int, float)) and value < option.least:
        raise UsageError(
            "too small a value of this setting",
            field=f"platform_options.{name}",
            got=value,
            expected=f"at least {option.least:g}",
        )
    return value
