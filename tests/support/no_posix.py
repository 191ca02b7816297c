"""A Python without what Windows lacks: ``python -m tests.support.no_posix R DATA SPEC``.

Our packages cannot import ``fcntl`` and the like, and nobody finds ``fork``, ``pread``, ``poll``
and the rest, or opens anything under ``/proc``. ``msvcrt.locking`` is there, with the one thing
that is asked of it. What the caller's side answers is printed as one JSON document.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import select
import signal
import socket
import sys
import types
from typing import Any

BLOCKED = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty")
LACKING = {
    os: (
        *("fork", "forkpty", "getuid", "geteuid", "getgid", "getegid", "pread", "killpg", "setsid"),
        *("getpgid", "setpgid", "sched_getaffinity", "sysconf", "O_NONBLOCK", "O_CLOEXEC"),
        "mkfifo",
    ),
    select: ("poll", "epoll"),
    signal: ("SIGKILL", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGCHLD"),
    socket: ("AF_UNIX",),
}


def main(root: str, data: str, spec: str) -> dict[str, Any]:
    tried = block()
    from mae_sdk.cli.main import main as mae

    def call(*words: str) -> dict[str, Any]:
        out, err = io.StringIO(), io.StringIO()
        code: Any = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                mae([*words, "--json"])
            except SystemExit as end:
                code = end.code or 0
        text = out.getvalue() if not code else err.getvalue().strip().splitlines()[-1]
        return {**json.loads(text), "exit": code}

    common = ["--train-datasets", data, "--results-root", root, "--automl-policy", "off"]
    small = ["arch=vit_tiny_patch16", "image_size=32"]
    found = {
        "plan": call("plan", "train", *common, *small),
        "inspect": call("inspect", data),
        "validate": call("validate", "train", "-e", spec),
        "run": call("run", "train", *common, *small),
        "list": call("jobs", "list", "--results-root", root),
        "doctor": call("doctor", "--results-root", root),
        "platforms": call("platforms", "local"),
    }
    for command in ("status", "metrics", "logs", "show"):
        found[command] = call("jobs", command, "train-1", "--results-root", root)
    found["report"] = call("report", "train-1", "--results-root", root)
    found["mcp"] = tool(root)
    return {**found, "tried": sorted(tried)}


def tool(root: str) -> dict[str, Any]:
    from mae_sdk import Skill
    from mae_sdk.mcp_server import answer, tools

    skill = Skill()
    offered = {one.name: one for one in tools(skill)}
    document, failed = answer(skill, offered["jobs"], {"results_root": root})
    return {"failed": failed, **document}


def block() -> set[str]:
    """Take everything away; what our packages still asked for is collected."""
    import asyncio  # noqa: F401  (of this system, with all that it has)
    import fcntl

    locks = types.ModuleType("msvcrt")
    locks.LK_NBLCK = 2  # type: ignore[attr-defined]

    def locking(descriptor: int, mode: int, count: int) -> None:
        assert mode == 2 and count == 1
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    locks.locking = locking  # type: ignore[attr-defined]
    sys.modules["msvcrt"] = locks

    tried: set[str] = set()
    whole = builtins.__import__

    def importing(name: str, globals: Any = None, *rest: Any, **more: Any) -> Any:
        if name in BLOCKED and str((globals or {}).get("__name__", "")).startswith("mae_"):
            tried.add(name)
            raise ImportError(name)
        return whole(name, globals, *rest, **more)

    builtins.__import__ = importing
    for module, names in LACKING.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith("/proc"):
            raise FileNotFoundError(2, "no /proc here", arguments[0])

    sys.addaudithook(watch)
    return tried


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
