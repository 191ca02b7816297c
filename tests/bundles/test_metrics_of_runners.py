"""The metrics of runners of other makes: files of several forms, and runs that count by steps."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest
from mae_sdk import Skill, answers
from mae_sdk.automl.objectives import STEP, course, spread
from mae_sdk.automl.options import parse
from mae_sdk.automl.pruner import OF_ALL, UNIT, describe, make_pruner
from mae_sdk.cli import live
from mae_sdk.cli.common import figure_lines, place_of, progress_of, status_text
from mae_sdk.job import Job, RemoteJob
from mae_sdk.jobs import checkpoint_names, metric_file
from mae_sdk.jobs.failure import analyze
from mae_sdk.jobs.outputs import outputs_of
from mae_sdk.jobs.root import Root
from mae_sdk.jobs.status import counted, lines_of, marks, reported_failure
from mae_sdk.storage import transfer
from mae_skill.errors import MaeError
from mae_skill.reader import dump_yaml

from tests.support.folders import job_folder
from tests.support.reports import write_job

NOT_FINITE = {"cost": 0.5, "other": None, "far": None}
COST = {"cost": 0.5}
FORMS = {
    "a document": ('{"cost": 0.5, "deep": {"other": 1}}', {"cost": 0.5, "deep.other": 1}),
    "nested": ('{"test": {"cost": 0.5}, "n": "7"}', {"test.cost": 0.5, "cost": 0.5, "n": 7.0}),
    "lines": ('{"step": 1, "cost": 1.0}\n{"step": 2, "cost": 0.5}\n{"st', {"cost": 0.5}),
    "not a number": ('{"cost": 0.5, "other": NaN, "far": Infinity}', NOT_FINITE),
    "lines, not a number": ('{"cost": 1}\n{"cost": 0.5, "other": NaN, "far": 1e999}', NOT_FINITE),
    "a list": ('[{"epoch": 0, "cost": 1}, {"epoch": 1, "cost": 0.5}]', {"cost": 0.5}),
    "a history": ('{"history": [{"epoch": 0, "cost": 1}, {"epoch": 1, "cost": 0.5}]}', COST),
    "columns": ('{"epoch": [0, 1], "cost": [1, 0.5]}', COST),
    "columns of epochs": ('{"cost": [1, 0.5], "params": {"a": 1}}', COST),
    "a figure beside a list": ('{"cost": 0.5, "of_classes": [1, 2]}', COST),
    "tabs": ("step\tcost\n10\t1.0\n20\t0.5\n", {"cost": 0.5}),
    "semicolons": ("step;cost\n10;1.0\n20;0.5\n", {"cost": 0.5}),
    "spaces after commas": ("epoch, cost\n0, 1.0\n1, 0.5\n", {"cost": 0.5}),
    "a mark before it": ('\ufeff{"cost": 0.5}', {"cost": 0.5}),
    "a table": ("step,cost,note\n10,1.0,a\n20,0.5,b\n", {"cost": 0.5}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_metric_file_is_read_in_its_form(tmp_path: Path, form: str) -> None:
    text, expected = FORMS[form]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "m.json").write_text(text)
    assert metric_file.lines(tmp_path, "m.json", ["cost"])[-1]["kpi"] == expected


def test_a_metric_file_in_utf_16_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"cost": 0.5}', encoding="utf-16")
    assert metric_file.lines(tmp_path, "m.json")[0]["kpi"] == {"cost": 0.5}


def test_an_epoch_in_a_text_is_one(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"epoch": "3", "cost": 0.5}\n')
    (line,) = metric_file.lines(tmp_path, "m.jsonl")
    assert (line["epoch"], line["kpi"]) == (3, {"cost": 0.5})


@pytest.mark.parametrize(
    "text",
    [
        "epoch,cost\n0.0,1\n1.0,0.5\n",
        "Epoch,cost\n0,1\n1,0.5\n",
        '[{"epoch": 0.0, "cost": 1}, {"epoch": 1.0, "cost": 0.5}]',
    ],
)
def test_an_epoch_that_a_table_made_a_float_or_spells_large_is_one(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "m.csv").write_text(text)
    lines = metric_file.lines(tmp_path, "m.csv")
    assert [(one["epoch"], one["kpi"]) for one in lines] == [(0, {"cost": 1}), (1, {"cost": 0.5})]


def test_a_share_of_an_epoch_beside_its_step_is_no_epoch(tmp_path: Path) -> None:
    text = '{"step": 5, "epoch": 0.5, "cost": 1}\n{"step": 10, "epoch": 1.0, "cost": 0.5}'
    (tmp_path / "m.jsonl").write_text(text)
    lines = metric_file.lines(tmp_path, "m.jsonl")
    assert [one["step"] for one in lines] == [5, 10]
    assert not any("epoch" in one for one in lines)


def test_epochs_that_are_none_are_said(tmp_path: Path) -> None:
    launch = {"command": ["true"], "metric_file": "m.csv"}
    folder = job_folder(tmp_path, "t1", "train", launch=launch)
    (folder / "m.csv").write_text("epoch,cost\n0.5,1\n1.0,0.5\n")
    (said,) = Job(folder).figures()["warnings"]
    assert "m.csv has epochs that are no whole numbers ('0.5')" in said


def test_a_status_line_with_nan_keeps_all_else(tmp_path: Path) -> None:
    lines = [
        {"status": "RUNNING", "epoch": 0, "kpi": {"cost": 0.5, "loss": 1.0}},
        {"status": "RUNNING", "epoch": 1, "kpi": {"cost": 0.25, "loss": float("nan")}},
        {"status": "RUNNING", "epoch": 2, "kpi": {"cost": 0.75, "loss": float("inf")}},
    ]
    job = observed(tmp_path, lines, [])
    assert job.status()["progress"]["epoch"] == 2
    best = job.figures()["best"]["cost"]
    assert (best["value"], best["epoch"]) == (0.25, 1)


@pytest.mark.parametrize("name", ["status.json", "train/status.json"])
@pytest.mark.parametrize(
    ("fields", "eta"),
    [
        ({"time_per_epoch": "0:00:05", "eta": "0:00:10"}, 10.0),
        ({"time_per_epoch": "0:00:05.250000", "eta": "1 day, 1:00:01.5"}, 90001.5),
        ({"time_per_epoch": {"s": 5}, "eta": {"s": 1}}, None),
        ({"eta": "soon", "kpi": ["cost", 1]}, None),
        ({"eta": -1, "kpi": "cost: 1"}, None),
        ({"eta": None, "kpi": None}, None),
    ],
)
def test_a_status_of_any_shape_is_shown(
    tmp_path: Path, fields: dict[str, Any], eta: float | None, name: str
) -> None:
    folder = job_folder(tmp_path, "t1", "train")
    line = {"status": "RUNNING", "epoch": 0, "max_epoch": 3, **fields}
    (folder / name).write_text(json.dumps(line) + "\n")
    job = Job(folder)
    found = answers.status(job)
    assert found["progress"].get("eta") == eta
    assert progress_of(found["progress"])["progress"].startswith("1 of 3 epochs done")
    assert status_text(found) and answers.metrics(job)
    assert live._done(found["progress"])[2]


def test_a_metric_that_is_text_is_its_number_and_other_text_is_shown(tmp_path: Path) -> None:
    launch = {"command": ["true"], "best": {"metric": "cost", "direction": "minimize"}}
    for name, value, warned in (("t1", "0.5", False), ("t2", "0,5", True)):
        folder = job_folder(tmp_path, name, "train", launch=launch)
        line = {"status": "RUNNING", "epoch": 0, "kpi": {"cost": value}}
        (folder / "status.json").write_text(json.dumps(line) + "\n")
        said = Job(folder).figures().get("warnings", [])
        assert bool(said) == warned
        if warned:
            assert "of cost '0,5', which is no number" in said[0]
        else:
            assert Job(folder).metrics() == {"cost": 0.5}


def test_an_epoch_in_a_text_of_a_status_line_is_one(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    text = '{"status": "RUNNING", "epoch": "0", "max_epoch": "4", "kpi": {"cost": 0.5}}'
    (tmp_path / "train" / "status.json").write_text(text)
    (line,) = lines_of(tmp_path)
    assert counted(line) == (1, 4, "epoch")


def observed(root: Path, lines: list[dict[str, Any]], records: list[dict[str, Any]]) -> Job:
    stated = {"metric": "cost", "direction": "minimize"}
    launch = {"command": ["run"], "metric_file": "m.jsonl", "best": stated}
    folder = write_job(root, "train-1", launch=launch)
    (folder / "train" / "status.json").write_text("\n".join(map(json.dumps, lines)))
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, records)))
    return Job(folder)


def test_records_out_of_order_are_read_by_epoch_and_step_in_every_answer(tmp_path: Path) -> None:
    lines = [
        {"status": "RUNNING", "epoch": 2, "kpi": {"loss": 0.2}},
        {"status": "RUNNING", "epoch": 0, "kpi": {"loss": 0.9}},
    ]
    records = [{"epoch": 1, "step": step, "cost": step / 10} for step in (8, 6, 7)]
    job = observed(tmp_path, lines, records)
    assert job.status()["progress"]["epoch"] == 2
    assert job.metrics() == {"loss": 0.2, "cost": 0.8}
    last = job.figures()["last"]
    assert (last["loss"]["value"], last["loss"]["epoch"]) == (0.2, 2)
    assert (last["cost"]["value"], last["cost"]["step"]) == (0.8, 8)


def test_a_runner_that_starts_anew_is_not_put_back_before_its_former_run(tmp_path: Path) -> None:
    lines = [
        {"status": "STARTED"},
        *({"status": "RUNNING", "epoch": at, "kpi": {"loss": 1 - at / 10}} for at in range(4)),
        {"status": "STARTED"},
        {"status": "RUNNING", "epoch": 0, "kpi": {"loss": 0.95}},
    ]
    job = observed(tmp_path, lines, [])
    assert job.status()["progress"]["epoch"] == 0
    assert job.metrics()["loss"] == job.figures()["last"]["loss"]["value"] == 0.95


def test_a_value_that_no_record_places_is_a_last_one(tmp_path: Path) -> None:
    job = observed(
        tmp_path, [{"status": "RUNNING", "epoch": 0, "kpi": {"loss": 0.9}}], [{"cost": 3}]
    )
    figures = job.figures()
    assert figures["last"]["cost"] == {"value": 3, "epoch": None, "step": None}
    assert figures["best"]["cost"]["value"] == 3
    text = "\n".join(figure_lines(answers.metrics(job)))
    assert "cost  3" in text and "loss" in text
    assert "cost 3 (whole run)" in status_text(answers.status(job))


def test_a_job_that_left_no_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(MaeError, match="left no checkpoint and no other model"):
        Job(job_folder(tmp_path, "t1", "train")).best_checkpoint()


def test_a_metric_file_that_leads_out_of_the_job_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "else.json").write_text('{"cost": 0.5}')
    (tmp_path / "job" / "m.json").symlink_to(tmp_path / "else.json")
    assert metric_file.lines(tmp_path / "job", "m.json") == []

    stated = {"metric": "cost", "direction": "minimize"}
    launch = {"command": ["true"], "best": stated, "metric_file": "m.json"}
    folder = job_folder(tmp_path, "t1", "train", launch=launch)
    (folder / "m.json").symlink_to(tmp_path / "else.json")
    (said,) = Job(folder).figures()["warnings"]
    assert "m.json is a link that leads out of the job's folder" in said


def test_epochs_and_steps_of_a_metric_file_are_those_of_its_records(tmp_path: Path) -> None:
    text = "".join(json.dumps({"global_step": at, "loss": 1 / at}) + "\n" for at in (5, 10))
    (tmp_path / "m.jsonl").write_text(text)
    found = metric_file.lines(tmp_path, "m.jsonl", ["loss"])
    assert course(found, "loss") == (STEP, [(5, 0.2), (10, 0.1)])


def test_of_several_files_of_one_name_the_path_says_which(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 2), ("inputs", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.json").write_text(json.dumps({"cost": value}))
    assert [one["kpi"]["cost"] for one in metric_file.lines(tmp_path, "a/m.json")] == [1]
    assert [one["kpi"]["cost"] for one in metric_file.lines(tmp_path, "m.json")] == [1, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no file m.json below"),
        ('{"loss": 1, "deep": {"x": 2}}', "m.json has loss, deep.x"),
        ("no table", "m.json cannot be read: expected JSON, JSON lines or CSV"),
        ("{}", "m.json has no numbers"),
        ("", "m.json cannot be read (it is empty): expected JSON, JSON lines or CSV"),
        ('{"cost": 0.5', "m.json cannot be read (its JSON is broken): expected"),
    ],
)
def test_a_metric_that_is_not_found_is_said_with_what_is_there(
    tmp_path: Path, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / "m.json").write_text(text)
    assert said in metric_file.looked(tmp_path, "m.json")


FAILED = {
    "a line": '{"status": "RUNNING"}\n{"status": "FAILURE", "message": "no number"}\n',
    "another word": '{"status": "FAILED", "message": "no number"}\n',
    "a small word": '{"status": "failure", "message": "no number"}',
    "an error": '{"status": "ERROR", "message": "no number"}',
    "a document": json.dumps({"status": "FAILURE", "message": "no number", "kpi": {}}, indent=2),
    "a list": json.dumps([{"status": "RUNNING"}, {"status": "FAILED", "message": "no number"}]),
    "a list over lines": json.dumps([{"status": "FAIL", "message": "no number"}], indent=1),
}


@pytest.mark.parametrize("name", ["status.json", "train/status.json"])
@pytest.mark.parametrize("form", FAILED)
def test_a_failure_is_read_in_every_form_of_a_status_file(
    tmp_path: Path, form: str, name: str
) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / name).write_text('{"status": "FAILURE", "message": "of the attempt before"}\n')
    before = marks(tmp_path)
    assert reported_failure(tmp_path, before) is None

    with (tmp_path / name).open("a") as file:
        file.write(FAILED[form])
    assert reported_failure(tmp_path, before) == "no number"
    (tmp_path / name).write_text(FAILED[form])  # written anew
    assert reported_failure(tmp_path, before) == "no number"
    assert lines_of(tmp_path)[-1]["message"] == "no number"


def test_a_run_that_ends_well_is_no_failure(tmp_path: Path) -> None:
    text = '{"status": "ERROR"}\n{"status": "RUNNING", "message": "FAILURE"}\n'
    (tmp_path / "status.json").write_text(text)
    assert reported_failure(tmp_path, {}) is None


def test_a_status_file_without_a_record_is_a_warning(tmp_path: Path) -> None:
    folder = job_folder(tmp_path, "t1", "train")
    (folder / "train" / "status.json").write_text("status: FAILURE\n")
    (said,) = Job(folder).figures()["warnings"]
    assert said.startswith("train/status.json has no record that can be read")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            {"status": "RUNNING", "kpi": ["a"]},
            'the kpi of 2 records is not used: ["a"]; expected a',
        ),
        ({"status": 7, "epoch": 1}, "the status of 2 records is not used: 7; expected text"),
        ({"status": "RUNNING", "kpi": None}, ""),
        ({"status": "RUNNING", "epoch": 1}, ""),
    ],
    ids=str,
)
def test_a_status_line_of_another_kind_is_a_warning(tmp_path: Path, line: Any, said: str) -> None:
    folder = job_folder(tmp_path, "t1", "train")
    (folder / "train" / "status.json").write_text(f"{json.dumps(line)}\n" * 2)
    warnings = Job(folder).figures().get("warnings", [])
    assert [one for one in warnings if said and said in one] == warnings
    assert bool(warnings) == bool(said)


RUNNER = r"""
import json, os, sys, time
spec = json.load(open(sys.argv[1]))["train"]
top = os.environ["MAE_JOB_DIR"]
with open(os.path.join(top, "log.jsonl"), "a") as file:
    for step in range(10, 110, 10):
        value = spec["lr"] * step
        file.write(json.dumps({"step": step, "max_step": 100, "val": {"score": value}}) + "\n")
        file.flush()
        if spec["pause"]:
            time.sleep(spec["pause"] if spec["lr"] < 0.4 else 0)
"""


def write_bundle(folder: Path) -> Path:
    """A bundle whose runner leaves JSON lines by step and knows nothing of epochs."""
    for name in ("references", "schemas"):
        (folder / name).mkdir(parents=True)
    (folder / "run.py").write_text(RUNNER)
    entry = {
        "command": "python3 {bundle_dir}/run.py {config_path}",
        "config_format": "json",
        "metric": "score",
        "metric_direction": "maximize",
        "metric_file": "log.jsonl",
    }
    info = {"name": "steps", "automl_enabled": True, "actions": {"train": entry}}
    (folder / "references" / "skill_info.yaml").write_text(dump_yaml(info))
    template = {"train": {"lr": 0.5, "pause": 0.0}}
    (folder / "references" / "spec_template_train.yaml").write_text(dump_yaml(template))
    lr = {"type": "number", "default": 0.5, "minimum": 0.0, "maximum": 1.0, "automl_enabled": True}
    fields = {"lr": lr, "pause": {"type": "number", "default": 0.0}}
    schema = {
        "automl_default_parameters": ["train.lr"],
        "properties": {"train": {"type": "object", "properties": fields}},
        "default": template,
    }
    (folder / "schemas" / "train.schema.json").write_text(json.dumps(schema))
    return folder


@pytest.fixture
def skill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Skill:
    monkeypatch.setenv("MAE_RESULTS_ROOT", str(tmp_path / "results"))
    return Skill(write_bundle(tmp_path / "bundle"))


def rows_of(job: Job) -> list[dict[str, str]]:
    with (job.folder / "automl" / "trials.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_a_study_of_a_runner_that_counts_by_steps_prunes_by_them(
    skill: Skill, tmp_path: Path
) -> None:
    ranges = {"train.lr": {"choices": [0.5, 0.9, 0.1, 0.2]}}
    options: dict[str, Any] = {"max_trials": 4, "sampler": "grid", "concurrency": 1}
    plan = skill.plan(
        "train", automl={**options, "ranges": ranges}, spec_overrides={"train.pause": 0.1}
    )
    job = skill.create_job(plan)
    job.wait(60)
    rows = rows_of(job)
    assert "PRUNED" in {row["state"] for row in rows}
    pruned = next(row for row in rows if row["state"] == "PRUNED")
    assert float(pruned["train.lr"]) < 0.5
    assert int(pruned["steps"]) < 100
    best = job.figures()["study"]["best"]
    assert (best["value"] >= 50, best["step"]) == (True, 100)
    page = job.report(tmp_path / "report.html").path
    assert "score over steps" in page.read_text()


@pytest.mark.parametrize(
    ("metric", "file", "said"),
    [
        ("accuracy", "log.jsonl", r"reported no accuracy: log.jsonl has val.score"),
        ("score", "never.json", r"reported no score: there is no file never.json below train-"),
    ],
)
def test_a_metric_that_the_trials_do_not_report_is_named_with_the_file(
    skill: Skill, metric: str, file: str, said: str
) -> None:
    skill.bundle.info["actions"]["train"]["metric_file"] = file
    plan = skill.plan("train", automl={"max_trials": 3, "metric": f"{metric}:maximize"})
    job = skill.create_job(plan)
    with pytest.raises(MaeError, match=said):
        job.wait(60)


@pytest.mark.parametrize("remote", [False, True], ids=["here", "behind a URL"])
@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("m.json", None),
        ("other.json", "accuracy, was not reported: it reported no metric, and there is no file"),
    ],
)
def test_a_job_that_did_not_report_its_metric_has_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, said: str | None, remote: bool
) -> None:
    best = {"metric": "accuracy", "direction": "maximize"}
    launch = {"command": ["true"], "best": best, "metric_file": file}
    folder = job_folder(tmp_path, "t1", "train", launch=launch)
    (folder / "train" / "m.json").write_text('{"accuracy": 0.5}')
    job = Job(folder)
    if remote:
        monkeypatch.setenv("MAE_SCRATCH", str(tmp_path / "elsewhere"))
        for path in folder.rglob("*"):
            if path.is_file():
                name = path.relative_to(tmp_path).as_posix()
                transfer.write_bytes(f"memory://{tmp_path.name}/{name}", path.read_bytes())
        job = RemoteJob(Root(f"memory://{tmp_path.name}"), "t1")
    figures = job.figures()
    if said is None:
        assert job.metrics()["accuracy"] == 0.5
        assert "warnings" not in figures
    else:
        assert said in figures["warnings"][0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"accuracy": NaN}', "of accuracy null alone, as which NaN and infinity are read"),
        ('{"accuracy": null, "loss": 1}', "it reported loss, and of accuracy null alone"),
        ('{"accuracy": 1e999}', "of accuracy null alone"),
        ('{"accuracy": 0.5', "it reported no metric; m.json cannot be read (its JSON is broken)"),
        ("", "m.json cannot be read (it is empty)"),
        ('{"accuracy": 0.5}\n{"accuracy": NaN}', None),
    ],
)
def test_a_metric_without_a_number_was_not_reported(
    tmp_path: Path, text: str, said: str | None
) -> None:
    best = {"metric": "accuracy", "direction": "maximize"}
    launch = {"command": ["true"], "best": best, "metric_file": "m.json"}
    folder = job_folder(tmp_path, "t1", "train", launch=launch)
    (folder / "m.json").write_text(text)
    warnings = Job(folder).figures().get("warnings", [])
    assert (not warnings) if said is None else (said in warnings[0])


@pytest.mark.parametrize(
    ("text", "known", "said"),
    [
        ("epoch;loss;acc\n0;0,5;0,6\n", {}, "and are not read: loss '0,5', acc '0,6' (is"),
        ("loss;acc\n0,5;0,6\n", {}, "its values are no numbers: loss '0,5', acc '0,6' (is"),
        ("epoch;loss;acc\n0;0,5;90\n", {"acc": 90.0}, "and are not read: loss '0,5' (is the comma"),
        ("epoch,loss,acc\n0,0,5,0,6\n", {}, "line 2 has more values than its head has names"),
        ("loss\n0,5\n", {}, "line 2 has more values than its head has names"),
        ("epoch,loss,acc\n0,0.5,95%\n", {"loss": 0.5}, "and are not read: acc '95%'"),
        ('{"epoch": 0, "loss": "0,5", "acc": 1}', {"acc": 1}, "are not read: loss '0,5'"),
        ("epoch,loss,note\n0,0.5,\n1,0.4,-,\n", {"loss": 0.4}, None),
    ],
)
def test_a_value_that_looks_like_a_number_and_is_none_is_said(
    tmp_path: Path, text: str, known: dict[str, float], said: str | None
) -> None:
    launch = {"command": ["true"], "metric_file": "m.csv"}
    folder = job_folder(tmp_path, "t1", "train", launch=launch)
    (folder / "m.csv").write_text(text)
    job = Job(folder)
    assert job.metrics() == known
    warnings = job.figures().get("warnings", [])
    assert (not warnings) if said is None else any(said in one for one in warnings)
    if said is not None:
        looked = metric_file.looked(folder, "m.csv")
        assert "no numbers: " in looked or "more values than its head has names" in looked


def test_what_a_runner_reports_explains_its_exit_code_before_its_log_does(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("started\n")
    found = analyze(tmp_path, 3, is_own=False, said="no lamp in the room")
    assert found["message"] == "the runner ended with exit code 3: no lamp in the room"
    assert found["category"] == "runner"
    assert analyze(tmp_path, 3, is_own=False, said="CUDA out of memory")["category"] == (
        "out_of_memory"
    )


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("train/ckpt_12.pt", (12, -1)),
        ("train/checkpoint-20/model.safetensors", (20, -1)),
        ("train/epoch_3/weights.pth", (3, -1)),
        ("train/step_40/model.pth", (-1, 40)),
        ("train/model_epoch_001_step_00020.pth", (1, 20)),
        ("train/007.pt", (7, -1)),
        ("train/resnet50.pth", None),
        ("train/final.pth", None),
    ],
)
def test_a_name_or_its_folder_places_a_checkpoint(name: str, at: tuple[int, int] | None) -> None:
    assert checkpoint_names.place(name) == at


def test_numbered_checkpoints_are_chosen_by_what_the_job_counts() -> None:
    names = [f"train/checkpoint-{step}/model.safetensors" for step in (10, 20, 30)]
    judged = checkpoint_names.Judged("acc", "maximize", {}, {10: 0.2, 20: 0.9, 30: 0.5})
    chosen, why = checkpoint_names.choose_by_name(names, "best", "t1", judged)
    assert (chosen, "step 20" in why) == (names[1], True)
    assert checkpoint_names.choose_by_name(names, "latest", "t1") == (
        names[2],
        "latest, number 30, by its name",
    )
    assert checkpoint_names.choose_by_name(["ckpt_1.pt", "ckpt_2.pt"], "epoch:1", "t1")[0] == (
        "ckpt_1.pt"
    )


@pytest.mark.parametrize("code", [2, 3, 4, 7, 8])
def test_the_exit_codes_of_a_runner_of_another_make_are_its_own(tmp_path: Path, code: int) -> None:
    (tmp_path / "log.txt").write_text("it was not to be\n")
    assert analyze(tmp_path, code, is_own=False)["category"] == "runner"
    assert analyze(tmp_path, code)["category"] != "runner"
    assert analyze(tmp_path, 127, is_own=False)["category"] == "dependency"


def test_the_hint_of_a_runner_of_another_make_names_no_field_of_ours(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("CUDA out of memory\n")
    assert "accum_grad_batches" in analyze(tmp_path, 1)["hint"]
    found = analyze(tmp_path, 1, is_own=False)
    assert (found["category"], "accum_grad" in found["hint"]) == ("out_of_memory", False)


def test_a_runner_that_writes_before_head_is_explained(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("FileNotFoundError: x\n")
    found = analyze(tmp_path, 141)
    assert "had stopped reading, as before `head`" in found["message"]
    assert "sed -n" in str(found["hint"])


def test_a_runner_that_counts_by_steps_is_shown_by_them(skill: Skill, tmp_path: Path) -> None:
    job = skill.create_job(skill.plan("train", automl_policy="off")).wait(30)
    assert [row["step"] for row in job.history()] == list(range(10, 110, 10))
    assert place_of(job.figures()["best"]["score"]) == "step 100"
    assert "100 of 100 steps done" in progress_of(job.status()["progress"])["progress"]
    text = job.report(tmp_path / "report.html").path.read_text()
    assert "score" in text


@pytest.mark.parametrize("form", ["lines", "table", "status"])
@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_a_child_takes_the_checkpoint_that_is_shown_as_the_best(
    tmp_path: Path, form: str, unit: str
) -> None:
    values = {1: 1.5, 2: 0.5, 3: 1.5}
    launch = {"command": ["true"], "best": {"metric": "nll", "direction": "minimize"}}
    if form != "status":
        launch["metric_file"] = "log.txt"
    folder = job_folder(tmp_path, "train-1", "train", launch=launch)
    for number in values:
        (folder / "train" / f"model_{unit}_{number:03}.pth").write_bytes(b"x")
    lines = [json.dumps({unit: number, "nll": value}) for number, value in values.items()]
    if form == "lines":
        (folder / "log.txt").write_text("\n".join(lines) + "\n")
    elif form == "table":
        rows = [f"{number},{value}" for number, value in values.items()]
        (folder / "log.txt").write_text("\n".join([f"{unit},nll", *rows]))
    else:
        kpis = [{unit: number, "kpi": {"nll": value}} for number, value in values.items()]
        (folder / "train" / "status.json").write_text("\n".join(map(json.dumps, kpis)))

    shown = Job(folder).figures()["best_checkpoint"]["file"]
    taken = outputs_of("train-1", tmp_path).model("best")
    assert shown == f"train/model_{unit}_002.pth"
    assert taken.path == folder / shown and "best nll" in taken.reason


@pytest.mark.parametrize(
    ("result", "is_model"),
    [
        *(("model.pkl", True), ("train/best.keras", True), ("model.json", True)),
        *(("metrics.json", False), ("report.txt", False)),
    ],
)
def test_the_result_of_a_bundle_is_the_model_where_it_is_one(
    tmp_path: Path, result: str, is_model: bool
) -> None:
    launch = {"command": ["true"], "result": result}
    folder = job_folder(tmp_path, "train-1", "train", launch=launch, skill_dir="/bundle")
    (folder / result).write_bytes(b"x")
    found = outputs_of("train-1", tmp_path)
    if not is_model:
        assert found.kind == "none"
        return
    assert found.kind == "checkpoint" and found.model("best").path == folder / result

    ours = json.loads((folder / "job.json").read_text())
    del ours["skill_dir"]
    (folder / "job.json").write_text(json.dumps(ours))
    assert outputs_of("train-1", tmp_path).kind == "none"


def test_a_runner_that_counts_epochs_from_one_does_no_more_than_all() -> None:
    last = {"epoch": 3, "max_epoch": 3, "kpi": {"a": 1}}
    assert counted(last) == (3, 3, "epoch")
    assert progress_of(last)["progress"] == "epoch 3 of 3"
    assert progress_of({**last, "epoch": 2})["progress"].startswith("3 of 3 epochs done")
    assert progress_of({"epoch": -5, "max_epoch": -1})["progress"] == "epoch -5 of -1"


@pytest.mark.parametrize(
    ("epochs", "done", "shown", "bar"),
    [
        ([1], None, "epoch 1 of 3", 1),
        ([2], None, "epoch 2 of 3", 2),
        ([1, 2], 2, "2 of 3 epochs done", 2),
        ([1, 2, 3], 3, "3 of 3 epochs done", 3),
        ([3], 3, "3 of 3 epochs done", 3),
        ([0], 1, "1 of 3 epochs done (the last is epoch 0)", 1),
        ([0, 1], 2, "2 of 3 epochs done (the last is epoch 1)", 2),
        ([0, 2], 3, "3 of 3 epochs done (the last is epoch 2)", 3),
    ],
)
def test_progress_of_another_runner_is_counted_as_its_lines_tell(
    tmp_path: Path, epochs: list[int], done: int | None, shown: str, bar: int
) -> None:
    folder = job_folder(tmp_path, "train-1", "train", skill_dir="/bundle")
    lines = [{"status": "RUNNING", "epoch": one, "max_epoch": 3} for one in epochs]
    (folder / "train" / "status.json").write_text("\n".join(map(json.dumps, lines)) + "\n")
    line = Job(folder).status()["progress"]
    assert line["epochs_done"] == done
    assert progress_of(line)["progress"] == shown
    assert counted(line) == (bar, 3, "epoch")


def test_our_own_progress_is_counted_from_zero_after_a_resume_too(tmp_path: Path) -> None:
    folder = job_folder(tmp_path, "train-1", "train")
    lines = [{"status": "RUNNING", "epoch": one, "max_epoch": 5} for one in (1, 2)]
    (folder / "status.json").write_text("\n".join(map(json.dumps, lines)) + "\n")
    line = Job(folder).status()["progress"]
    assert progress_of(line)["progress"] == "3 of 5 epochs done (the last is epoch 2)"


def test_what_a_line_says_is_done_is_counted_by_its_own_unit() -> None:
    assert counted({"step": 40, "max_step": 100}) == (40, 100, "step")
    assert counted({"epoch": 1, "step": 40, "max_epoch": 3}) == (2, 3, "epoch")
    assert counted({"message": "starting"}) == (None, None, "epoch")
    line = {"step": 40, "max_step": 100, "kpi": {"a": 1}}
    assert progress_of(line)["progress"] == "40 of 100 steps done"


@pytest.mark.parametrize("known", [True, False], ids=["max_step", "by the first complete trial"])
def test_the_rungs_of_steps_are_shares_of_a_whole_run(known: bool) -> None:
    study = optuna.create_study(
        direction="maximize", pruner=make_pruner(parse({}), 1, 1), sampler=None
    )
    ended = []
    for quality in (1.0, 0.9, 0.8, 0.7):
        trial = study.ask()
        trial.set_user_attr(UNIT, STEP)
        if known:
            trial.set_user_attr(OF_ALL, 200)
        last = 0
        for step in range(10, 201, 10):
            last = step
            trial.report(quality * step, step)
            if step < 200 and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, quality)
        ended.append(last)
    assert ended == [200, 200, 20, 20]
    assert "steps" in describe(parse({}), 1, 1)


@pytest.mark.parametrize("kind", ["median", "hyperband"])
@pytest.mark.parametrize("epochs", [1, 9, None])
def test_the_other_pruners_wait_for_a_ninth_of_the_steps(kind: str, epochs: int | None) -> None:
    options = parse({"pruner": kind})
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(
        direction="maximize",
        pruner=make_pruner(options, 1, epochs),
        sampler=sampler,
        study_name="a",
    )
    ended = []
    for at in range(16):
        trial = study.ask()
        trial.set_user_attr(UNIT, STEP)
        trial.set_user_attr(OF_ALL, 200)
        for step in range(10, 201, 10):
            trial.report((1 - at / 20) * step, step)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, 1 - at / 20)
        ended.append(step)
    assert min(ended) in range(30, 200)
    assert "a ninth of a run that is reported by steps" in describe(options, 1, 9)


def test_a_run_of_very_many_steps_tells_the_pruner_a_few_hundred() -> None:
    told = list(spread([(step, 0.0) for step in range(100_000)]))
    assert len(told) < 400
    assert told[:3] == [(0, 0.0), (1, 0.0), (2, 0.0)]


@pytest.mark.parametrize(
    ("name", "crashed"), [("SIGSEGV", True), ("SIGABRT", True), ("SIGTERM", False)]
)
def test_a_crash_in_native_code_is_not_called_a_kill(
    tmp_path: Path, name: str, crashed: bool
) -> None:
    found = analyze(tmp_path, -getattr(signal, name))
    assert found["category"] == "signal" and name in found["message"]
    assert ("nobody killed" in found["hint"]) == crashed
    assert ("killed" in found["message"]) != crashed
