"""A further attempt of a job: its spec is pointed at the newest checkpoint of its own folder."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mae_skill.dotted import get_dotted, set_dotted
from mae_skill.errors import NotFoundError
from mae_skill.spelling import and_more

from mae_sdk.jobs import records
from mae_sdk.jobs.checkpoint_files import FOLDER, shards_of
from mae_sdk.jobs.checkpoint_names import models_in, newest_in
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_sdk.jobs.command_words import command_for, follow_spec, reads
from mae_sdk.jobs.config_file import SPEC, write_spec
from mae_sdk.jobs.moved import bring_along

MAX_NAMED = 5
"""Files that one message names."""


def _begin_anew(job_dir: Path, why: str) -> None:
    """Say in the attempt's record and in the log why it does not go on from a checkpoint."""

    def change(record: records.JobRecord) -> None:
        records.last_attempt(record)["anew"] = why

    records.update_record(job_dir, change)
    with contextlib.suppress(OSError), (job_dir / "log.txt").open("a") as log:
        log.write(f"--- it starts anew: {why} ---\n")


def _no_checkpoint(job_dir: Path) -> str:
    """Why no file of a job is one to go on from."""
    there = models_in(job_dir)
    if not there:
        return "it left no checkpoint"
    return (
        f"no name says which file is the newest checkpoint: {and_more(there, MAX_NAMED)}; "
        "names such as model_epoch_001.pth, ckpt_1.pt and last.pt do"
    )


def _shown(checkpoint: Path, form: str | None) -> Path:
    """The checkpoint as a field takes it: a folder where it is declared as one, and where the model
    is in several files."""
    is_folder = form == FOLDER or (form is None and _shards(checkpoint))
    return checkpoint.parent if is_folder else checkpoint


def _shards(checkpoint: Path) -> list[str]:
    return shards_of(checkpoint.name, [one.name for one in checkpoint.parent.iterdir()])


def _is_told(
    job_dir: Path, record: records.JobRecord, command: list[str], values: Iterable[Path]
) -> bool:
    """Whether a runner reads the spec, or has the checkpoint among the words of its command."""
    words = record["launch"].get("words")
    if words is None:
        return any(str(job_dir) in word for word in command)
    return reads(words) is None or any(str(value) in word for value in values for word in command)


def prepare(job_dir: Path) -> Path | None:
    """Rewrite ``spec.yaml`` for the newest attempt, and the words of the command that follow it.

    The record's ``resume_keys`` get the checkpoint; its ``ptm_keys`` are cleared. A folder that was
    moved is told where it is. What refers to these fields follows them. A run without a checkpoint,
    or that cannot be told of it, starts anew; its log and its attempt say so (``anew``).

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
        if newest is not None:  # else there is nothing that it could go on from
            no_field = "the bundle names no field to resume from"
            if lost := record.get("resume_lost"):
                no_field = f"the field to resume from is misspelled in the bundle: {lost[0]}"
            _begin_anew(job_dir, f"{no_field}: {newest.name} is there")
        return None
    try:
        checkpoint: Path | None = CheckpointIndex(job_dir / record["action"]).select("latest")
    except NotFoundError:
        checkpoint = newest_in(job_dir, record["action"])
    if checkpoint is None:
        if record.get("kind") != "automl":  # a study goes on by its own records
            _begin_anew(job_dir, _no_checkpoint(job_dir))
        return None
    forms = record.get("resume_forms") or {}
    shown = {key: _shown(checkpoint, forms.get(key)) for key in keys}
    several = [key for key in keys if shown[key] == checkpoint and _shards(checkpoint)]
    if several:
        _begin_anew(
            job_dir,
            f"the model is in several files ({checkpoint.name}, …), and the bundle declares "
            f"{several[0]} as one file",
        )
        return None
    from mae_skill.placeholders import follow
    from mae_skill.reader import read_spec

    before = read_spec(job_dir / SPEC)
    links, aliases = record.get("references") or {}, record.get("aliases")

    def pointed(cleared: Iterable[str]) -> dict[str, Any]:
        """The spec with the checkpoint, and without what is cleared; what refers to it follows."""
        spec = copy.deepcopy(before)
        for key in keys:
            set_dotted(spec, key, str(shown[key]))
        for key in cleared:
            if get_dotted(spec, key):  # of some runners, an empty text stands for none
                set_dotted(spec, key, None)
        return follow(before, spec, links, aliases=aliases, fixed=keys)

    spec = pointed(record.get("ptm_keys") or [])
    command = command_for(record["launch"], spec, job_dir)
    is_told = _is_told(job_dir, record, command, shown.values())
    if not is_told:  # it starts anew, from the pretrained weights that it had
        spec = pointed(())
    write_spec(job_dir, spec, record["launch"].get("config"))
    follow_spec(job_dir, spec)
    if is_told:
        return checkpoint
    no_place = f"the command has no place for {' or '.join(keys)}"
    _begin_anew(job_dir, f"{no_place}: {checkpoint.name} is there, and it does not receive it")
    return None
