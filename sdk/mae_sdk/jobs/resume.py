"""A further attempt of a job: its spec is pointed at the newest checkpoint of its own folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

from mae_skill.dotted import get_dotted, set_dotted
from mae_skill.errors import NotFoundError

from mae_sdk.jobs import records
from mae_sdk.jobs.checkpoint_names import newest_in
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_sdk.jobs.config_file import SPEC, write_spec
from mae_sdk.jobs.moved import bring_along


def _say_anew(job_dir: Path, record: records.JobRecord) -> None:
    """Say in the log that a run with checkpoints cannot be told of them."""
    newest = newest_in(job_dir, record["action"])
    if newest is None:
        return
    with contextlib.suppress(OSError), (job_dir / "log.txt").open("a") as log:
        log.write(
            f"--- the bundle names no field to resume from: {newest.name} is there, and this run "
            "is not told of it ---\n"
        )


def prepare(job_dir: Path) -> Path | None:
    """Rewrite ``spec.yaml`` for the newest attempt.

    The record's ``resume_keys`` get the checkpoint; its ``ptm_keys`` are cleared. A folder that was
    moved is told where it is.

    Returns:
        The checkpoint that it resumes from; None where there is none yet.

    Raises:
        MaeError: its records are damaged.
    """
    bring_along(job_dir)
    record = records.read_record(job_dir)
    keys = record.get("resume_keys") or []
    if not keys:
        _say_anew(job_dir, record)
        return None
    try:
        checkpoint: Path | None = CheckpointIndex(job_dir / record["action"]).select("latest")
    except NotFoundError:
        checkpoint = newest_in(job_dir, record["action"])
    if checkpoint is None:
        return None
    from mae_skill.reader import read_spec

    spec = read_spec(job_dir / SPEC)
    for key in keys:
        set_dotted(spec, key, str(checkpoint))
    for key in record.get("ptm_keys") or []:
        if get_dotted(spec, key):  # of some runners, an empty text stands for none
            set_dotted(spec, key, None)
    write_spec(job_dir, spec, record["launch"].get("config"))
    return checkpoint
