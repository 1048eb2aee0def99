"""Do two success rates differ by more than a margin? A test that may look at the data as it comes in.

Used by the pivotal token search: rollouts from two prefixes arrive in batches, most comparisons are
clear after a few, and the search must not pay for the others for ever. Let d = p1 - p2.

**Deciding that d > margin.** Two routes share the error probability alpha:

* *Any time* (`early` of alpha): an e-process over pairs (one rollout of each prefix). For an alternative
  (a, b) let (x, x - margin) be the point of the null's edge nearest to it in KL divergence. Each pair
  multiplies the wealth by the likelihood ratio of (a, b) to (x, x - margin). At the nearest point the slopes
  of the two mean ratios are k and -k, so under true rates (x + u, x - margin + v), u <= v, the expected
  factor is (1 + k u)(1 - k v) <= (1 + k u)(1 - k u) <= 1: the wealth is a supermartingale under *every*
  point of {p1 - p2 <= margin}, and so is a mixture over alternatives. By Ville's inequality it ever reaches
  1/alpha with probability <= alpha, whenever and for whatever reason one looks or stops.
  Source: Turner, Ly and Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for
  optional stopping", J. Statistical Planning and Inference 230 (2024); Turner and Grünwald, "Exact
  anytime-valid confidence intervals for contingency tables and beyond", Statistics & Probability Letters
  198 (2023). A mixture marginal divided by the null's *maximised* likelihood (universal inference) is never
  larger than this one and pays about half a log(n) for the unknown base rate, most of the power here.
* *Once*, when the budget is spent: the same statistic against a cut-off whose exact error, maximised over
  the null's edge, is what remains of alpha (an unconditional exact test in the manner of Barnard, 1945). An
  e-process alone wastes what it would have spent after the budget's end; this look wins it back: power at a
  difference of 0.2 rises from about 0.3 to above 0.6. A union bound joins the two routes.

**Two-sided.** To decide d > margin the two-sided test asks for 0.9 of alpha as above and, at 0.1 of alpha,
for the easier d > 0. Where 0 <= d <= margin a wrong "d > margin" then has probability <= 0.9 alpha and a
wrong "d < -margin" <= 0.1 alpha; halving alpha would cost more.

**Giving up.** A comparison stops as "not" when, were d equal to `gap` from now on, the final look would
still say "pivotal" with probability below `futility`. This can only lower the number of findings, so no
error guarantee depends on it.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["pivotal", "not", "continue"]

_VERDICTS: tuple[Verdict, ...] = ("continue", "pivotal", "not")
_CONTINUE, _PIVOTAL, _NOT = range(3)
_GUARD = 0.1  # share of alpha for "the difference has the other sign" in a two-sided test
# The alternatives of the mixture: (difference beyond the null's edge, weight), each at several base rates.
# Chosen by exact computation for power at differences of 0.2 and 0.3 and speed at 0.5 (bench pivotal).
_EXCESSES = ((0.2, 2.0), (0.4, 1.0))
_BASES = (0.15, 0.3, 0.5, 0.7, 0.85)

_LONGEST = 512  # beyond it likelihood ratios leave the range of a double

_Table = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PivotalTest:
    """H0: |p1 - p2| <= margin (two-sided) or p1 - p2 <= margin (one-sided), at most `max_rollouts` a side."""

    margin: float = 0.1
    gap: float = 0.2
    alpha: float = 0.05
    max_rollouts: int = 256
    batch: int = 16
    two_sided: bool = True
    early: float = 0.3  # share of alpha spent by the e-process; the final look has the rest
    futility: float = 0.2

    def __post_init__(self) -> None:
        if not (0 <= self.margin < self.gap < 1 and 0 < self.alpha < 1 and 0 < self.early < 1):
            raise ValueError(f"not a test: {self}")
        if not 1 <= self.batch <= self.max_rollouts <= _LONGEST:
            raise ValueError(f"not 1 <= batch {self.batch} <= max_rollouts {self.max_rollouts} <= {_LONGEST}")

    def next_look(self, n: int) -> int:
        """How many rollouts a side should have before the next decision, when there are n."""
        return min(n + self.batch, self.max_rollouts)

    def decide(self, first: int, second: int, n: int) -> Verdict:
        """The verdict on `first` successes against `second`, in the first n rollouts of each side.

        The counts must be of the *first* n rollouts of both streams, which must be independent. Looking at
        any n <= max_rollouts, in any rhythm, keeps the error below alpha. Raises ValueError for other counts.
        """
        if not (0 <= first <= n and 0 <= second <= n and n <= self.max_rollouts):
            raise ValueError(f"{first} and {second} successes in {n} of {self.max_rollouts} rollouts")
        return _VERDICTS[int(_verdicts(self, n)[first, second])]


@dataclass(frozen=True, slots=True)
class Operation:
    """What a test does at true rates (p1, p2), computed exactly."""

    pivotal: float  # probability of the verdict "pivotal"
    rollouts: float  # expected number a side
    wrong_side: float  # probability of "pivotal" with the sign of p1 - p2 reversed


def operation(test: PivotalTest, p1: float, p2: float) -> Operation:
    """Exact operating characteristics when the test looks every `batch`, by forward recursion on counts."""
    alive = np.ones((1, 1))
    n, pivotal, rollouts, wrong = 0, 0.0, 0.0, 0.0
    while n < test.max_rollouts:
        step = test.next_look(n) - n
        alive = _grow(alive, _binomial(step, p1), _binomial(step, p2))
        n += step
        verdicts = _verdicts(test, n)
        found = np.where(verdicts == _PIVOTAL, alive, 0.0)
        pivotal += float(found.sum())
        wrong += float(np.triu(found).sum() if p1 >= p2 else np.tril(found).sum())
        stopped = 1.0 if n == test.max_rollouts else float(alive[verdicts != _CONTINUE].sum())
        rollouts += n * (float(alive.sum()) if n == test.max_rollouts else stopped)
        alive = np.where(verdicts == _CONTINUE, alive, 0.0)
    return Operation(pivotal, rollouts, wrong)


@lru_cache(maxsize=2048)
def _verdicts(test: PivotalTest, n: int) -> NDArray[np.int8]:
    """Verdict codes for all success counts, indexed [first, second]; a megabyte for all looks of a test."""
    above = 1 - _GUARD if test.two_sided else 1.0
    spend = test.alpha * test.early
    up = _wealth(test.margin, n) >= 1 / (above * spend)
    if test.two_sided:
        up &= _wealth(0.0, n) >= 1 / (_GUARD * spend)
    if n == test.max_rollouts:
        rest = test.alpha - spend
        last = _wealth(test.margin, n) > _final_cut(test.margin, above * rest, n)
        if test.two_sided:
            last &= _wealth(0.0, n) > _final_cut(0.0, _GUARD * rest, n)
        up |= last
    pivotal = up | up.T if test.two_sided else up
    codes = np.full(pivotal.shape, _CONTINUE, dtype=np.int8)
    codes[_hopeless(test, n)] = _NOT
    codes[pivotal] = _PIVOTAL
    return codes


@lru_cache(maxsize=1024)
def _wealth(margin: float, n: int) -> _Table:
    """The mixture e-process against {p1 - p2 <= margin} after n pairs, indexed [first, second]."""
    s = np.arange(n + 1)[:, None]
    first, second, weights = [], [], []
    for excess, weight in _EXCESSES:
        half = (margin + excess) / 2
        bases = [base for base in _BASES if half < base < 1 - half]
        for base in bases or [0.5]:
            a, b = base + half, base - half
            x = _nearest(a, b, margin)
            y = x - margin
            first.append(s * math.log(a / x) + (n - s) * math.log((1 - a) / (1 - x)))
            second.append(s * math.log(b / y) + (n - s) * math.log((1 - b) / (1 - y)))
            weights.append(weight / len(bases or [0.5]))
    mixture = np.array(weights) / sum(weights)
    # log ratios are sums of a function of each count, so the whole table is one matrix product
    ratio_first, ratio_second = np.exp(np.concatenate(first, axis=1)), np.exp(np.concatenate(second, axis=1))
    return np.asarray((ratio_first * mixture) @ ratio_second.T)


def _nearest(a: float, b: float, margin: float) -> float:
    """The x that minimises KL(a || x) + KL(b || x - margin); the left side of its equation falls in x."""
    low, high = margin, 1.0
    for _ in range(100):
        x = (low + high) / 2
        y = x - margin
        if a / x - (1 - a) / (1 - x) + b / y - (1 - b) / (1 - y) > 0:
            low = x
        else:
            high = x
    return x


@lru_cache(maxsize=64)
def _final_cut(margin: float, alpha: float, n: int) -> float:
    """The c for which {wealth > c} has exact error <= alpha wherever p1 - p2 <= margin.

    Wealth rises with the first count and falls with the second, so the error is largest on the edge
    p1 = p2 + margin. The edge is searched at 200 points; one per cent of alpha pays for the gaps between.
    """
    wealth = _wealth(margin, n).ravel()
    order = np.argsort(-wealth, kind="stable")
    worst = np.zeros(wealth.size)
    width = 1 - margin
    for x in margin + width * (np.arange(200) + 0.5) / 200:
        error = np.outer(_binomial(n, float(x)), _binomial(n, float(x) - margin)).ravel()[order]
        np.maximum(worst, np.cumsum(error), out=worst)
    first_too_many = int(np.searchsorted(worst, 0.99 * alpha))
    return float(wealth[order[min(first_too_many, wealth.size - 1)]])


def _hopeless(test: PivotalTest, n: int) -> NDArray[np.bool_]:
    """Where the final look would say "pivotal" with probability < futility if d were `gap` from now on."""
    remaining = test.max_rollouts - n
    if remaining == 0:
        return np.ones((n + 1, n + 1), dtype=np.bool_)
    first, second = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]
    pooled = (first + second + 1) / (2 * n + 2)
    variance = 2 * pooled * (1 - pooled)  # of one pair's difference
    lead = np.abs(first - second) if test.two_sided else first - second
    rest = test.alpha * (1 - test.early)
    needed = test.margin + NormalDist().inv_cdf(1 - rest) * np.sqrt(variance / test.max_rollouts)
    score = (lead + remaining * test.gap - test.max_rollouts * needed) / np.sqrt(variance * remaining)
    return np.asarray(score < NormalDist().inv_cdf(test.futility))


def _binomial(n: int, p: float) -> _Table:
    """Probabilities of 0..n successes."""
    if p <= 0 or p >= 1:
        certain = np.zeros(n + 1)
        certain[n if p >= 1 else 0] = 1.0
        return certain
    log_factorial = np.array([math.lgamma(k + 1) for k in range(n + 1)])
    k = np.arange(n + 1)
    log_choose = log_factorial[n] - log_factorial - log_factorial[::-1]
    return np.asarray(np.exp(log_choose + k * math.log(p) + (n - k) * math.log1p(-p)))


def _grow(alive: _Table, more_first: _Table, more_second: _Table) -> _Table:
    """Distribution of both counts after further independent trials: one convolution along each axis."""
    rows, columns = alive.shape
    grown = np.zeros((rows + len(more_first) - 1, columns))
    for k, probability in enumerate(more_first):
        grown[k : k + rows] += probability * alive
    result = np.zeros((grown.shape[0], columns + len(more_second) - 1))
    for k, probability in enumerate(more_second):
        result[:, k : k + columns] += probability * grown
    return result
