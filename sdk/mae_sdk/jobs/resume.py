"""A further attempt of a job: its spec is pointed at the newest checkpoint of its own folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

from mae_skill.dotted import get_dotted, set_dotted
from mae_skill.errors import NotFoundError

from mae_sdk.jobs import records
from mae_sdk.jobs.checkpoint_names import newest_in
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_sdk.jobs.command_words import follow_spec, reads
from mae_sdk.jobs.config_file import SPEC, write_spec
from mae_sdk.jobs.moved import bring_along


def _say_anew(job_dir: Path, why: str, newest: Path | None) -> None:
    """Say in the log that a run with checkpoints cannot be told of them."""
    if newest is None:
        return
    with contextlib.suppress(OSError), (job_dir / "log.txt").open("a") as log:
        log.write(f"--- {why}: {newest.name} is there, and this run does not receive it ---\n")


def _is_told(
    job_dir: Path, record: records.JobRecord, command: list[str], checkpoint: Path
) -> bool:
    """Whether a runner reads the spec, or has the checkpoint among the words of its command."""
    words = record["launch"].get("words")
    if words is None:
        return any(str(job_dir) in word for word in command)
    return reads(words) is None or any(str(checkpoint) in word for word in command)


def prepare(job_dir: Path) -> Path | None:
    """Rewrite ``spec.yaml`` for the newest attempt, and the words of the command that follow it.

    The record's ``resume_keys`` get the checkpoint; its ``ptm_keys`` are cleared. A folder that was
    moved is told where it is. A run that cannot be told of its checkpoint starts anew; its log says
    so.

    Returns:
        The checkpoint that it resumes from; None where there is none.

    Raises:
        MaeError: its records are damaged.
    """
    bring_along(job_dir)
    record = records.read_record(job_dir)
    keys = record.get("resume_keys") or []
    if not keys:
        newest = newest_in(job_dir, record["action"])
        _say_anew(job_dir, "the bundle names no field to resume from", newest)
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
    command = follow_spec(job_dir, spec)
    if not _is_told(job_dir, record, command, checkpoint):
        why = f"the command has no place for {' or '.join(keys)}"
        _say_anew(job_dir, why, checkpoint)
        return None
    return checkpoint
