"""The search against planted truths and against testing every token by itself."""

import random
from itertools import product

import pytest

from phi4.grading.sequential import PivotalTest
from phi4.pivotal.rollouts import Need, Rollouts, Solution, Spent, Transcript, fill
from phi4.pivotal.search import Search, Trace, compare, midpoint, pivots, together

from .fakes import RIGHT, STOP, WRONG, TableServer, ended_right, questions, sampling

LENGTH = 9
PATH = tuple(10 + i for i in range(LENGTH))


def drive(rollouts: Rollouts, sampler: TableServer, search: Search):  # type: ignore[no-untyped-def]
    """Serve one search alone, the simplest correct way."""
    with Transcript(None) as transcript:
        try:
            needs = next(search)
            while True:
                fill([(rollouts, need) for need in needs], sampler, transcript, Spent())
                needs = search.send(None)
        except StopIteration as end:
            return end.value


def planted(values: list[float]) -> tuple[Rollouts, TableServer]:
    """Success depends on how far the path is followed: values[i] after exactly i tokens of it.

    Every rollout leaves the path at once (follow 0), so the rate after i tokens is values[i] exactly.
    """

    def value(_: int, path: tuple[int, ...]) -> float:
        along = next((i for i, (x, y) in enumerate(zip(path, PATH, strict=True)) if x != y), LENGTH)
        return values[along]

    sampler = TableServer(LENGTH, value, follow=0.0)
    return Rollouts(questions(1)[0], ended_right, sampling(LENGTH)), sampler


def search_path(values: list[float], logprobs: tuple[float, ...]) -> tuple[list[int], Trace, TableServer]:
    rollouts, sampler = planted(values)
    trace = Trace(PivotalTest())
    found = drive(rollouts, sampler, pivots(rollouts, Solution(PATH, logprobs), trace))
    return [pivot.index for pivot in found], trace, sampler


def test_searches_side_by_side_ask_once_for_what_both_need() -> None:
    def asking(name: str, *rounds: list[Need]) -> Search[str]:
        yield from rounds
        return name

    long = asking("long", [Need((1,), 8), Need((2,), 8)], [Need((1,), 16)])
    short = asking("short", [Need((1,), 16), Need((1,), 16, "confirm")])
    both = together([long, short, asking("idle")])
    assert next(both) == [Need((1,), 16), Need((2,), 8), Need((1,), 16, "confirm")]
    assert next(both) == [Need((1,), 16)]
    with pytest.raises(StopIteration) as end:
        next(both)
    assert end.value.value == ["long", "short", "idle"]


@pytest.mark.parametrize("seed", range(12))
def test_finds_exactly_the_planted_tokens_when_outcomes_are_monotone(seed: int) -> None:
    """Monotone values: the report promises all pivotal tokens and no others, wherever the cuts fall."""
    rng = random.Random(seed)
    steps = sorted(rng.sample(range(LENGTH), rng.randrange(0, 3)))
    values = [sum(0.5 for step in steps if step < i) for i in range(LENGTH + 1)]
    logprobs = tuple(-rng.expovariate(1) for _ in PATH)
    found, _, _ = search_path(values, logprobs)
    brute_force = [i for i in range(LENGTH) if abs(values[i + 1] - values[i]) >= 0.2]
    assert found == brute_force == steps


def test_downward_steps_are_found_too() -> None:
    found, trace, _ = search_path([0.9] * 5 + [0.3] * 5, (-1.0,) * LENGTH)
    assert found == [4]
    assert trace.tests[4, 5].difference < -0.4


def test_a_flat_solution_costs_one_test() -> None:
    found, trace, sampler = search_path([0.5] * 10, (-1.0,) * LENGTH)
    assert found == []
    assert list(trace.tests) == [(0, LENGTH)]
    assert len(sampler.calls) <= 2 * 256


def test_rollouts_are_shared_between_tests() -> None:
    """No (prompt, sample) is ever asked for twice, and no prefix gets more than its budget."""
    _, trace, sampler = search_path([0.1] * 3 + [0.5] * 4 + [0.9] * 3, (-1.0,) * LENGTH)
    assert len(trace.tests) > 6
    assert len(set(sampler.calls)) == len(sampler.calls)
    assert max(k for _, _, k in sampler.calls) < 256


def test_finished_solutions_need_no_rollouts_at_their_end() -> None:
    for last, right in ((RIGHT, True), (WRONG, False)):
        rollouts, sampler = planted([0.5] * 10)
        tokens = (*PATH, last, STOP)
        trace = Trace(PivotalTest())
        found = drive(rollouts, sampler, pivots(rollouts, Solution(tokens, (-1.0,) * len(tokens)), trace))
        assert [pivot.index for pivot in found] == [LENGTH]
        assert found[0].comparison.second == (found[0].comparison.n if right else 0)
        assert all(ids[-1] != STOP for ids, _, _ in sampler.calls)


def test_midpoint_by_brute_force() -> None:
    rng = random.Random(3)
    for n, _ in product(range(2, 12), range(20)):
        logprobs = tuple(-rng.expovariate(1) for _ in range(n))
        solution = Solution(tuple(range(n)), logprobs)
        cut = midpoint(solution, (0, n))
        imbalance = [abs(sum(logprobs[:k]) - sum(logprobs[k:])) for k in range(1, n)]
        assert imbalance[cut - 1] == pytest.approx(min(imbalance))
    certain = Solution(tuple(range(8)), (0.0,) * 8)
    assert midpoint(certain, (0, 8)) == 4
    assert midpoint(certain, (2, 5)) in (3, 4)
    assert midpoint(Solution((1, 2, 3), (-9.0, 0.0, 0.0)), (0, 3)) == 1


def test_compare_looks_at_the_first_rollouts_of_both_sides_only() -> None:
    rollouts, sampler = planted([0.5] * 10)
    with Transcript(None) as transcript:
        fill([(rollouts, Need((), 200))], sampler, transcript, Spent())
    comparison = drive(rollouts, sampler, compare(rollouts, PivotalTest(), (), PATH[:1]))
    assert comparison.first == rollouts.successes((), comparison.n)
    assert comparison.n < 200
