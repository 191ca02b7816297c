"""Several clients at once: of one job by its key, and of one study by its database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.run.platform import attempt_name

from tests.support.callers import race
from tests.support.images import write_imagefolder
from tests.support.platforms import Place
from tests.support.postgres import missing, postgres
from tests.support.slurm import SlurmPlace
from tests.support.toy_bundle.make import write_bundle


@pytest.fixture
def database() -> Iterator[str]:
    if reason := missing():
        pytest.skip(reason)
    pytest.importorskip("psycopg", reason="needs the PostgreSQL driver psycopg")
    with postgres() as url:
        yield url


def call(tmp_path: Path, place: Place, **more: Any) -> dict[str, Any]:
    data = write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1).parent
    root = str(tmp_path / "results")
    return {"train_datasets": str(data), "platform": place.name, "results_root": root, **more}


def test_clients_that_submit_with_one_key_at_the_same_time_make_one_job(
    place: Place, tmp_path: Path
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    asked = call(tmp_path, place, automl_policy="off", idempotency_key="k")
    ids = race(bundle, asked, [place.environment] * 4)
    assert len(set(ids)) == 1
    job = Skill(bundle).job(ids[0], results_root=tmp_path / "results").wait(60)
    assert job.logs().count("attempt") == 1 and len(job.record["attempts"]) == 1
    if isinstance(place, SlurmPlace):
        name = f"--name={attempt_name(job.folder, job.record)}"
        assert len(place.call("squeue", "--states=all", "--noheader", name).splitlines()) == 1


def test_two_clients_share_a_study_in_a_database_and_no_trial_runs_twice(
    place: Place, tmp_path: Path, database: str
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    automl = {"max_trials": 8, "pruner": "none", "storage": "env:STUDY_DB", "study": "shared"}
    slow = {"train.fault": "slow"}
    asked = call(tmp_path, place, automl=automl, env={"STUDY_DB": database}, spec_overrides=slow)
    ids = race(bundle, asked, [place.environment] * 2)
    assert len(set(ids)) == 2

    skill = Skill(bundle)
    studies = [skill.job(one, results_root=tmp_path / "results").wait(240) for one in ids]
    trials = [job for job in skill.jobs(tmp_path / "results", all=True) if job.id not in ids]
    assert sorted(job.id.rpartition(".t")[2] for job in trials) == [f"{n:03d}" for n in range(8)]
    assert {job.id.rpartition(".t")[0] for job in trials} == set(ids)  # each made some
    assert all(job.logs().count("attempt") == 1 for job in trials)
    assert {job.record["platform"] for job in [*studies, *trials]} == {place.name}
    best = [job.figures()["study"]["best"] for job in studies]
    assert best[0] == best[1]
    said = [path for path in tmp_path.rglob("*") if path.is_file() and "results" in path.parts]
    assert not [path for path in said if database.encode() in path.read_bytes()]
