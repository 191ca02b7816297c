"""A report says what a job's folder says, escaped, in one file that needs nothing else."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from mae_sdk import answers
from mae_sdk.cli.common import status_text
from mae_sdk.cli.main import cli
from mae_sdk.job import Job
from mae_sdk.jobs import intervals, records
from mae_sdk.jobs.status import StatusWriter
from mae_sdk.report import charts, search
from mae_sdk.report.facts import facts_of
from mae_sdk.report.make import Ending, refresh
from mae_skill.errors import JobFailedError

from tests.support.jobs import start
from tests.support.reports import HOSTILE, Page, read_page, write_job, write_study

SPEC = {"model": {"arch": "some_arch"}, "train": {"stage": "finetune", "optim": {"lr": 0.01}}}
SHARES = {"kpis": {"ACC_all": 0.9, "val_loss": 0.4}, "shares": {"ACC_all": 200}}


def test_notes_of_the_plan_are_folded_and_its_warnings_are_in_view(tmp_path: Path) -> None:
    late = "train.optim.milestones: milestones [15] are beyond the run of 2 epochs"
    wild = "train.optim.lr: the loss may rise or never fall"
    of_run = "step 3: the loss is not finite"
    folder = write_job(
        tmp_path,
        "train-1",
        spec=SPEC,
        result={"kpis": {}, "warnings": [late, wild, of_run]},  # a run repeats its plan's
        warnings=[late, wild],
        notes=[late],
    )
    text = read_page(Job(folder).report().path).text
    cards, rest = text[: text.index("Notes")], text[text.index("Notes") :]
    assert late not in cards and "1 note on settings that nobody has set" in rest
    assert late.partition(": ")[2] in rest
    assert wild in cards and of_run in cards and "2 warnings" in cards

    shown = answers.status(Job(folder))
    assert (shown["notes"], shown["warnings"]) == ([late], [wild, of_run])
    words = ["jobs", "status", "train-1", "--results-root", str(tmp_path)]
    lines = CliRunner().invoke(cli, words, catch_exceptions=False).stdout.splitlines()
    assert {f"note: {late}", f"warning: {wild}", f"warning: {of_run}"} <= set(lines)

    # Of a job that does not say which are notes: warnings.
    again = write_job(tmp_path, "train-2", spec=SPEC, result={}, warnings=[late])
    assert late in read_page(Job(again).report().path).text


def test_many_warnings_are_each_on_the_page_once(tmp_path: Path) -> None:
    warnings = [f"dataset.train_data_sources: thing {n:02d}" for n in range(12)]
    folder = write_job(tmp_path, "train-1", result={}, warnings=warnings)
    text = read_page(Job(folder).report().path).text
    assert [text.count(one) for one in warnings] == [1] * 12
    assert "and 4 more below" in text


def page_of(folder: Path, **options: Any) -> Page:
    return read_page(Job(folder).report(**options).path)


def test_the_first_screen_says_what_on_what_how_good_how_sure_and_what_next(tmp_path: Path) -> None:
    data = {"dataset.val_data_sources": {"uri": "/d/heldout", "images": 200, "classes": 4}}
    left = {"left_out": {"dataset.val_data_sources": {"unreadable": {"count": 2, "files": ["b"]}}}}
    folder = write_job(
        tmp_path,
        "evaluate-1",
        "evaluate",
        spec=SPEC,
        data=data,
        warnings=["train.optim.lr: high"],
        parent="train-0",
        result={**SHARES, **left},
    )
    text = page_of(folder).text
    for words in (
        "Evaluation · some_arch",
        "200 images, 4 classes (d/heldout)",
        "90.0 %",
        "95 %: 85.1 % to 93.4 % (Wilson, 200 images)",
        "evaluation: 2 unreadable (b …)",
        "train.optim.lr: high",
        "mae run export --parent train-0",
    ):
        assert words in text, words


def test_a_shape_of_ones_own_stands_below_the_name_of_the_architecture(tmp_path: Path) -> None:
    model = {"arch": "vit_tiny_patch16", "patch_size": 6, "embed_dim": 128, "num_heads": None}
    spec = {"model": model, "train": {"stage": "finetune"}}
    folder = write_job(tmp_path, "train-1", spec=spec, epochs=1, result={"kpis": {}})
    text = read_page(Job(folder).report().path).text
    assert (
        "model with patches of 6 pixels, width 128" in text
        and "heads" not in text.partition("Result")[0]
    )


def test_other_figures_are_those_of_the_best_epoch_not_of_the_last(tmp_path: Path) -> None:
    folder = write_job(tmp_path, "train-1", spec=SPEC, epochs=3, result={"kpis": {}})
    index = {
        "best": {"metric": "ACC_all", "direction": "maximize"},
        "metrics": {"ACC_all": {"direction": "maximize", "images": 40}},
        "checkpoints": [],
    }
    (folder / "train/checkpoints.json").write_text(json.dumps(index))
    worse = {"train_loss": 0.2, "val_loss": 0.3, "ACC_all": 0.5}
    StatusWriter(folder / "status.json").running("epoch 3", epoch=3, step=16, kpi=worse)
    text = page_of(folder).text
    # Three epochs have the same accuracy: the one of the least validation loss is the best.
    assert "Result: accuracy (ACC_all) 75.0 %" in text and "at epoch 2" in text
    assert "validation loss (val_loss) 0.4" in text[: text.index("Curves")]


def test_what_no_source_gave_is_not_told_as_complete_nor_what_is_read_as_left_out(
    tmp_path: Path,
) -> None:
    exported = page_of(write_job(tmp_path, "export-1", "export", spec=SPEC, result={"kpis": {}}))
    assert "Left out" not in exported.text
    reasons = {
        "other": {"count": 1, "files": ["d/classes.txt"]},
        "twins": {"count": 4, "files": ["d/a.png"]},
    }
    seen = {"uri": "/d", "images": 8, "class_counts": {"0": 3, "1": 5}, "left_out": reasons}
    folder = write_job(tmp_path, "train-1", spec=SPEC, data={"dataset.train_data_sources": seen})
    page = page_of(folder)
    assert "Left out 1 file training: 1 not pictures (d/classes.txt)" in page.text
    assert "twins" not in page.text and "1: 5, 0: 3" in page.text
    assert not any("warning" in a.get("class", "") for a in page.all("section"))


def test_an_engine_says_what_it_is_and_that_its_graph_was_judged_not_itself(tmp_path: Path) -> None:
    speed = {"device": "cpu", "batches": {"1": {"median_ms": 3.5, "p95_ms": 4, "images_per_s": 9}}}
    write_job(tmp_path, "train-0", spec=SPEC, result={"kpis": {}})
    write_job(tmp_path, "train-1", spec=SPEC, parent="train-0", result={"kpis": {}})
    write_job(tmp_path, "export-2", "export", parent="train-1", result={"kpis": {}})
    for number, (parent, kind) in enumerate(
        (("train-0", "teacher"), ("train-1", "torch"), ("export-2", "onnx"))
    ):
        folder = write_job(tmp_path, f"evaluate-{number}", "evaluate", parent=parent, result=SHARES)
        judged = {"speed": speed, "model": {"kind": kind, "precision": "fp32"}}
        (folder / "evaluate/metrics.json").write_text(json.dumps(judged))
    engine = {
        "precision": "fp16",
        "backend": "tensorrt_rtx",
        "library_version": "1.7",
        "targets": ["8.6", "12.0"],
        "profile": {"minimum": 1, "maximum": 8},
        "batch": -1,
    }
    parity = {
        "passed": True,
        "cosine_min": 0.99999993,
        "images_from": "16 images",
        "thresholds": {"min_cosine": 0.999, "max_abs": 0.01},
    }
    found = {"kpis": {"engine_mb": 2.452404}, "engine": engine, "parity": parity}
    onnx = tmp_path / "export-2/export/model.onnx"
    onnx.write_bytes(b"12345")
    spec = {"gen_trt_engine": {"onnx_file": str(onnx)}}
    folder = write_job(
        tmp_path, "engine-3", "gen_trt_engine", parent="export-2", spec=spec, result=found
    )
    text = page_of(folder).text
    for words in (
        "2.5 MB engine",
        "fp16 · TensorRT for RTX 1.7",
        "compute capability 8.6, 12.0, batches of 1 to 8",
        "0.99999993",
        "the build does not run the engine",
        "export/model.onnx, which it was built from 5 B",
        "The graph that the engine was built from, in ONNX Runtime",
        "≥ 0.999",
        "torch, fp32",
        "onnx, fp32",
        'profile {"minimum": 1, "maximum": 8}',
    ):
        assert words in text, words
    assert "batch any" not in text
    assert "teacher" not in text  # another model: the parent of the one that was exported
    assert "(onnx, fp32)" in page_of(tmp_path / "evaluate-2").text


def test_a_page_loads_nothing_from_elsewhere_and_holds_no_script(tmp_path: Path) -> None:
    page = page_of(write_job(tmp_path, "train-1", spec=SPEC, epochs=3, result={"kpis": {}}))
    assert page.outside == [] and page.all("script") == []
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert len(page.html) < 5 << 20


def test_everything_that_a_user_named_is_escaped(tmp_path: Path) -> None:
    counts = {"classes": 1, "images": 9, "uri": HOSTILE, "class_counts": {HOSTILE: 9}}
    folder = write_job(
        tmp_path,
        "evaluate-1",
        "evaluate",
        spec={"model": {"arch": HOSTILE}, "x": {HOSTILE: HOSTILE}},
        data={"dataset.val_data_sources": counts},
        changed={f"x.{HOSTILE}": {"origin": HOSTILE, "default": HOSTILE}},
        warnings=[HOSTILE],
        versions={HOSTILE: HOSTILE},
        result={**SHARES, "warnings": [HOSTILE], "model": {"arch": HOSTILE}},
    )
    metrics = {"per_class": {HOSTILE: {"recall": 0.5, "precision": None, "images": 9}}}
    (folder / "evaluate/metrics.json").write_text(json.dumps(metrics))
    table = f'true \\ predicted,{HOSTILE},b\n{HOSTILE},4,5\n"b",0,3\n'
    (folder / "evaluate/confusion_matrix.csv").write_text(table)
    page = page_of(folder)
    assert page.all("script") == [] and "<script" not in page.html
    assert page.text.count(HOSTILE) > 8


def test_curves_are_drawn_with_words_and_numbers_beside_them(tmp_path: Path) -> None:
    folder = write_job(tmp_path, "train-1", spec=SPEC, epochs=5, result={"kpis": {}})
    (folder / "train/derived.json").write_text('{"images": 80}')
    page = page_of(folder)
    labels = [drawing.get("aria-label", "") for drawing in page.all("svg")]
    for name in ("Loss", "Quality", "Learning rate", "Gradient norm", "Throughput", "Memory"):
        assert any(label.startswith(name) for label in labels), name
    assert all(drawing.get("role") == "img" for drawing in page.all("svg"))
    assert "training loss (train_loss) from 1 to 0.2" in " ".join(labels)
    assert len(page.all("details")) >= 6 and "images per second" in page.text


def test_a_job_that_failed_of_its_images_says_which_bound_and_where_to_look(
    tmp_path: Path,
) -> None:
    names = [f"circle/{number:03d}.png" for number in range(5)]
    message = (
        "dataset.train_data_sources: 30 of 115 images cannot be read "
        f"({', '.join(names)}: cannot be read as an image: unknown format; 25 more)"
    )
    error = {
        "code": "data",
        "message": message,
        "field": "dataset.max_corrupt_fraction",
        "got": 0.26087,
        "expected": "at most 0.01 of the images",
    }
    failure = {"category": "data", "message": message, "lines": [], "hint": "mend", "error": error}
    counted = {"images": 115, "read": 115, "bad": 0}
    data = {
        "dataset.train_data_sources": {"uri": "/some/bad", **counted},
        "dataset.val_data_sources": {"uri": "/some/good", **counted},
    }
    folder = write_job(
        tmp_path, "train-1", state=records.ERROR, spec=SPEC, failure=failure, data=data
    )
    page = read_page(Job(folder).report().path)
    (headline,) = re.findall(r'class="figure">([^<]*cannot be read[^<]*)<', page.html)
    assert headline == "dataset.train_data_sources: 30 of 115 images cannot be read"
    assert "got 0.2609, expected at most 0.01 of the images" in page.text
    assert "25 more" in page.text and "Left out too much" in page.text
    assert "mae inspect /some/bad" in page.text and "inspect /some/good" not in page.text
    assert answers.suspects(Job(folder).record) == ["/some/bad"]

    text = status_text(answers.status(Job(folder)))
    assert text.count("30 of 115") == 1 and "{" not in text
    assert "0.26087" in text and "at most 0.01 of the images" in text


def test_what_could_be_read_of_a_canceled_run_is_known_from_its_launch(tmp_path: Path) -> None:
    data = {"dataset.train_data_sources": {"uri": "/d", "images": 9, "read": 9, "bad": 0}}
    folder = write_job(tmp_path, "train-1", state=records.CANCELED, spec=SPEC, data=data, epochs=2)
    text = read_page(Job(folder).report().path).text
    assert "every image could be read when the job was launched" in text
    assert "did not read all" not in text


def test_a_failed_job_shows_why_and_the_end_of_its_log(tmp_path: Path) -> None:
    failure = {
        "category": "numeric",
        "message": "the loss became nan",
        "lines": ["loss nan"],
        "hint": "lower the rate",
        "error": None,
    }
    folder = write_job(tmp_path, "train-1", state=records.ERROR, spec=SPEC, failure=failure)
    (folder / "log.txt").write_text("one\nthe last line\n")
    text = page_of(folder).text
    for words in ("the loss became nan", "lower the rate", "the last line", "mae jobs resume"):
        assert words in text
    assert "then run it again" in text  # no checkpoint is there to go on from

    wrong = [
        {"field": "model.num_classes", "message": "two classes", "hint": "set it to 2"},
        {"field": None, "message": "no images", "hint": None},
    ]
    failure |= {"message": "the spec has 2 problems", "error": {"problems": wrong}}
    write_job(tmp_path, "train-2", state=records.ERROR, spec=SPEC, failure=failure, epochs=2)
    first = read_page(Job(tmp_path / "train-2").report().path).text.partition("Next")[0]
    assert "model.num_classes: two classes (set it to 2)" in first and "no images" in first
    assert "it came to epoch 1 (of 2)" in first


def test_a_running_job_has_a_page_that_renews_itself_until_it_ends(tmp_path: Path) -> None:
    folder = write_job(tmp_path, "train-1", state=records.RUNNING, spec=SPEC, epochs=2)
    record = records.read_record(folder)
    from mae_sdk.report.facts import facts_of
    from mae_sdk.report.page import render

    html = render(facts_of(Job(folder), record, records.RUNNING))
    running = Page(html)
    assert any(a.get("http-equiv") == "refresh" for a in running.all("meta"))
    assert "2 of 2 epochs done" in running.text

    assert records.state_of(records.read_record(folder)) == records.RUNNING
    assert _refreshed(folder, Ending(records.COMPLETE))
    ended = read_page(folder / "report.html")
    assert not any(a.get("http-equiv") == "refresh" for a in ended.all("meta"))
    assert "COMPLETE" in ended.text


def _refreshed(folder: Path, ending: Ending) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MAE_REPORT", raising=False)
        return refresh(folder, ending)


def test_a_trial_of_a_few_seconds_has_a_page_only_when_it_fails_or_when_asked(
    tmp_path: Path,
) -> None:
    folder = write_job(tmp_path, "train-1.t003", state=records.RUNNING, spec=SPEC, kind="trial")
    assert _refreshed(folder, Ending(records.COMPLETE)) is False
    assert not (folder / "report.html").exists()
    assert Job(folder).report().path.exists(), "asked for"
    assert _refreshed(folder, Ending(records.ERROR)) is True

    record = records.read_record(folder)
    record["attempts"][-1]["transitions"][0]["at"] = "2026-01-01T00:00:00.000+00:00"
    records.write_record(folder, record)
    assert _refreshed(folder, Ending(records.COMPLETE)) is True, "it took longer"


def test_a_study_says_how_it_searched_and_leads_to_the_trials_that_it_compares(
    tmp_path: Path,
) -> None:
    folder = write_study(tmp_path, "train-1", 40, [0.70, 0.75, 0.8, None])
    study = json.loads((folder / "automl/study.json").read_text())
    study["options"] |= {"seed": 7, "sampler": "random", "max_trials": 5}
    same = {"name": "held", "low": 0.1, "high": 0.5}
    study["space"]["knobs"].append(same)
    (folder / "automl/study.json").write_text(json.dumps(study))
    table = (folder / "automl/trials.csv").read_text().splitlines()
    rows = [f"{table[0]},held", *(f"{row},0.3" for row in table[1:])]
    (folder / "automl/trials.csv").write_text("\n".join(rows))

    page = read_page(Job(folder).report().path)
    for words in (
        "judged by accuracy (ACC_all), more is better",
        "trials at most 5",
        "sampler random",
        "pruner successive_halving",
        "seed 7",
        "lr 1e-06 to 1, on a log scale",
        "held 0.1 to 0.5",
        "The same in every trial: held 0.3",
        "lr (log)",
    ):
        assert words in page.text, words
    links = [a["href"] for a in page.all("a") if "report.html" in a.get("href", "")]
    assert {link.split("/")[-2] for link in links} >= {"train-1.t000", "train-1.t002"}
    assert all((folder / link).exists() for link in links)


def _winning_rows(page: Page) -> list[dict[str, str]]:
    """The rows of the table of winning values."""
    part = page.html.partition("The winning values")[2].partition("</table>")[0]
    return Page(part).all("tr")


def test_what_is_wrong_with_a_folder_ends_no_run(tmp_path: Path) -> None:
    assert _refreshed(tmp_path / "nothing", Ending(records.COMPLETE)) is False
    folder = write_job(tmp_path, "train-1", result={"kpis": [1], "warnings": 3, "data": "x"})
    for name in ("metrics.json", "derived.json", "checkpoints.json", "pictures/gallery.json"):
        path = folder / "train" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"sheets": [3, {"kind": "reconstruction", "tile": "x"}], "best": 7}')
    assert _refreshed(folder, Ending(records.COMPLETE)) is True
    assert refresh(folder) is False, "switched off by MAE_REPORT"


def test_a_study_says_in_words_whether_the_data_can_tell_best_and_given_apart(
    tmp_path: Path,
) -> None:
    few = page_of(write_study(tmp_path, "train-few", 40, [0.70, 0.75, None]))
    assert "+5.0 points against trial 0" in few.text
    assert "40 images cannot tell the two apart" in few.text
    assert "were the gap real, about 1,248 would in 4 of 5 repetitions" in few.text
    many = page_of(write_study(tmp_path, "train-many", 4000, [0.70, 0.80, None]))
    assert "the data can tell them apart" in many.text
    assert "Result: accuracy (ACC_all)" in many.text
    record = records.read_record(tmp_path / "train-many")
    goes_on = facts_of(Job(tmp_path / "train-many"), record, records.RUNNING)
    card = search.headline(goes_on)
    assert card.title == "So far: accuracy (ACC_all)"
    assert card.lines[-1] == "trials: 2 complete, 1 pruned; of 3"
    given = page_of(write_study(tmp_path, "train-given", 40, [0.70, 0.60]))
    assert "No trial is better than the spec as given" in given.text
    for words in ("History", "Learning curves", "Parallel coordinates", "All trials", "importance"):
        assert words in many.text


def test_crops_of_one_picture_have_no_interval_of_images(tmp_path: Path) -> None:
    for name, place, words in (
        ("export-1", "16 crops of matplotlib's sample photograph", "of 16 crops of one picture"),
        ("export-2", "validation images", "of 16 images (95 %: at least 80.6 %)"),
    ):
        parity = {"passed": True, "images": 16, "images_from": place, "top1_agreement": 1.0}
        folder = write_job(tmp_path, name, "export", result={"kpis": {}, "parity": parity})
        text = page_of(folder).text
        assert f"same class for 100.0 % {words}" in text
        assert ("at least" in text) == (name == "export-2")


def test_the_data_of_a_failed_job_was_counted_at_its_launch(tmp_path: Path) -> None:
    data = {"dataset.val_data_sources": {"uri": "/d/val", "images": 48}}
    failure: dict[str, Any] = {"category": "out_of_memory", "message": "it is full"}
    failure |= {"lines": [], "hint": "", "error": None}
    failed = write_job(tmp_path, "train-1", state=records.ERROR, data=data, failure=failure)
    text = page_of(failed).text
    assert "as counted when the job was launched" in text
    assert "what kind of failure: out of memory" in text
    whole = write_job(tmp_path, "train-2", data=data, result={"kpis": {}})
    assert "as counted when" not in page_of(whole).text


def test_of_four_classes_none_is_hidden_as_one_more(tmp_path: Path) -> None:
    for count, words in ((4, "a: 9, b: 8, c: 7, d: 6"), (5, "c: 7 and 2 more classes")):
        answered = dict(zip("abcde"[:count], range(9, 0, -1), strict=False))
        result = {"kpis": {"images": 30}, "answered": answered}
        text = page_of(write_job(tmp_path, f"inference-{count}", "inference", result=result)).text
        assert words in text and "and 1 more" not in text


def test_a_study_says_which_fields_were_searched_and_leads_to_the_pages_of_its_trials(
    tmp_path: Path,
) -> None:
    folder = write_study(tmp_path, "train-1", 40, [0.70, 0.75, 0.8, None])
    for trial, patch in ((0, 16), (2, 8)):
        spec = {"model": {"patch_size": patch}}
        (tmp_path / f"train-1.t{trial:03d}/spec.yaml").write_text(json.dumps(spec))
    plain = page_of(folder)
    assert "model.patch_size 16 8 not searched" in plain.text and "auto recipe" not in plain.text
    assert "lr 0.1 0.001 searched" in plain.text
    assert "the best of 4 trials (3 complete, 1 pruned)" in plain.text  # all were tried
    there = {f"../train-1.t00{trial}/report.html" for trial in range(3)}
    assert {a["href"] for a in plain.all("a") if ".t00" in a["href"]} == there, "not the pruned one"
    assert all((folder / link).exists() for link in there), "written with the page of the study"
    assert not any("marked" in a.get("class", "") for a in _winning_rows(plain)), "all differ"

    path = folder / "automl/study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_spec": {"model": {}}}))
    around = page_of(folder)
    assert "model.patch_size 16 8 the auto recipe" in around.text
    assert "Trial 1 is the auto recipe" in around.text
    links = [a["href"] for a in around.all("a") if ".t00" in a["href"]]
    assert links[:3] == [f"../train-1.t00{trial}/report.html" for trial in (0, 2, 1)]
    mailed = read_page(Job(folder).report(tmp_path / "elsewhere/page.html").path)
    assert "report.html" not in " ".join(a["href"] for a in mailed.all("a"))
    assert "mae report train-1.t002" in mailed.text


def test_so_many_images_tell_a_gap_in_four_of_five_repetitions() -> None:
    needed = intervals.images_needed(0.75, 0.70)
    assert needed is not None and intervals.images_needed(0.7, 0.7) is None
    draw = np.random.default_rng(0)
    told = [
        intervals.difference(one / needed, needed, other / needed, needed)[0] > 0
        for one, other in zip(
            draw.binomial(needed, 0.75, 2000), draw.binomial(needed, 0.70, 2000), strict=True
        )
    ]
    assert 0.77 <= sum(told) / len(told) <= 0.83


def test_the_best_so_far_is_drawn_as_stairs_and_trials_are_counted_in_whole_numbers(
    tmp_path: Path,
) -> None:
    page = page_of(write_study(tmp_path, "train-few", 40, [0.70, 0.60, 0.80, None]))
    stairs = next(a["points"] for a in page.all("polyline") if a["class"] == "line s0 dashed")
    corners = [tuple(map(float, pair.split(","))) for pair in stairs.split()]
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in itertools.pairwise(corners))
    assert " 0 1 2 3 trial" in page.text
    for words in ("trial 2: the best", "trial 0: the spec as given"):
        assert words in page.text


def test_of_several_metrics_the_first_screen_names_the_front(tmp_path: Path) -> None:
    folder = write_study(tmp_path, "train-1", 40, [0.70, 0.80, 0.75])
    study, best = (folder / f"automl/{name}.json" for name in ("study", "best"))
    told = json.loads(study.read_text())
    told["objectives"].append({"metric": "latency_ms", "direction": "minimize"})
    study.write_text(json.dumps(told))
    best.write_text(json.dumps({**json.loads(best.read_text()), "pareto": [1, 2]}))
    text = page_of(folder).text
    assert (
        "the best by accuracy (ACC_all); the Pareto front of accuracy (ACC_all) and latency_ms: "
        "2 trials" in text
    )
    assert "pruned" not in text  # none was


def test_of_many_trials_the_learning_curves_of_the_best_are_drawn(tmp_path: Path) -> None:
    folder = write_study(tmp_path, "train-many", 40, [0.5] * (search.MAX_CURVES + 9))
    study = json.loads((folder / "automl/study.json").read_text())
    rows = [
        {"trial": trial, "state": "COMPLETE", "child": f"train-many.t{trial:03d}"}
        for trial in range(search.MAX_CURVES + 9)
    ]
    worse = tmp_path / "train-many.t005/status.json"
    worse.write_text(worse.read_text().replace('"train_loss": 0.5', '"train_loss": 77.5'))
    assert study["objectives"]
    figure = search._learning_curves(facts_of(Job(folder)), rows, "train_loss", up=False)
    assert figure is not None and "77.5" not in figure.drawing


def test_curves_that_lie_on_each_other_are_one_with_both_names() -> None:
    points = [(0, 0.1), (1, 0.3)]
    moved = [(x, y + 1e-12) for x, y in points]
    series = [charts.Series("ACC_all", points), charts.Series("balanced_accuracy", moved, 2)]
    drawing = str(charts.lines([*series, charts.Series("auroc", [(0, 0.5)])], charts.Options("Q")))
    assert "ACC_all = balanced_accuracy" in drawing and drawing.count("<polyline") == 2


def test_no_two_marks_of_an_axis_look_alike() -> None:
    curve = charts.Series("loss", [(0, 1.0882), (1, 1.0993)])
    drawing = str(charts.lines([curve], charts.Options("Q")))
    marks = re.findall(r'text-anchor="end">([^<]*)<', drawing)
    assert len(marks) >= 3 and len(set(marks)) == len(marks)


@pytest.mark.parametrize("step", [1.7642544e18, 1e20, 1e30])
def test_a_single_step_as_large_as_a_time_stamp_is_drawn(step: float) -> None:
    drawing = charts.lines([charts.Series("nll", [(step, 1.0)], dots=True)], charts.Options("Q"))
    assert "nan" not in str(drawing) and "inf" not in str(drawing)


def test_the_command_writes_the_page_where_it_is_told(tmp_path: Path) -> None:
    write_job(tmp_path, "train-1", spec=SPEC, result={"kpis": {}})
    out = tmp_path / "out.html"
    words = ["report", "train-1", "-o", str(out), "--results-root", str(tmp_path), "--json"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    told = json.loads(done.stdout)
    assert told["report"] == str(out) and told["bytes"] == out.stat().st_size
    assert not (tmp_path / "train-1/report.html").exists()


def test_a_chain_is_one_page_with_the_evaluations_of_its_models(tmp_path: Path) -> None:
    write_job(tmp_path, "train-1", spec={"train": {"stage": "pretrain"}}, result={"kpis": {}})
    write_job(tmp_path, "train-2", spec=SPEC, parent="train-1", result={"kpis": {}}, epochs=2)
    write_job(tmp_path, "evaluate-3", "evaluate", spec=SPEC, parent="train-2", result=SHARES)
    parity = {"passed": True, "cosine_min": 0.99999, "max_abs": 1e-6, "images_from": "16 images"}
    folder = write_job(
        tmp_path, "export-4", "export", parent="train-2", result={"kpis": {}, "parity": parity}
    )
    page = page_of(folder, chain=True, output=tmp_path / "chain.html")
    order = [page.text.index(name) for name in ("Pretraining", "Fine-tuning", "Evaluation")]
    assert order == sorted(order) and "same answers as the model" in page.text
    anchors = [a["id"] for _, a in page.tags if "id" in a]
    assert len(anchors) == len(set(anchors))


def test_wilson_agrees_with_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17: 857-872, table I, method 3.
    for hits, images, low, high in ((81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611)):
        assert intervals.wilson(hits / images, images) == pytest.approx((low, high), abs=1e-4)
    # Newcombe (1998), Statistics in Medicine 17: 873-890, table II, method 10, contrast (a).
    found = intervals.difference(56 / 70, 70, 48 / 80, 80)
    assert found == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_spikes_that_are_cut_at_the_edge_of_a_chart_are_counted_and_stay_inside_it() -> None:
    points = [(float(x), 1.0 + 0.01 * (x % 7)) for x in range(1000)]
    points[500] = (500.0, 9.0)
    points[700] = (700.0, -4.0)
    series = [charts.Series("each step", points, 0, faint=True)]
    drawing = str(charts.lines(series, charts.Options("Loss")))
    assert "2 of the 1,000 single steps lie beyond the frame: from -4 to 9" in drawing
    (line,) = re.findall(r'points="([^"]+)"', drawing)
    heights = [float(pair.split(",")[1]) for pair in line.split()]
    assert min(heights) >= 12 and max(heights) <= 250 - 34, "nothing below the axis"
    even = [charts.Series("each step", points[:400], 0, faint=True)]
    assert "beyond the frame" not in str(charts.lines(even, charts.Options("Loss")))


def test_a_long_curve_keeps_its_spikes_and_few_points() -> None:
    points = [(float(step), 1.0) for step in range(100_000)]
    points[77_777] = (77_777.0, 9.0)
    thin = charts.thinned(points)
    assert len(thin) <= charts.MAX_POINTS + 2 and (77_777.0, 9.0) in thin


def test_the_supervisor_writes_the_report_of_a_job_that_its_runner_left_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAE_REPORT", "on")
    job = start(tmp_path, "echo lost; exit 3", name="train-1")
    with pytest.raises(JobFailedError):
        job.wait(60)
    page = read_page(job.folder / "report.html")  # before anybody sees the end of the job
    assert "ERROR" in page.text and "lost" in page.text
    assert not any(a.get("http-equiv") == "refresh" for a in page.all("meta"))
