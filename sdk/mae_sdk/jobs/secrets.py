"""Which values are secrets, and their removal from everything that is written or shown.

A secret is known by its *value*: once it was given to us, under whatever name, it is taken out of
every text, wherever in it it stands. Known are

* the variables of this process whose name says so (`mae_skill.secret_names`), the passwords and
  tokens inside the URLs and connection strings of any variable;
* what this process was told with `note`: fields of a spec whose name says so, ``--env NAME=…``;
* the credentials of every URL that `mae_sdk.storage.urls.seal` took out of a spec.

A value is hidden as it stands, and as JSON, a URL or Python's `repr` would write it. Not hidden is
a value that would garble the text and protect nothing: one of fewer than four characters, a number
of fewer than six digits, or an everyday word of this program (`_EVERYDAY`). A value of fewer than
eight characters is hidden only where it is a word of its own.

Credentials inside a URL or a ``password=…`` in a text are taken out by their place, known or not.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from mae_skill.errors import MaeError
from mae_skill.secret_names import is_secret_name

from mae_sdk.storage import urls

ENCRYPTION_VARIABLE = "MAE_ENCRYPTION_KEY"
ENCRYPTION_REFERENCE = f"env:{ENCRYPTION_VARIABLE}"
NAMES_OF_SECRETS = ("secrets", "pull_secrets")
"""Settings of a platform that name Secrets of a cluster, and hold none."""

DATABASE_VARIABLE = "MAE_DATABASE_SECRET"
DATABASE_REFERENCE = f"env:{DATABASE_VARIABLE}"
HIDDEN = "[redacted]"

_SHORTEST, _SHORTEST_NUMBER, _ANYWHERE = 4, 6, 8
_DEPTH = 32
_SETTING = 12
"""Characters from which on the value of ``--env NAME=…`` is hidden whatever the name."""

_EVERYDAY_WORDS = """
accelerator account accuracy action actions admin after anonymous arch auto automl backbone basic
batch bearer before best bf16 bool boolean both cache canceled cancelled channel channels
checkpoint checkpoints class classes client complete config count cpu cuda data database
dataset datasets debug decoder default defaults degrees delete deploy device devices dict disable
disabled dropout dtype empty enable enabled encoder encryption engine epoch epochs error
evaluate event every example expected export false fast field fields file files final finetune
float fold folder folders fp16 fp32 from full given global gpus grid group guest hint home
host image images inference info input inspect int8 integer internal item items jobs json keys
label labels large last latest layer layers left level linear list local localhost location login
loss lower main mask masks master max maximize mean message metric metrics mini minimize mixed
mode model models more name names nano need network next node nodes none normal null number object
only onnx optim optimizer option options other output page paper parent passphrase password path
pending picture pictures pixel pixels plain plan platform pool port position precision predict
preempted prefix pretrain process processes prod production progress project public python query
rank ranks rate read reader real received remote report request required resize resolve result
results resume root rounds row rows run running sample samples schedule schema score search
seconds secret section seed seen select server service setting settings shape shared show shown
size skill small some source sources spec split stage staging start started state status step
steps strict string study success sum tensorrt test tests text time tiny title token tokens torch
train training trial trials true type unknown unset upper user username val valid validate
validation value values version view warm warning warnings weight weights with word words work
worker workers world write yaml year
"""
_EVERYDAY = frozenset(_EVERYDAY_WORDS.split())

_USERINFO = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*)://([^\s/?#\"'<>]+)@")
_PARAMETER = re.compile(r"""([?&;])([A-Za-z][\w.%-]*)=([^&;\s"'<>#]+)""")
_ASSIGNED = re.compile(
    r"""(?i)\b((?:\w*[_-])?(?:password|passwd|pwd|passphrase|secret|api_?key|token))"""
    r"""(\s*=\s*["']?|["']?\s*:\s*["'])([^\s"',;&}\]]{4,})"""
)
_BEARER = re.compile(r"(?i)\b(authorization:\s*\w+|bearer)\s+[\w.~+/=-]{8,}")
_PAIR = re.compile(r"""([A-Za-z][\w-]*)\s*=\s*("[^"]*"|'[^']*'|[^;&\s]+)""")

_told: set[str] = set()


def note(*values: Any, depth: int = _DEPTH) -> None:
    """Remember secrets that were given to this process outside its environment."""
    for value in values if depth else ():
        if isinstance(value, str) and not value.startswith("env:"):
            _told.update(_parts_of(value))
        elif isinstance(value, (list, tuple)):
            note(*value, depth=depth - 1)
        elif isinstance(value, Mapping):
            note(*value.values(), depth=depth - 1)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            note(str(value))


def note_fields(document: Any, depth: int = _DEPTH) -> None:
    """`note` what stands in a document under the name of a secret, and the credentials of the URLs
    in it, however deep.
    """
    if not depth:  # it holds itself, or will be refused
        return
    if isinstance(document, Mapping):
        for key, value in document.items():
            if any(_names_a_secret(part) for part in str(key).split(".")):
                note(value)
            else:
                note_fields(value, depth - 1)
    elif isinstance(document, (list, tuple)):
        for item in document:
            note_fields(item, depth - 1)
    elif isinstance(document, str) and "://" in document:
        _told.update(_inside(document))


def _names_a_secret(name: str) -> bool:
    """Also where it is misspelled, as the unknown field ``encryption_keyy`` is."""
    import difflib

    return is_secret_name(name) or bool(
        difflib.get_close_matches(name.lower(), ("encryption_key", "api_key", "password"), 1, 0.8)
    )


def note_call(options: Mapping[str, Any]) -> None:
    """`note` what is secret among the options of a call of `Skill.plan`, or of a tool."""
    settings = options.get("env")
    for name, value in options.items():  # an option such as idempotency_key is no secret
        if name == "platform_options" and isinstance(value, Mapping):
            value = {key: one for key, one in value.items() if key not in NAMES_OF_SECRETS}
        if name != "env":
            note_fields(value)
    if isinstance(settings, Mapping):
        note(*secret_settings(settings).values())


def note_words(words: Iterable[str]) -> None:
    """`note` the credentials inside the words of a command line, and what follows ``--env``."""
    before = ""
    for word in words:
        _told.update(_inside(word))
        option, _, rest = word.partition("=")
        setting = rest if option == "--env" else word if before == "--env" else ""
        name, _, value = setting.partition("=")
        note(*secret_settings({name: value}).values())
        before = word


def secret_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """Those of ``--env NAME=VALUE`` whose name says so, or whose value looks like nothing that a
    program is set to: it is long, and no path, URL or number.

    A call is looked at before it is judged, so names and values may be of any type.
    """
    return {
        str(name): str(value)
        for name, value in settings.items()
        if str(value) and (is_secret_name(str(name)) or _looks_secret(str(value)))
    }


def _looks_secret(value: str) -> bool:
    plain = re.fullmatch(r"[\d.,:e+-]+|[\w.-]+(:\d+)?(,[\w.-]+(:\d+)?)+|[\w.-]+:\d+", value)
    return len(value) >= _SETTING and "/" not in value and not plain


def forget() -> None:
    """Know no more than the environment says."""
    _told.clear()


def known() -> list[str]:
    """The secrets of this process, longest first."""
    return _sorted(
        {*secret_values(os.environ), *_told, *_parts_of(*urls.held_variables().values())}
    )


def secret_values(environment: Mapping[str, str], also: Iterable[str] = ()) -> list[str]:
    """The values to hide of an environment, longest first.

    Args:
        also: names of variables that were given with ``--env``.
    """
    return list(_of_environment(tuple(sorted(environment.items())), tuple(sorted(also))))


@lru_cache(maxsize=8)
def _of_environment(items: tuple[tuple[str, str], ...], also: tuple[str, ...]) -> tuple[str, ...]:
    values: set[str] = set()
    for name, value in items:
        if value.startswith("env:"):
            continue
        if is_secret_name(name) or (name in also and _looks_secret(value)):
            values |= _parts_of(value)
        else:
            values |= _inside(value)
    return tuple(_sorted(values))


def _parts_of(*secrets: str) -> set[str]:
    """Secrets, and what of them may be printed alone: a password, a line of a private key."""
    found: set[str] = set()
    for secret in secrets:
        found |= {secret, secret.strip(), *_inside(secret)}
        lines = [line.strip() for line in secret.splitlines()]
        found |= {line for line in lines if len(lines) > 1 and len(line) >= _ANYWHERE}
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(secret) if secret.lstrip().startswith("{") else None
            found |= set(_texts_in(content))
    return {value for value in found if _can_be_hidden(value)}


def _texts_in(content: Any) -> Iterator[str]:
    """The secrets among the fields of a credential in JSON."""
    for name, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, str) and is_secret_name(str(name)):
            yield from _parts_of(value)
        elif isinstance(value, dict):
            yield from _texts_in(value)


def _inside(value: str) -> set[str]:
    """The passwords and tokens inside a URL or a connection string."""
    found: set[str] = set()
    if "://" in value:
        for url_scheme, userinfo in _USERINFO.findall(value):
            found |= set(urls.userinfo_secrets(url_scheme, userinfo))
        found |= {text for _, name, text in _PARAMETER.findall(value) if is_secret_name(name)}
    elif "=" in value:
        found |= {text.strip("\"'") for name, text in _PAIR.findall(value) if is_secret_name(name)}
    found |= {unquote(text) for text in found}
    return {text for text in found if _can_be_hidden(text)}


def _can_be_hidden(value: str) -> bool:
    """The rule of short and common values, as the module's text states it."""
    if value.isdigit():
        return len(value) >= _SHORTEST_NUMBER
    return len(value) >= _SHORTEST and value.lower() not in _EVERYDAY and value != HIDDEN


def _sorted(values: Iterable[str]) -> list[str]:
    return sorted((v for v in values if _can_be_hidden(v)), key=lambda v: (-len(v), v))


def has_credentials(text: str) -> bool:
    """Whether a URL or connection string holds a password or token."""
    return redact(text, ()) != text


@lru_cache(maxsize=16)
def _pattern(secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    forms: set[str] = set()
    for secret in secrets:
        if not _can_be_hidden(secret):
            continue
        written = (
            secret,
            quote(secret, safe=""),
            quote(secret),
            quote_plus(secret),
            json.dumps(secret)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1],
            repr(secret)[1:-1],
        )
        for form in written:
            whole = re.escape(form)
            forms.add(rf"(?<![^\W_]){whole}(?![^\W_])" if len(form) < _ANYWHERE else whole)
    return re.compile("|".join(sorted(forms, key=lambda f: (-len(f), f)))) if forms else None


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` without the secrets and without the credentials inside URLs and assignments."""
    pattern = _pattern(tuple(secrets))
    if pattern is not None:
        text = pattern.sub(HIDDEN, text)
    if "://" in text:
        text = _USERINFO.sub(_without_userinfo, text)
    if "=" in text or ":" in text:
        text = _PARAMETER.sub(_without_value, text)
        text = _ASSIGNED.sub(_without_assigned, text)
        text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    return text


def _without_userinfo(match: re.Match[str]) -> str:
    url_scheme, userinfo = match.groups()
    if not urls.userinfo_secrets(url_scheme, userinfo):
        return match[0]
    user, colon, _ = userinfo.partition(":")
    shown = f"{user}:{HIDDEN}" if colon and urls.names_a_person(url_scheme) else HIDDEN
    return f"{url_scheme}://{shown}@"


def _without_value(match: re.Match[str]) -> str:
    before, name, value = match.groups()
    secret = urls.is_secret_parameter(name) and not value.startswith(("env:", "[redacted"))
    return f"{before}{name}={HIDDEN}" if secret else match[0]


def _without_assigned(match: re.Match[str]) -> str:
    before, mark, value = match.groups()
    is_word = value.lower().rstrip(".)") in _EVERYDAY
    keep = is_word or value.startswith(("env:", "$", "<", "os.environ", "[redacted"))
    return match[0] if keep else f"{before}{mark}{HIDDEN}"


def redact_tree(value: Any, secrets: Iterable[str]) -> Any:
    """A JSON value with every text redacted."""
    secrets = tuple(secrets)
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, dict):
        return {
            redact(key, secrets) if isinstance(key, str) else key: redact_tree(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact_tree(item, secrets) for item in value]
    return value


def redact_error(error: MaeError) -> None:
    """Take the known secrets out of an error, in place."""
    secrets = known()
    error.message = redact(error.message, secrets)
    error.args = (error.message, *error.args[1:])
    error.got = redact_tree(error.got, secrets)
    error.expected = error.expected and redact(error.expected, secrets)
    error.hint = error.hint and redact(error.hint, secrets)
    for problem in getattr(error, "problems", ()):
        redact_error(problem)


@contextlib.contextmanager
def clean_errors() -> Iterator[None]:
    """Errors leave the block without secrets."""
    try:
        yield
    except MaeError as error:
        redact_error(error)
        cause = error.__cause__ or error.__context__
        if cause is not None and redact(str(cause), known()) != str(cause):
            raise error from None  # a library's words, in which the secret stands
        raise
