"""The figures of a job: best beside last, the best trial beside trial 0, and what is noise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import files
from mae_sdk.answers import after, jobs, metrics, show
from mae_sdk.automl.controller import control
from mae_sdk.automl.objectives import Objective, course
from mae_sdk.automl.objectives import best as best_of_trial
from mae_sdk.cli.main import main
from mae_sdk.job import Job, list_jobs
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_sdk.jobs.metrics import last_and_best, lines, noise, study
from mae_sdk.jobs.root import Root
from mae_skill.reader import read_spec

from tests.support.automl_toy import SPEC, children, make_job
from tests.support.folders import job_folder
from tests.support.jobs import start, wait_until

UP, DOWN = {"direction": "maximize"}, {"direction": "minimize"}


def epoch(number: int, step: int, **kpi: Any) -> dict[str, Any]:
    return {"status": "RUNNING", "epoch": number, "step": step, "kpi": kpi}


def test_the_best_epoch_stands_beside_the_last_with_its_step() -> None:
    said = [
        {"status": "STARTED", "message": "train started"},
        epoch(0, 10, ACC_all=0.2, val_loss=2.0, unknown=1),
        epoch(1, 20, ACC_all=0.5, val_loss=1.0, unknown=9),
        epoch(2, 30, ACC_all=0.5, val_loss=float("nan"), unknown=3),
        {"status": "SUCCESS", "kpi": {"ACC_all": 0.1}},
    ]
    last, best = last_and_best(said, {"ACC_all": {**UP, "images": 100}, "val_loss": DOWN})
    assert last["ACC_all"] == {"value": 0.5, "epoch": 2, "step": 30}
    assert best["ACC_all"]["epoch"] == 1 and best["ACC_all"]["step"] == 20
    assert best["val_loss"]["value"] == 1.0 and best["val_loss"]["epoch"] == 1
    assert "unknown" in last and "unknown" not in best  # no direction: none is guessed
    assert best["ACC_all"]["standard_error"] == pytest.approx(0.05)
    assert "standard_error" not in best["val_loss"]


def test_of_epochs_with_one_score_the_one_of_the_least_validation_loss_is_the_best(
    tmp_path: Path,
) -> None:
    """The line of the run, its kept checkpoint and an AutoML trial name the same epoch."""
    losses = [0.9, 0.3, 0.1, 0.1, 0.2]
    scores = [0.8, 1.0, 1.0, 1.0, 1.0]
    lines = [
        epoch(at, at * 10, ACC_all=score, val_loss=loss)
        for at, (score, loss) in enumerate(zip(scores, losses, strict=True))
    ]
    assert last_and_best(lines, {"ACC_all": UP, "val_loss": DOWN})[1]["ACC_all"]["epoch"] == 2
    up = Objective("ACC_all", "maximize")
    seen = [course(lines, name).values for name in ("ACC_all", "val_loss")]
    assert best_of_trial(seen[0], up, seen[1]) == (2, 1.0)
    assert best_of_trial(seen[0], up) == (1, 1.0), "without losses the first of equals"

    index = CheckpointIndex(tmp_path)
    index.set_best_policy("ACC_all", "maximize")
    for at, line in enumerate(lines):
        (tmp_path / f"{at}.pth").write_bytes(b"x")
        index.add(tmp_path / f"{at}.pth", at, at * 10, line["kpi"])
    assert index.select("best").name == "2.pth"
    index.thin(1)
    assert {one["epoch"] for one in index.read()["checkpoints"]} == {2, 4}


def test_an_epoch_that_was_done_again_replaces_what_it_had_reported() -> None:
    lines = [epoch(0, 10, acc=0.3), epoch(1, 20, acc=0.9), epoch(1, 20, acc=0.4)]
    last, best = last_and_best(lines, {"acc": UP})
    assert best["acc"]["value"] == last["acc"]["value"] == 0.4


def test_an_epoch_that_is_done_again_and_worse_gives_way_to_the_best_of_the_others() -> None:
    lines = [epoch(0, 10, acc=0.3), epoch(1, 20, acc=0.9), epoch(1, 20, acc=0.2)]
    assert last_and_best(lines, {"acc": UP})[1]["acc"]["epoch"] == 0


def test_the_noise_of_a_share_is_its_binomial_standard_error_and_of_nothing_else() -> None:
    assert noise(0.5, 400) == {"images": 400, "standard_error": 0.025}
    assert noise(1.7, 400) == noise(0.5, None) == noise(float("nan"), 4) == noise(0.5, 0) == {}


@pytest.mark.parametrize(
    ("value", "words"),
    (
        (1.0, "all of 6 images: of many more it would be 0.5 or more (95 %)"),
        (0.0, "none of 6 images: of many more it would be 0.5 or less (95 %)"),
        (0.5, "±0.2 (binomial, 6 images)"),
    ),
)
def test_a_share_of_all_images_or_of_none_has_a_bound_in_words(value: float, words: str) -> None:
    about = {"value": value, "epoch": 1, "step": 4}
    known = noise(value, 6)
    found = {"last": {"ACC_all": about}, "best": {"ACC_all": {**about, **known}}}
    assert words in "\n".join(lines(found))
    of_result = lines({"last": {"ACC_all": {"value": value}}, "noise": {"ACC_all": known}})
    assert of_result == [f"noise of ACC_all: {words}"]


def test_a_study_shows_the_best_trial_beside_the_spec_as_given() -> None:
    table = (
        "trial,state,acc,best_epoch,epochs,seconds,train.lr,child,reason\n"
        "0,COMPLETE,0.5,3,5,1.0,0.1,s.t000,\n"
        "1,PRUNED,,,2,1.0,0.3,s.t001,\n"
        "2,COMPLETE,0.6,4,5,1.0,0.2,s.t002,\n"
    )
    record = {
        "objectives": [{"metric": "acc", "direction": "maximize"}],
        "options": {"max_trials": 4},
        "space": {"knobs": [{"name": "train.lr"}]},
    }
    found = study(table, {"trial": 2}, record, {"acc": 100}, "too few trials")
    assert (found["best"]["trial"], found["best"]["child"]) == (2, "s.t002")
    assert found["best"]["params"] == {"train.lr": 0.2}
    assert found["trial_0"]["params"] == {"train.lr": 0.1}
    assert found["gap"] == pytest.approx(0.1)
    assert found["standard_error"] == pytest.approx(math.sqrt(0.24 / 100))
    assert "binomial" in found["noise"] and "expect less" in found["noise"]
    assert found["trials"] == {"complete": 2, "pruned": 1, "of": 4}
    assert found["importance_note"] == "too few trials"
    lower = {**record, "objectives": [{"metric": "acc", "direction": "minimize"}]}
    assert study(table, {"trial": 0}, lower, {}, None)["gap"] == 0
    assert study(table, {"trial": 2}, lower, {}, None)["gap"] == pytest.approx(-0.1)
    assert "not known" in study(table, {"trial": 2}, lower, {}, None)["noise"]
    assert "gap" not in study("", {}, record, {}, None)


def test_the_figures_of_a_real_study_and_its_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_job(tmp_path, max_trials=3, spec={"sleep": SPEC["train"]["lr"]})
    study = files.read_json(folder / "automl" / "study.json")
    study["references"] = {"values": {"train.sleep": "${train.lr}"}}
    files.write_json(folder / "automl" / "study.json", study)
    record = files.read_json(folder / "job.json") | {"data_warnings": ["one class is small"]}
    files.write_json(folder / "job.json", record)
    assert control(folder) == 0
    specs = [read_spec(child / "spec.yaml")["train"] for child in children(folder)]
    assert len({spec["lr"] for spec in specs}) == 3  # and what refers to the rate follows it
    assert [spec["sleep"] for spec in specs] == [spec["lr"] for spec in specs]
    job = Job(folder)
    record = files.read_json(folder / "job.json")
    files.write_json(folder / "job.json", {**record, "kind": "automl", "parent": "train-parent"})
    found = metrics(job)
    assert found["warnings"] == ["one class is small"] == job.figures()["warnings"]
    top = files.read_json(folder / "automl" / "best.json")
    assert found["study"]["best"]["trial"] == top["trial"]
    assert found["study"]["best"]["value"] == top["metrics"]["acc"] == found["metrics"]["acc"]
    assert found["study"]["trial_0"]["params"] == {"train.lr": 1e-4, "train.decay": 0.5}
    assert found["study"]["gap"] >= 0
    assert "3 trials are complete" in found["study"]["importance_note"]
    assert show(job)["figures"]["study"] == found["study"]

    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["jobs", "metrics", "study", "--results-root", str(tmp_path)])
    out, err = capsys.readouterr()
    assert f"trial {top['trial']}, study.t00{top['trial']}" in out and "trial 0: 0.0001" in out
    assert "the spec as given" in out and "3 trials are complete" in out
    assert "next:" in out and err == ""
    with pytest.raises(SystemExit):
        main(["jobs", "status", "study", "--results-root", str(tmp_path)])
    assert f"trial {top['trial']}, study.t00{top['trial']}" in capsys.readouterr().out

    rows = jobs(list_jobs(Root(tmp_path), trials=True), limit=9)["jobs"]
    trials = [row for row in rows if ".t" in row["id"]]
    assert {row["parent"] for row in trials} == {"study"}
    assert len({row["created"] for row in trials}) == 3


@pytest.mark.parametrize("text", ["[]", "3", '{"metrics": [], "best": 3}', "{", "null"])
def test_files_of_other_programs_are_no_fault(tmp_path: Path, text: str) -> None:
    start(tmp_path, "true").wait(20)
    for name in ("checkpoints.json", "result.json"):
        files.write_text(tmp_path / "job" / "train" / name, text)
    assert Job(tmp_path / "job").figures() == {}
    odd = {"kpis": 1, "shares": [2], "left_out": [3], "warnings": 4}
    files.write_json(tmp_path / "job" / "train" / "result.json", odd)
    assert Job(tmp_path / "job").figures() == {}


def test_what_was_left_out_and_warned_of_is_shown_with_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(tmp_path, "true").wait(20)
    record = files.read_json(tmp_path / "job" / "job.json")
    planned = {
        "images": 20,
        "left_out": {"hidden": {"count": 22, "files": [".DS_Store"]}, "suffixes": {"txt": 1}},
    }
    files.write_json(tmp_path / "job" / "job.json", {**record, "data": {"data.train": planned}})
    unreadable = {"unreadable": {"count": 1, "files": ["a.png"]}}
    result = {"left_out": {"data.train": unreadable, "data.val": unreadable}, "warnings": ["mind"]}
    result |= {"kpis": {"ACC_all": 0.5}, "shares": {"ACC_all": 100}}
    files.write_json(tmp_path / "job" / "train" / "result.json", result)
    seen = {"data.more": {"left_out": {"other": {"count": 2, "files": ["a.txt", "b.txt"]}}}}
    result |= {"data": {"sources": seen}}
    files.write_json(tmp_path / "job" / "train" / "result.json", result)
    found = Job(tmp_path / "job").figures()
    assert found["left_out"]["data.more"]["other"]["count"] == 2
    assert found["left_out"]["data.train"].keys() == {"hidden", "unreadable"}
    for command in ("metrics", "show"):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["jobs", command, "job", "--results-root", str(tmp_path)])
        out = capsys.readouterr().out
        assert "data.train: 20 images (1 of them unreadable)" in out
        assert "left out of data.train: 22 hidden (.DS_Store …)" in out
        assert "left out of data.val: 1 unreadable (a.png)" in out
        assert "warning: mind" in out and "noise of ACC_all: ±0.05" in out


def test_a_job_shows_best_and_last_in_every_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = {"best": {"metric": "acc", "direction": "maximize"}, "checkpoints": []}
    index["metrics"] = {"acc": {**UP, "images": 100}}
    lines = "\n".join(json.dumps(epoch(n, 10 * n, acc=a)) for n, a in enumerate((0.1, 0.5, 0.2)))
    script = f"cp {tmp_path}/index.json job/train/checkpoints.json; cp {tmp_path}/s job/status.json"
    (tmp_path / "index.json").write_text(json.dumps(index))
    (tmp_path / "s").write_text(lines + "\n")
    (tmp_path / "job" / "train").mkdir(parents=True)
    start(tmp_path, script, cwd=str(tmp_path)).wait(20)

    shown = {}
    for command in ("metrics", "show", "status"):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["jobs", command, "job", "--results-root", str(tmp_path)])
        shown[command] = capsys.readouterr().out
    assert all("0.5" in text and "0.2" in text for text in shown.values()), shown
    assert "±0.05 (binomial, 100 images)" in shown["metrics"]
    assert "3 epochs done (the last is epoch 2), step 20" in shown["status"]
    assert '"status"' not in shown["status"] and "…" not in "".join(shown.values())

    class Printer:
        def text(self, text: str) -> None:
            self.said = text

    printer = Printer()
    Job(tmp_path / "job")._repr_pretty_(printer, False)
    assert "0.5" in printer.said and "COMPLETE" in printer.said
    assert wait_until(lambda: Job(tmp_path / "job").state == "COMPLETE")


@pytest.mark.parametrize(
    ("model", "steps"), [("model_epoch_000.pth", ["export"]), ("model.onnx", [])]
)
def test_what_was_exported_is_not_exported_again(
    model: str, steps: list[str], tmp_path: Path
) -> None:
    spec = {"evaluate": {"checkpoint": f"/x/{model}"}, "train": {"stage": "finetune"}}
    folder = job_folder(tmp_path, "e1", "evaluate", spec=spec)
    record = files.read_json(folder / "job.json") | {"parent": "x1"}
    files.write_json(folder / "job.json", record)
    assert [step.action for step in after(Job(folder))] == steps


@pytest.mark.parametrize(
    ("action", "spec", "steps"),
    [
        ("train", {"train": {"stage": "pretrain"}}, ["train", "evaluate", "export"]),
        ("train", {"train": {"stage": "finetune"}}, ["evaluate", "inference", "export"]),
        ("export", {"export": {"data_type": "fp32"}}, ["evaluate", "gen_trt_engine"]),
        ("export", {"export": {"data_type": "int8"}}, ["evaluate"]),
        ("export", {"export": {"data_type": "fp16"}}, ["evaluate"]),
        ("export", {"export": {"format": "torchscript"}}, ["evaluate"]),
    ],
)
def test_what_is_proposed_after_a_job_can_be_done_with_it(
    action: str, spec: dict[str, Any], steps: list[str], tmp_path: Path
) -> None:
    folder = job_folder(tmp_path, "x1", action, spec=spec)
    proposed = after(Job(folder))
    assert [step.action for step in proposed] == steps
    if steps[0] == "train":
        assert ("train.stage", "finetune") in proposed[0].overrides
