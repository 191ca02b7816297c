"""Which names say that their value is a secret: of a variable, a field, a parameter of a URL."""

from __future__ import annotations

import re

_WORDS = frozenset(
    {
        *("AUTH", "AUTHORIZATION", "BEARER", "CONNSTR", "CRED", "CREDS", "DSN", "HMAC", "KEYS"),
        *("OTP", "PAT", "PIN", "PSK", "PW", "SAS", "SIG", "SECRETS", "PASSWORDS", "CREDENTIALS"),
        *("COOKIES", "WEBHOOKS"),
    }
)
_ENDINGS = (
    *("KEY", "SECRET", "TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "PASSCODE", "PASSWRD"),
    *("COOKIE", "SIGNATURE", "CREDENTIAL", "WEBHOOK", "JWT", "PWD", "PASS", "OAUTH"),
)
_OTHER_WORDS = frozenset({"MONKEY", "DONKEY", "TURKEY", "HOTKEY", "COMPASS", "BYPASS"})
_OTHER_NAMES = frozenset({"PWD", "OLDPWD"})
_OTHER_ENDINGS = ("_FILE", "_PATH", "_DIR", "_SOCK")  # where something is, not what it is
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[A-Z]+")


def is_secret_name(name: str) -> bool:
    """Whether a name such as ``DB_PASS``, ``apiKey`` or ``X-Amz-Signature`` is that of a secret.

    ``TOKENIZERS_PARALLELISM`` and ``keyboard`` are not: only whole words and their ends count.
    """
    upper = name.upper()
    if upper in _OTHER_NAMES or upper.endswith(_OTHER_ENDINGS):
        return False
    words = [word.upper() for word in _PARTS.findall(name)]
    if "CONNECTION" in words and "STRING" in words:
        return True
    return any(
        word in _WORDS or (word.endswith(_ENDINGS) and word not in _OTHER_WORDS) for word in words
    )
