"""Tables of skill_info.yaml that act or would be passed over: each wrong kind is an error of its
key or named, and the score of a bundle says what a plan says.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill, answers
from mae_sdk.plan.score import score
from mae_sdk.run import warm
from mae_skill.errors import MaeError, SpecError
from mae_skill.reader import dump_yaml

Made = Callable[..., Skill]

TEMPLATE = {
    "results_dir": "",
    "data": {"x": "", "y": ""},
    "train": {"epochs": 3, "lr": 0.1, "copy": "${data.x}"},
}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("a")

    def write(entry: Any = None, template: Any = None, **more: Any) -> Skill:
        folder = tmp_path / "bundle"
        (folder / "references").mkdir(parents=True)
        entry = {"command": "tool -e {config_path}", **(entry or {})}
        info = {"name": "tables", "actions": {"train": entry, "evaluate": entry}, **more}
        (folder / "references" / "skill_info.yaml").write_text(dump_yaml(info))
        text = dump_yaml(template or TEMPLATE)
        for action in ("train", "evaluate"):
            (folder / "references" / f"spec_template_{action}.yaml").write_text(text)
        return Skill(folder)

    return write


def verdicts(skill: Skill, action: str = "train", **options: Any) -> tuple[bool, MaeError | None]:
    """Whether the score says that an action works, and the error of a plan of it."""
    works = bool(score(skill.bundle)["actions"][action]["works"])
    try:
        skill.plan(action, **options)
    except MaeError as error:
        return works, error
    return works, None


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"automl_keys": {"epochs": 7}}, "automl_keys"),
        ({"automl_keys": {"epochs": None}}, "automl_keys"),
        ({"automl_keys": {"epochs": ["a"]}}, "automl_keys"),
        ({"inherit": {"evaluate": 7}}, "inherit"),
        ({"inherit": {"evaluate": [7]}}, "inherit"),
        ({"inherit": {"evaluate": {"a": 1}}}, "inherit"),
        ({"cost_keys": {"train": 7}}, "cost_keys"),
        ({"cost_keys": {"train": [7]}}, "cost_keys"),
        ({"cost_keys": {"train": {"a": 1}}}, "cost_keys"),
        ({"auto_recipe": "zzz"}, "skill_info"),
        ({"warm_command": "zzz"}, "warm_command"),
    ],
    ids=str,
)
def test_a_table_of_another_kind_is_refused_by_its_key_in_both(
    made: Made, table: Any, key: str
) -> None:
    works, error = verdicts(made(**table))
    assert not works
    assert error is not None and error.field == key


@pytest.mark.parametrize(
    ("entry", "got"),
    [
        ({"command": "tool {config_path} {job_dir"}, "{job_dir"),
        ({"command": "tool {job_dir {config_path}"}, "{job_dir"),
        ({"command": "tool {{config_path}}"}, "{{config_path}}"),
        ({"command": "tool {config_path!r}"}, "{config_path!r}"),
        ({"command": "tool {config_path} a\0b"}, "\\0"),
        ({"inputs": {"train.epochs": "file"}}, "actions.train.inputs.train.epochs"),
    ],
    ids=str,
)
def test_what_no_runner_could_mean_is_refused_in_both(made: Made, entry: Any, got: str) -> None:
    works, error = verdicts(made(entry))
    assert not works
    assert isinstance(error, SpecError) and got in f"{error.field} {error.got}"


@pytest.mark.parametrize(
    ("entry", "more", "said"),
    [
        ({"command": "tool {config_path} f{0}.png"}, {}, "no placeholders stay as they are: {0}"),
        ({"command": "tool {config_path} ${HOME}"}, {}, ""),
        ({"defaults": {"train.epochs": 9}}, {}, "train.epochs: 9 (3 there)"),
        ({"inputs": {"train": "folder"}}, {}, "sections and no files: train"),
        ({"outputs": {"results_dir": "file"}}, {}, "by its name, a folder of results"),
        ({}, {"spec_shorthand_keys": {"num_epochs": "train"}}, "num_epochs: train (a section"),
        ({}, {"automl_keys": {"zzz": "train.lr"}}, "automl_keys.zzz"),
        ({}, {"cost_keys": {"trian": ["train.lr"]}}, "cost_keys.trian (no such action)"),
        ({}, {"dataset_intents": 7}, "dataset_intents (not text"),
        ({}, {"dataset_type": 7}, "dataset_type (not text"),
        ({}, {"description": 7}, "description (not text"),
    ],
    ids=str,
)
def test_what_acts_otherwise_than_it_reads_is_named_in_both(
    made: Made, entry: Any, more: Any, said: str
) -> None:
    skill = made(entry, **more)
    if not said:  # a shell's own braces need a shell
        with pytest.raises(SpecError, match="needs a shell"):
            skill.plan("train")
        return
    report = score(skill.bundle)
    told = [*report["actions"]["train"]["notices"], *report["unread"].get("skill_info", ())]
    assert any(said in one for one in told)
    assert any(said in one for one in skill.plan("train").notices)


def test_an_input_that_one_table_calls_optional_and_another_does_not_is_told(
    made: Made, tmp_path: Path
) -> None:
    row = {"source": "train_datasets", "path": "a.csv", "optional": True}
    skill = made({"inputs": {"data.x": "file"}}, data_sources={"train": {"data.x": row}})
    said = "are optional by data_sources: it starts without data.x"
    assert any(said in one for one in skill.plan("train").notices)
    assert any(said in one for one in score(skill.bundle)["actions"]["train"]["notices"])
    plan = skill.plan("train", train_datasets=str(tmp_path / "data"))
    assert not any("optional by" in one for one in plan.notices)


def test_the_encryption_key_is_needed_as_a_variable(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAE_ENCRYPTION_KEY", raising=False)
    skill = made(
        template={"encryption_key": "???"}, spec_params={"train": {"encryption_key": "key"}}
    )
    assert "MAE_ENCRYPTION_KEY → encryption_key" in score(skill.bundle)["actions"]["train"]["needs"]
    with pytest.raises(SpecError, match="must be given") as caught:
        skill.plan("train")
    assert caught.value.hint == "set the variable MAE_ENCRYPTION_KEY"
    monkeypatch.setenv("MAE_ENCRYPTION_KEY", "k3y")
    assert skill.plan("train").spec["encryption_key"] == "env:MAE_ENCRYPTION_KEY"


def test_optional_data_that_nobody_gives_may_be_a_folder_of_results_in_both(made: Made) -> None:
    row = {"source": "eval_dataset", "optional": True}
    skill = made({"outputs": {"data.y": "folder"}}, data_sources={"train": {"data.y": row}})
    works, error = verdicts(skill)
    assert works and error is None
    plan = skill.plan("train")
    assert plan.spec["data"]["y"] == f"{plan.job_dir}/train"


def test_a_reference_that_a_plan_fills_is_not_said_to_be_left_open(
    made: Made, tmp_path: Path
) -> None:
    row = {"source": "train_datasets", "path": "a.csv"}
    skill = made({"inputs": {"data.x": "file"}}, data_sources={"train": {"data.x": row}})
    assert not any("left open" in one for one in score(skill.bundle)["actions"]["train"]["notices"])
    plan = skill.plan("train", train_datasets=str(tmp_path / "data"))
    assert plan.spec["train"]["copy"] == f"{tmp_path}/data/a.csv"


def test_a_warm_start_whose_program_is_not_there_leaves_jobs_to_start_cold(tmp_path: Path) -> None:
    assert warm.start(["no-such-program", "{socket}"], tmp_path) is None
    assert "cannot be run" in (tmp_path / warm.LOG_NAME).read_text()


@pytest.mark.parametrize("writes", [True, False])
def test_a_declared_file_that_a_complete_job_did_not_write_is_a_warning(
    made: Made, writes: bool
) -> None:
    code = "import sys; open(sys.argv[1], 'w') if sys.argv[2] == 'True' else 0"
    command = ["{python}", "-c", code, "{train.engine}", str(writes)]
    outputs = {"train.engine": "file", "train.log": {"type": "file", "optional": True}}
    template = {"train": {"engine": "a.engine", "log": "a.log"}}
    skill = made({"command": command, "outputs": outputs}, template=template)
    plan = skill.plan("train")
    job = skill.create_job(plan).wait(30)
    document = answers.status(job)
    said = ["files that its bundle calls outputs were not written: train.engine (train/a.engine)"]
    assert document["state"] == "COMPLETE"
    assert document.get("warnings", []) == ([] if writes else said)
    assert answers.ended(job).get("warnings", []) == ([] if writes else said)
    assert (said[0] in job.report().path.read_text()) == (not writes)
