"""The sequential test: its error at the null's edge whatever the stopping, its power, its cost."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from phi4.grading import sequential
from phi4.grading.sequential import PivotalTest, operation

EDGE = [(0.1, 0.0), (0.15, 0.05), (0.3, 0.2), (0.5, 0.4), (0.55, 0.45), (0.9, 0.8), (1.0, 0.9)]


def binomial(n: int, p: float) -> np.ndarray:
    return np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])


@pytest.mark.parametrize("n", [1, 2, 5, 40])
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_wealth_is_worth_at_most_one_everywhere_in_the_null(n: int, margin: float) -> None:
    wealth = sequential._wealth(margin, n)
    grid = np.linspace(0, 1, 41)
    for p1 in grid:
        for p2 in grid:
            if p1 - p2 <= margin + 1e-12:
                expected = binomial(n, p1) @ wealth @ binomial(n, p2)
                assert expected <= 1 + 1e-9
    assert binomial(n, 0.8) @ wealth @ binomial(n, 0.3) > 1


def test_wealth_shrinks_from_look_to_look_under_the_null() -> None:
    """As a supermartingale must; a wrong projection of one alternative shows as growth in the long run."""
    for p1, p2 in EDGE:
        values = [
            binomial(n, p1) @ sequential._wealth(0.1, n) @ binomial(n, p2) for n in (0, 1, 4, 16, 64, 256)
        ]
        assert values[0] == pytest.approx(1)
        assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(values))


@pytest.mark.parametrize("two_sided", [True, False])
def test_error_at_the_edge_is_below_alpha_exactly(two_sided: bool) -> None:
    """No giving up, a look at every pair: the largest chance of a false finding there can be."""
    test = PivotalTest(max_rollouts=96, batch=1, futility=1e-12, two_sided=two_sided)
    for p1, p2 in EDGE:
        error = operation(test, p1, p2).pivotal
        assert error <= test.alpha
    assert operation(test, 0.55, 0.45).pivotal > 0.2 * test.alpha  # not vacuous
    if two_sided:
        assert operation(test, 0.45, 0.55).pivotal == pytest.approx(operation(test, 0.55, 0.45).pivotal)
        assert operation(test, 0.8, 0.6).wrong_side < 1e-6


def test_final_look_is_exact_between_the_points_it_was_searched_at() -> None:
    n, alpha = 256, 0.0315
    region = sequential._wealth(0.1, n) > sequential._final_cut(0.1, alpha, n)
    errors = [binomial(n, x) @ region @ binomial(n, x - 0.1) for x in np.linspace(0.1, 1.0, 777)]
    assert max(errors) <= alpha
    assert max(errors) > 0.95 * alpha


def test_error_with_malicious_stopping_by_simulation() -> None:
    """Independent of `operation`: raw streams through `decide`, stopped as soon as it says pivotal."""
    test = PivotalTest(batch=1, futility=1e-12)
    rng = np.random.default_rng(5)
    streams, false = 400, 0
    for k in range(streams):
        p1, p2 = EDGE[k % len(EDGE)]
        first, second = (rng.random(256) < p1).cumsum(), (rng.random(256) < p2).cumsum()
        counts = zip(first.tolist(), second.tolist(), range(1, 257), strict=True)
        false += any(test.decide(*count) == "pivotal" for count in counts)
    # binomial tolerance: at an error of exactly 0.05, more than 34 of 400 has probability < 0.002
    assert false <= 34


def test_power_and_cost() -> None:
    test = PivotalTest()
    for p1, p2 in [(0.6, 0.4), (0.7, 0.5), (0.4, 0.2), (0.9, 0.7)]:
        assert operation(test, p1, p2).pivotal > 0.58
    for p1, p2 in [(0.65, 0.35), (0.8, 0.5), (0.2, 0.5)]:
        result = operation(test, p1, p2)
        assert result.pivotal > 0.99
        assert result.rollouts < 145
    for p in (0.2, 0.5, 0.8):
        assert operation(test, p, p).pivotal < 0.001
        assert operation(test, p, p).rollouts < 120
    assert operation(test, 1.0, 0.5).rollouts < 40


def test_operation_agrees_with_simulation() -> None:
    test, rng = PivotalTest(), np.random.default_rng(7)
    found, spent, repeats = 0, 0, 600
    for _ in range(repeats):
        first, second = (rng.random(256) < 0.6).cumsum(), (rng.random(256) < 0.4).cumsum()
        n, verdict = 0, "continue"
        while verdict == "continue":
            n = test.next_look(n)
            verdict = test.decide(int(first[n - 1]), int(second[n - 1]), n)
        found += verdict == "pivotal"
        spent += n
    exact = operation(test, 0.6, 0.4)
    assert found / repeats == pytest.approx(exact.pivotal, abs=4 * math.sqrt(0.25 / repeats))
    assert spent / repeats == pytest.approx(exact.rollouts, rel=0.06)


def test_verdicts_are_sane() -> None:
    test = PivotalTest()
    assert test.decide(0, 0, 0) == "continue"
    assert test.decide(16, 0, 16) == "pivotal"
    assert test.decide(0, 16, 16) == "pivotal"
    assert replace(test, two_sided=False).decide(0, 64, 64) == "not"
    for first in range(0, 257, 8):
        for second in range(0, 257, 8):
            verdict = test.decide(first, second, 256)
            assert verdict != "continue"
            assert verdict == test.decide(second, first, 256)
            if abs(first - second) <= 0.1 * 256:
                assert verdict == "not"


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="17 and 0 successes in 16"):
        PivotalTest().decide(17, 0, 16)
    with pytest.raises(ValueError, match="in 257 of 256"):
        PivotalTest().decide(0, 0, 257)
    with pytest.raises(ValueError, match="not a test"):
        PivotalTest(margin=0.3)
    with pytest.raises(ValueError, match="batch 0"):
        PivotalTest(batch=0)
