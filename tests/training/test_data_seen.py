"""What was seen in the data, and left out, is in the results of a run; no score is taken over
nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mae_runners.metrics.iou import iou_metrics, judged_classes, without_vacuous
from mae_sdk import files
from mae_sdk.cli.common import next_for
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.jobs.failure import failure
from mae_skill.errors import JobFailedError
from PIL import Image

from tests.support.folders import job_folder
from tests.support.segmentation import seg_spec
from tests.support.training import digits_folder, read, spec, status_lines, train


def test_what_was_left_out_is_in_result_status_and_metrics(tmp_path: Path) -> None:
    from mae_sdk import answers

    data = digits_folder(tmp_path / "data")
    (data / "0" / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    (data / "0" / "film.heic").write_bytes(b"GIF89a")
    (data / "1" / "gone.png").symlink_to("nowhere.png")
    (data / "1" / "twin.png").symlink_to("0000.png")
    root = tmp_path / "jobs"
    folder = job_folder(root, "job", "train")
    made = spec(
        data, folder, dataset__max_corrupt_fraction=0.2, train__num_epochs=1, model__depth=1
    )
    assert train(made) == 0

    result = read(folder, "train/result.json")["data"]
    seen = result["sources"]["dataset.train_data_sources"]
    assert (seen["images"], seen["bad"]) == (14, 1)
    assert seen["left_out"]["pictures"]["files"] == ["0/film.heic"]
    assert seen["left_out"]["dangling"] == {"count": 1, "files": ["1/gone.png"]}
    assert seen["left_out"]["twins"]["files"] == ["1/twin.png = 1/0000.png"]
    said = "\n".join(result["warnings"])
    for name in ("broken.jpg", "film.heic", "gone.png", "twin.png"):
        assert name in said
    assert status_lines(folder)[-1]["data"]["warnings"] == result["warnings"]
    job = Job(folder)
    assert answers.metrics(job)["data_warnings"] == result["warnings"]
    assert answers.show(job)["data_warnings"] == result["warnings"]


def test_a_run_that_nobody_planned_ends_as_a_plan_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = digits_folder(tmp_path / "data" / "train")
    shutil.copytree(data, tmp_path / "data" / "val")
    monkeypatch.setenv("MAE_JOB_DIR", str(tmp_path / "job"))  # as a job: the spec is not looked at
    made = spec(tmp_path / "data", tmp_path / "job", "finetune", model__num_classes=2)
    assert train(made) == 3
    assert "parts of a data set" in read(tmp_path / "job", "error.json")["message"]


def scenes_of(root: Path, values: list[list[int]]) -> Path:
    """Pictures with masks, one for each list of values."""
    rng = np.random.default_rng(0)
    for number, several in enumerate(values):
        for folder in ("images", "annotations"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        mask = rng.choice(np.array(several, np.uint8), (64, 64))
        Image.fromarray(mask).save(root / "annotations" / f"{number}.png")
    (root / "classes.txt").write_text("sky\nsea\n")
    return root


def test_held_out_masks_of_one_class_are_no_score(tmp_path: Path) -> None:
    # Half of the masks hold one class alone; those of both are in training by the seed.
    for seed in range(20):
        from mae_runners.metrics.splits import hold_out

        _, held = hold_out(np.zeros(4), 0.25, seed)
        if held.tolist() == [0]:
            break
    data = scenes_of(tmp_path / "scenes", [[1], [1, 2], [1, 2], [1, 2]])
    made = seg_spec(
        data,
        tmp_path / "job",
        model__num_classes=2,
        dataset__val_fraction=0.25,
        train__seed=seed,
        train__num_epochs=1,
    )
    assert train(made) == 3
    assert "one class alone" in read(tmp_path / "job", "error.json")["message"]


@pytest.mark.parametrize(
    ("confusion", "classes", "score"),
    [
        ([[9, 0], [0, 0]], 1, None),
        ([[9, 1], [0, 0]], 1, None),
        ([[9, 0], [0, 9]], 2, 1.0),
        ([[9, 0, 0], [0, 9, 0], [0, 0, 0]], 2, 1.0),
        ([[9]], 1, 1.0),
    ],
)
def test_no_iou_is_taken_over_one_class(
    confusion: list[list[int]], classes: int, score: float | None
) -> None:
    metrics: dict[str, Any] = without_vacuous(iou_metrics(np.array(confusion)))
    assert judged_classes(metrics) == classes and metrics["mIoU"] == score


def ended(root: Path, category: str, **error: Any) -> Job:
    """A job that ended in ERROR for this reason."""
    folder = job_folder(root, f"job-{category}", "train", "ERROR", data={"k": {"uri": "/data/set"}})
    record = records.read_record(folder)
    record["attempts"][-1]["failure"] = failure(category, "it failed", error=error or None)
    files.write_json(folder / "job.json", record)
    return Job(folder)


def test_a_failure_of_the_data_has_their_exit_code_and_no_resume(tmp_path: Path) -> None:
    field = "dataset.max_corrupt_fraction"
    job = ended(tmp_path, "data", got=0.2, field=field, exit_code=3)
    with pytest.raises(JobFailedError) as caught:
        job.wait()
    assert (caught.value.exit_code, caught.value.got) == (3, 0.2)
    assert caught.value.to_dict()["exit_code"] == 3
    assert next_for(job, "ERROR", None) == [
        "mae jobs logs job-data",
        "mae jobs show job-data",
        "mae inspect /data/set",
    ]

    other = ended(tmp_path, "runner")
    with pytest.raises(JobFailedError) as caught:
        other.wait()
    assert (caught.value.exit_code, caught.value.got) == (5, "job-runner")
    assert next_for(other, "ERROR", None)[-1] == "mae jobs resume job-runner"
    spec_failure = ended(tmp_path, "spec", exit_code=2)
    assert "resume" not in " ".join(next_for(spec_failure, "ERROR", None))
