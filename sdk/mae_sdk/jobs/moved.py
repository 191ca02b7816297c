"""A job folder that is no longer where it was made: its results root was moved, or copied.

Records and specs hold absolute paths. What they say of the job's own folder is true of the folder
in which they lie; a further attempt needs them to say so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.jobs.records import JobRecord


def former_folder(record: JobRecord, job_dir: Path) -> Path | None:
    """The folder for which the job's command was made; None where that is `job_dir`."""
    for word in record["launch"].get("command") or ():
        path = PurePosixPath(str(word))
        if not path.is_absolute() or job_dir.name not in path.parts:
            continue
        depth = path.parts.index(job_dir.name) + 1
        former = Path(*path.parts[:depth])
        return None if former == job_dir else former
    return None


def moved(value: Any, former: Path, job_dir: Path) -> Any:
    """A copy of a document in which what was in the former folder is in `job_dir`.

    So is what was beside it, such as a parent's checkpoint, if it is gone there and is here now.
    """
    if isinstance(value, Mapping):
        return {key: moved(item, former, job_dir) for key, item in value.items()}
    if isinstance(value, list):
        return [moved(item, former, job_dir) for item in value]
    if not isinstance(value, str) or not value.startswith(f"{former.parent}/"):
        return value
    here = job_dir.parent / value[len(str(former.parent)) + 1 :]
    is_own = value == str(former) or value.startswith(f"{former}/")
    return str(here) if is_own or (here.exists() and not Path(value).exists()) else value


def bring_along(job_dir: Path) -> None:
    """Make the record, the spec and the study of a folder that was moved say where it is now."""
    former = former_folder(records.read_record(job_dir), job_dir)
    if former is None:
        return
    from mae_skill.reader import dump_yaml, read_spec

    spec = job_dir / "spec.yaml"
    if spec.exists():
        files.write_text(spec, dump_yaml(moved(read_spec(spec), former, job_dir)))
    study = job_dir / "automl" / "study.json"
    if study.exists():
        files.write_json(study, moved(json.loads(study.read_text("utf-8")), former, job_dir))

    def change(record: JobRecord) -> None:
        launch = record["launch"]
        launch["command"] = moved(launch["command"], former, job_dir)
        if not Path(str(launch.get("cwd") or job_dir)).is_dir():
            launch["cwd"] = str(job_dir)
        if record.get("results_root") == str(former.parent):
            record["results_root"] = str(job_dir.parent)

    # Last: a death before it leaves a record that brings all of it along again.
    records.update_record(job_dir, change)
