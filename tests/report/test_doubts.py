"""A model that tells nothing is found out, and one that does is left in peace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mae_runners.metrics import doubts
from mae_runners.metrics.iou import one_answer
from mae_runners.metrics.multi_label import MultiLabelMetrics

NAMES = ["cat", "dog", "owl"]


def test_one_answer_for_everything_is_said() -> None:
    confusion = np.array([[0, 8, 0], [0, 8, 0], [0, 8, 0]])
    (said,) = doubts.of_classes(confusion, NAMES)
    assert "takes every one of the 24 images for dog" in said
    assert (
        doubts.of_classes(np.array([[8, 0], [0, 0]]), NAMES[:2]) == []
    )  # of one class: no verdict


def test_an_accuracy_whose_interval_holds_the_largest_class_is_no_better_than_chance() -> None:
    (said,) = doubts.of_classes(np.array([[85, 5], [9, 1]]), NAMES[:2])
    for words in ("accuracy 86.0 %", "always answers cat", "90.0 %", "by chance 50.0 %"):
        assert words in said, words
    assert doubts.of_classes(np.array([[89, 1], [1, 9]]), NAMES[:2]) == []
    assert doubts.of_classes(np.array([[20, 4], [4, 20]]), NAMES[:2]) == []
    (said,) = doubts.of_classes(np.array([[14, 10], [10, 14]]), NAMES[:2])
    assert said.startswith("not told from chance by 48 images: accuracy 58.3 %")
    assert "cat, one of 2 classes of equal size, has 50.0 %" in said and "frequent" not in said
    (said,) = doubts.of_classes(np.array([[14, 10], [10, 4]]), NAMES[:2])
    assert "cat, the most frequent class, has" in said
    assert doubts.of_share("knn_acc", 0.9, np.array([50, 50]), NAMES[:2]) == []
    assert "knn_acc" in doubts.of_share("knn_acc", 0.55, np.array([50, 50]), NAMES[:2])[0]


def test_the_doubt_of_probes_is_of_the_one_that_the_evaluation_is_judged_by() -> None:
    counts = np.array([17, 14])
    shares = {"knn_acc": 17 / 31, "linear_acc": 11 / 31, "attentive_acc": 14 / 31}
    (said,) = doubts.of_probes(shares, counts, NAMES[:2])
    assert said.startswith("no better than chance: linear probe accuracy (linear_acc) 35.5 % (95 %")
    assert said.endswith(
        "k-NN probe accuracy (knn_acc) is 54.8 %; attentive probe accuracy "
        "(attentive_acc) is 45.2 %"
    )
    assert doubts.of_probes({**shares, "linear_acc": 30 / 31}, counts, NAMES[:2]) == []
    (said,) = doubts.of_probes({"knn_acc": 17 / 31}, counts, NAMES[:2])
    assert "(knn_acc) 54.8 %" in said


def test_the_areas_of_several_labels_are_compared_with_a_coin() -> None:
    good = {name: {"images": 20, "auroc": 0.9} for name in NAMES}
    areas = dict(zip(NAMES, (0.4, 0.6, 0.52), strict=True))
    poor = {name: {"images": 20, "auroc": area} for name, area in areas.items()}
    assert doubts.of_labels(good, 60) == []
    assert "0.507" in doubts.of_labels(poor, 60)[0]
    (said,) = doubts.of_labels({**good, "owl": {"images": 20, "auroc": 0.52}}, 60)
    assert "1 of 3 classes not told from chance by 60 images" in said
    assert said.endswith("owl (0.520)"), "the others are not named"
    (said,) = doubts.of_labels({**good, "owl": {"images": 20, "auroc": 0.2}}, 60)
    assert said.startswith("1 of 3 classes ranked the wrong way round")
    assert said.endswith("owl (0.200)")
    assert doubts.of_labels({"cat": {"images": 0, "auroc": None}}, 60) == []


def test_probabilities_that_hardly_vary_are_doubted_though_they_rank_the_images_rightly() -> None:
    truth = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0]] * 15)
    sums = MultiLabelMetrics(2, [0.5, 0.5])
    steep = torch.tensor([[0.01, 8.0]])  # of logits: the first class has 0.5 for every image
    sums.add((truth - 0.5) * steep, truth)
    per_class = sums.per_class(["cat", "dog"])
    assert per_class["cat"]["auroc"] == per_class["dog"]["auroc"] == 1.0
    (said,) = doubts.of_labels(per_class, 60, sums.spreads)
    assert said == (
        "the probabilities of 1 of 2 classes hardly vary from image to image: cat (0.499 to 0.501)"
    )
    assert doubts.of_labels({"cat": per_class["dog"]}, 60, sums.spreads[1:]) == []


def test_a_segmenter_that_hits_one_class_alone_is_said() -> None:
    (said,) = doubts.of_masks(np.array([[90, 0, 0], [10, 0, 0], [5, 0, 0]]), NAMES)
    assert "answers cat for every pixel" in said
    (said,) = doubts.of_masks(np.array([[90, 1, 0], [10, 0, 0], [5, 0, 0]]), NAMES)
    assert "0 for 2 of the 3 classes" in said
    assert doubts.of_masks(np.array([[90, 1, 0], [10, 5, 0], [5, 0, 0]]), NAMES) == []
    (said,) = doubts.of_masks(np.array([[60, 30, 0], [9, 1, 0], [5, 0, 0]]), NAMES)
    assert "mIoU 20.1 %, and cat for every pixel has 28.6 %" in said
    (said,) = doubts.of_masks(np.array([[80, 16, 0], [2, 4, 0], [1, 0, 4]]), NAMES)
    assert "82.2 % of the pixels are right, and with cat for every pixel 89.7 % would be" in said
    assert doubts.of_masks(np.array([[80, 10, 0], [2, 8, 0], [1, 0, 4]]), NAMES) == []


def test_a_segmenter_whose_interval_holds_one_answer_for_every_pixel_is_not_told_from_it() -> None:
    confusion = np.array([[80, 10, 0], [2, 8, 0], [1, 0, 4]])
    constant = one_answer(confusion, NAMES)
    assert constant == {"class": "cat", "aAcc": 90 / 105, "mIoU": pytest.approx(90 / 105 / 3)}
    sure = {"high": 0.7, "method": "bootstrap over 14 images"}
    assert doubts.of_masks(confusion, NAMES, {"low": 0.3, **sure}) == []
    (said,) = doubts.of_masks(confusion, NAMES, {"low": 0.28, **sure})
    assert said == (
        "not told from one answer, by a bootstrap over 14 images: mIoU 68.7 % (95 %: 28.0 % to "
        "70.0 %), and cat for every pixel has 28.6 %"
    )
    assert one_answer(np.array([[5, 1], [0, 0]]), NAMES) is None, "of one class there is no verdict"
