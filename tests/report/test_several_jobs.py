"""``mae report JOB JOB …``: which is best, whether the difference is real, in what they differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mae_sdk.cli.main import main
from mae_sdk.jobs import records

from tests.support.reports import HOSTILE, Page, read_page, write_answers, write_job, write_study


def train(root: Path, name: str, lr: Any, **more: Any) -> None:
    optim = {"train": {"stage": "finetune", "optim": {"lr": lr}, **more}}
    fields = {"model": {"arch": "small"}, "results_dir": str(root / name), **optim}
    write_job(root, name, spec=fields, result={})


def page_of(root: Path, *names: str) -> Page:
    out = root / "page.html"
    with pytest.raises(SystemExit) as end:
        main(["report", *names, "-o", str(out), "--results-root", str(root)])
    assert not end.value.code
    return read_page(out)


def three(root: Path, *hits: int) -> list[str]:
    """Evaluations on the same images, of trainings with three rates."""
    names = []
    for number, (right, lr) in enumerate(zip(hits, (0.01, 0.001, 0.1), strict=True), 1):
        train(root, f"train-{number}", lr)
        write_answers(root, f"evaluate-{number}", right, parent=f"train-{number}")
        names.append(f"evaluate-{number}")
    return names


def test_the_page_names_the_best_and_tells_the_others_apart_in_pairs(tmp_path: Path) -> None:
    text = page_of(tmp_path, *three(tmp_path, 14, 20, 12)).text
    best = (
        "Best by accuracy (ACC_all), on the same 24 images of d/test: evaluate-2 (lr 0.001) with "
        "83.3 % (20 of 24; 95 %: 64.1 % to 93.3 %). Both others are told apart from it."
    )
    assert best in text
    assert (
        "evaluate-1 (lr 0.01) with 58.3 % (14 of 24) is 25.0 points below (95 %: 2.0 to 42.8): "
        "told apart (exact McNemar p = 0.031, corrected 0.031)."
    ) in text
    assert "evaluate-3 (lr 0.1) with 50.0 % (12 of 24" in text
    assert "exact McNemar p = 0.0078, corrected 0.023" in text
    assert "p is corrected for all 3 pairs" in text
    assert "another train.seed may move each model" in text
    assert text.index(best) < text.index("The best first") < text.index("The jobs in short")


def test_the_command_says_what_the_page_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [*three(tmp_path, 14, 20, 12), "--results-root", str(tmp_path)]
    text = page_of(tmp_path, *names[:3]).text
    printed = capsys.readouterr()
    assert "evaluate-2 (lr 0.001) with 83.3 % (20 of 24" in printed.err
    assert "Best by" not in printed.out, "the path alone, for scripts"
    with pytest.raises(SystemExit):
        main(["report", *names, "--json"])
    outcome = json.loads(capsys.readouterr().out)["outcome"]
    assert outcome in text and "Both others are told apart from it." in outcome
    with pytest.raises(SystemExit):
        main(["report", *names[2:], "--json"])
    assert "outcome" not in json.loads(capsys.readouterr().out)


def test_rows_say_in_what_the_trainings_behind_them_differ(tmp_path: Path) -> None:
    page = page_of(tmp_path, *three(tmp_path, 14, 20, 12))
    assert "In what the trainings differ: 1 field" in page.text
    assert "train.optim.lr 0.01 0.001 0.1" in page.text
    for number, lr in ((1, "0.01"), (2, "0.001"), (3, "0.1")):
        assert f"Evaluation · small · lr {lr} (evaluate-{number})" in page.text
    assert "results_dir" not in page.text and page.outside == []


def test_a_difference_that_only_one_of_many_pairs_has_is_not_told(tmp_path: Path) -> None:
    """p = 0.031 alone; that a best of four is so far from the worst is no rarity."""
    names = three(tmp_path, 14, 20, 16)
    train(tmp_path, "train-4", 1.0)
    write_answers(tmp_path, "evaluate-4", 17, parent="train-4")
    text = page_of(tmp_path, *names, "evaluate-4").text
    said = "cannot be told apart (exact McNemar p = 0.031; alone it would be, corrected for 6 pairs"
    assert f"{said} it is not: 0.19)" in text and "None of the 3 others is told apart" in text
    assert ": told apart" not in text


def test_two_jobs_are_not_corrected_and_equal_ones_are_not_told_apart(tmp_path: Path) -> None:
    names = three(tmp_path, 20, 20, 14)
    text = page_of(tmp_path, names[0], names[2]).text
    assert ": told apart (exact McNemar p = 0.031)." in text
    assert "The other is told apart from it." in text
    assert "corrected" not in text
    text = page_of(tmp_path, *names[:2]).text
    assert "evaluate-2 (lr 0.001) has the same share: the two cannot be told apart." in text


def test_without_answers_to_each_image_the_page_says_how_it_compared(tmp_path: Path) -> None:
    names = three(tmp_path, 14, 20, 12)
    for name in names:
        (tmp_path / name / "evaluate/results.csv").unlink()
    text = page_of(tmp_path, *names).text
    assert "cannot be told apart (as if on different images p = 0.057" in text
    assert "the answers to each image are not kept" in text and "McNemar" not in text


def test_jobs_of_other_images_figures_or_states_are_named_with_the_reason(tmp_path: Path) -> None:
    names = three(tmp_path, 14, 20, 12)
    write_answers(tmp_path, "evaluate-8", 24, place="/d/easy")
    write_job(tmp_path, "export-9", "export", result={"kpis": {}})
    write_job(tmp_path, "evaluate-7", "evaluate", records.ERROR)
    text = page_of(tmp_path, "evaluate-8", *names, "export-9", "evaluate-7").text
    assert "Best by accuracy (ACC_all), on the same 24 images of d/test: evaluate-2" in text
    assert (
        "Not compared: evaluate-8, since evaluate-2 was judged on d/test, evaluate-8 on d/easy: a "
        "difference would be one of the images. Evaluate both models on one set."
    ) in text
    assert "Not compared: export-9, since no accuracy (ACC_all) is reported." in text
    assert "Not compared: evaluate-7, since the state is ERROR." in text


def test_where_no_two_compare_none_is_called_best(tmp_path: Path) -> None:
    write_answers(tmp_path, "evaluate-1", 24, place="/d/easy")
    write_answers(tmp_path, "evaluate-2", 12, place=f"/d/{HOSTILE}")
    page = page_of(tmp_path, "evaluate-1", "evaluate-2")
    assert "None is called best: evaluate-1 was judged on d/easy" in page.text
    assert "Best by" not in page.text and page.all("script") == []


def test_a_best_that_is_in_doubt_says_so(tmp_path: Path) -> None:
    names = three(tmp_path, 14, 20, 12)
    path = tmp_path / "evaluate-2/evaluate/result.json"
    path.write_text(path.read_text().rstrip()[:-1] + ', "doubts": ["no better than chance: x"]}')
    text = page_of(tmp_path, *names).text
    assert "95 %: 64.1 % to 93.3 %); it is in doubt: no better than chance." in text


def test_losses_are_ranked_downwards_and_no_chance_is_claimed(tmp_path: Path) -> None:
    data = {"dataset.val_data_sources": {"uri": "/d/val", "digest": "v"}}
    for name, loss in (("evaluate-1", 0.5), ("evaluate-2", 0.25)):
        result = {"kpis": {"reconstruction_loss": loss}}
        fields = {"train": {"stage": "pretrain"}}
        write_job(tmp_path, name, "evaluate", spec=fields, data=data, result=result)
    text = page_of(tmp_path, "evaluate-1", "evaluate-2").text
    assert "Best by reconstruction loss, on the same images of d/val: evaluate-2 with 0.25." in text
    assert "whether that is more than chance is not known; repeat both with other seeds" in text
    assert "told apart" not in text
    assert "No field differs between the specs of these jobs." in text


def test_segmenters_are_ranked_by_iou_in_points_with_their_own_intervals(tmp_path: Path) -> None:
    """No counts of each image are kept, so nothing is claimed of chance."""
    data = {"dataset.val_data_sources": {"uri": "/d/val", "digest": "v", "images": 14}}
    for name, share in (("evaluate-1", 0.5), ("evaluate-2", 0.625)):
        fields = {"model": {"task": "segmentation"}, "train": {"stage": "finetune"}}
        result = {"kpis": {"mIoU": share}}
        folder = write_job(tmp_path, name, "evaluate", spec=fields, data=data, result=result)
        span = {"low": share - 0.1, "high": share + 0.1, "method": "bootstrap over 14 images"}
        (folder / "evaluate/metrics.json").write_text(json.dumps({"intervals": {"mIoU": span}}))
    text = page_of(tmp_path, "evaluate-1", "evaluate-2").text
    assert "evaluate-2 with 62.5 % (95 %: 52.5 % to 72.5 %)." in text
    said = "evaluate-1 has 50.0 % (95 %: 40.0 % to 60.0 %), 12.5 points from it: whether that is"
    assert f"{said} more than chance is not known" in text and "-12.5 points" in text


def test_trainings_without_a_validation_are_led_to_evaluations(tmp_path: Path) -> None:
    """A training loss says nothing of other images."""
    for number in (1, 2):
        write_job(
            tmp_path,
            f"train-{number}",
            data={"dataset.train_data_sources": {"uri": "/d/train", "digest": "t"}},
            result={"kpis": {"train_loss": 0.5 / number}},
        )
    text = page_of(tmp_path, "train-1", "train-2").text
    assert "None is called best: their training losses say nothing of other images." in text
    for number in (1, 2):
        write_answers(tmp_path, f"evaluate-{number}", 20, parent=f"train-{number}")
    text = page_of(tmp_path, "train-1", "train-2").text
    assert (
        f"They were evaluated: mae report evaluate-1 evaluate-2 --results-root {tmp_path}" in text
    )


def test_trainings_are_ranked_by_their_kept_checkpoint_and_a_study_by_its_best_trial(
    tmp_path: Path,
) -> None:
    write_study(tmp_path, "train-9", 40, [0.7, 0.75])
    write_study(tmp_path, "train-8", 40, [0.5, 0.6])
    data = {"dataset.val_data_sources": {"uri": "/d/val", "digest": "v", "images": 40}}
    for job in tmp_path.glob("train-*/job.json"):
        job.write_text(job.read_text().rstrip()[:-1] + f', "data": {data}}}'.replace("'", '"'))
    text = page_of(tmp_path, "train-8", "train-9").text
    assert "Best by accuracy (ACC_all), on the same" in text
    assert "these images chose the checkpoint, on others expect less" in text
