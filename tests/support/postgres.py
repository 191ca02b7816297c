"""A real PostgreSQL on a loopback port, started unprivileged for one test session."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def missing() -> str | None:
    """Why PostgreSQL cannot be started here, or None."""
    lacking = [name for name in ("initdb", "pg_ctl") if shutil.which(name) is None]
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        lacking.append("setpriv")
    return f"not installed: {', '.join(lacking)}" if lacking else None


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Start a server with an empty database; yields its URL
    ``postgresql://mae@127.0.0.1:PORT/postgres``."""
    folder = Path(tempfile.mkdtemp(prefix="mae-pg-"))
    prefix: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        user = pwd.getpwnam("nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)
        prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"

    def run(*command: str) -> None:
        subprocess.run(
            [*prefix, *command], check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=120
        )

    try:
        run("initdb", "-D", str(data), "-U", "mae", "-A", "trust", "--no-sync")
        options = (
            f"-p {port} -c listen_addresses=127.0.0.1"
            f" -c unix_socket_directories={folder} -c fsync=off"
        )
        run("pg_ctl", "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
        yield f"postgresql://mae@127.0.0.1:{port}/postgres"
    finally:
        with contextlib.suppress(subprocess.SubprocessError):
            run("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
