"""Pivotal token search: which single tokens of a solution decided whether it ends right?

The algorithm is the Phi-4 report's (section 4.3, figure 4): a segment whose two ends differ in success
probability is cut at the midpoint of its log-probability, down to single tokens. What the report leaves
open, how sure one must be that two success rates differ, is a sequential test (grading/sequential) here.

A search is a generator: it yields the rollouts it needs and is resumed when they are there. So one
caller can serve many questions side by side, and what a question finds cannot depend on which others are
in flight.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol, TypeVar

from phi4.grading.sequential import Verdict
from phi4.pivotal.rollouts import Need, Purpose, Rollouts, Solution

Result = TypeVar("Result")
Search = Generator[list[Need], None, Result]
Span = tuple[int, int]  # tokens i .. j-1 of a solution


class Rule(Protocol):
    """Decides between two success rates; see grading.sequential.PivotalTest."""

    @property
    def max_rollouts(self) -> int: ...

    def next_look(self, n: int) -> int: ...

    def decide(self, first: int, second: int, n: int) -> Verdict: ...


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome of one test: successes of both sides among the n rollouts each that were looked at."""

    verdict: Verdict
    first: int
    second: int
    n: int

    @property
    def difference(self) -> float:
        """Success rate of the second side minus that of the first."""
        return (self.second - self.first) / self.n


@dataclass(frozen=True, slots=True)
class Pivot:
    """A pivotal token: solution.tokens[index] moved the success probability."""

    index: int
    comparison: Comparison  # first: before the token, second: after it


@dataclass(slots=True)
class Trace:
    """By which rule spans are tested, and what came of it; a span is never tested twice."""

    rule: Rule
    tests: dict[Span, Comparison] = field(default_factory=dict)


def compare(
    rollouts: Rollouts,
    test: Rule,
    first: tuple[int, ...],
    second: tuple[int, ...],
    purpose: Purpose = "search",
) -> Search[Comparison]:
    """Test whether two prefixes differ in success probability, sampling until the test has decided.

    Only the first n rollouts of each side are looked at, however many an earlier comparison left there:
    the test's guarantee is about pairs in the order of their sample indices.
    """
    n = test.next_look(0)
    while True:
        yield [Need(first, n, purpose), Need(second, n, purpose)]
        right = rollouts.successes(first, n, purpose), rollouts.successes(second, n, purpose)
        verdict = test.decide(*right, n)
        if verdict != "continue":
            return Comparison(verdict, *right, n)
        n = test.next_look(n)


def together(searches: Sequence[Search[Result]]) -> Search[list[Result]]:
    """Several searches of one question side by side, so that the sampler has more to do at once; results in order."""
    results: dict[int, Result] = {}
    while len(results) < len(searches):
        needs: dict[tuple[Purpose, tuple[int, ...]], Need] = {}  # two searches may ask for the same rollouts
        for number, search in enumerate(searches):
            if number in results:
                continue
            try:
                for need in next(search):
                    key = need.purpose, need.prefix
                    needs[key] = max(need, needs.get(key, need), key=lambda one: one.count)
            except StopIteration as end:
                results[number] = end.value
        if needs:
            yield list(needs.values())
    return [results[number] for number in range(len(searches))]


def pivots(rollouts: Rollouts, solution: Solution, trace: Trace) -> Search[list[Pivot]]:
    """The pivotal tokens of one solution, in order (report, steps 2 to 4)."""
    spans = yield from subdivide(rollouts, solution, trace, (0, len(solution.tokens)))
    single = [(i, j) for i, j in spans if j - i == 1]
    tested = yield from together([_compare_ends(rollouts, solution, trace, span) for span in single])
    return [
        Pivot(i, result) for (i, _), result in zip(single, tested, strict=True) if result.verdict == "pivotal"
    ]


def subdivide(rollouts: Rollouts, solution: Solution, trace: Trace, span: Span) -> Search[list[Span]]:
    """Cut a span until each piece is a single token or does not move the success probability."""
    i, j = span
    if j - i <= 1:
        return [span] if j > i else []
    comparison = yield from _compare_ends(rollouts, solution, trace, span)
    if comparison.verdict != "pivotal":
        return [span]
    middle = midpoint(solution, span)
    halves = ((i, middle), (middle, j))
    left, right = yield from together([subdivide(rollouts, solution, trace, half) for half in halves])
    return left + right


def midpoint(solution: Solution, span: Span) -> int:
    """Where to cut a span of at least two tokens: nearest to half of its total log-probability.

    Uncertain tokens weigh more, so rollouts go where the solution could have gone another way.
    """
    i, j = span
    sums = list(accumulate(-x for x in solution.logprobs[i:j]))
    half = sums[-1] / 2
    return min(range(i + 1, j), key=lambda k: (abs(sums[k - i - 1] - half), abs(2 * k - i - j)))


def _compare_ends(rollouts: Rollouts, solution: Solution, trace: Trace, span: Span) -> Search[Comparison]:
    if span not in trace.tests:
        i, j = span
        trace.tests[span] = yield from compare(rollouts, trace.rule, solution.tokens[:i], solution.tokens[:j])
    return trace.tests[span]
