"""``python -m mae_sdk.run.supervisor JOB_DIR``: run one job to its end. Standard library only; it starts in tens of milliseconds.

It reads ``job.json``, starts the ranks, and alone writes the terminal state:

==================================  =====================================================
the ranks end with                  the attempt becomes
==================================  =====================================================
0, and the result was written       COMPLETE
0, and no result                    ERROR
75, and nobody stopped us           PREEMPTED, and the next attempt starts here
75, after a SIGTERM to us           PREEMPTED; the job waits (PENDING) to be resumed
anything after a request to cancel  CANCELED
anything else                       ERROR, with a failure analysis
==================================  =====================================================
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.jobs.failure import analyse, failure
from mae_sdk.jobs.secrets import redact_tree, secret_values
from mae_sdk.jobs.status import StatusWriter, read_status
from mae_sdk.run.process import identify, kill_leftovers
from mae_sdk.run.process_group import PREEMPTED_EXIT, Outcome, run_ranks, start_and_watch

__all__ = ["main", "run_ranks", "supervise"]

_MAX_PREEMPTIONS_WITHOUT_PROGRESS = 3


def main(argv: list[str] | None = None) -> int:
    """Supervise the job folder named on the command line. The exit code says how the job ended: 0, 5, 6 or 75."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        print("usage: python -m mae_sdk.run.supervisor JOB_DIR", file=sys.stderr)
        return 2
    return supervise(Path(arguments[0]).resolve())


def supervise(job_dir: Path) -> int:
    """Run the pending attempt of a job, and those that follow from preemption, to the end."""
    unfruitful = 0
    while True:
        state = _attempt(job_dir)
        if state != records.PREEMPTED:
            return {records.COMPLETE: 0, records.CANCELED: 6}.get(state, 5)
        record = records.read_record(job_dir)
        attempts = record["attempts"]
        fruitful = len(attempts) < 2 or attempts[-1].get("checkpoints") != attempts[-2].get(
            "checkpoints"
        )
        unfruitful = 0 if fruitful else unfruitful + 1
        if record["attempts"][-1].get("told_to_stop"):
            return PREEMPTED_EXIT
        if unfruitful >= _MAX_PREEMPTIONS_WITHOUT_PROGRESS:
            message = f"preempted {unfruitful + 1} times without a new checkpoint"
            with records.locked(job_dir):
                record = records.read_record(job_dir)
                records.new_attempt(record, "after preemption")
                records.advance(record, records.ERROR, message, failure=failure("runner", message))
                files.write_json(job_dir / records.RECORD_NAME, record)
            return 5
        records.update_record(
            job_dir, lambda record: void(records.new_attempt(record, "after preemption"))
        )
        from mae_sdk.jobs.resume import prepare  # loads yaml: only a second attempt pays for it

        prepare(job_dir)


def void(_: Any) -> None:
    """Nothing: a lambda's way to drop a value."""


def _attempt(job_dir: Path) -> str:
    """One attempt; returns its terminal state."""
    record = records.read_record(job_dir)
    number = records.last_attempt(record)["number"]
    launch = record["launch"]
    cancel = job_dir / records.CANCEL_NAME
    environment = {**os.environ, "MAE_JOB_DIR": str(job_dir), "MAE_ATTEMPT": str(number)}
    secrets = secret_values(environment)
    result = launch.get("result")
    if result:
        (job_dir / result).unlink(missing_ok=True)
    (job_dir / "error.json").unlink(missing_ok=True)
    records.beat(job_dir)
    log_start = 0
    with contextlib.suppress(OSError):
        log_start = (job_dir / "log.txt").stat().st_size
    stop: list[int] = []
    outcome: Outcome | None = None
    problem: dict[str, Any] | None = None
    devices = None
    share = None
    sync = None
    try:
        if launch.get("devices"):
            from mae_sdk.run.devices import Reservation

            devices = Reservation(
                launch["devices"], int(launch.get("device_count") or len(launch["devices"]))
            )
            granted = devices.wait(lambda: cancel.exists(), lambda: records.beat(job_dir))
            if granted is not None:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(granted)
        elif record.get("kind") != "automl":  # a controller computes nothing itself
            share = _share_cores(job_dir, launch, environment)
        if cancel.exists():
            outcome = Outcome(0, stopped=True)
        else:
            if launch.get("remote"):
                from mae_sdk.jobs.sync import Follower

                sync = Follower(job_dir, str(launch["remote"]))
            records.update_record(
                job_dir,
                lambda record: void(records.advance(record, records.RUNNING, process=identify())),
            )
            beat = [time.monotonic()]

            def tick() -> bool:
                if time.monotonic() - beat[0] > records.HEARTBEAT_SECONDS:
                    beat[0] = time.monotonic()
                    with contextlib.suppress(OSError):
                        records.beat(job_dir)
                return cancel.exists()

            outcome = start_and_watch(
                launch["command"],
                int(launch.get("processes") or 1),
                environment,
                cwd=launch.get("cwd") or job_dir,
                log=job_dir / "log.txt",
                secrets=secrets,
                grace=float(launch.get("grace_seconds") or 30.0),
                tick=tick,
                stop=stop,
            )
    except OSError as error:
        category = "dependency" if isinstance(error, FileNotFoundError) else "runner"
        problem = failure(category, f"the runner could not be started: {error}")
    finally:
        for held in (devices, share):
            if held:
                held.release()
    return _finish(job_dir, record, outcome, problem, cancel, secrets, sync, log_start)


def _share_cores(job_dir: Path, launch: dict[str, Any], environment: dict[str, str]) -> Any:
    """Take part in the CPU jobs of this machine and set the number of threads; the first attempt's number is kept for later ones."""
    from mae_sdk.run.cores import THREADS, CoreShare

    share = CoreShare(int(launch.get("processes") or 1))
    with contextlib.suppress(OSError):  # no cache folder: every job takes what it likes
        share.join()
        given = share.settings(environment, launch.get("threads"))
        environment.update(given)
        if THREADS in given:
            records.update_record(
                job_dir, lambda record: record["launch"].update(threads=int(given[THREADS]))
            )
    return share


def _finish(
    job_dir: Path,
    record: dict[str, Any],
    outcome: Outcome | None,
    problem: dict[str, Any] | None,
    cancel: Path,
    secrets: list[str],
    sync: Any,
    log_start: int,
) -> str:
    result = record["launch"].get("result")
    complete = (
        outcome is not None
        and outcome.exit_code == 0
        and (not result or (job_dir / result).is_file())
    )
    fields: dict[str, Any] = {
        "exit_code": None if outcome is None else outcome.exit_code,
        "checkpoints": _checkpoint_mark(job_dir),
    }
    if cancel.exists() and not (complete and outcome is not None and not outcome.stopped):
        state, reason = records.CANCELED, "cancelled on request"
    elif complete:
        state, reason = records.COMPLETE, ""
    elif problem is None and outcome is not None and outcome.exit_code == PREEMPTED_EXIT:
        state, reason = records.PREEMPTED, "preempted after saving"
        fields["told_to_stop"] = outcome.stopped
    else:
        if problem is None and outcome is not None:
            if outcome.exit_code == 0:
                problem = failure(
                    "runner", f"the runner ended without an error but wrote no {result}"
                )
            else:
                problem = analyse(
                    job_dir, outcome.exit_code, rank=outcome.rank, log_start=log_start
                )
        problem = redact_tree(problem, secrets)
        state, reason = records.ERROR, str((problem or {}).get("message", ""))
        fields["failure"] = problem
    if state in (records.CANCELED, records.ERROR) and record.get("kind") != "automl":
        kill_leftovers(job_dir)  # what left the process group
    _close_status(job_dir, state, reason, problem)
    if sync is not None:
        try:
            sync.finish()
        except Exception as error:
            message = f"results could not be copied to {record['launch']['remote']}: {error}; they are kept in {job_dir}"
            state, reason, fields["failure"] = (
                records.ERROR,
                message,
                redact_tree(failure("storage", message), secrets),
            )
    cancel.unlink(missing_ok=True)
    records.update_record(
        job_dir, lambda record: void(records.advance(record, state, reason, **fields))
    )
    if sync is not None:
        with contextlib.suppress(Exception):
            sync.push_record()
    return state


def _checkpoint_mark(job_dir: Path) -> list[Any]:
    """What changes when a run gets on: sizes and times of the checkpoint indexes."""
    return sorted(
        [str(path.relative_to(job_dir)), path.stat().st_mtime_ns]
        for path in job_dir.glob("*/checkpoints.json")
    )


def _close_status(job_dir: Path, state: str, reason: str, problem: dict[str, Any] | None) -> None:
    """A runner that died could not say so in status.json."""
    if state in (records.COMPLETE, records.PREEMPTED):
        return
    lines = read_status(job_dir / "status.json")
    if not lines or lines[-1].get("status") not in ("FAILURE", "SUCCESS"):
        StatusWriter(job_dir / "status.json").failure(reason or state, error=problem)


if __name__ == "__main__":
    raise SystemExit(main())
