"""``python -m mae_sdk.automl.controller JOB_DIR``: run (or take up again) the study of an AutoML job.

It is the "runner" of an AutoML job: it writes ``status.json``, ``automl/*`` and, last, ``train/result.json``. Killed at any moment it goes
on where it was when it is started again. On SIGTERM it leaves its trials running (exit 75), unless the job is being cancelled.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from mae_skill.dotted import get_dotted
from mae_skill.errors import MaeError

from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.jobs.status import StatusWriter


def main(argv: list[str] | None = None) -> int:
    """Run the study of the job folder named on the command line; the exit code is the job's."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        print("usage: python -m mae_sdk.automl.controller JOB_DIR", file=sys.stderr)
        return 2
    job_dir = Path(arguments[0]).resolve()
    try:
        return control(job_dir)
    except MaeError as error:
        print(f"error: {error}", file=sys.stderr)
        files.write_json(job_dir / "error.json", error.to_dict())
        return error.exit_code


def control(job_dir: Path) -> int:
    """Run the study to its end; returns 0, 6 (cancelled) or 75 (told to stop, resumable).

    Raises:
        MaeError: the study cannot run or no trial succeeded.
    """
    from mae_sdk.automl import results
    from mae_sdk.automl.loop import Loop
    from mae_sdk.automl.options import Objective, parse
    from mae_sdk.automl.setup import STUDY_NAME
    from mae_sdk.automl.space import SearchSpace
    from mae_sdk.automl.study import controller_lock, open_storage, open_study, require_optuna
    from mae_sdk.automl.trials import LocalChildren, socket_folder, start_warm

    require_optuna()
    folder = job_dir / "automl"
    content = files.read_json(folder / STUDY_NAME)
    options = parse(content["options"])
    objectives = [Objective(**item) for item in content["objectives"]]
    space = SearchSpace.from_dict(content["space"])
    status = StatusWriter(job_dir / "status.json")
    told: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        told.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)

    def stopped() -> str | None:
        if (job_dir / records.CANCEL_NAME).exists():
            return "cancelled"
        return "preempted" if told else None

    with controller_lock(folder):
        storage = open_storage(folder, options.storage)
        epochs = get_dotted(content["spec"], content["keys"].get("epochs", ""))
        study = open_study(
            storage,
            options.study or job_dir.name,
            objectives,
            space,
            content["spec"],
            options,
            max_epochs=epochs if isinstance(epochs, int) else None,
        )
        started = study.user_attrs.get("started")
        if started is None:
            started = time.time()
            study.set_user_attr("started", started)
        socket = None
        if options.warm and content.get("warm_command"):
            place = socket_folder()
            socket = (
                None
                if place is None
                else start_warm(job_dir, content["warm_command"], place / f"{_short(job_dir)}.sock")
            )
            if socket is None:
                print(
                    "the warm runner did not come up (automl/warm.log); trials start cold",
                    flush=True,
                )
        concurrency = int(content["concurrency"])
        children = LocalChildren(job_dir, content, concurrency=concurrency, socket=socket)

        def say(line: str) -> None:
            print(line, flush=True)
            status.running(line)

        def changed() -> None:
            results.write(study, folder, space, objectives, job_dir.parent)

        status.started(f"AutoML over {', '.join(knob.name for knob in space.knobs)}")
        loop = Loop(
            study,
            space,
            content["spec"],
            objectives,
            options,
            children,
            concurrency=concurrency,
            keys=content["keys"],
            started=float(started),
            say=say,
            changed=changed,
            stopped=stopped,
        )
        reason = loop.run()
        if reason == "preempted":
            return 75
        if reason == "cancelled":
            loop.cancel()
            changed()
            return 6
        summary = results.finish(study, folder, space, objectives, job_dir.parent, reason)
        status.success(f"AutoML ended ({reason})", kpi=summary["kpi"])
        files.write_json(job_dir / "train" / "result.json", summary)
        if socket is not None:
            _dismiss(socket)
    return 0


def _short(job_dir: Path) -> str:
    import hashlib

    return hashlib.sha256(str(job_dir).encode()).hexdigest()[:12]


def _dismiss(path: Path) -> None:
    """Tell the warm runner that no more trials will come."""
    import contextlib
    import socket

    body: Any = b'{"end": true}'
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(len(body).to_bytes(8, "big") + body)


if __name__ == "__main__":
    raise SystemExit(main())
