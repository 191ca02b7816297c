"""``python -m mae_sdk.run.supervisor JOB_DIR``: run one job to its end. Standard library only.

It starts in tens of milliseconds, reads ``job.json``, starts the ranks, and alone writes the
terminal state:

==================================  =====================================================
the ranks end with                  the attempt becomes
==================================  =====================================================
0, and the result was written       COMPLETE
0, and no result                    ERROR
75, and nobody stopped us           PREEMPTED, and the next attempt starts here, as long as
                                    each gets further (`mae_sdk.jobs.progress`)
75, after a SIGTERM to us           PREEMPTED; the job waits (PENDING) to be resumed
a kill, after a SIGTERM to us       the same where an engine sent it: it had no time to save
anything after a request to cancel  CANCELED
anything else                       ERROR, with a failure analysis
==================================  =====================================================

A supervisor whose job is no longer its own kills the ranks and writes nothing more: its folder was
removed, or the newest attempt is another supervisor's.

An engine that starts a preempted or lost job again runs the same command: an attempt that has
already begun ends PREEMPTED, and the next one starts from the newest checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_skill.errors import MaeError, NotFoundError, StorageError

from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.jobs.failure import analyze, failure
from mae_sdk.jobs.records import Failure, JobRecord, Launch
from mae_sdk.jobs.secrets import redact_tree, secret_values
from mae_sdk.jobs.status import (
    SUCCESS,
    StatusWriter,
    is_failure,
    marks,
    read_status,
    reported_failure,
)
from mae_sdk.run import report_process, warm
from mae_sdk.run.devices import THREADS, CoreShare
from mae_sdk.run.output import clean_output
from mae_sdk.run.platform import DEFAULT, platform_of
from mae_sdk.run.process import end_strays, identify, is_alive, kill_leftovers
from mae_sdk.run.process_group import (
    PREEMPTED_EXIT,
    Outcome,
    note_signals,
    start_and_watch,
)

if TYPE_CHECKING:
    from mae_sdk.jobs.sync import FolderSync

_ROOM_SECONDS = 60.0
_OTHER_SECONDS = 180.0
"""So long at most a supervisor that was told to stop saves and copies."""
_SILENT_SECONDS = 2.5 * records.HEARTBEAT_SECONDS
"""Without a heartbeat for so long, a supervisor on another host is gone."""
_SIGNAL_SECONDS = 1.0
"""Between the signals of an engine to the processes of one job."""
_KILLED = (-signal.SIGTERM, -signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGKILL)
_EXITS = {records.COMPLETE: 0, records.CANCELED: 6, records.PREEMPTED: PREEMPTED_EXIT}
_LOOK_SECONDS = 0.2
"""Between two looks for a record, without which a job is taken for removed."""


class _StillRunsError(Exception):
    """The supervisor of an earlier start of the job is alive."""


class _NoLongerOursError(Exception):
    """The job is removed, or another supervisor's."""

    def __init__(self, why: str, exit_code: int) -> None:
        super().__init__(why)
        self.exit_code = exit_code


def main(argv: list[str] | None = None) -> int:
    """Supervise the job folder named on the command line.

    The exit code says how the job ended: 0, 6 (canceled, or its folder was removed), 75
    (preempted), or that of the runner which failed; 5 where it has none, or one of these. 0 too
    where another supervisor runs the job: an engine must not start it once more.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        print("usage: python -m mae_sdk.run.supervisor JOB_DIR", file=sys.stderr)
        return 2
    with clean_output():
        return supervise(Path(arguments[0]).resolve())


def supervise(job_dir: Path) -> int:
    """Run the pending attempt of a job, and those that follow from preemption, to the end."""
    record = _claim(job_dir)
    if record is None:
        return 0

    if (reason := _why_no_more(job_dir, record)) is not None:  # its engine would start it for ever
        _end(job_dir, reason)
        return 5

    try:
        return _to_the_last(job_dir, record)
    except _NoLongerOursError as error:
        print(f"supervisor of {job_dir.name}: {error}; it ends", file=sys.stderr)
        return error.exit_code


def _to_the_last(job_dir: Path, record: JobRecord) -> int:
    """Run an attempt, and those that follow from preemption; returns the exit code.

    Raises:
        _NoLongerOursError: the job was removed, or another supervisor has opened an attempt.
    """
    while True:
        number = records.last_attempt(record)["number"]
        state = _attempt(job_dir, record)
        if state == records.COMPLETE:  # whoever removes it now has a job that ended well
            return 0
        _check_ours(job_dir, number)
        if state != records.PREEMPTED:
            return _exit_of_error(job_dir) if state == records.ERROR else _EXITS.get(state, 5)

        read = records.read_record(job_dir)
        last = records.last_attempt(read)
        if last.get("told_to_stop"):
            return PREEMPTED_EXIT
        if last["state"] != records.PREEMPTED:
            return _EXITS.get(last["state"], 5)

        if (reason := _why_no_more(job_dir, read)) is not None:
            _give_up(job_dir, reason)
            return 5
        following = _next_attempt(job_dir)
        if following is None:
            _check_ours(job_dir, number)
            return PREEMPTED_EXIT
        record = following


def _check_ours(job_dir: Path, number: int) -> None:
    """Find out whether an attempt of ours is still the newest of a job that is there.

    A folder that cannot be read for another reason, as while a network is away, is there.

    Raises:
        _NoLongerOursError: it is not.
    """
    try:
        newest = records.last_attempt(records.read_record(job_dir))["number"]
    except NotFoundError:
        time.sleep(_LOOK_SECONDS)
        if _is_there(job_dir / records.RECORD_NAME):  # of a newer version, for one
            return
        raise _NoLongerOursError("its folder was removed", 6) from None
    except MaeError:
        return
    if newest != number:
        raise _NoLongerOursError(f"attempt {newest} runs elsewhere", 0)


def _is_there(path: Path) -> bool:
    """Whether a file is there, or its file system does not say."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _exit_of_error(job_dir: Path) -> int:
    """The exit code of the runner that failed, as a shell says it."""
    code = records.last_attempt(records.read_record(job_dir)).get("exit_code")
    code = 128 - code if code is not None and code < 0 else code
    return code if code and code < 256 and code not in _EXITS.values() else 5


def _claim(job_dir: Path) -> JobRecord | None:
    """Make this process the one that runs the last attempt, or a next one where that has begun.

    An engine may start a job again while the supervisor on a lost node still saves: its end is
    waited for.

    Returns:
        The record; None where another supervisor runs the job, or it has ended.

    Raises:
        SystemExit: the other one does not end, so the engine is to start the job once more.
    """
    deadline = time.monotonic() + _OTHER_SECONDS
    while True:
        with contextlib.suppress(_StillRunsError):
            return _claimed(job_dir)
        if time.monotonic() > deadline:
            raise SystemExit(PREEMPTED_EXIT)
        time.sleep(0.2)


def _claimed(job_dir: Path) -> JobRecord | None:
    """`_claim`, once.

    Raises:
        _StillRunsError: the supervisor of an earlier start of this job by its engine is alive.
    """
    mine = identify()
    with records.locked(job_dir):
        record = records.read_record(job_dir)
        attempt = records.last_attempt(record)
        other = attempt["process"]
        if attempt["state"] in records.TERMINAL:
            return None
        if other and other != mine:
            if "handle" in attempt:  # once it is PREEMPTED, all has been saved
                if attempt["state"] != records.PREEMPTED and _still_runs(job_dir, other):
                    raise _StillRunsError
            elif is_alive(other):
                return None  # two were started: the first one runs

        has_begun = attempt["state"] != records.PENDING
        if has_begun:
            there = _reached(job_dir, record)
            records.advance(record, records.PREEMPTED, "started again by its platform", **there)
        else:
            attempt["process"] = mine
        records.write_record(job_dir, record)
    return _next_attempt(job_dir) if has_begun else record


def _still_runs(job_dir: Path, other: records.ProcessIdentity) -> bool:
    """Whether a supervisor is alive; of one on another host its heartbeat tells."""
    alive = is_alive(other)
    if alive is not None:
        return alive
    age = records.heartbeat_age(job_dir)
    return age is not None and age < _SILENT_SECONDS


def _next_attempt(job_dir: Path) -> JobRecord | None:
    """Open the attempt after a preempted one, from the newest checkpoint.

    Returns:
        The record; None where the job has ended meanwhile: somebody canceled it, or gave it up.
    """
    from mae_sdk.jobs.resume import prepare  # loads yaml: a first attempt does without

    if not _open_attempt(job_dir):
        return None
    try:
        prepare(job_dir)
    except MaeError as error:
        problem = failure("data", error.message, error=error.to_dict())

        def end(record: JobRecord) -> None:
            records.advance(record, records.ERROR, problem["message"], failure=problem)

        _write_down(job_dir, end)
        raise SystemExit(5) from error
    return records.read_record(job_dir)  # the command may name the checkpoint


def _why_no_more(job_dir: Path, record: JobRecord) -> str | None:
    """Why a job is not started again after a preemption; None where it is, or was not preempted."""
    if not any(attempt["state"] == records.PREEMPTED for attempt in record["attempts"]):
        return None
    from mae_sdk.jobs import progress  # loads more than a first one needs

    if said := progress.odd_setting():
        with contextlib.suppress(OSError), (job_dir / "log.txt").open("a") as log:
            log.write(f"--- {said} ---\n")
    return progress.why_no_more(record)


def _open_attempt(job_dir: Path) -> bool:
    """Write down the attempt after a preempted one; False where the job has ended meanwhile."""
    is_open = False

    def open_attempt(record: JobRecord) -> None:
        nonlocal is_open
        before = records.last_attempt(record)
        if before["state"] != records.PREEMPTED:
            return
        is_open = True
        attempt = records.new_attempt(record, records.AFTER_PREEMPTION)
        attempt["process"] = identify()
        if "handle" in before:  # it is the same job of the engine
            attempt["handle"] = before["handle"]

    records.update_record(job_dir, open_attempt)
    return is_open


def _give_up(job_dir: Path, reason: str) -> None:
    """End a job that is preempted again and again."""
    if _open_attempt(job_dir):
        _end(job_dir, reason)


def _end(job_dir: Path, message: str) -> None:
    """End the last attempt with ERROR."""
    problem = failure("runner", message)
    records.update_record(
        job_dir,
        lambda record: records.advance(record, records.ERROR, message, failure=problem),
    )


def _attempt(job_dir: Path, record: JobRecord) -> str:
    """One attempt; returns its terminal state.

    From the start of the runner on signals are noted until the end is written: an engine and its
    batch script may both send one, and the second must not end us in between.
    """
    with contextlib.ExitStack() as noting:
        return _to_its_end(job_dir, record, noting)


def _to_its_end(job_dir: Path, record: JobRecord, noting: contextlib.ExitStack) -> str:
    number = records.last_attempt(record)["number"]
    environment = {**os.environ, "MAE_JOB_DIR": str(job_dir), "MAE_ATTEMPT": str(number)}
    secrets = secret_values(environment, record.get("env_names") or ())
    _mark(job_dir, number)
    log_start = _clear(job_dir, record["launch"])
    before = marks(job_dir)
    _beat(job_dir)

    outcome: Outcome | None = None
    problem: Failure | None = None
    sync = None
    stops: list[int] = []
    with contextlib.ExitStack() as shared:
        try:
            # First: who waits for a device shows itself to other machines too.
            sync = _start_sync(job_dir, record["launch"])
            is_unwanted = _Unwanted(job_dir, number, sync)
            _share_machine(job_dir, record, environment, shared, is_unwanted)
            if is_unwanted():
                outcome = Outcome(0, stopped=True)
            else:
                noting.enter_context(note_signals(stops))
                outcome = _run(job_dir, record, environment, secrets, is_unwanted, stops)
                outcome = _told_at_once(outcome, record, stops)
            is_unwanted()  # a run whose folder was removed fails of that
        except _NoLongerOursError:
            _leave(job_dir, record, sync)
            raise
        except (OSError, StorageError) as error:
            category = "dependency" if isinstance(error, FileNotFoundError) else "runner"
            if _is_full(error):
                category = "storage"
            problem = failure(category, f"the runner could not be started: {error}")
    ended = outcome is not None and not outcome.stopped and outcome.exit_code != PREEMPTED_EXIT
    said = reported_failure(job_dir, before) if ended else None
    if said is not None and outcome is not None:
        if outcome.exit_code == 0:  # a runner that ends without an error although it failed
            outcome = outcome._replace(exit_code=1)
            problem = failure("runner", said)
        else:
            problem = _explained(job_dir, record, outcome, log_start, said)
    return _finish(job_dir, record, outcome, problem, secrets, sync, log_start, stops)


def _leave(job_dir: Path, record: JobRecord, sync: FolderSync | None) -> None:
    """Have nothing of a job that is no longer ours written: by its copying, or by what has left the
    process group, which has ended. On this machine another supervisor's runner may be alive."""
    if sync is not None:
        sync.displaced.set()
    if not _is_there(job_dir / records.RECORD_NAME) and record.get("kind") != "automl":
        kill_leftovers(job_dir)


def _told_at_once(outcome: Outcome, record: JobRecord, stops: list[int]) -> Outcome:
    """The outcome of ranks that an engine signaled beside us: they may have ended before we asked
    them to, and even before our own signal came."""
    if outcome.stopped or outcome.exit_code not in (PREEMPTED_EXIT, *_KILLED):
        return outcome
    deadline = time.monotonic() + _SIGNAL_SECONDS
    is_waited_for = "handle" in records.last_attempt(record) and outcome.exit_code in _KILLED
    while is_waited_for and not stops and time.monotonic() < deadline:
        time.sleep(0.01)
    return outcome._replace(stopped=bool(stops))


def _mark(job_dir: Path, number: int) -> None:
    """Say in log and status where another attempt begins; a first one needs no mark."""
    if number == 1:
        return
    with contextlib.suppress(OSError), (job_dir / "log.txt").open("a") as log:
        log.write(f"--- attempt {number}, {records.now()} ---\n")
    StatusWriter(job_dir / "status.json").running(f"attempt {number}", attempt=number)


def _clear(job_dir: Path, launch: Launch) -> int:
    """Remove what an earlier attempt has left, and make the folders that the runner writes to;
    returns where in the log the new one begins."""
    for name in (launch.get("result"), "error.json"):
        if name:
            with contextlib.suppress(OSError):
                (job_dir / str(name)).unlink(missing_ok=True)
    for folder in (job_dir, *(path for path in job_dir.iterdir() if path.is_dir())):
        files.remove_leftovers(folder)
    for name in launch.get("folders") or ():
        with contextlib.suppress(OSError):  # the runner says better what it cannot write
            (job_dir / name).mkdir(parents=True, exist_ok=True)
    _keep_room(job_dir)
    try:
        return (job_dir / "log.txt").stat().st_size
    except OSError:
        return 0


_ROOM_BYTES = 64 << 10


def _keep_room(job_dir: Path) -> None:
    """Take some room on the disk, to be given back when there is no other for the job's end."""
    with contextlib.suppress(OSError):
        (job_dir / records.ROOM_NAME).write_bytes(os.urandom(_ROOM_BYTES))


def _give_room(job_dir: Path) -> None:
    with contextlib.suppress(OSError):
        (job_dir / records.ROOM_NAME).unlink(missing_ok=True)


def _is_full(error: BaseException | None) -> bool:
    """Whether a disk without room is at the root of an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


def _write_down(job_dir: Path, change: Callable[[JobRecord], object]) -> None:
    """Change the record, though the disk is full: what was kept for this is given up, and if
    others take it, room is waited for.

    Raises:
        StorageError: it cannot be written.
    """
    deadline = time.monotonic() + _ROOM_SECONDS
    while True:
        try:
            records.update_record(job_dir, change)
            return
        except StorageError as error:
            if not _is_full(error) or time.monotonic() > deadline:
                raise
            _give_room(job_dir)
            time.sleep(0.2)


def _share_machine(
    job_dir: Path,
    record: JobRecord,
    environment: dict[str, str],
    shared: contextlib.ExitStack,
    is_unwanted: Callable[[], bool],
) -> None:
    """Wait for the job's devices, or take its share of the cores; `shared` gives them back."""
    launch = record["launch"]
    if launch.get("devices"):
        from mae_sdk.run.devices import Reservation

        count = int(launch.get("device_count") or len(launch["devices"]))
        devices = Reservation(launch["devices"], count)
        shared.callback(devices.release)
        granted = devices.wait(is_unwanted, lambda: _beat(job_dir))
        if granted is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(granted)
    elif record.get("kind") != "automl":  # a controller computes nothing itself
        _share_cores(job_dir, launch, environment, shared)


def _share_cores(
    job_dir: Path, launch: Launch, environment: dict[str, str], shared: contextlib.ExitStack
) -> None:
    """Take part in the CPU jobs of this machine and set the number of threads.

    The first attempt's number is kept for later ones.
    """

    share = CoreShare(int(launch.get("processes") or 1))
    shared.callback(share.release)
    with contextlib.suppress(
        OSError, StorageError
    ):  # no cache folder: the library's default number of threads
        share.join()
        added = share.settings(environment, launch.get("threads"))
        environment.update(added)
        if THREADS in added:
            threads = int(added[THREADS])

            def keep(record: JobRecord) -> None:
                record["launch"]["threads"] = threads

            records.update_record(job_dir, keep)


def _start_sync(job_dir: Path, launch: Launch) -> FolderSync | None:
    if not launch.get("remote"):
        return None
    from mae_sdk.jobs.sync import FolderSync  # loads the storage: a local job does without

    return FolderSync(job_dir, launch["remote"])


def _run(
    job_dir: Path,
    record: JobRecord,
    environment: dict[str, str],
    secrets: list[str],
    is_unwanted: Callable[[], bool],
    stops: list[int],
) -> Outcome:
    """Run the ranks; the attempt is RUNNING from here."""
    launch = record["launch"]
    _write_down(
        job_dir, lambda record: records.advance(record, records.RUNNING, process=identify())
    )
    if not (job_dir / records.ROOM_NAME).exists():
        _keep_room(job_dir)
    command, processes = launch["command"], int(launch.get("processes") or 1)
    if environment.get(warm.SOCKET_VARIABLE):  # set by the platform that started us
        command = warm.client_command(command)
    elif record.get("platform", DEFAULT) != DEFAULT:
        command, processes = platform_of(record).wrap(command, record, environment)
    is_own = bool(launch.get("result")) or record.get("kind") == "automl"
    return start_and_watch(
        command,
        processes,
        environment,
        cwd=launch.get("cwd") or job_dir,
        log=job_dir / "log.txt",
        secrets=secrets,
        grace=float(launch.get("grace_seconds") or 30.0),
        tick=_Tick(job_dir, is_unwanted),
        # A runner of ours waits for what it starts.
        ended=None if is_own else partial(_end_strays, job_dir),
        ranked=not launch.get("spawns"),
        stop=stops,
    )


def _end_strays(job_dir: Path, group: int) -> None:
    """End what the command left running, and say so: the job's files are read as they are now."""
    if pids := end_strays(job_dir, group):
        with contextlib.suppress(OSError), (job_dir / "log.txt").open("a") as log:
            log.write(
                f"--- ended what the command had left running: {', '.join(map(str, pids))} ---\n"
            )


def _beat(job_dir: Path) -> None:
    with contextlib.suppress(OSError):
        records.beat(job_dir)


class _Unwanted:
    """Whether to stop: somebody asked for it, or the job is another machine's by now.

    It raises `_NoLongerOursError` where the job was removed, here or behind its URL, or a later
    attempt of it was opened. The record is read again only when it has changed.
    """

    def __init__(self, job_dir: Path, number: int, sync: FolderSync | None) -> None:
        self.job_dir, self.number, self.sync = job_dir, number, sync
        self.seen: tuple[int, int] | None = None

    def __call__(self) -> bool:
        self._look()
        return (self.job_dir / records.CANCEL_NAME).exists() or _is_displaced(self.sync)

    def _look(self) -> None:
        if self.sync is not None and self.sync.removed.is_set():
            raise _NoLongerOursError("its folder was removed from its results root", 6)
        seen = None
        with contextlib.suppress(OSError):
            found = (self.job_dir / records.RECORD_NAME).stat()
            seen = (found.st_ino, found.st_mtime_ns)
        if seen is None or seen != self.seen:
            _check_ours(self.job_dir, self.number)
            self.seen = seen


def _is_displaced(sync: FolderSync | None) -> bool:
    return sync is not None and sync.displaced.is_set()


class _Tick:
    """Called now and then while the ranks run: beats, and tells whether to stop."""

    def __init__(self, job_dir: Path, is_unwanted: Callable[[], bool]) -> None:
        self.job_dir, self.is_unwanted = job_dir, is_unwanted
        self.last_beat = time.monotonic()

    def __call__(self) -> bool:
        if time.monotonic() - self.last_beat > records.HEARTBEAT_SECONDS:
            self.last_beat = time.monotonic()
            _beat(self.job_dir)
        return self.is_unwanted()


def _finish(
    job_dir: Path,
    record: JobRecord,
    outcome: Outcome | None,
    problem: Failure | None,
    secrets: list[str],
    sync: FolderSync | None,
    log_start: int,
    stops: list[int],
) -> str:
    """Write the attempt's end into the record and finish the remote copy; returns the state.

    Args:
        stops: the signals that ask for a stop; one that comes meanwhile is heeded too.
    """
    cancel = job_dir / records.CANCEL_NAME
    _give_room(job_dir)
    if outcome is not None and outcome.unlogged:
        with contextlib.suppress(OSError), (job_dir / "log.txt").open("a") as log:
            log.write(outcome.unlogged)
    if sync is not None and not _is_displaced(sync):
        with contextlib.suppress(MaeError, OSError):
            sync.look_for_cancel()
    state, reason, problem = _verdict(job_dir, record, outcome, problem, secrets, log_start)
    if _is_displaced(sync):
        state, reason = records.ERROR, "another machine has taken the job over"
        problem = failure("lost_process", reason)
    fields: dict[str, Any] = {
        "exit_code": None if outcome is None else outcome.exit_code,
    }
    if state == records.PREEMPTED:
        fields |= _reached(job_dir, record)
        if outcome is not None:
            fields["told_to_stop"] = outcome.stopped

    if state in (records.CANCELED, records.ERROR) and record.get("kind") != "automl":
        kill_leftovers(job_dir)  # what left the process group
    with contextlib.suppress(OSError):
        _close_status(job_dir, state, reason, problem)

    # Before the copy behind a URL ends, and before anybody who waits for the job sees its end.
    was_written = state == records.COMPLETE and report_process.is_newer(
        job_dir, record["launch"].get("result")
    )
    is_complete = state == records.COMPLETE
    at = records.ended_at(job_dir, record) if is_complete else records.now()
    is_spared = was_written or report_process.is_short_trial(record, state)
    if state != records.PREEMPTED and not is_spared and not _is_displaced(sync):
        ending = {"state": state, "reason": reason, "failure": problem, "at": at}
        report_process.write_report(job_dir, ending)

    if sync is not None:
        try:
            sync.finish()
        except Exception as error:
            where = record["launch"]["remote"]
            message = f"results could not be copied to {where}: {error}; they are kept in {job_dir}"
            problem = redact_tree(failure("storage", message), secrets)
            state, reason, at = records.ERROR, message, ""

    if problem is not None:
        fields["failure"] = problem
    if state != records.PREEMPTED:  # of that, a request that has come since is still to be heeded
        with contextlib.suppress(OSError):
            cancel.unlink(missing_ok=True)
    elif stops:
        fields["told_to_stop"] = True
    number = records.last_attempt(record)["number"]

    def end(record: JobRecord) -> None:
        # On a node that was lost and came back: the attempt that follows is another supervisor's.
        if records.last_attempt(record)["number"] == number:
            records.advance(record, state, reason, at=at, **fields)

    _write_down(job_dir, end)
    if sync is not None:
        with contextlib.suppress(Exception):
            sync.push_record()
            from mae_sdk.jobs import working_copies  # loads the storage, as the copy did

            working_copies.clear(working_copies.KEPT_SECONDS, job_dir.parent)
    return state


def _verdict(
    job_dir: Path,
    record: JobRecord,
    outcome: Outcome | None,
    problem: Failure | None,
    secrets: list[str],
    log_start: int,
) -> tuple[str, str, Failure | None]:
    """The state that the attempt ends in, its reason, and the failure of an ERROR."""
    result = record["launch"].get("result")
    ended_well = outcome is not None and outcome.exit_code == 0
    complete = ended_well and (not result or (job_dir / result).is_file())
    stopped = outcome is not None and outcome.stopped

    if (job_dir / records.CANCEL_NAME).exists() and not (complete and not stopped):
        return records.CANCELED, records.cancel_reason(job_dir), None
    if complete:
        return records.COMPLETE, "", None
    if problem is None and outcome is not None and outcome.exit_code == PREEMPTED_EXIT:
        return records.PREEMPTED, "preempted after saving", None

    engine_stopped = stopped and "handle" in records.last_attempt(record)
    if engine_stopped and outcome is not None and outcome.exit_code in _KILLED:
        return records.PREEMPTED, "stopped before it could save", None

    if problem is None and ended_well:
        problem = failure("runner", f"the runner ended without an error but wrote no {result}")
    elif problem is None and outcome is not None:
        problem = _explained(job_dir, record, outcome, log_start)
    problem = redact_tree(problem, secrets)
    return records.ERROR, str((problem or {}).get("message", "")), problem


def _explained(
    job_dir: Path, record: JobRecord, outcome: Outcome, log_start: int, said: str | None = None
) -> Failure:
    """Why a runner ended with an exit code that is not 0."""
    return analyze(
        job_dir,
        outcome.exit_code,
        rank=outcome.rank,
        log_start=log_start,
        is_own=bool(record["launch"].get("result")),  # a runner of another make leaves no such file
        said=said,
    )


def _reached(job_dir: Path, record: JobRecord) -> dict[str, Any]:
    """What tells whether the attempt after this one, which was preempted, gets further."""
    from mae_sdk.jobs.progress import reached

    return reached(job_dir, record)


def _close_status(job_dir: Path, state: str, reason: str, problem: Failure | None) -> None:
    """Write the last line of status.json for a runner that died before it could."""
    if state in (records.COMPLETE, records.PREEMPTED):
        return
    lines = read_status(job_dir / "status.json")
    if not lines or not (is_failure(lines[-1]) or lines[-1].get("status") == SUCCESS):
        error = None if problem is None else dict(problem)
        StatusWriter(job_dir / "status.json").failure(reason or state, error=error)


if __name__ == "__main__":
    raise SystemExit(main())
