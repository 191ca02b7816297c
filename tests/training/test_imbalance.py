"""Classes of unequal size: weights in the loss, and balanced sampling."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mae_runners.data import BalancedSampler
from mae_runners.tasks.classify import ClassificationTask
from mae_sdk import Skill
from mae_skill.errors import SpecError
from mae_skill.spec import ExperimentSpec
from sklearn.utils.class_weight import compute_class_weight

from tests.support.deploy import make_context
from tests.support.training import PLAIN, digits_folder, read, spec, train, values

LABELS = np.array([0] * 40 + [1] * 9 + [2] * 3)


def drawn(rank: int = 0, world: int = 1, epoch: int = 0, done: int = 0) -> list[int]:
    sampler = BalancedSampler(100 + np.arange(len(LABELS)), LABELS, 7, rank, world)
    sampler.set_place(epoch, done)
    return [index - 100 for _, index, valid in sampler if valid]


def test_an_epoch_shows_every_class_equally_often_and_all_of_the_small_ones() -> None:
    for epoch in range(3):
        shown = drawn(epoch=epoch)
        assert len(shown) == len(LABELS)
        counts = Counter(LABELS[shown].tolist())
        assert sorted(counts.values()) == [17, 17, 18]
        times = Counter(shown)
        assert {times[place] for place in np.flatnonzero(LABELS == 2)} <= {5, 6}
        assert {times[place] for place in np.flatnonzero(LABELS == 0)} <= {0, 1}


def test_the_order_is_a_function_of_seed_and_epoch_whatever_the_ranks_and_where_it_began() -> None:
    whole = drawn(epoch=2)
    assert whole == drawn(epoch=2) != drawn(epoch=1)
    assert drawn(epoch=2, done=20) == whole[20:]
    ranks = [drawn(rank, 2, epoch=2) for rank in range(2)]
    assert [one for pair in zip(*ranks, strict=True) for one in pair] == whole
    later = [drawn(rank, 2, epoch=2, done=20) for rank in range(2)]
    assert [one for pair in zip(*later, strict=True) for one in pair] == whole[20:]


def unequal(root: Path) -> Path:
    """Three classes of 6, 4 and 2 digits."""
    data = digits_folder(root, per_class=6)
    for folder, count in zip(sorted(data.iterdir()), (6, 4, 2), strict=True):
        for extra in sorted(folder.iterdir())[count:]:
            extra.unlink()
    return data


def task_of(data: Path, folder: Path, **changes: Any) -> ClassificationTask:
    plain = {key.replace(".", "__"): value for key, value in PLAIN.items()}
    made = spec(data, folder, "finetune", **plain, dataset__augmentation__smoothing=0.0, **changes)
    return ClassificationTask(ExperimentSpec.model_validate(made), make_context("train", folder))


def test_balanced_weights_are_scikit_learns_and_weight_the_loss_of_every_image(
    tmp_path: Path,
) -> None:
    task = task_of(unequal(tmp_path / "data"), tmp_path, train__class_weights="balanced")
    labels = task.strata()
    expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    assert task.weights is not None
    assert task.weights.tolist() == pytest.approx(expected.tolist())

    batch = task.train.collate([task.train[0, index] for index in (0, 7, 11)])
    logits = torch.randn(3, 3)
    loss = task.training_step(lambda images: logits, batch, (0, 0, 0))  # type: ignore[arg-type]
    each = torch.nn.functional.cross_entropy(logits, batch["label"], reduction="none")
    assert float(loss) == pytest.approx(float((each * task.weights[batch["label"]]).mean()))


def test_weights_of_a_mapping_are_those_of_its_classes_and_one_else(tmp_path: Path) -> None:
    data = unequal(tmp_path / "data")
    names = sorted(folder.name for folder in data.iterdir())
    task = task_of(data, tmp_path, train__class_weights={names[2]: 5.0})
    assert task.weights is not None and task.weights.tolist() == [1.0, 1.0, 5.0]
    with pytest.raises(SpecError, match="no class of the training data is named zebra") as caught:
        task_of(data, tmp_path, train__class_weights={"zebra": 2.0})
    assert caught.value.field == "train.class_weights"


def test_the_plan_refuses_weights_of_unknown_classes_and_warns_of_a_double_correction(
    tmp_path: Path,
) -> None:
    made = spec(unequal(tmp_path / "data"), tmp_path / "job", "finetune")
    skill = Skill()

    def planned(**overrides: Any) -> Any:
        return skill.plan("train", spec=made, spec_overrides=overrides, automl_policy="off")

    with pytest.raises(SpecError, match="zebra") as caught:
        planned(**{"train.class_weights": {"zebra": 2.0}})
    assert caught.value.field == "train.class_weights"
    both = planned(**{"train.class_weights": "balanced", "dataset.balanced_sampling": True})
    assert any("twice over" in str(warning) for warning in both.warnings)


def test_a_balanced_run_that_is_stopped_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    data = unequal(tmp_path / "data")
    options: dict[str, Any] = {
        "dataset__balanced_sampling": True,
        "train__class_weights": "balanced",
        "train__checkpoint_interval": 1,
        "train__checkpoint_interval_unit": "step",
        "dataset__augmentation__auto_aug": None,
    }
    whole = spec(data, tmp_path / "whole", "finetune", **options)
    assert train(whole) == 0
    middle = tmp_path / "whole" / "train" / "model_epoch_000_step_00001.pth"
    rest = spec(
        data,
        tmp_path / "rest",
        "finetune",
        **options,
        train__resume_training_checkpoint_path=str(middle),
    )
    assert train(rest) == 0
    assert values(tmp_path / "rest") == values(tmp_path / "whole")[1:]
    assert read(tmp_path / "rest", "train/derived.json")["images"] == 12
