"""Which model is best, what can be removed, everything canceled, and what a terminal shows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import answers, files
from mae_sdk.cli.common import ended_text
from mae_sdk.cli.live import LiveView
from mae_sdk.cli.main import main
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.jobs.status import StatusWriter
from mae_sdk.mcp_server import _step_call
from rich.console import Console

from tests.support.jobs import start, wait_until
from tests.support.reports import write_answers, write_job, write_study


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["jobs", *words])
    printed = capsys.readouterr()
    return int(end.value.code or 0), printed.out, printed.err


def judged(root: Path, name: str, share: float, data: str = "/val", **more: Any) -> Path:
    seen = {"dataset.val_data_sources": {"uri": data}}
    result = {"kpis": {"ACC_all": share, "val_loss": 1 - share}}
    return write_job(root, name, "evaluate", result=result, data=seen, **more)


def test_the_best_job_is_found_by_the_direction_of_its_metric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, share in (("one", 0.5), ("two", 0.9), ("three", 0.7)):
        judged(tmp_path, name, share)
    where = ("--results-root", str(tmp_path))
    (top,) = json.loads(call(capsys, "best", "--json", *where)[1])["best"]
    assert (top["id"], top["best"], top["of"]) == ("two", 0.9, 3)
    found = json.loads(call(capsys, "best", "--metric", "val_loss", "--json", *where)[1])["best"]
    assert [row["id"] for row in found] == ["two", "three", "one"]  # less loss is better
    code, out, _ = call(capsys, "best", *where)
    assert code == 0 and "two" in out and "0.9" in out and "next:" in out


def test_figures_on_different_data_are_said_not_to_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged(tmp_path, "one", 0.5, "/val")
    judged(tmp_path, "two", 0.9, "/easy")
    code, out, _ = call(capsys, "best", "--results-root", str(tmp_path))
    assert code == 0 and "judged on different data" in out


def test_the_table_that_chooses_the_images_of_a_folder_is_named_and_told_from_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, table in (("one", "/t/test.csv"), ("two", "/t/val.csv")):
        seen = {"uri": "/d/all", "digest": table, "label_file": {"file": table}}
        result = {"kpis": {"ACC_all": 0.5}, "shares": {"ACC_all": 24}}
        about = {"dataset.val_data_sources": seen}
        write_job(tmp_path, f"evaluate-{name}", "evaluate", result=result, data=about)
    where = ("--results-root", str(tmp_path))
    code, out, _ = call(capsys, "best", "--metric", "ACC_all", "--direction", "maximize", *where)
    assert code == 0 and "/d/all (rows of test.csv)" in out and "(rows of val.csv)" in out
    assert "judged on different data" in out
    assert "d/all (rows of test.csv)" in call(capsys, "list", *where)[1]


def test_jobs_that_were_judged_alike_are_led_to_the_page_that_tells_them_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, hits, place in (("1", 14, "/d/test"), ("2", 20, "/d/test"), ("3", 9, "/d/other")):
        write_answers(tmp_path, f"evaluate-{name}", hits, place=place)
    by = ("--metric", "ACC_all", "--direction", "maximize", "--results-root", str(tmp_path))
    _, out, err = call(capsys, "best", *by)
    assert f"mae report evaluate-2 evaluate-1 --results-root {tmp_path} -o page.html" in out + err


def test_a_training_loss_is_of_the_images_that_were_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"train": "/d/train", "val": "/d/val"}
    data = {f"dataset.{name}_data_sources": {"uri": uri} for name, uri in names.items()}
    result = {"doubts": ["it names one class alone"]}
    write_job(tmp_path, "train-1", result=result, epochs=2, data=data)
    where = ("--results-root", str(tmp_path))
    for metric, place in (("train_loss", "/d/train"), ("val_loss", "/d/val")):
        answer = json.loads(call(capsys, "best", "--metric", metric, "--json", *where)[1])
        assert [row["judged_on"] for row in answer["best"]] == [place]
    assert "0.5 in doubt" in call(capsys, "best", "--metric", "train_loss", *where)[1]


def test_where_nothing_can_be_judged_the_answer_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_job(tmp_path, "train-1")
    assert call(capsys, "best", "--results-root", str(tmp_path))[0] == 4
    write_job(tmp_path, "other", "evaluate", result={"kpis": {"smoothness": 0.5}})
    code, _, err = call(capsys, "best", "--results-root", str(tmp_path))
    assert code == 2 and "direction" in err and "smoothness" in err


def of_a_bundle(root: Path, name: str, losses: tuple[float, ...], **more: Any) -> Path:
    folder = write_job(root, name, skill_dir=str(root.parent / "bundle"), **more)
    status = StatusWriter(folder / "status.json")
    for epoch, loss in enumerate(losses):
        status.running(f"epoch {epoch}", epoch=epoch, kpi={"val_loss": loss})
    return folder


def test_the_direction_of_a_metric_of_another_bundle_is_asked_for_and_not_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "results"
    of_a_bundle(root, "one", (0.5, 0.2, 0.9))
    of_a_bundle(root, "two", (0.7, 0.4, 0.3))
    where = ("--metric", "val_loss", "--json", "--results-root", str(root))
    code, out, err = call(capsys, "best", *where)
    assert code == 2 and "direction of this metric is not known" in err + out
    assert "--direction minimize|maximize" in err + out and "metric_direction" in err + out
    found = json.loads(call(capsys, "best", "--direction", "minimize", *where)[1])["best"]
    assert [(row["id"], row["best"]) for row in found] == [("one", 0.2), ("two", 0.3)]
    found = json.loads(call(capsys, "best", "--direction", "maximize", *where)[1])["best"]
    assert [(row["id"], row["best"]) for row in found] == [("one", 0.9), ("two", 0.7)]
    assert found[0]["direction"] == "maximize"
    code, out, err = call(capsys, "best", "--direction", "maximize", "--results-root", str(root))
    assert code == 2 and "--metric NAME" in err


def test_a_job_of_another_bundle_is_not_ranked_by_our_direction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "results"
    write_job(root, "ours", epochs=2)
    of_a_bundle(root, "theirs", (0.1,))
    where = ("--metric", "val_loss", "--json", "--results-root", str(root))
    answer = json.loads(call(capsys, "best", *where)[1])
    assert [row["id"] for row in answer["best"]] == ["ours"]
    assert "not known of 1 jobs, which are left out" in answer["notices"][0]
    answer = json.loads(call(capsys, "best", "--direction", "minimize", *where)[1])
    assert [row["id"] for row in answer["best"]] == ["theirs", "ours"]
    answer = json.loads(call(capsys, "best", "--direction", "maximize", *where)[1])
    assert [row["id"] for row in answer["best"]] == ["theirs"]
    assert "the other direction of val_loss is that of 1 jobs" in answer["notices"][0]


def test_jobs_that_state_both_directions_are_not_ranked_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "results"
    for name, direction in (("one", "minimize"), ("two", "maximize")):
        best = {"metric": "val_loss", "direction": direction}
        of_a_bundle(root, name, (0.5,), launch={"command": ["run"], "best": best})
    where = ("--metric", "val_loss", "--json", "--results-root", str(root))
    assert call(capsys, "best", *where)[0] == 2
    answer = json.loads(call(capsys, "best", "--direction", "minimize", *where)[1])
    assert [row["id"] for row in answer["best"]] == ["one"]


@pytest.mark.parametrize("state", ["FAIL", "PRUNED"])
def test_a_study_without_a_best_trial_says_so_in_every_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    folder = write_study(tmp_path, "s1", 100, [None, None])
    table = (folder / "automl" / "trials.csv").read_text().replace("PRUNED", state)
    (folder / "automl" / "trials.csv").write_text(table)
    (folder / "automl" / "best.json").unlink()
    where = ("--results-root", str(tmp_path))
    said = f"No trial has succeeded (2 {state.lower()}): there is no best one."
    for words in (("status", "s1"), ("metrics", "s1")):
        assert said in call(capsys, *words, *where)[1]
        assert json.loads(call(capsys, *words, "--json", *where)[1])["study"]["verdict"] == said
    assert said in Path(Job(folder).report().path).read_text()

    code, out, err = call(capsys, "best", *where)
    assert code == 4 and "no trial of s1 has succeeded" in out + err
    judged(tmp_path, "one", 0.5)
    answer = json.loads(call(capsys, "best", "--json", *where)[1])
    assert [row["id"] for row in answer["best"]] == ["one"]
    assert answer["notices"] == ["no trial of s1 has succeeded: left out"]


def test_a_prune_removes_nothing_until_it_is_told_to_and_keeps_parents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_job(tmp_path, "train-bad", state=records.ERROR)
    write_job(tmp_path, "train-bad.t000", state=records.ERROR)
    write_job(tmp_path, "train-stopped", state=records.CANCELED)
    write_job(tmp_path, "train-good", result={"kpis": {"ACC_all": 0.5}}, parent="train-stopped")
    where = ("--results-root", str(tmp_path))
    code, out, _ = call(capsys, "prune", *where)
    assert code == 0 and "train-bad" in out and "nothing is removed without --yes" in out
    assert "stays  train-stopped: train-good took its model" in out
    assert len(list(tmp_path.iterdir())) == 4
    old = json.loads(call(capsys, "prune", "--older-than", "1", "--json", *where)[1])
    assert old["prune"] == []

    removed = json.loads(call(capsys, "prune", "--yes", "--json", *where)[1])
    assert removed["removed"] == ["train-bad"] and removed["bytes"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {"train-stopped", "train-good"}
    everything = ("--state", "COMPLETE", "--state", "CANCELED", "--yes")
    assert call(capsys, "prune", *everything, *where)[0] == 0
    assert not list(tmp_path.iterdir())


def test_all_but_some_jobs_are_removed_and_what_these_were_made_of_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_job(tmp_path, "train-1", result={"kpis": {"ACC_all": 0.5}})
    write_job(tmp_path, "train-2", result={"kpis": {"ACC_all": 0.6}})
    write_job(tmp_path, "export-3", "export", result={"kpis": {}}, parent="train-2")
    write_job(tmp_path, "train-4", state=records.ERROR)
    where = ("--results-root", str(tmp_path))
    out = call(capsys, "prune", "--keep", "export", *where)[1]
    assert "stays  export-3: asked to stay" in out
    assert "stays  train-2: export-3 took its model" in out
    assert "prune --keep export-3 --yes" in out
    assert call(capsys, "prune", "--keep", "nothing", "--yes", *where)[0] == 4
    assert call(capsys, "prune", "--keep", "export", "--yes", *where)[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"train-2", "export-3"}


def test_every_running_job_is_canceled_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_job(tmp_path, "done", result={})
    for name in ("one", "two"):
        start(tmp_path, "exec sleep 100", name=name)
    where = ("--results-root", str(tmp_path))
    found = json.loads(call(capsys, "cancel", "--all", "--json", *where)[1])["canceled"]
    assert {row["id"]: row["state"] for row in found} == {"one": "CANCELED", "two": "CANCELED"}
    code, out, _ = call(capsys, "cancel", "--all", *where)
    assert code == 0 and "no job is pending or running" in out
    assert call(capsys, "cancel", *where)[0] == 2
    assert call(capsys, "cancel", "done", "--all", *where)[0] == 2


def drawn(job: Job, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the live view shows of a job, as text."""
    monkeypatch.setattr("sys.stderr", io.StringIO())
    view = LiveView(job)
    view.close()
    screen = io.StringIO()
    Console(file=screen, width=120).print(view._drawn())
    return screen.getvalue()


def test_the_live_view_shows_epoch_time_left_newest_and_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_job(tmp_path, "train-1", state=records.RUNNING, epochs=3)
    index = {"best": {"metric": "train_loss", "direction": "minimize"}, "checkpoints": []}
    files.write_json(folder / "train/checkpoints.json", index)
    with (folder / "status.json").open("a") as stream:
        line = {"status": "RUNNING", "epoch": 3, "max_epoch": 9, "eta": 125.0}
        stream.write(json.dumps({**line, "kpi": {"train_loss": 0.8}}) + "\n")
    shown = drawn(Job(folder), monkeypatch)
    assert "4/9 epochs, about 2m05s left" in shown and "train_loss 0.8" in shown
    assert "best  train_loss 0.333333 (epoch 2)" in shown


def test_the_live_view_of_a_study_shows_its_trials_and_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(tmp_path, "search", 100, [0.5, None, 0.8])
    line = '{"status": "RUNNING", "epoch": 1, "max_epoch": 4}'
    status = tmp_path / "search.t003" / "status.json"
    running = start(tmp_path, f"echo '{line}' > {status}; exec sleep 100", name="search.t003")
    wait_until(lambda: running.status()["progress"].get("max_epoch"))
    shown = drawn(Job(study), monkeypatch)
    running.cancel()
    assert "3/3 trials (2 complete, 1 pruned)" in shown and "best  ACC_all 0.8 (trial 2)" in shown
    assert "t003  2/4 epochs" in shown


def test_what_a_waited_run_ends_with_is_figures_left_out_and_files(tmp_path: Path) -> None:
    folder = write_job(
        tmp_path,
        "train-1",
        result={
            "kpis": {},
            "artefacts": ["train/model.pth"],
            "left_out": {"dataset.train_data_sources": {"unreadable": {"count": 2, "files": []}}},
            "data": {
                "sources": {
                    "dataset.train_data_sources": {"images": 4000, "classes": 10, "held_out": 400}
                }
            },
        },
        epochs=2,
    )
    (folder / "train/model.pth").write_bytes(b"x")
    document = answers.ended(Job(folder))
    assert document["state"] == "COMPLETE" and document["last"]["ACC_all"]["value"] == 0.75
    text = ended_text(document)
    assert "train_loss" in text and "left out of dataset.train_data_sources: 2 unreadable" in text
    used = "4,000 images of 10 classes (3,600 trained on, 400 held out, 2 of them unreadable)"
    assert f"dataset.train_data_sources: {used}" in text
    assert str(folder / "train/model.pth") in text


def test_what_is_held_out_is_known_of_a_job_whose_plan_alone_counted_it(tmp_path: Path) -> None:
    counted = {"images": 60, "classes": 3}
    key = "dataset.train_data_sources"
    result = {"kpis": {}, "data": {"sources": {key: counted}}}
    planned = {key: {**counted, "trained_on": 30, "held_out": 6}}
    job = Job(write_job(tmp_path, "train-1", data=planned, result=result))
    assert job.figures()["images"][key] == {**counted, "trained_on": 24, "held_out": 6}


def test_a_warning_is_printed_once_and_not_again_where_the_launch_has_told_it(
    tmp_path: Path,
) -> None:
    of_plan, of_masks, of_run = "train.lr: low", "dataset: no mask has class 2", "a file is torn"
    folder = write_job(
        tmp_path,
        "train-1",
        result={"kpis": {}, "artefacts": [], "warnings": [of_plan, of_masks, of_run]},
    )
    record = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({**record, "data_warnings": [of_masks, "dark"]}))
    document = answers.ended(Job(folder)) | {"data_warnings": [of_masks, "dark"]}

    alone = ended_text(document)
    assert [alone.count(text) for text in (of_plan, of_masks, of_run, "dark")] == [1, 1, 1, 1]
    after = ended_text(document, told={of_plan, of_masks})
    assert [after.count(text) for text in (of_plan, of_masks, of_run, "dark")] == [0, 0, 1, 1]
    assert document["warnings"] == [of_plan, of_masks, of_run]


def test_a_waited_evaluation_ends_with_its_metrics(tmp_path: Path) -> None:
    folder = write_job(tmp_path, "evaluate-1", "evaluate", result={"kpis": {}, "artefacts": []})
    (folder / "evaluate" / "status.json").write_text(
        '{"status": "SUCCESS", "kpi": {"ACC_all": 0.625, "ece": 0.37}}\n'
    )
    document = answers.ended(Job(folder))
    assert document["metrics"] == {"ACC_all": 0.625, "ece": 0.37}
    assert "ACC_all  0.625" in ended_text(document)


def test_a_study_says_whether_the_data_can_tell_the_best_from_the_given(tmp_path: Path) -> None:
    few = Job(write_study(tmp_path, "few", 20, [0.5, 0.6])).figures()["study"]
    assert "20 images cannot tell the two apart" in few["verdict"]
    many = Job(write_study(tmp_path, "many", 2000, [0.5, 0.6])).figures()["study"]
    assert "the data can tell them apart" in many["verdict"]


def test_jobs_of_two_bundles_are_ranked_together_only_where_a_metric_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "results"
    for name, value in (("one", 0.5), ("two", 0.4)):
        best = {"metric": "val_loss", "direction": "minimize"}
        of_a_bundle(root, name, (value,), launch={"command": ["run"], "best": best})
        records.update_record(root / name, lambda record, name=name: record.update(skill=name))
    where = ("--results-root", str(root))
    answer = json.loads(call(capsys, "best", "--json", *where)[1])
    assert {(row["id"], row["of"]) for row in answer["best"]} == {("one", 1), ("two", 1)}
    assert "SKILL" in call(capsys, "best", *where)[1]
    answer = json.loads(call(capsys, "best", "--metric", "val_loss", "--json", *where)[1])
    assert [row["id"] for row in answer["best"]] == ["two", "one"]
    assert "the jobs are of several bundles: one, two" in answer["notices"]


def test_a_filter_that_no_job_passes_does_not_say_that_there_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "results"
    assert "no jobs here" in call(capsys, "list", "--results-root", str(root))[1]
    write_job(root, "ours", epochs=2)
    out = call(capsys, "list", "--state", "RUNNING", "--results-root", str(root))[1]
    assert "none of the 1 job here is asked for" in out
    assert "no jobs here" not in out


@pytest.mark.parametrize(("policy", "carried"), [("off", True), ("auto", False)])
def test_what_follows_a_training_without_a_search_is_none_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str, carried: bool
) -> None:
    told = {"enabled": False, "policy": policy, "reason": "turned off for this run"}
    pretrained = {"train": {"stage": "pretrain"}}
    folder = write_job(tmp_path, "train-1", spec=pretrained, result={"kpis": {}}, policy=told)
    tune, *others = answers.after(Job(folder))
    assert (tune.action, tune.policy) == ("train", "off" if carried else None)
    assert [step.policy for step in others] == [None] * len(others)  # those never search
    command = "mae run train --parent train-1 --train-datasets URI --eval-dataset URI"
    command += " --automl-policy off" * carried + " train.stage=finetune"
    assert command in call(capsys, "status", "train-1", "--results-root", str(tmp_path))[1]
    assert command in Path(Job(folder).report().path).read_text()
    assert ("automl_policy=off" in _step_call(tune)) == carried


@pytest.mark.parametrize(
    ("origin", "carried"), [("recipe (by the root of the batch)", True), ("recipe", False)]
)
def test_what_follows_a_training_of_the_auto_recipe_is_made_by_it_too(
    tmp_path: Path, origin: str, carried: bool
) -> None:
    pretrained = {"train": {"stage": "pretrain"}}
    changed = {"train.optim.lr": {"origin": origin, "default": 2e-4}}
    folder = write_job(tmp_path, "train-1", spec=pretrained, result={"kpis": {}}, changed=changed)
    tune, *others = answers.after(Job(folder))
    assert tune.recipe == ("auto" if carried else None) and {one.recipe for one in others} == {None}
    assert ("--recipe auto" in answers.command_of(tune)) == carried
    assert ("recipe=auto" in _step_call(tune)) == carried


def test_the_warnings_of_a_job_are_lines_of_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ["2 images are 'odd'", "the rate\nis high"]
    write_job(tmp_path, "train-1", result={"kpis": {}, "warnings": said})
    out = call(capsys, "status", "train-1", "--results-root", str(tmp_path))[1]
    assert "\nwarning: 2 images are 'odd'\n" in out and '["' not in out
    (last,) = [line for line in out.splitlines() if "the rate" in line]
    assert last.startswith("warning: the rate") and "is high" in last
