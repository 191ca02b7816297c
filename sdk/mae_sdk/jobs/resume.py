"""A further attempt of a job: its spec is pointed at the newest checkpoint of its own folder."""

from __future__ import annotations

from pathlib import Path

from mae_skill.dotted import set_dotted
from mae_skill.errors import NotFoundError

from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_sdk.jobs.moved import bring_along


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
        return None
    try:
        checkpoint = CheckpointIndex(job_dir / record["action"]).select("latest")
    except NotFoundError:
        return None
    from mae_skill.reader import dump_yaml, read_spec

    path = job_dir / "spec.yaml"
    spec = read_spec(path)
    for key in keys:
        set_dotted(spec, key, str(checkpoint))
    for key in record.get("ptm_keys") or []:
        set_dotted(spec, key, None)
    files.write_text(path, dump_yaml(spec))
    return checkpoint
