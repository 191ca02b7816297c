"""Values that must never be seen again: the places where they go in, and where to look for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

NAMES = (
    *(
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "GOOGLE_CREDENTIALS",
        "AZURE_STORAGE_KEY",
    ),
    *("WANDB_API_KEY", "HF_TOKEN", "MY_PASSWORD", "PROXY_AUTH"),
    *("DB_PASS", "MYSQL_PWD", "SSH_PASSPHRASE", "AZURE_SAS", "SESSION_COOKIE", "clientSecret"),
)
MARK = "kanarienvogel"  # in no path and no test name


def canary(place: str) -> str:
    """The value that goes in there, and nowhere else."""
    return f"{MARK}-" + "".join(c if c.isalnum() else "-" for c in place.lower()).strip("-")


def _at(place: str, template: str) -> str:
    return template.replace("*", canary(place))


VARIABLES = {name: canary(name) for name in NAMES} | {
    name: _at(name, template)
    for name, template in {
        "SLACK_WEBHOOK": "https://hooks.example.com/services/*",
        "REDIS_URL": "redis://:*@localhost/0",
        "DATABASE": "postgresql://user:*@localhost/db",
        "DATABASE_URL": "mysql://localhost/db?user=u&password=*",
        "GIT_REMOTE": "https://*@github.com/o/r",
        "BLOB_STORE": "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=*;Suffix=x",
        "SERVICE_ACCOUNT_CREDENTIALS": '{"type": "service_account", "private_key": "*"}',
        "MULTILINE_KEY": "-----BEGIN-----\n*\n-----END-----",
        "QUOTED_TOKEN": '*"quoted"+and%percent',
    }.items()
}
"""Variable of the caller → its value."""

SETTINGS = {
    "JOB_SECRET": canary("JOB_SECRET"),
    "JOB_DB_PASS": canary("JOB_DB_PASS"),
    "LICENSE": canary("LICENSE"),  # nothing in its name says so
}
"""``--env NAME=VALUE``."""

URLS = [
    _at(template, template)
    for template in (
        "https://*@127.0.0.1:9/x.tar",
        "https://user:*@127.0.0.1:9/x.tar",
        "https://*:x-oauth-basic@127.0.0.1:9/x.tar",
        "sftp://user:*@127.0.0.1:9/x.tar",
        "s3://AKID:*@bucket/x.tar",
        *(
            f"https://127.0.0.1:9/x.tar?{name}=*"
            for name in (
                *("api_key", "apikey", "password", "auth", "jwt", "sig", "token", "access_token"),
                *("X-Amz-Signature", "X-Amz-Security-Token", "X-Amz-Credential", "client_secret"),
            )
        ),
    )
]
"""URLs in a spec."""

STORAGES = [
    _at(template, template)
    for template in (
        "postgresql://user:*@localhost/db",
        "postgresql://localhost/db?user=u&password=*",
    )
]
"""``--automl storage=URL``."""

ROOT = _at("results root", "sftp://user:*@127.0.0.1:9/results")
KEY = canary("encryption_key")

WRONG_FIELDS = {
    "encryption_keyy": canary("encryption_keyy"),
    "wandb.api_key": canary("wandb.api_key"),
    "encryption_key": [canary("a list of keys")],
    "train.optim.password": canary("train.optim.password"),
}
"""What a spec cannot hold, so that it is named in an error."""

PLACES = sorted(
    {
        *VARIABLES,
        *(f"--env {name}" for name in SETTINGS),
        *URLS,
        *(f"storage {url}" for url in STORAGES),
        *(f"field {name}" for name in WRONG_FIELDS),
        "results root",
        "encryption_key",
    }
)
"""Every place where a canary goes in."""


def shown(sinks: Mapping[str, str]) -> list[str]:
    """``sink: what stands there`` of every sink (name → text) in which a canary is seen."""
    found = []
    for name, text in sinks.items():
        at = text.find(MARK)
        if at >= 0:
            found.append(f"{name}: …{text[max(0, at - 60) : at + 60]}…")
    return found


@contextmanager
def watched_argv() -> Iterator[list[str]]:
    """Every command line of this machine that shows a canary while the block runs."""
    seen: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if MARK in text:
                    seen.append(text)
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def files_with_mark(root: Path) -> list[str]:
    return [
        str(path)
        for path in root.rglob("*")
        if path.is_file() and MARK.encode() in path.read_bytes()
    ]
