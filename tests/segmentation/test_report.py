"""What a segmenter's report shows is of its best checkpoint: classes, pixels, pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from mae_sdk.job import Job

from tests.support.reports import read_page, write_job
from tests.support.segmentation import PLAIN, scenes, seg_spec
from tests.support.training import read, train


def test_classes_pixels_and_overlays_are_of_the_best_checkpoint(tmp_path: Path) -> None:
    data = scenes(tmp_path / "scenes", training=6, validation=12)
    job = write_job(tmp_path, "train-1", "train")
    options = {"train__num_epochs": 4, "train__checkpoint_interval": 2}
    made = seg_spec(data, job, **PLAIN, dataset__val_data_sources=str(data), **options)
    assert train(made) == 0
    entries = read(job, "train/checkpoints.json")["checkpoints"]
    kept = max(entries, key=lambda one: (one["metrics"]["mIoU"], -one["epoch"]))
    judged = read(job, "train/validation.json")
    assert judged["epoch"] == kept["epoch"]
    assert judged["mIoU"] == pytest.approx(kept["metrics"]["mIoU"])
    known = [one["IoU"] for one in judged["per_class"].values() if one["IoU"] is not None]
    assert sum(known) / len(known) == pytest.approx(kept["metrics"]["mIoU"])
    rows = (job / "train/confusion_matrix.csv").read_text().splitlines()[1:]
    pixels = sum(int(cell) for row in rows for cell in row.split(",")[1:])
    assert pixels == sum(one["pixels"] for one in judged["per_class"].values())

    sheets = {one["kind"]: one for one in read(job, "train/pictures/gallery.json")["sheets"]}
    for kind in ("segmentation", "worst"):
        assert sheets[kind]["epoch"] == kept["epoch"]
        assert sheets[kind]["columns"][-1] == "answer over the image"
    scores = [int(row["note"].split()[1]) for row in sheets["worst"]["rows"]]
    assert scores == sorted(scores) and len(scores) == 6
    page = read_page(Job(job).report().path)
    interval = judged["intervals"]["mIoU"]
    assert 0 <= interval["low"] <= judged["mIoU"] <= interval["high"] <= 1
    assert "(bootstrap over 12 images)" in page.text
    counts = [one["pixels"] for one in judged["per_class"].values()]
    assert judged["most_frequent"]["aAcc"] == pytest.approx(max(counts) / sum(counts))
    assert f"{judged['most_frequent']['class']} for every pixel, the most frequent" in page.text
    assert f"{100 * judged['labeled_share']:.1f} % of the pixels are labeled" in page.text
    assert f"Masks of epoch {kept['epoch']}" in page.text and "Counts of pixels" in page.text
