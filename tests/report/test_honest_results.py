"""What a page says of a result is of one model, says when that has learned nothing, and names what
flatters it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mae_runners.actions import evaluate, inference
from mae_runners.metrics import doubts
from mae_runners.metrics.gallery import Gallery
from mae_runners.metrics.splits import hold_out
from mae_sdk import answers, files
from mae_sdk.cli.common import next_for
from mae_sdk.cli.main import cli
from mae_sdk.data.source import open_source
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.report import charts, first_screen
from mae_sdk.report.facts import facts_of
from mae_sdk.report.make import Ending, refresh
from mae_sdk.report.markup import percent
from mae_skill.dotted import set_dotted
from mae_skill.rules import Case, Facts, samples
from mae_skill.spelling import count_of

from tests.support.deploy import make_context, make_model, make_spec, save_checkpoint, write_digits
from tests.support.reports import Page, read_page, write_job, write_study
from tests.support.training import digits_folder, read, spec, train

SPEC = {"model": {"arch": "some_arch"}, "train": {"stage": "finetune"}}
KNOWN = {"ACC_all": {"direction": "maximize", "images": 40}}
DOUBT = "no better than chance: accuracy 50.0 %"


def page_of(folder: Path) -> Page:
    return read_page(Job(folder).report().path)


def card_tones(page: Page) -> list[str]:
    return [a["class"] for a in page.all("section") if "card" in a.get("class", "")]


def keep(folder: Path, epoch: int, value: float) -> None:
    """An index whose only checkpoint is of that epoch."""
    entry = {
        "file": f"model_epoch_{epoch:03d}.pth",
        "epoch": epoch,
        "step": 4 * epoch + 4,
        "metrics": {"ACC_all": value},
    }
    index = {
        "best": {"metric": "ACC_all", "direction": "maximize"},
        "metrics": KNOWN,
        "checkpoints": [entry],
    }
    files.write_json(folder / "train/checkpoints.json", index)


def epochs_of(folder: Path, values: list[float]) -> None:
    """Says anew how good each epoch was."""
    lines = [json.loads(line) for line in (folder / "status.json").read_text().splitlines()]
    for line in lines:
        if line.get("epoch") is not None:
            line["kpi"]["ACC_all"] = values[line["epoch"]]
    (folder / "status.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_headline_is_the_checkpoint_that_is_kept_and_names_a_better_epoch(
    tmp_path: Path,
) -> None:
    folder = write_job(tmp_path, "train-1", spec=SPEC, epochs=3, result={"kpis": {}})
    epochs_of(folder, [0.5, 0.95, 0.9])
    keep(folder, 2, 0.9)
    text = page_of(folder).text
    assert "Result: accuracy (ACC_all) 90.0 %" in text
    assert "of the best checkpoint that is kept, of epoch 2: what a next job takes" in text
    assert "epoch 1 had 95.0 %; its weights are not kept" in text
    keep(folder, 1, 0.95)
    text = page_of(folder).text
    assert "95.0 %" in text and "not kept" not in text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.9, 0.9, 0.9], "every epoch has this figure (3): it tells none from another"),
        ([0.5, 0.9, 0.9], "epochs 1, 2 have the same figure"),
        ([0.5, 0.8, 0.9], ""),
    ],
)
def test_epochs_that_are_as_good_as_the_best_are_told(
    values: list[float], said: str, tmp_path: Path
) -> None:
    folder = write_job(tmp_path, "train-1", spec=SPEC, epochs=3, result={"kpis": {}})
    epochs_of(folder, values)
    keep(folder, 2, 0.9)
    text = page_of(folder).text
    assert said in text
    assert ("figure" in text.partition("Left out")[0].partition("next job")[2]) == bool(said)


def test_beside_the_loss_of_training_images_stands_that_of_others(tmp_path: Path) -> None:
    spec = {"model": {"arch": "some_arch"}, "train": {"stage": "pretrain"}}
    folder = write_job(tmp_path, "train-1", spec=spec, epochs=2, result={"kpis": {}})
    lines = [json.loads(line) for line in (folder / "status.json").read_text().splitlines()]
    for line in lines:
        if line.get("epoch") is not None:
            line["kpi"] = {"train_loss": 0.3, "val_loss": 0.45}
    (folder / "status.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    keep(folder, 1, 0.3)
    index = json.loads((folder / "train/checkpoints.json").read_text())
    index["best"] = {"metric": "train_loss", "direction": "minimize"}
    index["metrics"] = {"train_loss": {"direction": "minimize"}}
    index["checkpoints"][0]["metrics"] = {"train_loss": 0.3}
    files.write_json(folder / "train/checkpoints.json", index)
    text = page_of(folder).text
    assert "of images that it learned from; on the validation images it is 0.45" in text


@pytest.mark.parametrize("stated", [False, True])
def test_a_list_of_jobs_has_the_figure_of_the_checkpoint_that_the_page_is_headed_by(
    tmp_path: Path, stated: bool
) -> None:
    best = {"best": {"metric": "ACC_all", "direction": "maximize"}} if stated else {}
    launch = {"command": ["x"], "result": "train/result.json", **best}
    folder = write_job(tmp_path, "train-1", spec=SPEC, epochs=3, result={"kpis": {}}, launch=launch)
    epochs_of(folder, [0.5, 0.95, 0.9])
    keep(folder, 2, 0.9)
    (row,) = answers.jobs([Job(folder)], limit=5)["jobs"]
    assert (row["metric"], row["best"]) == ("ACC_all", 0.9)


def test_every_block_of_a_training_names_the_epoch_that_it_is_of(tmp_path: Path) -> None:
    folder = write_job(tmp_path, "train-1", spec=SPEC, epochs=3, result={"kpis": {}})
    keep(folder, 1, 0.75)
    per_class = {"cat": {"recall": 0.5, "images": 8}, "dog": {"recall": 1.0, "images": 8}}
    judged = folder / "train/validation.json"
    files.write_json(judged, {"epoch": 1, "per_class": per_class})
    (folder / "train/confusion_matrix.csv").write_text(",cat,dog\ncat,4,4\ndog,0,8\n")
    text = page_of(folder).text
    for words in ("Classes of epoch 1", "Confusions of epoch 1", "whose checkpoint is the best"):
        assert words in text, words
    files.write_json(judged, {"per_class": per_class})  # of an older job
    assert "need not be that of the best checkpoint" in page_of(folder).text


def test_the_details_of_a_training_are_those_of_its_best_checkpoint(tmp_path: Path) -> None:
    data = digits_folder(tmp_path / "data", per_class=8)
    options: dict[str, Any] = {
        "dataset__val_fraction": 0.5,
        "train__num_epochs": 6,
        "train__checkpoint_interval": 2,
        "train__optim__lr": 5e-3,
        "train__optim__warmup_epochs": 0,
    }
    job = tmp_path / "job"
    assert train(spec(data, job, "finetune", **options)) == 0
    index = read(job, "train/checkpoints.json")
    kept = max(index["checkpoints"], key=lambda one: (one["metrics"]["ACC_all"], -one["epoch"]))
    judged = read(job, "train/validation.json")
    assert judged["epoch"] == kept["epoch"] and kept["epoch"] % 2 == 1
    hits = sum(one["recall"] * one["images"] for one in judged["per_class"].values())
    assert hits / judged["images"] == pytest.approx(kept["metrics"]["ACC_all"])
    rows = (job / "train/confusion_matrix.csv").read_text().splitlines()[1:]
    diagonal = sum(int(row.split(",")[1 + place]) for place, row in enumerate(rows))
    assert diagonal == pytest.approx(hits)
    wrong = judged["images"] - round(hits)
    sheets = {one["kind"]: one for one in read(job, "train/pictures/gallery.json")["sheets"]}
    assert sheets["uncertain"]["epoch"] == kept["epoch"]
    assert len(sheets.get("mistakes", {"rows": []})["rows"]) == min(wrong, 12)


@pytest.mark.parametrize("action", ["train", "evaluate"])
def test_a_result_that_tells_nothing_is_a_warning_of_the_result_itself(
    tmp_path: Path, action: str
) -> None:
    result = {"kpis": {"ACC_all": 0.5}, "shares": {"ACC_all": 40}, "warnings": [DOUBT]}
    folder = write_job(
        tmp_path, f"{action}-1", action, spec=SPEC, epochs=2, result={**result, "doubts": [DOUBT]}
    )
    page = page_of(folder)
    assert DOUBT in page.text[: page.text.index("Data")] and page.text.count(DOUBT) == 1
    assert card_tones(page)[0].startswith("card warning")
    good = write_job(tmp_path, f"{action}-2", action, spec=SPEC, epochs=2, result={"kpis": {}})
    assert card_tones(page_of(good))[0] == "card"


@pytest.mark.parametrize("state", [records.CANCELED, records.RUNNING])
def test_a_training_that_has_no_result_is_in_doubt_wherever_its_figure_stands(
    tmp_path: Path, state: str
) -> None:
    folder = write_job(tmp_path, "train-1", state=state, spec=SPEC, epochs=2)
    keep(folder, 1, 0.75)
    files.write_json(folder / "train/validation.json", {"epoch": 1, "doubts": [DOUBT]})
    (row,) = answers.jobs([Job(folder)], limit=5)["jobs"]
    assert row["doubts"] == [DOUBT] and answers.in_doubt(row)
    assert DOUBT in Job(folder).figures()["warnings"]
    assert DOUBT in answers.status(Job(folder))["warnings"]
    if state == records.CANCELED:
        assert page_of(folder).text.count(DOUBT) == 1


def test_a_search_whose_best_trial_tells_nothing_says_so_and_that_it_was_chosen(
    tmp_path: Path,
) -> None:
    folder = write_study(tmp_path, "train-few", 40, [0.70, 0.75])
    text = page_of(folder).text
    assert "the best of 2 trials; it was chosen on these images: on others expect less" in text
    child = tmp_path / "train-few.t001/train"
    files.write_json(child / "result.json", {"doubts": [DOUBT]})
    keep(child.parent, 0, 0.6)
    page = page_of(folder)
    assert page.text.count(DOUBT) == 1 and card_tones(page)[0].startswith("card warning")
    assert Job(folder).figures()["warnings"] == [f"the best trial: {DOUBT}"]
    assert "its best checkpoint that is kept, which a next job takes: 60.0 %, epoch 0" in page.text
    assert "70.0 %" in page.text, "of every trial too"
    (table,) = [a["href"] for a in page.all("a") if a["href"].endswith(".csv")]
    assert (folder / table).is_file() and "lr" in (folder / table).read_text()
    elsewhere = read_page(Job(folder).report(tmp_path / "mailed.html").path)
    assert '.csv"' not in elsewhere.html and "automl/trials.csv" in elsewhere.text


def test_a_segmentation_and_a_chain_say_that_the_images_chose_the_model(tmp_path: Path) -> None:
    told = {"model": {"arch": "some_arch", "task": "segmentation"}, "train": {"stage": "finetune"}}
    folder = write_job(tmp_path, "train-1", spec=told, epochs=2, result={"kpis": {"mIoU": 0.4}})
    index = {
        "best": {"metric": "mIoU", "direction": "maximize"},
        "checkpoints": [{"file": "a.pth", "epoch": 1, "step": 8, "metrics": {"mIoU": 0.4}}],
    }
    files.write_json(folder / "train/checkpoints.json", index)
    page = page_of(folder)
    assert "Segmentation fine-tuning · some_arch" in page.text
    assert "it was chosen on these images: on others expect less" in page.text
    chain = read_page(Job(folder).report(chain=True).path).text
    summary = chain[: chain.index("RUNNING")] if "RUNNING" in chain else chain
    assert summary.count("it was chosen on these images") >= 2


def test_an_evaluation_on_the_images_that_chose_the_checkpoint_says_so(tmp_path: Path) -> None:
    chose = {"count": 8, "compared": 8, "pairs": [], "job": "train-1"}
    seen = {"uri": "/d/val", "images": 8, "chose": chose}
    result = {"kpis": {"ACC_all": 0.9}, "shares": {"ACC_all": 8}}
    result["data"] = {"sources": {"dataset.val_data_sources": {"uri": "/d/val", "images": 8}}}
    folder = write_job(
        tmp_path,
        "evaluate-2",
        "evaluate",
        spec=SPEC,
        data={"dataset.val_data_sources": seen},
        result=result,
    )
    record = json.loads((folder / "job.json").read_text())
    case = Case("evaluate", {}, {}, Facts(data={"dataset.val_data_sources": seen}))
    samples.chose(case)
    record["warnings"] = [f"{one.field}: {one.message}" for one in case.warnings]
    files.write_json(folder / "job.json", record)
    text = page_of(folder).text
    assert "8 of the 8 images that were compared chose the checkpoint" in text
    assert len(record["warnings"]) == 1 and text.count("optimistic") == 1


def test_a_figure_of_training_images_alone_is_doubted_where_it_stands(tmp_path: Path) -> None:
    for count, is_doubted in ((24, True), (3, False)):
        seen = {"uri": "/d/val", "images": 24, "shared": {"count": count, "compared": 24}}
        folder = write_job(
            tmp_path,
            f"train-{count}",
            spec=SPEC,
            epochs=2,
            data={"dataset.val_data_sources": seen},
            result={"kpis": {"ACC_all": 0.95}},
        )
        keep(folder, 1, 0.95)
        page = page_of(folder)
        assert ("all of the 24 images that were compared are training" in page.text) == is_doubted
        assert any("warning" in tone for tone in card_tones(page)) == is_doubted


def test_what_is_held_out_is_told_and_a_failed_run_does_not_know_what_was_left_out(
    tmp_path: Path,
) -> None:
    seen = {"dataset.train_data_sources": {"uri": "/d", "images": 100, "held_out": 20}}
    failed = write_job(tmp_path, "train-1", state=records.ERROR, spec=SPEC, data=seen)
    text = page_of(failed).text
    assert "100 images, 80 trained on, 20 held out for validation" in text
    assert "Left out not known" in text and "every file" not in text
    ended = page_of(write_job(tmp_path, "train-2", spec=SPEC, data=seen, result={"kpis": {}}))
    assert "Left out nothing every file of the sources was used" in ended.text


def test_commands_name_a_root_that_is_not_found_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAE_RESULTS_ROOT", raising=False)
    root = tmp_path / "some where"
    text = page_of(write_job(root, "train-1", spec=SPEC, result={"kpis": {}})).text
    assert f"--parent train-1 --eval-dataset URI --results-root '{root}'" in text
    monkeypatch.setenv("MAE_RESULTS_ROOT", str(root))
    assert "--results-root" not in page_of(root / "train-1").text
    monkeypatch.delenv("MAE_RESULTS_ROOT")
    usual = write_job(tmp_path / "mae-results", "train-1", spec=SPEC, result={"kpis": {}})
    assert "--results-root" not in page_of(usual).text
    failed = write_job(root, "train-2", state=records.ERROR, spec=SPEC)
    assert f"mae jobs resume train-2 --results-root '{root}'" in page_of(failed).text


def test_an_inference_counts_its_answers_and_names_their_table(tmp_path: Path) -> None:
    result = {"kpis": {"images": 10}, "answered": {"cat": 9, "dog": 1, "owl": 0}}
    folder = write_job(tmp_path, "inference-1", "inference", spec=SPEC, result=result)
    (folder / "inference/results.csv").write_text("path,label\n")
    text = page_of(folder).text
    assert "cat: 9, dog: 1, owl: 0" in text and "Answers by class" in text
    assert "every answer is in inference/results.csv, in the job's folder" in text


def test_an_export_says_on_how_many_inputs_and_whose_speed_it_shows(tmp_path: Path) -> None:
    batches = {"1": {"median_ms": 3.5, "p95_ms": 4, "images_per_s": 9}}
    judged = {"speed": {"device": "cpu", "batches": batches}, "model": {"kind": "torch"}}
    parity = {"passed": True, "cosine_min": 1.0, "max_abs": 2e-6, "images": 16}
    found = {"kpis": {}, "parity": {**parity, "images_from": "16 crops of noise"}}
    write_job(tmp_path, "train-0", spec=SPEC, result={"kpis": {}})
    export = write_job(tmp_path, "export-1", "export", parent="train-0", result=found)
    for number, parent in enumerate(("train-0", "export-1")):
        text = page_of(export).text
        assert "same answers as the model on 16 inputs" in text
        assert "largest difference of an output 2e-06" in text
        if number:
            assert "Measured of: torch, None. This file itself has not been measured" in text
        name = f"evaluate-{number}"
        folder = write_job(tmp_path, name, "evaluate", parent=parent, result={"kpis": {}})
        kind = {"kind": "torch" if not number else "onnx"}
        files.write_json(folder / "evaluate/metrics.json", {**judged, "model": kind})
    text = page_of(export).text
    assert "onnx, None (this file)" in text and "has not been measured" not in text


def test_the_final_page_says_the_time_that_the_record_will_say(tmp_path: Path) -> None:
    folder = write_job(tmp_path, "train-1", state=records.RUNNING, spec=SPEC, result={"kpis": {}})
    record = records.read_record(folder)
    for place, second in enumerate((0, 5)):
        at = f"2026-01-01T00:00:{second:02d}.000+00:00"
        record["attempts"][-1]["transitions"][place : place + 1] = [
            {"state": ("PENDING", "RUNNING")[place], "at": at, "reason": ""}
        ]
    records.write_record(folder, record)
    written = 1767225612.0  # 00:00:12 of that day
    os.utime(folder / "train/result.json", (written, written))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MAE_REPORT", raising=False)
        assert refresh(folder, Ending(records.COMPLETE))
    assert "ran 7.0 s" in read_page(folder / "report.html").text
    at = records.ended_at(folder, records.read_record(folder))
    assert at == "2026-01-01T00:00:12.000+00:00"


@pytest.mark.parametrize(
    ("low", "high"), [(0.93, 1.0), (0.0, 0.11), (12345, 12349), (1e-6, 9e-6), (0, 3e7), (-1, 1)]
)
def test_the_numbers_of_an_axis_stand_at_equal_steps(low: float, high: float) -> None:
    values = charts.ticks(low, high, 4)
    said = [float(word.replace(",", "")) for word in charts.labels(values)]
    assert said == pytest.approx(values, rel=1e-9, abs=1e-15) and len(set(said)) == len(said)


def test_a_held_out_image_that_cannot_be_read_is_told_as_left_out(tmp_path: Path) -> None:
    data = digits_folder(tmp_path / "data", per_class=8)
    source = open_source(str(data))
    _, held = hold_out(source.labels, 0.5, 7)
    broken = Path(source.path(int(held[0])))
    broken.write_bytes(broken.read_bytes()[:60])
    options: dict[str, Any] = {
        "dataset__val_fraction": 0.5,
        "dataset__max_corrupt_fraction": 0.2,
        "train__seed": 7,
        "train__num_epochs": 1,
    }
    assert train(spec(data, tmp_path / "job", "finetune", **options)) == 0
    left = read(tmp_path / "job", "train/result.json")["left_out"]["dataset.train_data_sources"]
    assert left["unreadable"]["count"] == 1
    assert Path(left["unreadable"]["files"][0]).name == broken.name
    share = read(tmp_path / "job", "train/checkpoints.json")["metrics"]["ACC_all"]
    assert share["images"] == len(held) - 1, "its interval is of the images that were judged"


def test_a_model_of_one_answer_is_doubted_by_evaluate_and_its_answers_are_counted(
    tmp_path: Path,
) -> None:
    digits = write_digits(tmp_path / "digits", per_class=3)
    model = make_model("vit_tiny_patch16", "finetune", 64, depth=1)
    head = model.encoder.head_layer()
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 5.0, 0.0, 0.0]))
    saved = str(save_checkpoint(model, tmp_path / "model.pth"))
    context = make_context("evaluate", tmp_path)
    judged = {"evaluate__checkpoint": saved, "dataset__val_data_sources": str(digits)}
    result = evaluate.run(make_spec(**judged, evaluate__gradient_maps=2), context)
    (said,) = result["doubts"]
    assert "takes every one of the 12 images" in said and said in context.warnings
    assert read(tmp_path, "evaluate/metrics.json")["doubts"] == [said]
    (sheet,) = (
        one
        for one in read(tmp_path, "evaluate/pictures/gallery.json")["sheets"]
        if one["kind"] == "attention"
    )
    assert sheet["across"] == 3 and len(sheet["scale"]["colors"]) > 2

    asked = {"inference__checkpoint": saved, "dataset__test_data_sources": str(digits)}
    found = inference.run(make_spec(**asked), make_context("inference", tmp_path))
    assert list(found["answered"].values()) == [0, 12, 0, 0]


def test_a_training_that_learns_nothing_ends_with_a_warning(tmp_path: Path) -> None:
    data = digits_folder(tmp_path / "data", per_class=8)
    options: dict[str, Any] = {
        "dataset__val_fraction": 0.5,
        "train__num_epochs": 1,
        "train__optim__lr": 1e-5,
        "train__optim__warmup_epochs": 0,
    }
    assert train(spec(data, tmp_path / "job", "finetune", **options)) == 0
    result = read(tmp_path / "job", "train/result.json")
    assert result["doubts"] and set(result["doubts"]) <= set(result["warnings"])
    (last,) = (tmp_path / "job/status.json").read_text().splitlines()[-1:]
    assert json.loads(last)["doubts"] == result["doubts"]


def test_what_was_made_of_a_model_in_doubt_says_so(tmp_path: Path) -> None:
    """Whether the training itself or an evaluation of it found the doubt."""
    write_job(tmp_path, "train-1", spec=SPEC, result={"kpis": {"ACC_all": 0.5}})
    parity = {"passed": True, "cosine_min": 1.0, "max_abs": 2e-6, "images": 16}
    export = write_job(
        tmp_path, "export-1", "export", parent="train-1", result={"kpis": {}, "parity": parity}
    )
    asked = write_job(
        tmp_path, "inference-1", "inference", parent="export-1", result={"kpis": {"images": 4}}
    )
    assert "in doubt" not in page_of(export).text + page_of(asked).text

    judged = {"kpis": {"ACC_all": 0.5}, "doubts": [DOUBT], "shares": {"ACC_all": 40}}
    evaluated = write_job(
        tmp_path, "evaluate-1", "evaluate", parent="train-1", spec=SPEC, result=judged
    )
    for folder in (export, asked):
        page = page_of(folder)
        assert f"its model is in doubt (evaluate-1): {DOUBT}" in page.text
        assert "card warning wide" in card_tones(page)
        assert page.text.count(DOUBT) == 1
    chain = read_page(Job(asked).report(chain=True).path).text
    assert "it is in doubt: no better than chance" in chain

    # It is neither exported next, nor judged on the same images once more.
    text = page_of(evaluated).text
    assert "mae run export" not in text and "mae run train" in text
    assert "train longer, on more images" in text


def test_what_was_made_of_a_training_in_doubt_is_in_doubt_in_the_table_of_jobs(
    tmp_path: Path,
) -> None:
    sound: dict[str, Any] = {"kpis": {"ACC_all": 0.9}}
    write_job(tmp_path, "train-0", spec=SPEC, result=sound)
    write_job(tmp_path, "train-1", spec=SPEC, result={**sound, "doubts": [DOUBT]})
    write_job(tmp_path, "export-1", "export", parent="train-1", result={"kpis": {}})
    answered: dict[str, Any] = {"kpis": {"images": 4}}
    for name, parent in (("inference-0", "train-0"), ("inference-1", "export-1")):
        write_job(tmp_path, name, "inference", parent=parent, result=answered)
    said = f"its model is in doubt (train-1): {DOUBT}"
    jobs = [Job(tmp_path / name) for name in ("inference-0", "inference-1", "export-1")]
    doubts = {row["id"]: row["doubts"] for row in answers.jobs(jobs, limit=5)["jobs"]}
    assert doubts == {"inference-0": [], "inference-1": [said], "export-1": [said]}
    assert said in answers.status(jobs[1])["warnings"]

    words = ["jobs", "list", "--results-root", str(tmp_path)]
    table = CliRunner().invoke(cli, words, catch_exceptions=False).stdout.splitlines()
    marked = {line.split()[0] for line in table if "in doubt" in line}
    assert marked == {"train-1", "export-1", "inference-1"}

    # Beside a figure of its own it stands too, and a parent that is gone hides nothing else.
    write_job(
        tmp_path, "inference-2", "inference", parent="train-1", result={"kpis": {"mIoU": 0.5}}
    )
    write_job(tmp_path, "inference-3", "inference", parent="gone-1", result=answered)
    table = CliRunner().invoke(cli, words, catch_exceptions=False).stdout.splitlines()
    assert [line for line in table if "inference-2" in line and "0.5 (model in doubt)" in line]
    assert [line for line in table if "inference-3" in line and "in doubt" not in line]


@pytest.mark.parametrize("constant", [True, False])
def test_the_mistakes_of_a_model_that_always_answers_the_same_are_left_out(
    tmp_path: Path, constant: bool
) -> None:
    folder = write_job(tmp_path, "evaluate-1", "evaluate", spec=SPEC, result={"kpis": {}})
    gallery = Gallery(folder / "evaluate")
    tile = np.zeros((8, 8, 3), np.uint8)
    gallery.add("mistakes", [[tile]], [{"name": "a.png", "lines": ["dog (60 %)", "is cat"]}])
    gallery.save()
    rows = ("cat,0,4", "dog,0,4") if constant else ("cat,1,3", "dog,0,4")
    table = "\n".join(["true \\ predicted,cat,dog", *rows])
    (folder / "evaluate/confusion_matrix.csv").write_text(table)
    page = page_of(folder)
    assert "Most confident mistakes" in page.text
    assert ("Left out: every image is taken for dog" in page.text) == constant
    assert ("dog (60 %)" in page.text) != constant and bool(page.all("img")) != constant


def test_the_page_says_that_one_checkpoint_to_keep_leaves_the_best_beside_it(
    tmp_path: Path,
) -> None:
    said = "train.keep_checkpoints=1 keeps the newest one and the best, which may be another"
    for name, keeps in (("train-1", 1), ("train-2", None)):
        spec = {"train": {"stage": "finetune", "keep_checkpoints": keeps}}
        folder = write_job(tmp_path, name, spec=spec, epochs=3, result={"kpis": {}})
        keep(folder, 1, 0.6)
        assert (said in page_of(folder).text) == bool(keeps)


def test_after_an_evaluation_on_images_that_chose_the_model_others_come_next(
    tmp_path: Path,
) -> None:
    write_job(tmp_path, "train-1", spec=SPEC, result={"kpis": {"ACC_all": 0.9}})
    seen = {"dataset.val_data_sources": {"chose": {"count": None, "job": "train-1"}}}
    options: dict[str, Any] = {"parent": "train-1", "spec": SPEC}
    result = {"kpis": {"ACC_all": 0.9}, "shares": {"ACC_all": 40}}
    folder = write_job(tmp_path, "evaluate-1", "evaluate", result=result, data=seen, **options)
    text = page_of(folder).text
    assert "mae run export" not in text
    assert "mae run evaluate --parent train-1" in text and "has not seen" in text

    on_others = write_job(tmp_path, "evaluate-2", "evaluate", result=result, **options)
    assert "mae run export --parent train-1" in page_of(on_others).text


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("path,label,true_label\n1,a,a\n2,a,b\n3,b,\n4,a,a\n", "2 of the 3 images"),
        ("path,labels,true_labels\n1,a|b,a|b\n2,a,a|b\n", "1 of the 2 images"),
    ],
)
def test_an_inference_on_images_of_known_classes_says_how_many_answers_are_right(
    tmp_path: Path, table: str, said: str
) -> None:
    result = {"kpis": {"images": 4}, "answered": {"a": 3, "b": 1}}
    folder = write_job(tmp_path, "inference-1", "inference", spec=SPEC, result=result)
    (folder / "inference/results.csv").write_text(table)
    text = page_of(folder).text
    assert said in text and "for every image would be right for" in text

    (folder / "inference/results.csv").write_text("path,label\n1,a\n")
    assert "whose class is known" not in page_of(folder).text


def speed_of(repetitions: int, least: float, **more: Any) -> dict[str, Any]:
    batch = {"median_ms": 100.0, "p95_ms": 130.0, "min_ms": least, "max_ms": 140.0}
    batch |= {"images_per_s": 10.0, "repetitions": repetitions}
    return {"device": "cpu", "cores": 2, "batches": {"1": batch}, **more}


def test_no_attempt_is_proposed_that_would_fail_of_the_same(tmp_path: Path) -> None:
    failure: dict[str, Any] = {"message": "the loss became nan", "lines": [], "hint": "lower it"}
    for name, category, error, again in (
        ("train-1", "numeric", {"code": "numeric"}, False),
        ("train-2", "spec", {"code": "spec_invalid"}, False),
        ("train-3", "numeric", None, True),  # guessed from the log
        ("train-4", "storage", {"code": "storage"}, True),
    ):
        about = {**failure, "category": category, "error": error}
        folder = write_job(tmp_path, name, state=records.ERROR, spec=SPEC, failure=about)
        text = page_of(folder).text
        assert ("mae jobs resume" in text) == again, name
        assert ("launch a new job" in text) != again and f"mae jobs logs {name}" in text
        proposed = next_for(Job(folder), records.ERROR, str(tmp_path))
        assert any("mae jobs resume" in one for one in proposed) == again, name


@pytest.mark.parametrize(("images", "said"), [(4, True), (40, False)])
def test_an_evaluation_of_few_masks_says_why_it_has_no_interval(
    tmp_path: Path, images: int, said: bool
) -> None:
    folder = write_job(
        tmp_path, "evaluate-1", "evaluate", spec=SPEC, result={"kpis": {"mIoU": 0.5}}
    )
    files.write_json(folder / "evaluate/metrics.json", {"images": images})
    assert ("of 4 images a bootstrap says nothing" in page_of(folder).text) == said


def test_the_worst_masks_are_not_those_that_are_shown_already(tmp_path: Path) -> None:
    folder = write_job(tmp_path, "train-1", spec=SPEC, result={"kpis": {"mIoU": 0.5}})
    gallery, tile = Gallery(folder / "train"), np.zeros((8, 8, 3), np.uint8)
    about = [{"name": "a.png"}, {"name": "b.png"}]
    columns = ["image"]
    gallery.add("segmentation", [[tile]] * 2, about, columns)
    gallery.add("worst", [[tile]] * 2, about[::-1], columns)
    gallery.save()
    page = page_of(folder)
    assert "Worst images" not in page.text and len(page.all("img")) == 2
    gallery.add("worst", [[tile]] * 2, [about[0], {"name": "c.png"}], columns)
    gallery.save()
    page = page_of(folder)
    assert "Worst images" in page.text and "c.png" in page.text


def test_a_time_says_how_often_it_was_measured_and_when_it_is_not_to_be_trusted(
    tmp_path: Path,
) -> None:
    write_job(tmp_path, "train-1", spec=SPEC, result={"kpis": {}})
    export = write_job(tmp_path, "export-1", "export", parent="train-1", result={"kpis": {}})

    def measured(name: str, speed: dict[str, Any]) -> str:
        folder = write_job(tmp_path, name, "evaluate", parent="train-1", result={"kpis": {}})
        about = {"speed": speed, "model": {"kind": "torch", "precision": "fp32"}}
        files.write_json(folder / "evaluate/metrics.json", about)
        return page_of(folder).text

    few = measured("evaluate-1", speed_of(4, 95.0, load=0.5))
    assert "95 to 140 ms" in few and "130" not in few  # of four times no percentile is known
    assert "busy" not in few and "differ much" not in few
    assert "130 ms" in measured("evaluate-2", speed_of(40, 95.0, load=2.0))

    busy = measured("evaluate-3", speed_of(40, 12.0, load=7.5))
    assert "a load of 7.5 on 2 cores" in busy and "differ much (batch 1)" in busy

    # Where they stand beside each other each names its job, and what is doubtful about it.
    text = page_of(export).text
    assert all(f"evaluate-{number}" in text for number in (1, 2, 3))
    assert "evaluate-3: The machine was busy" in text and "evaluate-1: " not in text
    assert "repetitions" in text


def test_the_page_of_a_canceled_run_tells_its_last_epoch_from_its_best(tmp_path: Path) -> None:
    result = {"kpis": {}, "doubts": [DOUBT]}
    folder = write_job(
        tmp_path, "train-1", state=records.CANCELED, spec=SPEC, result=result, epochs=3
    )
    keep(folder, 0, 0.6)
    epochs_of(folder, [0.6, 0.3, 0.25])
    page = page_of(folder)
    assert "at the end of epoch 2, the newest: " in page.text
    assert "accuracy (ACC_all) 25.0 %" in page.text and "ACC_all) 0.25" not in page.text
    assert "the best until then: accuracy (ACC_all) 60.0 %" in page.text
    assert "(Wilson, 40 images)" in page.text and "of epoch 0" in page.text
    assert DOUBT in page.text and "card warning wide" in card_tones(page)


def test_a_pretraining_says_how_it_was_trained_and_that_the_rank_of_its_features_fell(
    tmp_path: Path,
) -> None:
    told = {
        "model": {"arch": "some_arch", "patch_size": 8},
        "dataset": {"batch_size": 16, "augmentation": {"input_size": 48, "mixup": 0.8}},
        "train": {
            "stage": "pretrain",
            "num_epochs": 3,
            "mask_ratio": 0.75,
            "optim": {"type": "AdamW", "lr_scheduler": "MultiStep"},
        },
    }
    changed = {"dataset.batch_size": {"origin": "override", "default": 3}}
    folder = write_job(
        tmp_path, "train-1", spec=told, result={"kpis": {}}, epochs=3, changed=changed
    )
    lines = [json.loads(line) for line in (folder / "status.json").read_text().splitlines()]
    ranks = iter((6.57, 5.5, 4.886))
    for line in lines:
        if line.get("epoch") is not None:
            line["kpi"] = {"train_loss": 0.9 - line["epoch"] / 10, "val_loss": 0.5}
            line["kpi"]["rankme"] = next(ranks)
    (folder / "status.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    entry = {"file": "model_epoch_002.pth", "epoch": 2, "step": 12, "metrics": {"train_loss": 0.7}}
    ways = {"train_loss": {"direction": "minimize"}, "rankme": {"direction": "maximize"}}
    best = {"metric": "train_loss", "direction": "minimize"}
    index = {"best": best, "metrics": ways, "checkpoints": [entry]}
    files.write_json(folder / "train/checkpoints.json", index)
    page = page_of(folder)
    head = page.text[: page.text.index("Curves")]
    assert "epochs 3" in head and "input 48 × 48 pixels" in head and "patches of 8 pixels" in head
    assert "RankMe fell from 6.57 (epoch 0) to 4.886" in head
    assert head.count("0.5") == 1, "the validation loss once"
    rows = page.text[page.text.index("How it was trained") :]
    assert "share of the patches that is hidden 0.75 train.mask_ratio default" in rows
    assert "optimizer AdamW train.optim.type default" in rows
    assert "images at a time 16 dataset.batch_size set" in rows
    assert "mean squared error of the hidden patches" in rows and "mixup" not in rows
    assert "more is better" in page.text


@pytest.mark.parametrize("blocks", [0, 3])
def test_the_page_of_a_refined_encoder_says_that_its_loss_is_a_contrast(
    tmp_path: Path, blocks: int
) -> None:
    told: dict[str, Any] = {"model": {"arch": "some_arch"}, "dataset": {"batch_size": 16}}
    told["train"] = {"stage": "pretrain", "norm_pix_loss": True, "refine": {"blocks": blocks}}
    result = {"kpis": {"train_loss": 2.5}, "best_metrics": {}}
    folder = write_job(tmp_path, "train-1", spec=told, result=result, epochs=3)
    page = page_of(folder)
    assert ("contrast of two views" in page.text) == bool(blocks)
    assert ("mean squared error of the hidden patches" in page.text) == (not blocks)
    chance = first_screen._no_better_than_a_mean(facts_of(Job(folder)), "train_loss", 2.5)
    assert ("this is no better" in chance) == (not blocks)


def test_figures_of_several_labels_have_their_units_and_what_chance_reaches(
    tmp_path: Path,
) -> None:
    folder = write_job(tmp_path, "evaluate-1", "evaluate", spec=SPEC, result={"kpis": {"mAP": 0.4}})
    one = {"AP": 0.4, "precision": 0.3, "recall": 1.0, "f1": 0.5, "threshold": 0.2}
    labels = {
        "cat": {**one, "auroc": 0.44, "images": 10},
        "dog": {**one, "auroc": 0.9, "images": 6},
    }
    bins = [{"confidence": 0.3, "accuracy": 0.2, "images": 80}]
    judged = {"images": 40, "per_class": labels, "reliability": bins, "ece": 0.1}
    files.write_json(folder / "evaluate/metrics.json", judged)
    text = page_of(folder).text
    assert (
        "by chance mAP is the base rate, the share of the images that has a label: 20.0 %" in text
    )
    assert "not more have: cat." in text
    assert "Multi-label evaluation" in text
    assert "all labels for every image would have a macro F1 of 33.0 %" in text
    assert "base rate" in text and "25.0 %" in text, "10 of 40 images are cats"
    assert "80 pairs of image and class" in page_of(folder).html, "of a bar's hint too"
    assert "pairs of image and class" in text and "mean probability" in text
    assert "probability 0.30: 20 % have the label, 80 pairs" in page_of(folder).html
    assert "20 % right" not in page_of(folder).html

    # Of one class each the same bins count images.
    files.write_json(folder / "evaluate/metrics.json", {**judged, "per_class": {}})
    text = page_of(folder).text
    assert "pairs of image" not in text and "mean confidence" in text


def test_more_voters_than_a_class_has_images_are_said(tmp_path: Path) -> None:
    seen = {"dataset.val_data_sources": {"class_counts": {"a": 9, "b": 30}}}
    result = {"kpis": {"knn_acc": 0.4}}
    folder = write_job(tmp_path, "evaluate-1", "evaluate", result=result, data=seen)
    for k, is_said in ((20, True), (5, False)):
        about = {
            "protocol": "leave one out",
            "k": k,
            "most_frequent": {"class": "cat", "share": 0.25},
        }
        files.write_json(folder / "evaluate/metrics.json", about)
        text = page_of(folder).text
        assert ("fewer than the 20 that vote" in text) == is_said
        assert "a probe of the features: leave one out" in text
        assert "who always answers cat has 25.0 %" in text


def test_losses_that_are_not_the_same_measure_say_so(tmp_path: Path) -> None:
    auxiliary = {"task": "segmentation", "segmentation": {"auxiliary_weight": 0.4}}
    mixed = {"augmentation": {"mixup": 0.8}}
    said = {"train-1": False, "train-2": True, "train-3": True}
    write_job(tmp_path, "train-1", spec=SPEC, result={}, epochs=2)
    write_job(tmp_path, "train-2", spec={**SPEC, "model": auxiliary}, result={}, epochs=2)
    write_job(tmp_path, "train-3", spec={**SPEC, "dataset": mixed}, result={}, epochs=2)
    for name, is_said in said.items():
        text = page_of(tmp_path / name).text
        assert ("says nothing of overfitting" in text) == is_said, name


@pytest.mark.parametrize("held_out", [True, False])
def test_pictures_of_a_pretraining_say_whose_images_they_are(
    tmp_path: Path, held_out: bool
) -> None:
    data = digits_folder(tmp_path / "data", per_class=4)
    job = write_job(tmp_path, "train-1", "train", result={"kpis": {}})
    options: dict[str, Any] = {"train__num_epochs": 1}
    if held_out:
        other = digits_folder(tmp_path / "other", per_class=2)
        options["dataset__val_data_sources"] = str(other)
    assert train(spec(data, job, "pretrain", **options)) == 0
    whose = "validation images" if held_out else "training images"
    gallery = read(job, "train/pictures/gallery.json")
    notes = [one["note"] for one in [*gallery["sheets"], *gallery["maps"]]]
    assert notes and all(whose in note for note in notes), notes
    if held_out:  # of the 20 validation images, fewer than the features are wide
        images = sum(1 for _ in other.rglob("*.png"))
        assert f"of at most {images}, on {images} validation images" in page_of(job).text


def test_an_evaluation_of_a_pretraining_has_one_headline_everywhere(tmp_path: Path) -> None:
    kpis = {"knn_acc": 0.3, "rankme": 9.5, "linear_acc": 0.4, "attentive_acc": 0.5}
    doubt = "not told from chance by 40 images: attentive_acc 50.0 %"
    result = {"kpis": kpis, "doubts": [doubt], "shares": {"linear_acc": 40}}
    folder = write_job(tmp_path, "evaluate-1", "evaluate", result=result)
    text = page_of(folder).text
    assert "Result: linear probe accuracy (linear_acc) 40.0 %" in text
    assert "linear probe accuracy (linear_acc), 95 %: " in text  # not that of the doubt's figure
    assert "(linear_acc) 40.0 %" in read_page(Job(folder).report(chain=True).path).text
    listed = answers.jobs([Job(folder)], limit=5)["jobs"]
    assert [(row["metric"], row["best"]) for row in listed] == [("linear_acc", 0.4)]


def test_the_interval_of_a_segmenter_is_said_to_come_with_its_evaluation(tmp_path: Path) -> None:
    folder = write_job(tmp_path, "train-1", spec=SPEC, result={"kpis": {"mIoU": 0.5}})
    index = {"best": {"metric": "mIoU", "direction": "maximize"}, "metrics": {}}
    entry = {"file": "model_epoch_000.pth", "epoch": 0, "step": 4, "metrics": {"mIoU": 0.5}}
    files.write_json(folder / "train/checkpoints.json", {**index, "checkpoints": [entry]})
    assert "an evaluation has one, a bootstrap over the images" in page_of(folder).text


def test_an_inference_of_a_segmenter_tells_pixels_from_images_and_how_sure_its_score_is(
    tmp_path: Path,
) -> None:
    seen = {"images": 14, "chose": {"count": 14, "compared": 14, "job": "train-1"}}
    result = {
        "kpis": {"images": 14, "mIoU": 0.302, "aAcc": 0.857},
        "answered": {"ground": 14, "circle": 0, "square": 3, "cross": 1},
        "answered_pixels": {"ground": 0.982, "circle": 0.0, "square": 0.006, "cross": 0.012},
    }
    told = {"model": {"task": "segmentation"}}
    options: dict[str, Any] = {"spec": told, "data": {"dataset.test_data_sources": seen}}
    folder = write_job(tmp_path, "inference-1", "inference", result=result, **options)
    judged = {
        "images": 14,
        "most_frequent": {"class": "ground", "aAcc": 0.841, "mIoU": 0.2102},
        "intervals": {"mIoU": {"low": 0.211, "high": 0.408, "method": "bootstrap over 14 images"}},
    }
    files.write_json(folder / "inference/metrics.json", judged)
    text = page_of(folder).text
    assert (
        "ground: 98.2 % of the pixels, in 14 images; cross: 1.2 % of the pixels, in 1 image; "
        in text
    )
    assert "square: 0.6 % of the pixels, in 3 images; circle: none" in text
    assert "share of the pixels" in text and "images that hold it" in text
    assert "mean IoU (mIoU) 30.2 %" in text and "95 %: 21.1 % to 40.8 % (bootstrap over 14" in text
    assert "14 of the 14 images that were compared chose the checkpoint, in train-1" in text
    assert "ground for every pixel, the most frequent class, would have a pixel accuracy of" in text
    chain = read_page(Job(folder).report(chain=True).path).text
    assert "on the masks beside them mIoU is 30.2 % (95 %: 21.1 % to 40.8 %)." in chain.replace(
        "\N{NO-BREAK SPACE}", " "
    )


def test_a_segmenter_stands_beside_one_answer_for_every_pixel(tmp_path: Path) -> None:
    result = {"kpis": {"mIoU": 0.302, "aAcc": 0.857}}
    folder = write_job(tmp_path, "evaluate-1", "evaluate", spec=SPEC, result=result)
    constant = {"class": "ground", "aAcc": 0.841, "mIoU": 0.2102}
    files.write_json(folder / "evaluate/metrics.json", {"most_frequent": constant})
    said = "would have a pixel accuracy of 84.1 % and an mIoU of 21.0 %"
    assert said in page_of(folder).text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {
                "model.arch": "vit_tiny_patch16",
                "model.multi_label": True,
                "dataset.labels.train": "/d/a.csv",
                "dataset.labels.val": "/d/b.csv",
            },
            (
                "model.num_classes=3 model.multi_label=true model.arch=vit_tiny_patch16 "
                "dataset.labels.train=TABLE dataset.labels.val=TABLE"
            ),
        ),
        (
            {
                "model.arch": "convnextv2_atto",
                "model.task": "segmentation",
                "dataset.segmentation.class_list": ["sky", "sea"],
                "dataset.segmentation.val_mask_sources": "/d/masks",
            },
            (
                "model.num_classes=3 model.task=segmentation model.arch=convnextv2_atto "
                '\'dataset.segmentation.class_list=["sky", "sea"]\' '
                "dataset.segmentation.val_mask_sources=URI"
            ),
        ),
    ],
)
def test_training_again_is_of_the_same_kind_of_model_on_data_read_alike(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    told: dict[str, Any] = {}
    for key, value in {**fields, "model.num_classes": 3, "model.drop_path_rate": 0.3}.items():
        set_dotted(told, key, value)
    changed = {key: {"origin": "override"} for key in fields}
    changed["model.drop_path_rate"] = {"origin": "recipe (auto)"}  # it would find that itself
    write_job(tmp_path, "train-1", spec=told, changed=changed, result={"kpis": {"mAP": 0.5}})
    judged = {"kpis": {"mAP": 0.5}, "doubts": [DOUBT]}
    folder = write_job(
        tmp_path, "evaluate-1", "evaluate", parent="train-1", spec=told, result=judged
    )
    train, evaluate = answers.after(Job(folder))
    assert answers.command_of(train).endswith(f"train.stage=finetune {said}")
    again = dict(evaluate.overrides)
    place = [key for key in fields if key.endswith((".val", ".val_mask_sources"))]
    assert list(again) == place, "an evaluation needs what lies beside its images"
    assert f"mae run {train.action} " in page_of(folder).text


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ({"mask_values": [0, 255]}, "'dataset.segmentation.mask_values=[0, 255]'"),
        ({"reduce_zero_label": False}, "dataset.segmentation.reduce_zero_label=false"),
    ],
)
def test_training_again_reads_masks_as_the_auto_recipe_did(
    tmp_path: Path, masks: dict[str, Any], said: str
) -> None:
    told = {"model": {"task": "segmentation", "num_classes": 2}, "dataset": {"segmentation": masks}}
    changed = {f"dataset.segmentation.{key}": {"origin": "recipe (auto)"} for key in masks}
    write_job(tmp_path, "train-1", spec=told, changed=changed, result={"kpis": {"mIoU": 0.5}})
    judged = {"kpis": {"mIoU": 0.5}, "doubts": [DOUBT]}
    folder = write_job(
        tmp_path, "evaluate-1", "evaluate", parent="train-1", spec=told, result=judged
    )
    assert said in answers.command_of(answers.after(Job(folder))[0])


@pytest.mark.parametrize("doubts", [[], [DOUBT]])
def test_a_page_that_is_renewed_after_an_evaluation_shows_it_and_goes_on_from_there(
    tmp_path: Path, doubts: list[str]
) -> None:
    write_job(tmp_path, "train-1", spec=SPEC, result={"kpis": {"ACC_all": 0.5}})
    export = write_job(
        tmp_path, "export-1", "export", parent="train-1", spec=SPEC, result={"kpis": {}}
    )
    before = page_of(export).text
    assert "mae run evaluate --parent export-1" in before and "judged by" not in before

    judged = {"kpis": {"ACC_all": 0.5}, "shares": {"ACC_all": 40}, "doubts": doubts}
    data = {"dataset.val_data_sources": {"uri": "/d/test", "images": 40}}
    write_job(tmp_path, "evaluate-2", "evaluate", parent="export-1", result=judged, data=data)
    page = page_of(export)
    said = "judged by evaluate-2: accuracy (ACC_all) 50.0 % (95 %: 35.2 % to 64.8 %) on d/test"
    assert said in page.text
    assert "judge it on images" not in page.text
    assert ("mae run gen_trt_engine" in page.text) == (not doubts)
    assert ("its model is in doubt (evaluate-2)" in page.text) == bool(doubts)
    assert "judged by" not in page_of(tmp_path / "train-1").text, "that is of the exported file"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a/hopper.jpg"] * 3, "The crop that differs most: 2 of 3, all of a/hopper.jpg."),
        (["a/1.jpg", "a/2.jpg", "a/3.jpg"], "The image that differs most: a/2.jpg."),
    ],
)
def test_the_input_that_differs_most_is_told_from_the_others(
    tmp_path: Path, names: list[str], said: str
) -> None:
    parity = {"passed": True, "images": 3, "names": names, "worst_image": 1}
    result = {"kpis": {}, "parity": parity}
    assert said in page_of(write_job(tmp_path, "export-1", "export", result=result)).text


def masks_of(values: dict[str, tuple[int, int]], **more: Any) -> dict[str, Any]:
    table = {value: {"pixels": p, "images": n} for value, (p, n) in values.items()}
    return {"uri": "/d/seg", "images": 60, "mask_values": {"read": 60, "values": table}, **more}


def test_masks_are_counted_by_class_and_their_colors_stand_before_the_pictures(
    tmp_path: Path,
) -> None:
    values = {"0": (100, 9), "1": (800, 60), "2": (200, 7), "255": (50, 3)}
    told: dict[str, Any] = {"model": {"task": "segmentation", "num_classes": 3}}
    told["dataset"] = {"segmentation": {"ignore_index": 255, "class_list": ["sky", "sea", "sand"]}}
    for name, reduces, said in (
        ("train-1", True, "2 sky: 80.0 % of the pixels, 60, sea: 20.0 % of the pixels, 7 "),
        ("train-2", False, "3 sea: 72.7 % of the pixels, 60, sand: 18.2 % of the pixels, 7, sky"),
    ):
        told["dataset"]["segmentation"]["reduce_zero_label"] = reduces
        seen = {"dataset.train_data_sources": masks_of(values)}
        folder = write_job(tmp_path, name, spec=told, data=seen, result={"kpis": {"mIoU": 0.5}})
        text = page_of(folder).text
        assert said in text
        assert f"training: 60 images, {said[0]} classes (d/seg)" in text
    gallery, tile = Gallery(folder / "train"), np.zeros((8, 8, 3), np.uint8)
    gallery.add("segmentation", [[tile]], [{"name": "a.png"}], ["image"])
    gallery.set_legend(["sky", "sea"], np.zeros((2, 3), np.uint8))
    gallery.save()
    html = page_of(folder).html
    assert html.index('class="legend"') < html.index('class="board"')


def test_pictures_without_a_label_are_counted_and_the_base_rate_marks_the_bar_of_a_class(
    tmp_path: Path,
) -> None:
    labels = {"min": 0, "max": 2, "none": 7}
    seen = {"uri": "/d/ml", "images": 40, "classes": 2, "label_file": {"labels": labels}}
    data = {"dataset.val_data_sources": seen}
    result = {"kpis": {"mAP": 0.6}}
    folder = write_job(tmp_path, "evaluate-1", "evaluate", result=result, data=data)
    judged = {
        "images": 40,
        "per_class": {"cat": {"AP": 0.6, "images": 10, "auroc": 0.7}},
        "reliability": [{"confidence": 0.3, "accuracy": 1.0, "images": 1}],
        "ece": 0.1,
    }
    files.write_json(folder / "evaluate/metrics.json", judged)
    page = page_of(folder)
    assert "40 images, 2 classes, 7 of them without a label" in page.text
    assert '<u style="left:25.0%">' in page.html, "10 of 40 images are cats"
    assert "1 pair of image and class" in page.html


def test_an_inference_counts_the_images_that_it_could_read_and_says_on_what_it_ran(
    tmp_path: Path,
) -> None:
    result = {
        "kpis": {"images": 19, "unreadable": 1},
        "answered": {"cat": 19},
        "device": "cpu",
        "model": {"precision": "fp32"},
    }
    data = {"dataset.test_data_sources": {"uri": "/d/new", "images": 20}}
    folder = write_job(tmp_path, "inference-1", "inference", result=result, data=data)
    text = page_of(folder).text
    assert "Data 19 of 20 images 1 could not be read" in text and "19 images answered" in text
    assert f"Every answer is in {folder}/inference/results.csv" in text
    assert "device cpu precision fp32" in text


def test_halves_are_rounded_alike_wherever_a_share_stands() -> None:
    assert (percent(5 / 16), percent(3 / 16)) == ("31.3 %", "18.8 %")
    assert (percent(0.0), percent(1.0), percent(0.9123)) == ("0.0 %", "100.0 %", "91.2 %")
    (said,) = doubts.of_share("accuracy", 5 / 16, np.array([11, 5]), ["cat", "dog"])
    assert "accuracy 31.3 %" in said and "has 68.8 %" in said


@pytest.mark.parametrize(
    ("action", "role"),
    [("train", "validation"), ("evaluate", "evaluation"), ("export", "parity")],
)
def test_what_a_job_does_with_its_images_is_said_of_them(
    tmp_path: Path, action: str, role: str
) -> None:
    data = {"dataset.val_data_sources": {"uri": "/d/val", "images": 1}}
    result = {"kpis": {"ACC_all": 0.5, "val_loss": 0.7}}
    folder = write_job(tmp_path, f"{action}-1", action, spec=SPEC, data=data, result=result)
    text = page_of(folder).text
    assert f"{role}: 1 image (d/val)" in text
    if action == "evaluate":
        assert "loss on these images (val_loss) 0.7" in text and "validation" not in text


def test_one_trial_is_no_trials(tmp_path: Path) -> None:
    text = page_of(write_study(tmp_path, "train-1", 40, [0.75])).html
    assert "of 1 trial over" in text and "1 trials" not in text
    assert [count_of(n, "trial") for n in (0, 1, 1200, None)] == [
        "0 trials",
        "1 trial",
        "1,200 trials",
        "– trials",
    ]
