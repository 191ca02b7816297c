"""``python -m mae_sdk.run.from_url URL``: run a job whose folder is behind a URL, on this machine.

This is what a container without a folder in common with the caller starts. It takes the job over,
brings the folder here and is its supervisor; results go back as they come. Of several nodes
(``JOB_COMPLETION_INDEX``, as Kubernetes counts them) the first does that; each other waits until
the record says RUNNING, brings a copy and starts its ranks.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from mae_sdk.jobs import records, sync
from mae_sdk.jobs.root import Root
from mae_sdk.run.process_group import PREEMPTED_EXIT, run_ranks
from mae_sdk.run.supervisor import supervise

_PAUSE = 2.0


def main(argv: list[str] | None = None) -> int:
    """Run the job of the URL; its exit code."""
    (url,) = sys.argv[1:] if argv is None else argv
    root, _, job_id = url.rstrip("/").rpartition("/")
    job_dir = Root(root).work_dir(job_id)
    if int(os.environ.get("JOB_COMPLETION_INDEX") or 0) > 0:
        return _join(url, job_dir)
    sync.pull(url, job_dir, claim=sync.new_claim())
    sync.replace_record(url, records.read_record(job_dir))
    return supervise(job_dir)


def _join(url: str, job_dir: Path) -> int:
    """Be a further node of every attempt, until the job has ended."""
    done = 0
    while True:
        record = sync.read_record(url, job_dir.name)
        attempt = records.last_attempt(record)
        if attempt["state"] in records.TERMINAL:
            return 0
        if attempt["state"] != records.RUNNING or attempt["number"] <= done:
            time.sleep(_PAUSE)
            continue

        done = attempt["number"]
        shutil.rmtree(job_dir, ignore_errors=True)
        sync.pull(url, job_dir)
        launch = records.read_record(job_dir)["launch"]
        environment = {**os.environ, "NODE_RANK": os.environ["JOB_COMPLETION_INDEX"]}
        environment |= {"MAE_JOB_DIR": str(job_dir), "MAE_ATTEMPT": str(done)}
        os.chdir(job_dir)
        code = run_ranks(launch["command"], int(launch.get("processes") or 1), environment)
        if code not in (0, PREEMPTED_EXIT):
            return code


if __name__ == "__main__":
    raise SystemExit(main())
