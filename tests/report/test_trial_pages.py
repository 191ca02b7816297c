"""What the page and the record of a trial say is of that trial, not of its study."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from mae_sdk import files
from mae_sdk.automl import controller
from mae_sdk.automl.trials import Trials
from mae_sdk.cli.common import next_for
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_skill.errors import UsageError

from tests.support.automl_toy import SPEC, make_job
from tests.support.reports import Page, read_page, write_job, write_study

STALE = "train.lr: 0.0001 is low for this schedule"


def page_of(folder: Path) -> Page:
    return read_page(Job(folder).report().path)


def pruned_trial(root: Path) -> Path:
    """A trial that its study has pruned after epoch 1, and whose best was epoch 0."""
    write_study(root, "train-s", 40, [0.8, 0.7, None])
    trial = root / "train-s.t002"
    record = records.read_record(trial)
    record["automl_parent"] = "train-s"
    record["attempts"] = []
    records.new_attempt(record)
    records.advance(record, records.RUNNING)
    records.advance(record, records.CANCELED, "canceled on request")
    files.write_json(trial / records.RECORD_NAME, record)
    return trial


def test_the_page_of_a_pruned_trial_says_so_and_leads_to_its_study(tmp_path: Path) -> None:
    page = page_of(pruned_trial(tmp_path))
    assert "Result pruned after epoch 1" in page.text
    assert re.search(r"Trial 2: \S+ PRUNED", page.text), "nobody canceled it"
    assert "train-s ended it early" in page.text
    assert "mae jobs status train-s" in page.text
    assert "mae jobs resume" not in page.text


def test_a_trial_is_not_resumed_by_itself_and_the_error_names_its_study(tmp_path: Path) -> None:
    trial = pruned_trial(tmp_path)
    with pytest.raises(UsageError) as found:
        Job(trial).resume()
    assert "train-s" in found.value.message
    assert "-e" in str(found.value.hint)  # the study is over: its settings as a job of their own
    assert len(records.read_record(trial)["attempts"]) == 1
    assert not any("resume" in one for one in next_for(Job(trial), "CANCELED", None))


def test_a_trial_of_a_study_that_can_go_on_names_the_command_for_that(tmp_path: Path) -> None:
    trial = pruned_trial(tmp_path)
    study = records.read_record(tmp_path / "train-s")
    study["attempts"] = []
    records.new_attempt(study)
    records.advance(study, records.CANCELED)
    files.write_json(tmp_path / "train-s" / records.RECORD_NAME, study)

    with pytest.raises(UsageError) as found:
        Job(trial).resume()
    assert "mae jobs resume train-s" in str(found.value.hint)


def planned_study(root: Path, **recipe: Any) -> tuple[Path, dict[str, Any]]:
    """A study whose plan knew two fields that were not the template's, and a warning of one."""
    job = make_job(root)
    spec = {**SPEC, "train": {**SPEC["train"], "num_epochs": 3}}
    (job / "spec.yaml").write_text(yaml.safe_dump(spec))
    record = records.read_record(job)
    record["changed"] = {"train.num_epochs": {"origin": "the command line", "default": 6}}
    record["warnings"] = [STALE, "dataset.train: few images"]
    record["data_warnings"] = ["dataset.train: few images"]
    files.write_json(job / records.RECORD_NAME, record)
    return job, {**spec, "train": {**spec["train"], **recipe}}


def test_the_changed_fields_of_a_trial_are_its_own_with_where_they_come_from(
    tmp_path: Path,
) -> None:
    job, recipe = planned_study(tmp_path, sleep=0.5)
    study = files.read_json(job / "automl/study.json")
    trials = Trials(job, {**study, "auto_spec": recipe})

    drawn = {**recipe, "train": {**recipe["train"], "lr": 0.02}}
    changed = records.read_record(trials.create(2, drawn))["changed"]
    assert changed == {
        "train.lr": {"origin": "the search", "default": SPEC["train"]["lr"]},
        "train.num_epochs": {"origin": "the command line", "default": 6},
        "train.sleep": {"origin": "the auto recipe", "default": 0.0},
    }

    # A field that the study changed and the trial gives back is the template's again.
    back = {**recipe, "train": {**recipe["train"], "num_epochs": 6}}
    assert "train.num_epochs" not in records.read_record(trials.create(3, back))["changed"]


def test_warnings_of_the_spec_as_given_are_those_of_trial_0_alone(tmp_path: Path) -> None:
    job, spec = planned_study(tmp_path)
    trials = Trials(job, files.read_json(job / "automl/study.json"))
    assert STALE in records.read_record(trials.create(0, spec))["warnings"]
    assert records.read_record(trials.create(1, spec))["warnings"] == ["dataset.train: few images"]


def test_a_study_says_which_trial_the_warnings_of_its_plan_are_of(tmp_path: Path) -> None:
    folder = write_study(tmp_path, "train-s", 40, [0.8, 0.7])
    assert "trial 0 alone" not in page_of(folder).text

    record = records.read_record(folder)
    record["warnings"] = [STALE]
    files.write_json(folder / records.RECORD_NAME, record)
    assert "of the spec as given, trial 0 alone" in page_of(folder).text
    assert "trial 0 alone" not in page_of(write_job(tmp_path, "train-1", warnings=[STALE])).text


def test_what_is_said_of_a_pruned_trial_is_of_the_epoch_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(
        tmp_path,
        max_trials=8,
        pruner="successive_halving",
        sampler="random",
        spec={"num_epochs": 8, "sleep": 0.08},
    )
    assert controller.main([str(job)]) == 0
    rows = (job / "automl/trials.csv").read_text().splitlines()
    head = rows[0].split(",")
    pruned = [dict(zip(head, row.split(","), strict=True)) for row in rows[1:] if ",PRUNED," in row]
    assert pruned and all(row["best_epoch"] != "" for row in pruned)
    said = capsys.readouterr().out
    for row in pruned:
        (line,) = [one for one in said.splitlines() if f"trial {row['trial']}: pruned" in one]
        epoch, value = line.split("epoch ")[1].split()[0], line.split("acc ")[1].split()[0]
        curve = records_of(tmp_path / row["child"])
        assert curve[int(epoch)] == pytest.approx(float(value), rel=1e-3)


def records_of(folder: Path) -> dict[int, float]:
    """The accuracy of every epoch that a trial reported."""
    lines = [line for line in (folder / "status.json").read_text().splitlines() if line]
    found = [yaml.safe_load(line) for line in lines]
    return {one["epoch"]: one["kpi"]["acc"] for one in found if one.get("epoch") is not None}
