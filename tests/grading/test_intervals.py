"""Intervals against published values, their own definitions solved another way, and brute force."""

import itertools
import math
import random
from statistics import NormalDist

import pytest

from phi4.grading.intervals import compare_paired, difference, mcnemar, paired_bootstrap, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_published(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_wilson_inverts_the_score_test() -> None:
    z = NormalDist().inv_cdf(0.95)
    for n in (1, 7, 50, 400):
        for s in range(0, n + 1, max(1, n // 7)):
            for end in vars_of(wilson(s, n, level=0.9)):
                if 0 < end < 1:
                    assert abs(s / n - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(z)
    assert vars_of(wilson(0, 0)) == (0.0, 1.0)
    assert wilson(0, 9).low == 0.0
    assert wilson(9, 9).high == 1.0
    with pytest.raises(ValueError, match="5 successes out of 4"):
        wilson(5, 4)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, method 10 (there p1 - p2)
    [
        ((48, 80), (56, 70), 0.0524, 0.3339),
        ((3, 10), (9, 10), 0.1705, 0.8090),
        ((0, 10), (10, 10), 0.6075, 1.0),
    ],
)
def test_difference_published(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    interval = difference((first[0], second[0]), (first[1], second[1]))
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_mcnemar_by_enumeration() -> None:
    for gained, lost in itertools.product(range(5), repeat=2):
        changed = gained + lost
        outcomes = [sum(signs) for signs in itertools.product((0, 1), repeat=changed)]
        extreme = [k for k in outcomes if abs(2 * k - changed) >= abs(gained - lost)]
        assert mcnemar(gained, lost) == pytest.approx(len(extreme) / len(outcomes))
    assert mcnemar(4000, 3000) < 1e-20  # no overflow


def test_compare_paired_counts_and_direction() -> None:
    before = [True] * 30 + [False] * 20
    after = [True] * 25 + [False] * 5 + [True] * 12 + [False] * 8
    result = compare_paired(before, after)
    assert (result.gained, result.lost, result.n) == (12, 5, 50)
    assert result.difference == pytest.approx(0.14)
    assert result.interval.low < 0.14 < result.interval.high
    back = compare_paired(after, before)
    assert back.interval.low == pytest.approx(-result.interval.high)
    assert back.p_value == result.p_value
    same = compare_paired(before, before)
    assert same.p_value == 1.0
    assert same.interval.low < 0 < same.interval.high
    with pytest.raises(ValueError, match="0 and 0"):
        compare_paired([], [])


def test_paired_interval_covers() -> None:
    """Items differ in difficulty, so the pairs are correlated: coverage must hold, width must profit."""
    rng = random.Random(0)
    covered, narrower, repeats, n = 0, 0, 600, 120
    for _ in range(repeats):
        easy = [rng.random() for _ in range(n)]
        before = [rng.random() < (0.9 if e < 0.5 else 0.2) for e in easy]
        after = [rng.random() < (0.95 if e < 0.5 else 0.35) for e in easy]
        result = compare_paired(before, after)
        covered += result.interval.low <= 0.1 <= result.interval.high
        plain = difference((sum(before), sum(after)), (n, n))
        narrower += result.interval.high - result.interval.low < plain.high - plain.low
    assert 0.92 <= covered / repeats <= 0.985
    assert narrower > 0.95 * repeats


def test_paired_bootstrap_agrees_with_normal_theory() -> None:
    rng = random.Random(1)
    before = [rng.gauss(0, 1) for _ in range(400)]
    after = [x + rng.gauss(0.3, 0.5) for x in before]
    changes = [b - a for a, b in zip(before, after, strict=True)]
    mean = sum(changes) / 400
    error = math.sqrt(sum((c - mean) ** 2 for c in changes) / 400 / 400)
    interval = paired_bootstrap(before, after, resamples=4000, seed=3)
    assert interval.low == pytest.approx(mean - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(mean + 1.96 * error, abs=0.15 * error)
    assert interval == paired_bootstrap(before, after, resamples=4000, seed=3)


def vars_of(interval: object) -> tuple[float, float]:
    return interval.low, interval.high  # type: ignore[attr-defined]
