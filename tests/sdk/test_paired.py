"""Two models that answered the same images: exact tests, intervals, and many pairs at once."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from mae_sdk.jobs.intervals import (
    ALPHA,
    Pairs,
    clopper_pearson,
    corrected,
    gap,
    mcnemar,
    paired_difference,
)
from mae_sdk.jobs.paired import answers_of, pairs_of


def tables(images: int) -> list[Pairs]:
    """Every way in which two models can answer so many images."""
    counts = range(images + 1)
    return [
        Pairs(both, first, second, images - both - first - second)
        for both, first, second in itertools.product(counts, repeat=3)
        if both + first + second <= images
    ]


def test_mcnemar_is_how_often_a_fair_coin_falls_so_unevenly() -> None:
    assert mcnemar(Pairs(14, 6, 0, 4)) == pytest.approx(0.03125)  # 20 of 24 against 14
    assert mcnemar(Pairs(12, 8, 0, 4)) == pytest.approx(0.0078125)
    assert mcnemar(Pairs(9, 0, 0, 3)) == mcnemar(Pairs(1, 5, 5, 0)) == 1
    for first, second in itertools.product(range(7), repeat=2):
        tosses = itertools.product((0, 1), repeat=first + second)
        away = [abs(2 * sum(one) - first - second) for one in tosses]
        rare = sum(one >= abs(first - second) for one in away) / len(away)
        assert mcnemar(Pairs(3, first, second, 2)) == pytest.approx(rare)


def test_test_and_interval_are_those_of_scipy() -> None:
    scipy = pytest.importorskip("scipy.stats")
    for first, second in ((0, 1), (3, 11), (40, 70), (700, 800), (0, 300)):
        known = scipy.binomtest(first, first + second)
        assert mcnemar(Pairs(5, first, second, 5)) == pytest.approx(known.pvalue)
        span = known.proportion_ci(method="exact")
        found = clopper_pearson(first, first + second)
        assert found == pytest.approx((span.low, span.high), abs=1e-9)
    assert 0 < mcnemar(Pairs(0, 30_000, 29_000, 0)) < 1e-4  # of many images too


@pytest.mark.parametrize("images", (1, 6, 12, 16))
def test_an_interval_of_pairs_holds_zero_exactly_where_the_test_finds_nothing(images: int) -> None:
    for pairs in tables(images):
        low, high = paired_difference(pairs)
        value = (pairs.first - pairs.second) / images
        assert -1 <= low <= value <= high <= 1
        assert (low <= 0 <= high) == (mcnemar(pairs) >= ALPHA), pairs
        turned = paired_difference(Pairs(pairs.both, pairs.second, pairs.first, pairs.neither))
        assert turned == pytest.approx((-high, -low))


@pytest.mark.parametrize(
    "shares",
    ((0.6, 0.25, 0.0, 0.15), (0.5, 0.2, 0.1, 0.2), (0.1, 0.4, 0.4, 0.1), (0.9, 0.05, 0, 0.05)),
)
def test_an_interval_of_pairs_holds_the_difference_in_19_of_20_repetitions(
    shares: tuple[float, ...],
) -> None:
    """Over every table of 20 images, each as likely as it is."""
    images, held = 20, 0.0
    for pairs in tables(images):
        ways = math.factorial(images) / math.prod(math.factorial(one) for one in pairs)
        likely = ways * math.prod(share**count for share, count in zip(shares, pairs, strict=True))
        low, high = paired_difference(pairs)
        held += likely * (low - 1e-12 <= shares[1] - shares[2] <= high + 1e-12)
    assert held >= 0.95


def test_pairs_are_sharper_than_two_shares_alone() -> None:
    alone = gap(20 / 24, 24, 14 / 24, 24)
    paired = gap(20 / 24, 24, 14 / 24, 24, Pairs(14, 6, 0, 4))
    assert not alone.is_told and alone.low < 0 and alone.p > 0.05
    assert paired.is_told and paired.low > 0 and "p = 0.031" in paired.test
    told = gap(56 / 70, 70, 48 / 80, 80)
    assert told.is_told and told.low > 0 and told.p < 0.05
    assert gap(0.5, 90, 0.5, 90).p == pytest.approx(1)


def closed(found: dict[tuple[int, int], float], models: int) -> dict[tuple[int, int], float]:
    """The corrected p by Bonferroni in every set of pairs that can be equal together (Bergmann &
    Hommel 1988): the most that any such correction can find."""
    worst = dict.fromkeys(found, 0.0)
    for groups in itertools.product(range(models), repeat=models):
        equal = [pair for pair in found if groups[pair[0]] == groups[pair[1]]]
        if equal:
            p = min(1.0, len(equal) * min(found[pair] for pair in equal))
            for pair in equal:
                worst[pair] = max(worst[pair], p)
    return worst


@pytest.mark.parametrize("models", (2, 3, 4, 5))
def test_the_correction_lies_between_holms_and_the_sharpest_there_is(models: int) -> None:
    draw = random.Random(models)
    for _ in range(30):
        pairs = list(itertools.combinations(range(models), 2))
        found = {pair: draw.random() ** 4 for pair in pairs}
        holm, reached = {}, 0.0
        for done, pair in enumerate(sorted(pairs, key=found.__getitem__)):
            reached = max(reached, min(1.0, (len(pairs) - done) * found[pair]))
            holm[pair] = reached
        least, told = closed(found, models), corrected(found)
        for pair in pairs:
            assert least[pair] - 1e-12 <= told[pair] <= holm[pair] + 1e-12
    assert corrected({(0, 1): 0.03}) == {(0, 1): 0.03}
    three = corrected({(0, 1): 0.03, (0, 2): 0.008, (1, 2): 0.7})
    assert three == {(0, 2): pytest.approx(0.024), (0, 1): 0.03, (1, 2): 0.7}


def table(folder: str, answers: str, true: str = "aabb") -> str:
    rows = [
        f"{folder}/{place}.png,{said},0.9,0,{one}"
        for place, (said, one) in enumerate(zip(answers, true, strict=True))
    ]
    return "\n".join(["path,label,probability,class_index,true_label", *rows]) + "\n"


def test_answers_pair_by_the_names_of_images_wherever_they_lie() -> None:
    first = answers_of(table("/d/test/x", "aaba"), 0.75, 4)
    second = answers_of(table("/copy", "abba"), 0.5, 4)
    assert pairs_of(first, second) == Pairs(2, 1, 0, 1)
    assert pairs_of(second, first) == Pairs(2, 0, 1, 1)


@pytest.mark.parametrize(
    "other",
    (
        table("/d/test", "aaba", "aaba").replace("3.png", "9.png"),  # another image
        table("/d/test", "aaab", "aaab"),  # another class of one
        table("/d/test", "aaa", "aaa"),  # one image less
        "path,label\n/d/test/0.png,a\n",  # no true classes
        table("/d/test", "aaba").replace("0.png", "0" * 200_000),  # no table of ours
        "",
    ),
)
def test_answers_to_other_images_are_no_pairs(other: str) -> None:
    first = answers_of(table("/d/test", "aaba"), 0.75, 4)
    images = max(other.count("\n") - 1, 1)
    assert pairs_of(first, answers_of(other, 1.0, images)) is None
    assert pairs_of(first, None) is None


def test_a_table_that_makes_another_share_than_was_reported_is_not_taken() -> None:
    assert answers_of(table("/d", "aaba"), 0.5, 4) is None
    assert answers_of(table("/d", "aaba"), 0.75, 5) is None
    twice = table("/d", "aaba").replace("1.png", "0.png")
    assert answers_of(twice, 0.75, 4) is None
