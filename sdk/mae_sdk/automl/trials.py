"""Trials as child jobs on this machine: ``<results root>/<automl job>.t003``, each under its own supervisor.

A trial's folder is made whole (in a temporary name, then renamed), so that it exists or does not. A supervisor is started under the
folder's start lock and its process is recorded, so that a trial never has two.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mae_sdk import files
from mae_sdk.automl.backend import Seen
from mae_sdk.jobs import records
from mae_sdk.jobs.status import read_status
from mae_sdk.run.process import identify, is_alive, kill_leftovers

_RANK_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
_START_SECONDS = 20.0


class LocalChildren:
    """The local backend of a study; see `loop.Backend`.

    Args:
        job_dir: the AutoML job's folder; children lie beside it.
        study: the content of ``study.json``.
        socket: of the warm runner, or None.
    """

    def __init__(
        self,
        job_dir: Path,
        study: Mapping[str, Any],
        *,
        concurrency: int = 1,
        socket: Path | None = None,
    ) -> None:
        self.job_dir = job_dir
        self.owner = job_dir.name
        self.study = study
        self.concurrency = concurrency
        self.socket = socket
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def path(self, number: int) -> Path:
        return self.job_dir.parent / f"{self.job_dir.name}.t{number:03d}"

    def create(self, number: int, spec: Mapping[str, Any]) -> Path:
        child = self.path(number)
        if (child / records.RECORD_NAME).exists():
            return child
        with files.atomic_folder(child, replace=True) as temporary:
            _write_spec(temporary / "spec.yaml", _moved(spec, str(self.job_dir), str(child)))
            parent = records.read_record(self.job_dir)
            places = {
                "{config_path}": str(child / "spec.yaml"),
                "{job_dir}": str(child),
                "{job_id}": child.name,
                "{python}": sys.executable,
            }
            launch = {
                name: _fill(value, places) if isinstance(value, str) else value
                for name, value in self.study["launch"].items()
            }
            launch["command"] = [_fill(word, places) for word in launch["command"]]
            content: dict[str, Any] = {
                key: value for key, value in parent.items() if key not in _OWN
            }
            content.update(
                id=child.name,
                kind="trial",
                action=self.study.get("action", "train"),
                automl_parent=self.job_dir.name,
                trial=number,
                launch=launch,
            )
            record = cast(records.JobRecord, content)
            records.new_attempt(record)
            files.write_json(temporary / records.RECORD_NAME, record)
        return child

    def start(self, child: Path, slot: int) -> None:
        with files.locked(child / ".start.lock"):
            record = records.read_record(child)
            if records.is_terminal(records.last_attempt(record)["state"]) or self._supervised(
                child
            ):
                return
            if found := _unrecorded(
                child
            ):  # a controller was killed between starting it and writing it down
                files.write_json(
                    child / "supervisor.json", {**identify(found), "slot": slot, "at": time.time()}
                )
                return
            kill_leftovers(child)
            environment = {
                key: value
                for key, value in os.environ.items()
                if key not in _RANK_VARIABLES and not key.startswith("MAE_JOB")
            }
            environment.pop("MAE_ATTEMPT", None)
            environment["MAE_TRIAL_METRICS"] = ",".join(
                item["metric"] for item in self.study.get("objectives", ())
            )
            if self.concurrency > 1:
                environment.setdefault(
                    "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.concurrency))
                )
            if self.socket is not None and int(record["launch"].get("processes") or 1) == 1:
                environment["MAE_WARM_SOCKET"] = str(self.socket)
                self._warm(child)
            process = subprocess.Popen(
                [sys.executable, "-m", "mae_sdk.run.supervisor", str(child)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=environment,
            )
            files.write_json(
                child / "supervisor.json",
                {**identify(process.pid), "slot": slot, "at": time.time()},
            )
            self._started[child.name] = process

    def _warm(self, child: Path) -> None:
        """The runner's command goes through the warm client, which falls back to the command itself."""

        def change(record: records.JobRecord) -> None:
            command = record["launch"]["command"]
            if "mae_sdk.automl.warm_client" not in command:
                record["launch"]["command"] = [
                    sys.executable,
                    "-m",
                    "mae_sdk.automl.warm_client",
                    *command,
                ]

        records.update_record(child, change)

    def retry(self, child: Path, slot: int, spec: Mapping[str, Any] | None) -> None:
        def change(record: records.JobRecord) -> None:
            if not records.is_terminal(records.last_attempt(record)["state"]):
                records.advance(record, records.ERROR, "its supervisor is gone")
            records.new_attempt(record, "retried by the study")

        self._let_go(child)
        (child / records.CANCEL_NAME).unlink(missing_ok=True)
        records.update_record(child, change)
        if spec is None:
            from mae_sdk.jobs.resume import prepare

            prepare(child)  # it goes on from its own newest checkpoint
        else:  # checkpoints of another spec are of no use to it
            shutil.rmtree(child / str(self.study.get("action", "train")), ignore_errors=True)
            _write_spec(child / "spec.yaml", spec)
        self.start(child, slot)

    def _let_go(self, child: Path) -> None:
        """Waits for a supervisor that has written its last state and is on its way out; `start` would take it for a live one."""
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        while self._supervised(child) and time.monotonic() < deadline:
            time.sleep(0.005)

    def observe(self, child: Path) -> Seen:
        process = self._started.get(child.name)
        if process is not None:
            process.poll()
        record = records.read_record(child)
        attempt = records.last_attempt(record)
        if (
            attempt["state"] == records.PREEMPTED
            and self._supervised(child)
            and not attempt.get("told_to_stop")
        ):
            return Seen(records.RUNNING)  # its supervisor starts the next attempt by itself
        if records.is_terminal(attempt["state"]):
            problem: Mapping[str, Any] = attempt.get("failure") or {}
            state = attempt["state"] if attempt["state"] != records.PREEMPTED else records.ERROR
            category = (
                "signal"
                if attempt["state"] == records.PREEMPTED
                else str(problem.get("category", ""))
            )
            return Seen(
                state,
                category,
                str(problem.get("message", "") or attempt["transitions"][-1].get("reason", "")),
            )
        if not self._supervised(child):
            record = records.read_record(child)  # it may have ended between the two looks
            if not records.is_terminal(records.last_attempt(record)["state"]):
                return Seen(records.ERROR, "lost_process", "its supervisor is gone")
        return Seen(attempt["state"])

    def _supervised(self, child: Path) -> bool:
        try:
            identity = cast(records.ProcessIdentity, files.read_json(child / "supervisor.json"))
        except (OSError, ValueError):
            return False
        process = self._started.get(child.name)
        if process is not None and process.pid == identity.get("pid"):
            return process.poll() is None
        return is_alive(identity) is not False

    def records(self, child: Path) -> list[dict[str, Any]]:
        return read_status(child / "status.json")

    def spec(self, child: Path) -> dict[str, Any]:
        import yaml

        # written by `_write_spec`, whose output YAML 1.1 and 1.2 readers take alike
        return dict(
            yaml.load(
                (child / "spec.yaml").read_text(),
                Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader),
            )
        )

    def slot(self, child: Path) -> int | None:
        try:
            return int(files.read_json(child / "supervisor.json")["slot"])
        except (OSError, ValueError, KeyError):
            return None

    def cancel(self, child: Path) -> None:
        if not records.is_terminal(records.state_of(records.read_record(child))):
            (child / records.CANCEL_NAME).touch()


def _unrecorded(child: Path) -> int | None:
    """The process id of a live supervisor of this child, found by its command line (Linux; elsewhere None)."""
    wanted = b"\0".join([b"-m", b"mae_sdk.run.supervisor", os.fsencode(child)]) + b"\0"
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().endswith(b"\0" + wanted):
                return int(path.parent.name)
    return None


_LAST_WORDS_SECONDS = 60.0
"""Between a supervisor's terminal state and its end it copies the record to the results' remote place, at most."""

_OWN = frozenset({"id", "attempts", "launch", "automl", "idempotency_key", "spec_digest", "digest"})
"""Fields of the AutoML job's record that its children do not take over."""


def _fill(word: str, places: Mapping[str, str]) -> str:
    for name, value in places.items():
        word = word.replace(name, value)
    return word


def _moved(value: Any, old: str, new: str) -> Any:
    """A copy of a spec in which every path of the study's own folder is the same path of the child's."""
    if isinstance(value, Mapping):
        return {key: _moved(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, old, new) for item in value]
    if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
        return new + value[len(old) :]
    return value


def _write_spec(path: Path, spec: Mapping[str, Any]) -> None:
    from mae_skill.reader import dump_yaml

    files.write_text(path, dump_yaml(dict(spec)))


def socket_folder(base: str = "/tmp") -> Path | None:
    """A folder that this user alone can enter, with a short path; None where somebody else holds its name.

    Whoever answers at the socket is handed the environment of a trial: nobody else may put one there.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR") or base
    folder = Path(runtime if Path(runtime).is_dir() else base) / f"mae-warm-{os.getuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError:
        return None
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if mine else None


def start_warm(job_dir: Path, command: Sequence[str], socket: Path) -> Path | None:
    """Start (or find) the warm runner of a job; it is detached and ends by itself when idle. None when it does not come up."""
    import socket as sockets

    def answers() -> bool:
        with contextlib.suppress(OSError), sockets.socket(sockets.AF_UNIX) as probe:
            probe.connect(str(socket))
            return True
        return False

    if answers():
        return socket
    socket.unlink(missing_ok=True)
    words = [_fill(word, {"{python}": sys.executable, "{socket}": str(socket)}) for word in command]
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in _RANK_VARIABLES and not key.startswith("MAE_JOB")
    }
    with open(job_dir / "automl" / "warm.log", "ab") as log:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
        )
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline and process.poll() is None:
        if answers():
            return socket
        time.sleep(0.05)
    return None
