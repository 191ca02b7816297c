"""``python -m mae_sdk.automl.controller JOB_DIR``: run, or take up again, the study of an AutoML
job.

It is the runner of an AutoML job: it writes ``status.json``, ``automl/*`` and, last,
``train/result.json``. Killed at any moment, it goes on where it was when it is started again. On
SIGTERM it leaves its trials running (exit 75), unless the job is being canceled.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import cast

from mae_skill.dotted import get_dotted
from mae_skill.errors import MaeError

from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.jobs.records import StudyRecord
from mae_sdk.jobs.status import StatusWriter
from mae_sdk.run import warm


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
    """Run the study to its end; returns 0, 6 (canceled) or 75 (told to stop, resumable).

    Raises:
        MaeError: the study cannot run or no trial succeeded.
    """
    from mae_sdk.automl import results
    from mae_sdk.automl.loop import StudyLoop
    from mae_sdk.automl.options import Objective, parse
    from mae_sdk.automl.setup import STUDY_NAME
    from mae_sdk.automl.space import SearchSpace
    from mae_sdk.automl.study import controller_lock, open_storage, open_study, require_optuna
    from mae_sdk.automl.trials import Trials

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
        concurrency = int(content["concurrency"])
        trials = Trials(job_dir, cast(StudyRecord, content), warm=options.warm)

        def say(line: str) -> None:
            print(line, flush=True)
            status.running(line)

        def changed() -> None:
            results.write(study, folder, space, objectives, job_dir.parent)

        status.started(f"AutoML over {', '.join(knob.name for knob in space.knobs)}")
        loop = StudyLoop(
            study,
            space,
            content["spec"],
            objectives,
            options,
            trials,
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
        warm.dismiss(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
