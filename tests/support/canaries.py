"""Values that must never be seen again, and where to look for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
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
)
MARK = "kanarienvogel"  # in no path and no test name


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
