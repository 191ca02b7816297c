"""The warm start of the local platform: jobs of one process fork from a runner that is loaded.

A bundle may name a ``warm_command``: a process that has imported its libraries and forks a runner
for every request at a Unix socket (the bundled skill has one). It is detached, serves the trials of
one study, outlives their controller, and ends when dismissed or idle.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mae_sdk.run.process_group import child_environment

SOCKET_VARIABLE = "MAE_WARM_SOCKET"
LOG_NAME = "warm.log"
_LOADING_SECONDS = 120.0


def client_command(command: Sequence[str]) -> list[str]:
    """The command that has `command` run in a fork of the warm runner, or runs it itself."""
    return [sys.executable, "-m", "mae_sdk.run.warm_client", *command]


def start(command: Sequence[str], folder: Path) -> Path | None:
    """Start, or find, the warm runner that belongs to `folder`, where its log is.

    Args:
        command: with ``{python}`` and ``{socket}`` to be filled in.

    Returns:
        Its socket; None where it does not come up.
    """
    path = _socket_path(folder)
    if path is None or _answers(path):
        return path

    path.unlink(missing_ok=True)
    places = {"{python}": sys.executable, "{socket}": str(path)}
    words = [places.get(word, word) for word in command]
    inherited = {
        k: v for k, v in child_environment(os.environ, words).items() if not k.startswith("MAE_JOB")
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG_NAME).open("ab") as log:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # OpenMP reads this when it is loaded, once for all forks: a thread that waits for
                # its team must sleep, or it takes the core that a neighbor's thread needs.
                env={"OMP_WAIT_POLICY": "PASSIVE", **inherited},
            )
        except OSError as error:  # no such program: jobs start cold
            log.write(f"the warm start cannot be run: {error}\n".encode())
            return None

    deadline = time.monotonic() + _LOADING_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if _answers(path):
            return path
        time.sleep(0.05)
    return None


def dismiss(folder: Path) -> None:
    """Tell the warm runner of `folder`, if there is one, that no more jobs will come."""
    import socket

    path = _socket_path(folder)
    body = b'{"end": true}'
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(len(body).to_bytes(8, "big") + body)


def socket_folder(base: str = "/tmp") -> Path | None:
    """A folder with a short path that only this user can enter.

    Whoever answers at a socket is handed the environment of a job, so nobody else may put one
    there.

    Returns:
        None where somebody else holds its name.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR") or base
    folder = Path(runtime if Path(runtime).is_dir() else base) / f"mae-warm-{os.getuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError:
        return None

    is_private = not status.st_mode & 0o077 and status.st_uid == os.getuid()
    return folder if stat.S_ISDIR(status.st_mode) and is_private else None


def _socket_path(folder: Path) -> Path | None:
    import hashlib

    place = socket_folder()
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    return None if place is None else place / f"{name}.sock"


def _answers(path: Path) -> bool:
    import socket

    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        return True
    return False
