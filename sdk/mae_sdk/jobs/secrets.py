"""Which values are secrets, and their removal from text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

ENCRYPTION_VARIABLE = "MAE_ENCRYPTION_KEY"
ENCRYPTION_REFERENCE = f"env:{ENCRYPTION_VARIABLE}"
DATABASE_VARIABLE = "MAE_DATABASE_SECRET"
DATABASE_REFERENCE = f"env:{DATABASE_VARIABLE}"
HIDDEN = "[redacted]"

_NAME = re.compile(r"KEY|SECRET|TOKEN|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
_URL_PASSWORD = re.compile(
    r"(?<=://)(?!env:MAE_URL_SECRET_)([^/\s:@]+):([^/\s@]+)(?=@)"
)  # a sealed URL says where its secret is

_SIGNATURE = re.compile(
    r"""(?i)((?<=[?&])(?:x-amz-(?:signature|credential|security-token)"""
    r"""|x-goog-(?:signature|credential)|signature|sig|token|access_token)=)[^&\s"'<>]+"""
)


def is_secret_name(name: str) -> bool:
    """Whether a variable or field of this name holds a secret by its looks."""
    return bool(_NAME.search(name)) and not name.upper().endswith(("_FILE", "_PATH"))


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """The values to hide, passwords inside URLs among them, longest first.

    Very short ones are left: hiding them would garble the text and hide nothing.
    """
    values = {
        value
        for name, value in environment.items()
        if is_secret_name(name) and not value.startswith("env:")
    }
    values |= {
        password
        for value in environment.values()
        if "://" in value
        for _, password in _URL_PASSWORD.findall(value)
    }
    return sorted((value for value in values if len(value) >= 6), key=len, reverse=True)


def has_password(url: str) -> bool:
    """Whether a URL holds one."""
    return bool(_URL_PASSWORD.search(url))


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` without the secrets and without passwords and signatures inside URLs."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _SIGNATURE.sub(rf"\1{HIDDEN}", _URL_PASSWORD.sub(rf"\1:{HIDDEN}", text))


def redact_tree(value: Any, secrets: list[str]) -> Any:
    """A JSON value with every text redacted."""
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, dict):
        return {key: redact_tree(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [redact_tree(item, secrets) for item in value]
    return value
