"""Settings of a platform: what it declares, the site's file, and the caller's own.

A site writes its settings once, in ``$MAE_PLATFORMS`` or ``~/.config/mae/platforms.yaml``::

    slurm:
      partition: gpu
      account: vision

``--platform-option partition=debug`` wins over the file. What a job was given is kept in its
record, so that a resume and the trials of a study get the same.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_skill.errors import MaeError, UsageError

FILE_VARIABLE = "MAE_PLATFORMS"
IMAGE = (r"[\w][\w./:@-]*", "the name of an image, such as registry/mae-skill:1")
"""`Option.form` of a container's image."""


@dataclass(frozen=True)
class Option:
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
                "the file of platform settings is missing", field=FILE_VARIABLE, got=str(path)
            ) from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the file of platform settings cannot be read: {error}", field=FILE_VARIABLE
        ) from None

    try:
        content = parse_yaml(text, str(path)) or {}
    except MaeError as error:
        raise UsageError(error.message, field=FILE_VARIABLE, got=str(path)) from error
    section = content.get(platform) or {} if isinstance(content, Mapping) else None
    if not isinstance(section, Mapping):
        raise UsageError(
            "not a mapping of settings",
            field=f"{path.name}: {platform}",
            got=str(path),
            expected="platform: {setting: value}",
        )
    return dict(section)


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
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"the platform {platform} has no such setting" + of_file,
                field=f"platform_options.{name}",
                got=name,
                expected=", ".join(sorted(known)) or "no settings",
                hint=f"did you mean {near[0]}?" if near else None,
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
