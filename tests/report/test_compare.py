"""Two jobs beside each other: only figures that measure the same share a chart and a difference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from mae_sdk.job import Job
from mae_sdk.jobs.status import StatusWriter
from mae_sdk.report.compare import render_compare
from mae_sdk.report.facts import facts_of

from tests.support.reports import HOSTILE, Page, write_job


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
    for name in ("train_loss", "Learning rate", "Training loss of each step"):
        assert f"{name}: train-1" in titles and f"{name}: train-2" in titles
        assert "train-2 from" not in titles[f"{name}: train-1"]
    assert "train_loss 0.3333 0.3333 – –" in page.text


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
    assert "not compared" not in page.text and "train_loss 0.3333 0.3333 +0" in page.text


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
    assert f"train_loss and val_loss are {why}" in page.text and page.text.count(why) == 2
    assert {"train_loss: train-1", "val_loss: train-2", "Learning rate"} <= set(titles)
    assert "Learning rate: train-1" not in titles and "ACC_all" in titles


def test_jobs_that_report_by_other_units_have_no_common_axis(tmp_path: Path) -> None:
    write_job(tmp_path, "train-1", spec=spec(), epochs=3)
    folder = write_job(tmp_path, "train-2", spec=spec())
    status = StatusWriter(folder / "status.json")
    for step in (100, 200):
        status.running(f"step {step}", step=step, kpi={"val_loss": 1 / step})
    page = compared(tmp_path)
    assert "train-1 reports by epoch, train-2 by step" in page.text
    assert {"val_loss: train-1", "val_loss: train-2"} <= set(charts_of(page))


def test_jobs_of_two_bundles_are_not_compared_by_names_of_metrics(tmp_path: Path) -> None:
    page = two(tmp_path, spec(), spec(), skill_dir="elsewhere", skill="other")
    assert "The two are jobs of different bundles" in page.text


def test_a_difference_on_other_images_is_said_to_be_of_them_too(tmp_path: Path) -> None:
    for name, place, share in (("evaluate-1", "/d/easy", 0.9), ("evaluate-2", HOSTILE, 0.5)):
        write_job(
            tmp_path,
            name,
            "evaluate",
            spec=spec(),
            data={"dataset.val_data_sources": {"uri": place, "images": 500}},
            result={"kpis": {"ACC_all": share}, "shares": {"ACC_all": 500}},
        )
    page = compared(tmp_path, "evaluate-1", "evaluate-2")
    assert "evaluate-1 was judged on d/easy, evaluate-2 on" in page.text
    assert "-44.9 to -34.7 points: told apart" in page.text
    assert page.all("script") == []
