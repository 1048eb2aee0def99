"""How sure are we of a share, and of the difference of two? Intervals and exact tests for counts.

Accuracies are shares of a few hundred items, often near 0 or 1, where the textbook interval
(p plus or minus two standard errors) is wrong: it leaves [0, 1] and covers too rarely. Wilson's score
interval and Newcombe's differences built on it do not, and need no table and no simulation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """The same n items answered before and after: what changed, and could it be chance?"""

    n: int
    gained: int  # wrong before, right after
    lost: int  # right before, wrong after
    difference: float  # share right after minus share right before
    interval: Interval  # of the difference
    p_value: float  # exact McNemar test of "no difference", two-sided


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a binomial share; [0, 1] when n is 0.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes out of {n}")
    if n == 0:
        return Interval(0.0, 1.0)
    z = _normal_quantile(level)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # at the ends the formula is exact on paper; rounding must not make 0 of n exclude 0
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(low, high)


def difference(successes: tuple[int, int], n: tuple[int, int], level: float = 0.95) -> Interval:
    """Interval of p2 - p1 for two independent samples, given as (first, second).

    Source: Newcombe, "Interval estimation for the difference between independent proportions", Statistics
    in Medicine 17 (1998), method 10. Raises ValueError when a sample is empty.
    """
    if min(n) == 0:
        raise ValueError("a difference needs at least one item on each side")
    (s1, s2), (n1, n2) = successes, n
    return _combine(s1 / n1, wilson(s1, n1, level), s2 / n2, wilson(s2, n2, level), correlation=0.0)


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p value that gains and losses are equally likely; 1 when nothing changed.

    Source: McNemar 1947, in its exact (binomial) form.
    """
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << changed))


def compare_paired(before: Sequence[bool], after: Sequence[bool], level: float = 0.95) -> PairedComparison:
    """Compare right/wrong on the same items in the same order.

    The interval is Newcombe's for paired proportions (Statistics in Medicine 17 (1998), method 10: Wilson
    intervals of both shares, combined with the correlation of the pairs). Raises ValueError when the
    lengths differ or there is nothing to compare.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"paired comparison of {len(before)} and {len(after)} items")
    n = len(before)
    both = sum(x and y for x, y in zip(before, after, strict=True))
    lost, gained = sum(before) - both, sum(after) - both
    first, second = both + lost, both + gained
    return PairedComparison(
        n=n,
        gained=gained,
        lost=lost,
        difference=(gained - lost) / n,
        interval=_combine(
            first / n,
            wilson(first, n, level),
            second / n,
            wilson(second, n, level),
            correlation=_correlation(both, lost, gained, n - both - lost - gained),
        ),
        p_value=mcnemar(gained, lost),
    )


def paired_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of mean(after - before) over paired items of any real score.

    Source: Efron 1979. For plain right/wrong prefer `compare_paired`, which is exact where this is not:
    a bootstrap of items that all agree has no width. Raises ValueError like `compare_paired`.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"paired bootstrap of {len(before)} and {len(after)} items")
    change_N = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, 4_000_000 // len(change_N))  # a few tens of MB of indices at a time
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        picked = rng.integers(len(change_N), size=(stop - start, len(change_N)))
        means[start:stop] = change_N[picked].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _normal_quantile(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _combine(first: float, w1: Interval, second: float, w2: Interval, correlation: float) -> Interval:
    """Newcombe's square-and-add: distances from each share to the end of its interval, added as vectors."""

    def distance(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b))

    centre = second - first
    return Interval(
        low=centre - distance(second - w2.low, w1.high - first),
        high=centre + distance(w2.high - second, first - w1.low),
    )


def _correlation(both: int, lost: int, gained: int, neither: int) -> float:
    """Phi coefficient of the 2x2 table, with Newcombe's continuity correction when it is positive."""
    n = both + lost + gained + neither
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    if margins == 0:
        return 0.0
    excess = both * neither - lost * gained
    corrected = max(excess - n / 2, 0.0) if excess > 0 else float(excess)
    return corrected / math.sqrt(margins)
