"""The attentive probe pools as it says, and finds what the mean over patches hides."""

from __future__ import annotations

import math

import pytest
import torch
from mae_runners.actions.evaluate import _as_in_the_bank
from mae_runners.metrics.probe import (
    attend_to_patches,
    attentive_probe_accuracy,
    cross_validated,
    linear_probe_accuracy,
    probe_accuracy,
)
from mae_skill.errors import DataError


def test_each_query_pools_its_own_channels_by_a_softmax_over_the_patches() -> None:
    drawn = torch.Generator().manual_seed(0)
    patches = torch.randn(3, 5, 6, generator=drawn)
    queries = torch.randn(2, 6, generator=drawn)
    found = attend_to_patches(patches, queries)
    for image in range(3):
        for query in range(2):
            shares = [
                math.exp(float(patches[image, p] @ queries[query]) / math.sqrt(6)) for p in range(5)
            ]
            for channel in range(3):
                values = [float(patches[image, p, 3 * query + channel]) for p in range(5)]
                mean = sum(s * v for s, v in zip(shares, values, strict=True)) / sum(shares)
                assert float(found[image, 3 * query + channel]) == pytest.approx(mean, abs=1e-5)
    nothing = torch.zeros(2, 6)
    torch.testing.assert_close(attend_to_patches(patches, nothing), patches.mean(1))


def hidden_classes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """16 patches, of which one, at any place, is marked and carries the class; the others carry
    signs that hide it in the mean."""
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    patches = 0.1 * torch.randn(count, 16, 8, generator=drawn)
    signs = torch.randint(0, 2, (count, 16), generator=drawn) * 2.0 - 1.0
    place = torch.randint(0, 16, (count,), generator=drawn)
    rows = torch.arange(count)
    signs[rows, place] = labels * 2.0 - 1.0
    patches[:, :, 1:8] += signs.unsqueeze(2)
    patches[rows, place, 0] += 4.0
    return patches, labels


def test_it_finds_a_class_that_lies_in_one_patch() -> None:
    (bank, known), (asked, wanted) = hidden_classes(300, 0), hidden_classes(200, 1)
    linear = linear_probe_accuracy(bank.mean(1), known, asked.mean(1), wanted)
    attentive = attentive_probe_accuracy(bank, known, asked, wanted)
    assert linear < 0.75 and attentive > 0.95
    assert attentive_probe_accuracy(bank, known, asked, wanted) == attentive

    both = probe_accuracy(bank.mean(1), known, asked.mean(1), wanted, k=5, patches=(bank, asked))
    assert both["attentive_acc"] == attentive and both["linear_acc"] == linear
    assert "attentive_acc" not in probe_accuracy(bank.mean(1), known, asked.mean(1), wanted, k=5)


def test_folds_judge_each_image_once() -> None:
    patches, labels = hidden_classes(100, 2)
    found = cross_validated(patches.mean(1), labels, k=5, seed=1, patches=patches)
    assert found["attentive_acc"] > found["linear_acc"]
    assert round(100 * found["attentive_acc"]) == pytest.approx(100 * found["attentive_acc"])
    assert "attentive_acc" not in cross_validated(patches.mean(1), labels, k=5, seed=1)


def test_queries_are_judged_by_the_numbers_of_their_banks_classes() -> None:
    asked = _as_in_the_bank(torch.tensor([0, 1, 1]), ["b", "c"], ["a", "b", "c"], "dataset.val")
    assert asked.tolist() == [1, 2, 2]
    with pytest.raises(DataError, match="classes are not among those") as caught:
        _as_in_the_bank(torch.tensor([0, 1]), ["b", "z"], ["a", "b"], "dataset.val")
    assert (caught.value.field, caught.value.got) == ("dataset.val", "z")
