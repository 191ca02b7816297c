"""Whether a process is the one that we started: host, boot, pid, start time, and not a zombie.

A pid alone does not tell: it is reused, a zombie still has one, and the same number means another
process on another host, after a reboot, or in another container.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from mae_sdk import files
from mae_sdk.jobs.records import ProcessIdentity

_PROC = Path("/proc")


def boot_id() -> str:
    """A name of this boot of this machine; empty where the system has none."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _stat_fields(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state (index 0) on; None without such a process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None

    # The command's name, in brackets, may itself hold blanks and brackets.
    return text[text.rfind(")") + 2 :].split()


def start_time(pid: int) -> str | None:
    """When the process started, in kernel ticks since boot; None without it or /proc."""
    fields = _stat_fields(pid)
    return fields[19] if fields else None


def identify(pid: int | None = None) -> ProcessIdentity:
    """What `is_alive` needs to recognize the process later."""
    pid = os.getpid() if pid is None else pid
    return {
        "host": files.host_name(),
        "boot_id": boot_id(),
        "pid_namespace": _pid_namespace(),
        "pid": pid,
        "start_time": start_time(pid),
    }


def same_host(identity: ProcessIdentity) -> bool:
    """Whether this process can see the other: same machine, same numbering of processes."""
    return identity.get("host") == files.host_name() and identity.get("pid_namespace", "") in (
        "",
        _pid_namespace(),
    )


def is_alive(identity: ProcessIdentity) -> bool | None:
    """True, False, or None where it cannot be seen from here (another host or container)."""
    if not same_host(identity):
        return None
    if identity.get("boot_id") != boot_id():
        return False

    pid = int(identity["pid"])
    if not _PROC.is_dir():  # no /proc: the pid is all there is
        # On Windows a signal 0 would end the process; no job of ours runs there.
        return _signal_reaches(pid) if os.name == "posix" else None
    fields = _stat_fields(pid)
    if fields is None or fields[0] in ("Z", "X"):  # gone, or a zombie
        return False
    return identity.get("start_time") in (None, fields[19])


def _signal_reaches(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _processes_with(variable: str, value: str) -> Iterator[int]:
    needle = f"{variable}={value}".encode()
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # gone, or another user's
            continue
        if needle in environment.split(b"\0"):
            yield int(entry.name)


def kill_leftovers(job_dir: Path) -> list[int]:
    """Kill what a dead supervisor left behind: processes with ``MAE_JOB_DIR=<job_dir>`` in their
    environment.

    Returns:
        The pids that were killed.
    """
    killed = []
    for pid in _processes_with("MAE_JOB_DIR", str(job_dir)):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue
        killed.append(pid)

    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline and any(_runs(pid) for pid in killed):
        time.sleep(0.01)
    return killed


def end_strays(job_dir: Path, group: int, grace: float = 5.0) -> list[int]:
    """End what a command left running when it ended: SIGTERM, then SIGKILL after `grace` seconds.

    Args:
        group: the process group of the command; what left it is found as by `kill_leftovers`.

    Returns:
        The pids that were ended.
    """
    found = [
        pid
        for pid in {*_members(group), *_processes_with("MAE_JOB_DIR", str(job_dir))}
        if _runs(pid)
    ]
    deadline = time.monotonic() + grace
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in found:
            if _runs(pid):
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
        while time.monotonic() < deadline and any(_runs(pid) for pid in found):
            time.sleep(0.02)
        deadline = time.monotonic() + 2.0
    return sorted(found)


def _members(group: int) -> Iterator[int]:
    """The processes of a group."""
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        fields = _stat_fields(int(entry.name)) if entry.name.isdigit() else None
        if fields is not None and fields[2] == str(group):
            yield int(entry.name)


def _runs(pid: int) -> bool:
    fields = _stat_fields(pid)
    return fields is not None and fields[0] not in ("Z", "X")
