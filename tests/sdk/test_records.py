"""``job.json`` has a type, a version and a page; a record without a version is old, and read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, is_typeddict

import pytest
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_skill.errors import NotFoundError

from tests.support.jobs import write
from tests.support.toy_bundle.make import write_bundle

PAGE = Path(__file__).resolve().parents[2] / "docs" / "job_folder.md"
TYPES = {
    name: kind
    for name, kind in vars(records).items()
    if is_typeddict(kind) and not name.startswith("_") and name != "ShownRecord"
}


def _fields(kind: Any) -> dict[str, str]:
    """Field → type, as it is written."""
    return {name: hint.__forward_arg__ for name, hint in kind.__annotations__.items()}


def test_the_page_of_the_job_folder_shows_every_type_as_it_is() -> None:
    shown = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| \S", section, re.MULTILINE)
        shown[section.split("\n")[0]] = [(name, kind.replace("\\|", "|")) for name, kind in rows]
    assert shown.keys() == TYPES.keys()
    for name, kind in TYPES.items():
        assert sorted(shown[name]) == sorted(_fields(kind).items()), name


def test_a_job_that_is_created_writes_only_fields_that_its_type_has(tmp_path: Path) -> None:
    from mae_sdk import Skill

    from tests.support.images import write_imagefolder

    data = write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1).parent
    skill = Skill(write_bundle(tmp_path / "bundle"))
    job = skill.create_job("train", train_datasets=str(data), automl_policy="off").wait(30)
    record = json.loads((job.folder / "job.json").read_text())
    assert record["schema_version"] == records.SCHEMA_VERSION
    assert set(record) <= set(_fields(records.JobRecord))
    assert set(record["launch"]) <= set(_fields(records.Launch))
    assert set(record["attempts"][0]) <= set(_fields(records.Attempt))
    assert set(record["attempts"][0]["process"]) == set(_fields(records.ProcessIdentity))


def test_a_record_without_a_version_is_read_and_one_of_a_newer_version_is_refused_by_name(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path, "true")
    assert "schema_version" not in records.read_record(folder) and Job(folder).state == "PENDING"
    records.update_record(
        folder, lambda record: record.update({"schema_version": records.SCHEMA_VERSION + 1})
    )
    with pytest.raises(NotFoundError, match="newer version"):
        records.read_record(folder)
