"""The figures of a classifier, beside those of scikit-learn."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mae_runners.actions import evaluate, inference
from mae_runners.metrics import scores
from mae_runners.metrics.classification import ClassificationMetrics, class_metrics
from sklearn import metrics as sklearn_metrics

from tests.support.deploy import make_context, make_model, make_spec, save_checkpoint, write_digits


def answers(classes: int, images: int = 200, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that say something of the labels; coarse, so that some scores are equal."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator) * 1.5
    logits[torch.arange(images), labels] += 1.0
    return (logits * 4).round() / 4, labels


def counted(logits: torch.Tensor, labels: torch.Tensor) -> ClassificationMetrics:
    sums = ClassificationMetrics(logits.shape[1], confusion=True)
    for part in torch.arange(len(labels)).split(17):
        sums.add(logits[part], labels[part])
    return sums


@pytest.mark.parametrize("classes", [2, 7])
def test_every_figure_is_that_of_scikit_learn(classes: int) -> None:
    logits, labels = answers(classes)
    if classes == 7:  # one class is never predicted, one has no image
        labels[labels == 3], logits[:, 5] = 2, -99.0
    found = counted(logits, labels).summary("images")
    truth, said = labels.numpy(), logits.argmax(dim=1).numpy()
    shares = logits.softmax(dim=1).numpy()
    f1 = {
        kind: sklearn_metrics.f1_score(truth, said, average=kind, zero_division=0)
        for kind in ("macro", "weighted")
    }
    areas = [
        sklearn_metrics.roc_auc_score(truth == name, shares[:, name]) for name in np.unique(truth)
    ]
    assert found["balanced_accuracy"] == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(truth, said)
    )
    assert found["f1_macro"] == pytest.approx(f1["macro"])
    assert found["f1_weighted"] == pytest.approx(f1["weighted"])
    assert found["auroc"] == pytest.approx(np.mean(areas), abs=1e-6)


def test_the_area_of_every_class_is_scikit_learns_and_none_where_there_is_none() -> None:
    logits, labels = answers(4)
    labels[labels == 1] = 0
    found = counted(logits, labels)
    shares = logits.softmax(dim=1).numpy()
    for name, area in enumerate(found.areas):
        if name == 1:
            assert area is None
        else:
            expected = sklearn_metrics.roc_auc_score(labels.numpy() == name, shares[:, name])
            assert area == pytest.approx(expected, abs=1e-6)
    table = class_metrics(found.confusion, list("abcd"), found.areas)["per_class"]
    assert [one["auroc"] for one in table.values()] == found.areas


@pytest.mark.parametrize("steps", [2, 10, 10_000])
def test_areas_and_precisions_of_scores_that_many_images_share_are_scikit_learns(
    steps: int,
) -> None:
    generator = torch.Generator().manual_seed(steps)
    given = (torch.rand(83, 6, generator=generator) * steps).round() / steps
    truth = (torch.rand(83, 6, generator=generator) < 0.3).long()
    truth[:, 4], truth[:, 5] = 0, 1
    areas, precisions = scores.area_under_roc(given, truth), scores.average_precision(given, truth)
    for index in range(4):
        y, values = truth[:, index].numpy(), given[:, index].double().numpy()
        assert areas[index] == pytest.approx(sklearn_metrics.roc_auc_score(y, values), abs=1e-12)
        expected = sklearn_metrics.average_precision_score(y, values)
        assert precisions[index] == pytest.approx(expected, abs=1e-12)
    assert areas[4:] == [None, None] and precisions[4:] == [None, 1.0]


def test_ranks_together_give_the_figures_of_one() -> None:
    logits, labels = answers(5, images=61)
    parts = [counted(logits[rank::2], labels[rank::2]) for rank in range(2)]
    values = [part.sums.clone() for part in parts]
    kept = [(one.scores._count, one.scores._scores, one.scores._truth) for one in parts]

    def add(sums: torch.Tensor) -> torch.Tensor:
        return sums.copy_(values[0] + values[1])

    parts[0].join(SimpleNamespace(sum_over_ranks=add, gather=lambda own: kept))  # type: ignore[arg-type]
    assert parts[0].summary("x") == pytest.approx(counted(logits, labels).summary("x"))


def test_more_scores_than_memory_allows_leave_out_the_areas_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits, labels = answers(4)
    whole = counted(logits, labels).summary("images")
    monkeypatch.setattr(scores, "MAX_SCORES", 100)
    sums = counted(logits, labels)
    assert sums.areas == [None] * 4
    assert sums.summary("images") == {k: v for k, v in whole.items() if k != "auroc"}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_results_carry_the_true_label_of_evaluation_and_of_folders_the_model_knows(
    tmp_path: Path,
) -> None:
    model = make_model("vit_tiny_patch16", "finetune", 32, embed_dim=32, depth=1, num_heads=2)
    checkpoint = str(save_checkpoint(model, tmp_path / "model.pth"))
    data = write_digits(tmp_path / "digits", per_class=2, size=32)

    def ran(action: Any, name: str, data: Path) -> list[dict[str, str]]:
        source = "val" if name == "evaluate" else "test"
        made = make_spec(
            **{f"{name}__checkpoint": checkpoint, f"dataset__{source}_data_sources": str(data)}
        )
        result = action.run(made, make_context(name, tmp_path))
        assert str(tmp_path / name / "results.csv") in result["artefacts"]
        return rows_of(tmp_path / name / "results.csv")

    judged, said = ran(evaluate, "evaluate", data), ran(inference, "inference", data)
    assert [row["true_label"] for row in judged] == [
        Path(row["path"]).parent.name for row in judged
    ]
    assert judged == [{name: row[name] for name in judged[0]} for row in said]
    figures = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    hits = sum(row["label"] == row["true_label"] for row in judged)
    assert hits / len(judged) == figures["ACC_all"]

    (data / "zero").rename(data / "not a class of the model")
    assert "true_label" not in ran(inference, "inference", data)[0]
