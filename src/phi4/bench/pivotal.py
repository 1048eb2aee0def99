"""What the pivotal token search finds, and what it imagines, on solutions whose truth is known.

A planted solution is a path of tokens along which the success probability is constant but for one jump at
a random token. The real search (phi4.pivotal) runs on it with a simulated sampler, once with our sequential
test and fresh confirmation, once with the rule of the only open implementation: 10 samples a prefix, call
it pivotal at a difference of 0.2, keep the pair as it is.

The exact numbers of a single test (no simulation) stand beside the simulated ones as a check.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phi4.grading.sequential import PivotalTest, Verdict, operation
from phi4.pivotal.rollouts import Question, Sampling, Solution
from phi4.pivotal.search import Rule
from phi4.pivotal.stage import Finding, SearchConfig, search
from phi4.text.generation import Completion, Deliver, Request

DELTAS = (0.0, 0.05, 0.1, 0.2, 0.3)
BASES = (0.2, 0.5, 0.8)
LENGTH = 32  # tokens of a planted solution

# Token ids of the planted world: ends of a rollout, then the solution's tokens and their alternatives.
_STOP, _RIGHT, _WRONG, _TOKEN, _OTHER, _PROMPT = 0, 1, 2, 1_000, 2_000, 10_000


@dataclass(frozen=True, slots=True)
class FixedRule:
    """`samples` rollouts a prefix, pivotal when the two shares differ by `threshold`: no error control."""

    samples: int = 10
    threshold: float = 0.2

    @property
    def max_rollouts(self) -> int:
        """Rollouts a prefix may cost."""
        return self.samples

    def next_look(self, n: int) -> int:
        """There is one look, at the end."""
        return self.samples

    def decide(self, first: int, second: int, n: int) -> Verdict:
        """The verdict on two success counts out of n each."""
        # 0.2 * 10 need not be exactly 2
        return "pivotal" if abs(first - second) >= self.threshold * n - 0.5e-6 else "not"


@dataclass(frozen=True, slots=True)
class Planted:
    """One planted solution: success probability `before` up to token `jump`, `after` behind it."""

    before: float
    after: float
    jump: int
    follow: float  # probability that a rollout takes the solution's token at any place

    def value(self, i: int) -> float:
        """Success probability after the first i tokens of the solution."""
        return self.after if i > self.jump else self.before

    def other(self, i: int) -> float:
        """Success probability after i tokens of the solution and then the alternative one."""
        if i != self.jump:
            return self.before if i < self.jump else self.after
        return (self.before - self.follow * self.after) / (1 - self.follow)

    def advantage(self, index: int, accepted: int) -> float:
        """True p(success) after the accepted token minus after the other one, at position `index`."""
        difference = self.value(index + 1) - self.other(index)
        return difference if accepted == _TOKEN + index else -difference


def plant(base: float, delta: float, rng: random.Random) -> Planted:
    """A jump by `delta`, upwards unless there is no room, at a random token.

    The alternative token must make up for the jump, or the probability before it would not be `base`;
    the solution's token is therefore sampled half the time, or less often where the other has no room.
    """
    up = base + delta < 1
    room, target = (base, base + delta) if up else (1 - base, 1 - base + delta)
    follow = min(0.5, 0.8 * room / target)
    return Planted(base, base + delta if up else base - delta, rng.randrange(LENGTH), follow)


class PlantedServer:
    """A server of planted solutions; sample k of a prompt depends on (seed, k) alone."""

    def __init__(self, worlds: Sequence[Planted]) -> None:
        self._worlds = worlds

    def submit(self, request: Request, deliver: Deliver, *, deltas: bool = True) -> object:
        """Complete a prompt with at most two tokens: the next one, and how it ends."""
        world, prefix, params = self._worlds[request.ids[0] - _PROMPT], request.ids[1:], request.params
        last = params.first_sample + params.n
        draws = np.random.Generator(np.random.Philox(params.seed)).random((last, 2))[params.first_sample :]
        for k, (turn, luck) in enumerate(draws.tolist(), start=params.first_sample):
            ids = self._complete(world, prefix, turn, luck)
            deliver(Completion(0, k, ids, (-0.7,) * len(ids), "stop", _STOP))
        return request

    def abort(self, ticket: object) -> None:
        """Nothing is ever open."""

    @staticmethod
    def _complete(world: Planted, prefix: tuple[int, ...], turn: float, luck: float) -> tuple[int, ...]:
        i = len(prefix)
        if prefix and prefix[-1] >= _OTHER:
            return (_RIGHT if luck < world.other(i - 1) else _WRONG,)
        if i == LENGTH:
            return (_RIGHT if luck < world.value(i) else _WRONG,)
        if turn < world.follow:
            return (_TOKEN + i, _RIGHT if luck < world.value(i + 1) else _WRONG)
        return (_OTHER + i, _RIGHT if luck < world.other(i) else _WRONG)


@dataclass(frozen=True, slots=True)
class Cell:
    """Results of one rule at one planted jump and base rate; rates over nothing are None."""

    rule: str
    base: float
    delta: float
    questions: int
    null_tests: int  # tests of spans whose true difference is within the margin
    false_positives: int
    kept: int  # pairs
    false_pairs: int  # kept pairs whose true advantage is within the margin
    found: int  # solutions whose planted token was called pivotal
    paired: int  # solutions with a kept pair at the planted token
    rollouts: int

    @property
    def false_positive_rate(self) -> float | None:
        """False positives per test of a null span."""
        return self.false_positives / self.null_tests if self.null_tests else None

    @property
    def false_discovery_rate(self) -> float | None:
        """Share of false ones among the kept pairs."""
        return self.false_pairs / self.kept if self.kept else None


def simulate(
    rule: str, test: Rule, confirmation: Rule | None, base: float, delta: float, questions: int, seed: int
) -> Cell:
    """Search `questions` planted solutions with one rule."""
    rng = random.Random(f"{seed}/{base}/{delta}")
    worlds = [plant(base, delta, rng) for _ in range(questions)]
    tokens = tuple(range(_TOKEN, _TOKEN + LENGTH))
    asked = [
        Question(
            id=f"planted-{number}",
            family="planted",
            text="",
            prompt=(_PROMPT + number,),
            solution=Solution(tokens, tuple(-rng.expovariate(1.0) for _ in tokens)),
        )
        for number in range(questions)
    ]
    config = SearchConfig(
        sampling=Sampling(max_tokens=LENGTH + 4, stop_ids=(_STOP,), seed=seed),
        test=test,
        confirmation=confirmation,
        keep=(0.0, 1.0),
        filter_rollouts=1,
        min_seen=1,
    )
    outcome = search(asked, _ended_right, PlantedServer(worlds), config, folder=None, in_flight=64)
    cells = [_judge(rule, base, delta, *pair) for pair in zip(outcome.findings, worlds, strict=True)]
    return _sum(cells)


def run(questions: int, seed: int = 0) -> list[Cell]:
    """All cells: our rule and the fixed one, at every jump and base rate."""
    rules: list[tuple[str, Rule, Rule | None]] = [
        ("sequential", PivotalTest(), PivotalTest(two_sided=False)),
        ("fixed-10", FixedRule(), None),
    ]
    return [
        simulate(name, test, confirmation, base, delta, questions, seed)
        for name, test, confirmation in rules
        for delta in DELTAS
        for base in BASES
    ]


def total(cells: Sequence[Cell], rule: str) -> Cell:
    """All cells of one rule together."""
    return _sum([cell for cell in cells if cell.rule == rule])


def table(cells: Sequence[Cell]) -> str:
    """The results as text."""
    head = (
        f"{'rule':<11}{'jump':>5}{'base':>6}{'null tests':>12}{'false +':>9}{'per test':>10}"
        f"{'pairs':>7}{'false':>7}{'FDR':>8}{'found':>8}{'paired':>8}{'rollouts':>10}{'one test':>10}"
    )
    lines = [head, "-" * len(head)]
    for rule in dict.fromkeys(cell.rule for cell in cells):
        for cell in (cell for cell in cells if cell.rule == rule):
            lines.append(_line(cell, f"{cell.delta:>5}{cell.base:>6}", f"{_exact(cell):>10}"))
        lines.append(_line(total(cells, rule), f"{'all':>11}", ""))
    lines += [
        "",
        "jump, base: planted change of the success probability, and where it starts. false +: spans called",
        "pivotal whose true difference is <= 0.1. false: kept pairs whose true advantage is <= 0.1. found,",
        "paired: share of solutions whose planted token was found, and gave a kept pair. rollouts: per",
        "solution. one test: exact probability that one test of the planted token says pivotal.",
    ]
    return "\n".join(lines)


def _line(cell: Cell, where: str, exact: str) -> str:
    return (
        f"{cell.rule:<11}{where}{cell.null_tests:>12,}{cell.false_positives:>9,}"
        f"{_percent(cell.false_positive_rate, 2):>10}{cell.kept:>7,}{cell.false_pairs:>7,}"
        f"{_percent(cell.false_discovery_rate, 1):>8}{_percent(cell.found / cell.questions, 0):>8}"
        f"{_percent(cell.paired / cell.questions, 0):>8}{cell.rollouts / cell.questions:>10,.0f}{exact}"
    )


def _exact(cell: Cell) -> str:
    world = plant(cell.base, cell.delta, random.Random(0))
    if cell.rule == "sequential":
        return _percent(operation(PivotalTest(), world.after, world.before).pivotal, 1)
    rule, share = FixedRule(), 0.0
    for first in range(rule.samples + 1):
        for second in range(rule.samples + 1):
            if rule.decide(first, second, rule.samples) == "pivotal":
                share += _binomial(first, rule.samples, world.before) * _binomial(
                    second, rule.samples, world.after
                )
    return _percent(share, 1)


def _binomial(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def _percent(share: float | None, digits: int) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f}%"


def _ended_right(question: Question, ids: tuple[int, ...]) -> bool:
    return bool(ids) and ids[-1] == _RIGHT


def _judge(rule: str, base: float, delta: float, finding: Finding, world: Planted) -> Cell:
    margin = PivotalTest().margin + 1e-9  # jumps of exactly the margin belong to the null
    truth = [abs(world.value(test.j) - world.value(test.i)) for test in finding.tests]
    positives = [test.verdict == "pivotal" for test in finding.tests]
    return Cell(
        rule=rule,
        base=base,
        delta=delta,
        questions=1,
        null_tests=sum(gap <= margin for gap in truth),
        false_positives=sum(gap <= margin and yes for gap, yes in zip(truth, positives, strict=True)),
        kept=len(finding.pairs),
        false_pairs=sum(world.advantage(pair.index, pair.accepted) <= margin for pair in finding.pairs),
        found=any(
            (test.i, test.j) == (world.jump, world.jump + 1) and test.verdict == "pivotal"
            for test in finding.tests
        ),
        paired=any(pair.index == world.jump for pair in finding.pairs),
        rollouts=finding.rollouts,
    )


def _sum(cells: Sequence[Cell]) -> Cell:
    first = cells[0]
    return Cell(
        rule=first.rule,
        base=first.base,
        delta=first.delta,
        questions=sum(cell.questions for cell in cells),
        null_tests=sum(cell.null_tests for cell in cells),
        false_positives=sum(cell.false_positives for cell in cells),
        kept=sum(cell.kept for cell in cells),
        false_pairs=sum(cell.false_pairs for cell in cells),
        found=sum(cell.found for cell in cells),
        paired=sum(cell.paired for cell in cells),
        rollouts=sum(cell.rollouts for cell in cells),
    )
