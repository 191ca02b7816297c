"""Training on a share of the images (dataset.train_fraction) and on some classes
(dataset.classes)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mae_runners.__main__ import main
from mae_runners.actions.train import make_task
from mae_runners.metrics.splits import take_share
from mae_sdk import Skill
from mae_sdk.data import open_source
from mae_sdk.data.of_classes import of_classes
from mae_sdk.data.split import share_of
from mae_skill.errors import DataError, SpecError
from mae_skill.spec import ExperimentSpec

from tests.support.deploy import make_context
from tests.support.images import make_tarball
from tests.support.training import digits_folder, read, spec, train, write_spec


def test_a_share_takes_of_every_class_as_large_a_part_and_holds_smaller_ones() -> None:
    labels = np.repeat([-1, 0, 1, 2], [30, 100, 1, 40])
    whole = take_share(labels, 1.0, 7)
    assert whole.tolist() == list(range(len(labels)))
    half, tenth = take_share(labels, 0.5, 7), take_share(labels, 0.1, 7)
    assert Counter(labels[tenth].tolist()) == {-1: 3, 0: 10, 1: 1, 2: 4}
    assert Counter(labels[half].tolist()) == {-1: 15, 0: 50, 1: 1, 2: 20}
    assert {*tenth.tolist()} < {*half.tolist()}
    assert len(tenth) == sum(share_of(size, 0.1) for size in (30, 100, 1, 40))
    assert take_share(labels, 0.1, 8).tolist() != tenth.tolist()


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_every_rank_and_every_attempt_takes_the_same_share(stage: str, tmp_path: Path) -> None:
    data = digits_folder(tmp_path / "data", per_class=8)
    held = {"dataset__val_fraction": 0.25} if stage == "finetune" else {}
    made = spec(data, tmp_path / "job", stage, dataset__train_fraction=0.5, **held)
    parsed = ExperimentSpec.model_validate(made)
    context = make_context("train", tmp_path / "job")
    tasks = [
        make_task(parsed, replace(context, rank=rank, world_size=2), pretrained)
        for rank, pretrained in ((0, True), (1, True), (0, False))
    ]
    labels = np.asarray(tasks[0].train.source.labels)  # type: ignore[union-attr]
    used = tasks[0].train_indices.tolist()
    kept = 3 if stage == "finetune" else 4
    assert Counter(labels[used].tolist()) == {0: kept, 1: kept, 2: kept}
    for task in tasks:
        assert task.train_indices.tolist() == used
        judged = [] if task.val_indices is None else task.val_indices.tolist()
        assert not {*judged} & {*used} and len(judged) == 3 * (4 - kept)
        assert task.train.stand_ins is task.train_indices


def test_classes_are_those_asked_for_in_that_order_whatever_the_source(tmp_path: Path) -> None:
    folder = digits_folder(tmp_path / "data", per_class=3, classes=4)
    archive = make_tarball(folder, tmp_path / "data.tar")
    (folder / "loose.png").write_bytes((folder / "0" / "0000.png").read_bytes())
    for place in (folder, archive):
        found = of_classes(open_source(place, tmp_path / "cache"), ["3", "1"], required=True)
        assert found.classes == ["3", "1"]
        assert found.labels.tolist() == [1, 1, 1, 0, 0, 0]
        assert [name.split("/")[0] for name in found.members] == ["1"] * 3 + ["3"] * 3
        assert found.label(["1", "2", "3"])[1].tolist() == [0, 0, 0, 2, 2, 2]
        assert found.unknown_classes(["3"]) == {"1": 3}
    other = of_classes(open_source(folder), ["1", "3"], required=True)
    assert other.digest != of_classes(open_source(folder), ["3", "1"], required=True).digest
    assert other.read(3) == (folder / "3" / "0000.png").read_bytes()
    absent = of_classes(open_source(folder), ["3", "gone"], required=False)
    assert absent.labels.tolist() == [0, 0, 0]


def test_an_unknown_class_is_an_error_that_names_near_ones(tmp_path: Path) -> None:
    data = digits_folder(tmp_path / "data", per_class=1)
    for number, name in enumerate(("tabby cat", "dog", "horse")):
        (data / str(number)).rename(data / name)
    with pytest.raises(DataError) as caught:
        of_classes(open_source(tmp_path / "data"), ["taby cat", "dog"], required=True)
    assert caught.value.field == "dataset.classes" and caught.value.got == ["taby cat"]
    assert caught.value.hint == "taby cat: did you mean tabby cat?"


def test_a_chosen_class_that_a_model_does_not_know_is_an_error_though_no_picture_has_it(
    tmp_path: Path,
) -> None:
    source = open_source(digits_folder(tmp_path / "data", per_class=1, classes=3))
    some = of_classes(source, ["0", "01"], required=False)
    with pytest.raises(DataError, match="the model has no such class") as caught:
        some.label(["0", "1", "2"])
    assert caught.value.field == "dataset.classes" and caught.value.got == ["01"]
    assert caught.value.expected == "classes of the model: 0, 1, 2"
    assert of_classes(source, ["0", "7"], required=False).label(["0", "7"])[1].tolist() == [0]


def plan(data: Path, **fields: Any) -> Any:
    overrides = {key.replace("__", "."): value for key, value in fields.items()}
    return Skill().plan(
        "train",
        train_datasets=str(data),
        spec_overrides={"train.stage": "finetune", "dataset.batch_size": 1, **overrides},
        automl_policy="off",
    )


def test_a_plan_counts_what_is_trained_on(tmp_path: Path) -> None:
    data = digits_folder(tmp_path / "data", per_class=10, classes=4)
    made = plan(
        data,
        model__num_classes=2,
        dataset__classes=["3", "0"],
        dataset__train_fraction=0.5,
        dataset__val_fraction=0.2,
    )
    seen = made.sources["dataset.train_data_sources"]
    assert (seen["images"], seen["trained_on"], seen["held_out"]) == (20, 10, 2)
    assert seen["class_counts"] == {"3": 10, "0": 10}
    assert seen["left_aside"] == {"images": 20, "classes": 2}
    assert made.facts.images == 8 and made.facts.steps_per_epoch == 8
    with pytest.raises((DataError, SpecError)) as caught:
        plan(data, dataset__classes=["0", "5"])
    assert "dataset.classes" in str(caught.value)


def test_a_run_trains_on_the_share_and_is_evaluated_on_the_classes(tmp_path: Path) -> None:
    data = digits_folder(tmp_path / "data", per_class=4, classes=4)
    job = tmp_path / "job"
    fields = {"dataset__classes": ["2", "0"], "dataset__train_fraction": 0.5}
    made = spec(
        data,
        job,
        "finetune",
        train__num_epochs=1,
        model__depth=1,
        model__num_classes=2,
        dataset__val_data_sources=str(data),
        **fields,
    )
    assert train(made) == 0
    seen = read(job, "train/result.json")["data"]["sources"]["dataset.train_data_sources"]
    assert (seen["images"], seen["trained_on"]) == (8, 4)
    made["evaluate"] = {"checkpoint": str(next((job / "train").glob("model_epoch_*.pth")))}
    assert main(["evaluate", "-e", str(write_spec(made, tmp_path / "e.json"))]) == 0
    metrics = read(job, "evaluate/metrics.json")
    assert metrics["images"] == 8
    assert list(metrics["per_class"]) == ["2", "0"]
