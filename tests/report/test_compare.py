"""Two jobs beside each other: only figures that measure the same share a chart and a difference."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from mae_sdk.job import Job
from mae_sdk.jobs.status import StatusWriter
from mae_sdk.report.compare import render_compare
from mae_sdk.report.curves import ends, few
from mae_sdk.report.facts import facts_of

from tests.support.reports import (
    HOSTILE,
    Page,
    read_page,
    write_answers,
    write_job,
    write_study,
)


def spec(stage: str = "finetune", task: str = "classification", **train: Any) -> dict[str, Any]:
    return {"model": {"arch": "small", "task": task}, "train": {"stage": stage, **train}}


def compared(root: Path, one: str = "train-1", other: str = "train-2") -> Page:
    return Page(render_compare(*(facts_of(Job(root / name)) for name in (one, other))))


def charts_of(page: Page) -> dict[str, str]:
    """Title of each chart → what its drawing says in words."""
    found = {}
    for part in page.html.split("<figure>")[1:]:
        title, label = re.search(r"<h3>(.*?)</h3>", part), re.search(r'aria-label="(.*?)"', part)
        assert title is not None and label is not None
        found[title[1]] = label[1]
    return found


def two(root: Path, first: dict[str, Any], second: dict[str, Any], **more: Any) -> Page:
    write_job(root, "train-1", spec=first, result={"kpis": {}}, epochs=3)
    write_job(root, "train-2", spec=second, result={"kpis": {}}, epochs=3, **more)
    return compared(root)


@pytest.mark.parametrize(
    ("other", "words"),
    (
        (spec("pretrain"), "The stage of train-1 is finetune, that of train-2 is pretrain"),
        (spec(task="segmentation"), "The task of train-1 is classification, that of train-2"),
    ),
)
def test_losses_of_two_stages_or_tasks_are_neither_subtracted_nor_drawn_together(
    tmp_path: Path, other: dict[str, Any], words: str
) -> None:
    page = two(tmp_path, spec(), other)
    assert page.text.count(words) == 2  # once of the results, once of the curves
    titles = charts_of(page)
    for name in ("training loss (train_loss)", "Learning rate", "Training loss of each step"):
        assert f"{name}: train-1" in titles and f"{name}: train-2" in titles
        assert "train-2 from" not in titles[f"{name}: train-1"]
    assert "(train_loss) 0.3333 0.3333 – –" in page.text


def test_figures_that_measure_the_same_share_a_chart_with_a_legend_and_a_table(
    tmp_path: Path,
) -> None:
    page = two(tmp_path, spec(), spec(optim={"lr": 0.2}))
    titles = charts_of(page)
    assert list(titles)[:3] == ["Training loss of each step", "Learning rate", "Gradient norm"]
    for label in titles.values():  # these two are alike, so one curve stands for both
        assert "train-1 = train-2 from" in label
    figures = page.html.split("<figure>")[1:]
    assert all('class="legend"' in figure and "<details>" in figure for figure in figures)
    assert "step train-1 train-2 1 2 2" in page.text  # the first step's loss of both
    assert "not compared" not in page.text and "(train_loss) 0.3333 0.3333 +0" in page.text


def test_two_curves_are_told_apart_by_more_than_their_colors(tmp_path: Path) -> None:
    write_job(tmp_path, "train-1", spec=spec(), epochs=3)
    folder = write_job(tmp_path, "train-2", spec=spec(), epochs=3)
    StatusWriter(folder / "status.json").running("epoch 2", epoch=2, kpi={"train_loss": 9.0})
    page = compared(tmp_path)
    lines = [line["class"] for line in page.all("polyline") if "s1" in line["class"]]
    assert lines and all("dashed" in names for names in lines)
    assert any("key b1 dashed" in key["class"] for key in page.all("i"))


def test_a_curve_of_one_job_alone_has_its_legend_and_its_table(tmp_path: Path) -> None:
    write_job(tmp_path, "train-1", spec=spec(), epochs=3)
    write_job(tmp_path, "train-2", spec=spec())
    page = compared(tmp_path)
    figures = page.html.split("<figure>")[1:]
    assert figures and all('class="legend"' in one and "train-2" not in one for one in figures)


def test_a_field_that_changes_what_a_loss_measures_keeps_that_loss_apart_alone(
    tmp_path: Path,
) -> None:
    page = two(
        tmp_path, spec("pretrain", mask_ratio=0.5), spec("pretrain", mask_ratio=0.75, seed=3)
    )
    titles = charts_of(page)
    why = "not compared: train.mask_ratio is 0.5 in train-1 and 0.75 in train-2"
    assert (
        f"training loss (train_loss) and validation loss (val_loss) are {why}" in page.text
        and page.text.count(why) == 2
    )
    assert {
        "training loss (train_loss): train-1",
        "validation loss (val_loss): train-2",
        "Learning rate",
    } <= set(titles)
    assert "Learning rate: train-1" not in titles and "accuracy (ACC_all)" in titles


def test_a_contrast_is_no_loss_of_reconstruction(tmp_path: Path) -> None:
    refined = spec("pretrain", refine={"blocks": 3})
    page = two(tmp_path, spec("pretrain", refine={"blocks": 0}), refined)
    assert "train.refine.blocks is 0 in train-1 and 3 in train-2" in page.text
    assert {f"training loss (train_loss): train-{n}" for n in (1, 2)} <= set(charts_of(page))


def test_batches_of_two_sizes_keep_a_contrast_apart_and_no_reconstruction(tmp_path: Path) -> None:
    for blocks in (0, 3):
        made = [spec("pretrain", refine={"blocks": blocks}) for _ in range(2)]
        sizes = [
            {**one, "dataset": {"batch_size": size}} for one, size in zip(made, (4, 8), strict=True)
        ]
        page = two(tmp_path / str(blocks), *sizes)
        told = "not compared: dataset.batch_size is 4 in train-1 and 8 in train-2" in page.text
        assert told == bool(blocks)


def test_jobs_that_report_by_other_units_have_no_common_axis(tmp_path: Path) -> None:
    write_job(tmp_path, "train-1", spec=spec(), epochs=3)
    folder = write_job(tmp_path, "train-2", spec=spec())
    status = StatusWriter(folder / "status.json")
    for step in (100, 200):
        status.running(f"step {step}", step=step, kpi={"val_loss": 1 / step})
    page = compared(tmp_path)
    assert "train-1 reports by epoch, train-2 by step" in page.text
    assert {f"validation loss (val_loss): train-{n}" for n in (1, 2)} <= set(charts_of(page))


def test_jobs_of_two_bundles_are_not_compared_by_names_of_metrics(tmp_path: Path) -> None:
    page = two(tmp_path, spec(), spec(), skill_dir="elsewhere", skill="other")
    assert "The two are jobs of different bundles" in page.text


def judged(root: Path, name: str, share: float, fields: dict[str, Any], **seen: Any) -> None:
    write_job(
        root,
        name,
        "evaluate",
        spec=fields,
        data={"dataset.val_data_sources": {"images": 500, **seen}},
        result={"kpis": {"ACC_all": share, "latency_ms": 4.0}, "shares": {"ACC_all": 500}},
    )


def test_figures_of_other_images_are_neither_subtracted_nor_judged(tmp_path: Path) -> None:
    judged(tmp_path, "evaluate-1", 0.9, spec(), uri="/d/easy")
    judged(tmp_path, "evaluate-2", 0.5, spec(), uri=HOSTILE)
    page = compared(tmp_path, "evaluate-1", "evaluate-2")
    assert (
        "accuracy (ACC_all) is not compared: evaluate-1 was judged on d/easy, evaluate-2 on"
        in page.text
    )
    assert "(ACC_all) 90.0 % 50.0 % – –" in page.text and "told apart" not in page.text
    assert "latency_ms 4 4 +0" in page.text  # the machine's figures are of no images
    assert page.all("script") == []


def test_one_place_that_held_other_images_does_not_compare_and_a_copy_does(tmp_path: Path) -> None:
    judged(tmp_path, "evaluate-1", 0.9, spec(), uri="/d/val", digest="a")
    judged(tmp_path, "evaluate-2", 0.5, spec(), uri="/d/val", digest="b")
    judged(tmp_path, "evaluate-3", 0.5, spec(), uri="/elsewhere/val", digest="a")
    changed = compared(tmp_path, "evaluate-1", "evaluate-2").text
    assert "the images of /d/val were others" in changed and "told apart" not in changed
    copied = compared(tmp_path, "evaluate-1", "evaluate-3").text
    assert "points: told apart" in copied and "not compared" not in copied


def test_labels_told_among_other_classes_do_not_compare(tmp_path: Path) -> None:
    fields = [spec(), spec()]
    for one, classes in zip(fields, (3, 10), strict=True):
        one["model"]["num_classes"] = classes
    page = two(tmp_path, *fields)
    assert "model.num_classes is 3 in train-1 and 10 in train-2" in page.text
    assert {
        "accuracy (ACC_all): train-1",
        "training loss (train_loss): train-2",
        "Learning rate",
    } <= set(charts_of(page))


def test_losses_of_other_training_images_do_not_compare_and_judgments_of_one_set_do(
    tmp_path: Path,
) -> None:
    for name, place in (("train-1", "/d/one"), ("train-2", "/d/two")):
        val = {"uri": "/d/val", "digest": "v"}
        data = {"dataset.train_data_sources": {"uri": place}, "dataset.val_data_sources": val}
        write_job(tmp_path, name, spec=spec(), data=data, result={"kpis": {}}, epochs=3)
    page = compared(tmp_path)
    said = "(train_loss) is not compared: train-1 was trained on d/one, train-2 on d/two"
    assert said in page.text
    assert {"training loss (train_loss): train-1", "Training loss of each step: train-2"} <= set(
        charts_of(page)
    )
    assert {
        "accuracy (ACC_all)",
        "validation loss (val_loss)",
        "Learning rate",
    } <= set(charts_of(page))


def test_images_held_out_by_another_seed_are_others(tmp_path: Path) -> None:
    for name, seed in (("train-1", 1), ("train-2", 2)):
        data = {"dataset.train_data_sources": {"uri": "/d/one", "digest": "x", "held_out": 9}}
        write_job(tmp_path, name, spec=spec(seed=seed), data=data, result={"kpis": {}}, epochs=3)
    assert "train.seed differs, so that other images are held out of /d/one" in (
        compared(tmp_path).text
    )


def of_kept(root: Path, name: str) -> None:
    """A training of three epochs, whose kept checkpoint is of the second: each metric has its best
    value in another epoch."""
    folder = write_job(root, name, spec=spec(num_epochs=3), result={"kpis": {"ACC_all": 0.4}})
    status = StatusWriter(folder / "status.json")
    for epoch, (share, auroc, ece) in enumerate(((0.3, 0.5, 0.01), (0.6, 0.7, 0.2), (0.4, 0.9, 0))):
        status.running(
            f"epoch {epoch}", epoch=epoch, kpi={"ACC_all": share, "auroc": auroc, "ece": ece}
        )
    about = {"ACC_all": {"direction": "maximize", "images": 500}}
    kept = {"file": "model_epoch_001.pth", "epoch": 1, "step": 8, "metrics": {"ACC_all": 0.6}}
    best = {"metric": "ACC_all", "direction": "maximize"}
    index = {"best": best, "checkpoints": [kept], "metrics": about}
    (folder / "train/checkpoints.json").write_text(json.dumps(index))


def test_a_job_and_the_evaluation_of_its_kept_checkpoint_do_not_differ(tmp_path: Path) -> None:
    of_kept(tmp_path, "train-1")
    result = {"kpis": {"ACC_all": 0.6, "auroc": 0.7 + 1e-9, "ece": 0.2}, "shares": {"ACC_all": 500}}
    fields = spec(num_epochs=10, mask_ratio=0.5)
    fields |= {"evaluate": {"batch_size": -1}, "wandb": {"name": None}}
    write_job(tmp_path, "evaluate-2", "evaluate", spec=fields, result=result)
    page = compared(tmp_path, "train-1", "evaluate-2")
    assert "train-1: epoch 1, of its best checkpoint that is kept; evaluate-2: its result" in (
        page.text
    )
    for name, value in (("ACC_all", "60.0 %"), ("auroc", "0.7"), ("ece", "0.2")):
        assert f"({name}) {value} {value} +0" in page.text
    # The epochs of an evaluation act in nothing, nor is there an evaluation in a training.
    for key in ("train.num_epochs", "train.mask_ratio", "evaluate.batch_size", "wandb.name"):
        assert key not in page.text
    assert "The two specs are equal" in page.text and "only one of the two actions" in page.text


def test_a_field_that_was_set_in_an_evaluation_is_among_those_that_differ(tmp_path: Path) -> None:
    changed = {"train.mask_ratio": {"default": 0.75, "origin": "override"}}
    write_job(tmp_path, "train-1", spec=spec("pretrain", mask_ratio=0.75), result={"kpis": {}})
    fields = spec("pretrain", mask_ratio=0.5, num_epochs=None)
    write_job(tmp_path, "evaluate-2", "evaluate", spec=fields, result={}, changed=changed)
    page = compared(tmp_path, "train-1", "evaluate-2")
    assert "train.mask_ratio 0.75 0.5" in page.text and "1 field differs" in page.text


def test_a_share_and_its_interval_are_in_one_unit_and_a_doubt_is_said(tmp_path: Path) -> None:
    judged(tmp_path, "evaluate-1", 0.5, spec(), uri="/d/val")
    judged(tmp_path, "evaluate-2", 0.625, spec(), uri="/d/val")
    path = tmp_path / "evaluate-2/evaluate/result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "doubts": ["no better than chance"]}))
    text = compared(tmp_path, "evaluate-1", "evaluate-2").text
    row = r"accuracy \(ACC_all\) 50\.0 % 62\.5 % \+12\.5 points \+\d\S* to \+\d\S* points"
    assert re.search(row, text), text
    assert "latency_ms 4 4 +0" in text, "a time is no share"
    assert "evaluate-2 is in doubt: no better than chance" in text
    assert "evaluate-1 is in doubt" not in text


def test_answers_to_the_same_images_are_compared_in_pairs(tmp_path: Path) -> None:
    """20 of 24 against 14: the intervals of the two overlap, the pairs tell them apart."""
    write_answers(tmp_path, "evaluate-1", 14)
    write_answers(tmp_path, "evaluate-2", 20)
    text = compared(tmp_path, "evaluate-1", "evaluate-2").text
    row = (
        r"58\.3 % 83\.3 % \+25\.0 points \+2\.0 to \+42\.8 points: told apart \(pairs of 24 images"
    )
    assert re.search(row, text), text
    assert "exact McNemar p = 0.031" in text

    (tmp_path / "evaluate-1/evaluate/results.csv").unlink()
    text = compared(tmp_path, "evaluate-1", "evaluate-2").text
    assert "points: cannot be told apart (Newcombe, as if judged on different images)" in text


def test_an_engine_is_told_from_its_checkpoint_in_pairs(tmp_path: Path) -> None:
    """6 images lost and none won are more than chance, though the intervals overlap."""
    write_job(tmp_path, "train-1", spec=spec(), result={})
    write_job(tmp_path, "export-2", "export", parent="train-1", spec=spec(), result={"kpis": {}})
    write_answers(tmp_path, "evaluate-1", 20, parent="train-1")
    write_answers(tmp_path, "evaluate-2", 14, parent="export-2")
    said = "That is 25.0 points below the fine-tuned checkpoint (83.3 %)"
    job = Job(tmp_path / "export-2")
    assert f"{said}." in read_page(job.report(chain=True).path).text
    (tmp_path / "evaluate-1/evaluate/results.csv").unlink()
    assert f"{said}, which so many images" in read_page(job.report(chain=True).path).text


def test_numbers_of_many_steps_say_that_they_are_thinned_and_hold_the_best(tmp_path: Path) -> None:
    curve = [(float(step), 1.0 + step / 1000) for step in range(1, 1001)]
    curve[333] = (334.0, 0.25)
    chosen, said = few([at for at, _ in curve], ends(dict(curve)))
    assert 334.0 in chosen and chosen[-1] == 1000.0 and len(chosen) < 300
    assert "one row in 4 of 1,000" in said
    whole = [float(n) for n in range(300)]
    assert few(whole) == (whole, "")


def test_of_a_study_every_figure_of_the_best_trial_is_compared(tmp_path: Path) -> None:
    write_study(tmp_path, "train-9", 40, [0.7, 0.75])
    of_kept(tmp_path, "train-1")
    text = compared(tmp_path, "train-1", "train-9").text
    assert "(val_loss) – 0.6" in text and "train-9.t001: the newest values" in text
