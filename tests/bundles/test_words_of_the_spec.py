"""Runners that read no spec but the words of their command, and count steps: an archive, a trial's
values and the checkpoint to go on from reach them too.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill, answers
from mae_sdk.automl.objectives import EPOCH, STEP, course
from mae_sdk.jobs import records
from mae_sdk.jobs.checkpoint_names import Judged, choose_by_name
from mae_sdk.jobs.config_file import write_spec
from mae_sdk.jobs.metrics import lines
from mae_sdk.jobs.resume import prepare
from mae_sdk.plan.score import score
from mae_skill.errors import MaeError, SpecError
from mae_skill.reader import dump_yaml, read_spec

RUNNER = r"""
import argparse, json, os
parser = argparse.ArgumentParser()
for name in ("out", "audio", "lr", "resume", "steps"):
    parser.add_argument("--" + name)
given = parser.parse_args()
print("given", json.dumps(vars(given)))
top = os.path.join(given.out, "train")
os.makedirs(top, exist_ok=True)
start = int(open(given.resume).read()) if given.resume else 0
for step in range(start + 10, int(given.steps) + 1, 10):
    open(os.path.join(top, f"model_step_{step:06d}.pth"), "w").write(str(step))
    with open(os.path.join(top, "status.json"), "a") as file:
        value = float(given.lr) + abs(step - 20)
        line = {"date": "1/2/2026", "time": "3:4:5", "status": "RUNNING", "step": step}
        file.write(json.dumps({**line, "kpi": {"val/loss": value}}) + "\n")
    if step == 30 and not start:
        raise SystemExit(3)
"""

ARGS = {
    "--out": "results_dir",
    "--audio": "data.audio",
    "--lr": "train.lr",
    "--resume": "train.resume",
    "--steps": "train.steps",
}
ENTRY = {
    "command": "python3 {bundle_dir}/runner.py",
    "mode": "args",
    "args": ARGS,
    "metric": "val/loss",
    "metric_direction": "minimize",
    "outputs": {"results_dir": {"type": "folder"}},
}
TEMPLATE = {
    "results_dir": "???",
    "data": {"audio": None, "tags": ["a"]},
    "train": {"lr": 0.5, "steps": 20, "resume": ""},
}
SCHEMA: dict[str, Any] = {
    "automl_default_parameters": ["train.lr"],
    "type": "object",
    "properties": {
        "results_dir": {"type": "string"},
        "data": {
            "type": "object",
            "properties": {
                "audio": {"type": "string"},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
        },
        "train": {
            "type": "object",
            "properties": {
                "lr": {"type": "number", "minimum": 0.1, "maximum": 1, "automl_enabled": "TRUE"},
                "steps": {"type": "integer", "minimum": 10, "maximum": 50},
                "resume": {"type": "string"},
            },
        },
    },
}

Made = Callable[..., Skill]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A bundle whose ``train`` has ENTRY, changed, and data in ``tmp_path/data``."""
    monkeypatch.setenv("MAE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MAE_RESULTS_ROOT", str(tmp_path / "results"))
    (tmp_path / "data" / "audio").mkdir(parents=True)
    for name in ("a.wav", "b.wav"):
        (tmp_path / "data" / "audio" / name).write_text(name)
    with tarfile.open(tmp_path / "data" / "audio.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "data" / "audio" / "a.wav", "inside.wav")

    def write(row: Any = None, **entry: Any) -> Skill:
        folder = tmp_path / "bundle"
        for name in ("references", "schemas"):
            (folder / name).mkdir(parents=True)
        row = {"source": "train_datasets", "path": "audio", **(row or {})}
        info = {
            "name": "audio",
            "automl_enabled": True,
            "actions": {"train": {**ENTRY, **entry}},
            "data_sources": {"train": {"data.audio": row}},
            "spec_params": {"train": {"results_dir": "output_dir", "train.resume": "resume_model"}},
        }
        (folder / "references" / "skill_info.yaml").write_text(dump_yaml(info))
        (folder / "references" / "spec_template_train.yaml").write_text(dump_yaml(TEMPLATE))
        (folder / "schemas" / "train.schema.json").write_text(json.dumps(SCHEMA))
        (folder / "runner.py").write_text(RUNNER)
        return Skill(folder)

    return write


def planned(skill: Skill, tmp_path: Path, **options: Any) -> Any:
    options.setdefault("automl_policy", "off")
    return skill.plan("train", train_datasets=str(tmp_path / "data"), **options)


def given(job: Any) -> list[dict[str, Any]]:
    """The options of every attempt, as its runner read them."""
    said = [line for line in job.logs().splitlines() if line.startswith("given ")]
    return [json.loads(line.removeprefix("given ")) for line in said]


def test_the_checkpoint_to_go_on_from_is_among_the_words_of_a_resumed_job(
    made: Made, tmp_path: Path
) -> None:
    job = (skill := made()).create_job(planned(skill, tmp_path, spec_overrides={"train.steps": 50}))
    with pytest.raises(MaeError):
        job.wait(30)
    assert answers.resumed(job.resume())["attempt"] == 2
    assert job.wait(30).notices == []
    first, second = given(job)
    assert first["resume"] is None
    assert second["resume"] == f"{job.folder}/train/model_step_000030.pth"
    assert [row["step"] for row in job.history()] == [10, 20, 30, 40, 50]

    # By step, the best is found as it is by epoch: for a child, in the figures and in the list.
    assert job.best_checkpoint().name == "model_step_000020.pth"
    found = job.figures()
    assert found["best"]["val/loss"]["step"] == 20
    assert found["best_checkpoint"] == {
        "file": "train/model_step_000020.pth",
        "epoch": None,
        "step": 20,
        "metric": "val/loss",
        "value": 0.5,
    }
    assert any("step 20)" in line for line in lines(found))
    (row,) = answers.jobs(skill.jobs(), limit=9)["jobs"]
    assert (row["metric"], row["best"]) == ("val/loss", 0.5)


def test_the_names_of_fields_in_args_are_no_values_of_the_spec(made: Made, tmp_path: Path) -> None:
    args = {**ARGS, "--place.note": "{train.lr}/x", "--audio": "data.audio"}
    skill = made(args=args)
    plan = planned(skill, tmp_path, spec_overrides={"steps": 30, "train.lr": 0.25})
    assert plan.spec.keys() == {"results_dir", "data", "train", "steps"}
    words = plan.launch["command"]
    assert words[words.index("--place.note") + 1] == "0.25/x"
    assert words[words.index("--steps") + 1] == "30"  # what a person gives an option is a value
    assert words[words.index("--lr") + 1] == "0.25"

    study = planned(skill, tmp_path, automl_policy="on", automl={"max_trials": 2}).study
    assert study["spec"].keys() == {"results_dir", "data", "train"}


def test_a_command_without_a_place_for_the_checkpoint_says_that_it_starts_anew(
    made: Made, tmp_path: Path
) -> None:
    args = {name: key for name, key in ARGS.items() if name != "--resume"}
    skill = made(args=args, metric=None)
    job = skill.create_job(planned(skill, tmp_path, spec_overrides={"train.steps": 40}))
    with pytest.raises(MaeError):
        job.wait(30)
    document = answers.resumed(job.resume())
    assert "starts anew" in document["notices"][0]
    assert "no place for train.resume: model_step_000030.pth is there" in job.logs()
    with pytest.raises(MaeError):
        job.wait(30)


@pytest.mark.parametrize("bundle", ["there", "another", "gone"])
@pytest.mark.parametrize("command", ["tool {note}", "perl -e {note}"])
def test_the_places_of_a_command_that_an_earlier_version_recorded_are_looked_up_anew(
    made: Made, tmp_path: Path, bundle: str, command: str
) -> None:
    command = command.replace("note", "data.audio")  # of perl, it is code
    skill = made(args=None, mode="config", command=f"{command} {{train.resume}}", metric=None)
    job = skill.create_job(planned(skill, tmp_path, spec_overrides={"train.resume": "x"}))
    with pytest.raises(MaeError):
        job.wait(30)
    (job.folder / "train").mkdir(exist_ok=True)
    (job.folder / "train" / "model_step_000010.pth").write_text("10")
    spec = read_spec(job.folder / "spec.yaml")
    write_spec(job.folder, {**spec, "data": {"audio": "a; b"}})
    records.update_record(job.folder, lambda record: record["launch"]["words"].pop("plain"))
    info = tmp_path / "bundle" / "references" / "skill_info.yaml"
    if bundle == "another":
        info.write_text(info.read_text().replace("tool", "other").replace("perl -e", "ruby -e"))
    if bundle == "gone":
        info.unlink()

    if bundle == "there" and command.startswith("tool"):
        job.resume()
        return
    with pytest.raises(MaeError, match="could be read as code") as caught:
        job.resume()
    if bundle != "there":
        assert "an earlier version recorded the job" in str(caught.value)
    assert job.state == "ERROR"


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"mode": "config", "command": "tool {config_path} {data.audio}"}, True),
        ({"mode": "config", "command": "tool {data.audio}"}, False),
        ({"mode": "config", "command": "tool {config_path}"}, True),
        ({"mode": "passthrough", "command": "tool --now"}, False),
        ({"args": None}, True),
    ],
    ids=str,
)
def test_whatever_command_reads_the_spec_is_told_of_the_checkpoint(
    made: Made, tmp_path: Path, entry: Any, says: bool
) -> None:
    skill = made(**{"args": None, **entry})
    job = skill.create_job(planned(skill, tmp_path))
    with pytest.raises(MaeError):
        job.wait(30)
    (job.folder / "train").mkdir(exist_ok=True)
    (job.folder / "train" / "model_step_000010.pth").write_text("10")
    assert (prepare(job.folder) is not None) == says


def test_an_archive_is_among_the_words_as_the_folder_that_it_was_unpacked_to(
    made: Made, tmp_path: Path
) -> None:
    skill = made({"path": "audio.tar.gz", "runtime": "extracted_folder"})
    job = skill.create_job(planned(skill, tmp_path)).wait(30)
    assert (Path(given(job)[0]["audio"]) / "inside.wav").is_file()


def test_a_study_of_a_command_without_a_spec_has_its_trials_values_among_their_words(
    made: Made, tmp_path: Path
) -> None:
    skill = made()
    options = {"max_trials": 2, "algorithm": "random"}
    job = skill.create_job(planned(skill, tmp_path, automl_policy="on", automl=options)).wait(60)
    rates = set()
    for row in job.history():
        (seen,) = given(skill.job(row["child"]))
        assert seen["out"].endswith(row["child"])
        assert row["val/loss"] == pytest.approx(float(seen["lr"]))  # at step 20, not the last
        rates.add(seen["lr"])
    assert len(rates) == 2
    assert records.read_record(job.folder)["launch"].get("words") is None


def test_a_search_of_what_no_word_tells_is_refused(made: Made, tmp_path: Path) -> None:
    skill = made(args={name: key for name, key in ARGS.items() if name != "--steps"})
    asked = {"parameters": ["train.lr", "train.steps"]}
    with pytest.raises(SpecError, match="does not receive") as caught:
        planned(skill, tmp_path, automl_policy="on", automl=asked)
    assert (caught.value.got, caught.value.expected) == (["train.steps"], "train.lr")


def test_without_a_searched_word_a_run_is_plain_and_says_why(made: Made, tmp_path: Path) -> None:
    skill = made(args={"--out": "results_dir"})
    plan = planned(skill, tmp_path, automl_policy=None)
    assert plan.study is None
    assert "receives no parameter that trials differ in" in str(plan.policy.reason)


def test_where_args_name_the_options_other_fields_are_no_words_and_that_is_said(
    made: Made, tmp_path: Path
) -> None:
    skill = made()
    plan = planned(skill, tmp_path, spec_overrides={"data.tags": ["x"]})
    assert not [word for word in plan.launch["command"] if "tags" in word]
    assert [one for one in plan.notices if one.endswith("does not receive data.tags")]
    assert not any("does not receive" in one for one in planned(skill, tmp_path).notices)


def test_validate_agrees_with_a_plan_on_what_data_and_a_parent_fill(
    made: Made, tmp_path: Path
) -> None:
    assert score(made().bundle)["actions"]["train"]["problems"] == []


def test_validate_takes_fields_of_the_command_as_needs(made: Made, tmp_path: Path) -> None:
    skill = made(mode="passthrough", args=None, command="tool {data.audio} {train.resume} {word}")
    found = score(skill.bundle)["actions"]["train"]
    assert found["problems"] == []
    assert "word" in found["needs"]


@pytest.mark.parametrize("kind", ["local_glob", None, "file"])
def test_a_pattern_in_a_row_is_given_as_it_is_or_as_the_one_file(
    made: Made, tmp_path: Path, kind: str | None
) -> None:
    inputs = {"data.audio": {"type": kind}} if kind else None
    skill = made({"path": "audio/*.wav"}, inputs=inputs)
    if kind == "file":
        with pytest.raises(MaeError, match="takes one file"):
            planned(skill, tmp_path)
        (tmp_path / "data" / "audio" / "b.wav").unlink()
    audio = planned(skill, tmp_path).spec["data"]["audio"]
    assert audio == f"{tmp_path}/data/audio/{'a' if kind == 'file' else '*'}.wav"
    for path in (tmp_path / "data" / "audio").iterdir():
        path.unlink()
    with pytest.raises(MaeError, match="no data was found"):
        planned(skill, tmp_path)


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"path": "none"}, "--train-datasets URI of the place that holds it; or .* of the folder"),
        ({"path": "none.csv"}, "of the file itself"),
        ({"source": "sounds", "path": "none"}, "--source sounds=URI of the place"),
    ],
    ids=str,
)
def test_the_hint_of_data_that_is_not_there_names_the_option_and_the_kind(
    made: Made, tmp_path: Path, row: Any, hint: str
) -> None:
    skill = made(row)
    options = {"sources": {"sounds": str(tmp_path / "data")}} if "source" in row else {}
    source = {} if options else {"train_datasets": str(tmp_path / "data")}
    with pytest.raises(MaeError, match="no data was found") as caught:
        skill.plan("train", automl_policy="off", **options, **source)
    assert re.search(hint, str(caught.value.hint))


def test_values_count_by_step_where_no_line_names_an_epoch() -> None:
    said = [{"step": step, "kpi": {"loss": value}} for step, value in ((10, 0.5), (20, 0.75))]
    assert course(said, "loss") == (STEP, [(10, 0.5), (20, 0.75)])
    by_epoch = [*said, {"epoch": 1, "kpi": {"loss": 0.1}}]
    assert course(by_epoch, "loss") == (EPOCH, [(1, 0.1)])


@pytest.mark.parametrize(
    ("names", "chosen", "reason"),
    [
        (["m_step_10.pth", "m_step_20.pth"], "m_step_20.pth", "step 20, loss 0.25"),
        (["10.pth", "20.pth"], "20.pth", "step 20, loss 0.25"),
        (["m_step_10.pth"], "m_step_10.pth", "step 20 (0.25) has no checkpoint"),
        (["m_epoch_1_step_10.pth", "m_step_20.pth"], "m_step_20.pth", "step 20"),
    ],
)
def test_values_of_steps_and_names_of_checkpoints_are_brought_together(
    names: list[str], chosen: str, reason: str
) -> None:
    judged = Judged("loss", "minimize", {}, {10: 0.5, 20: 0.25})
    found = choose_by_name(names, "best", "job", judged)
    assert found[0] == chosen
    assert reason in found[1]
