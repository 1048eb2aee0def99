"""Choosing the two tokens of a pair, and refusing those that were only lucky."""

from dataclasses import replace

from phi4.grading.sequential import PivotalTest
from phi4.pivotal.pairs import candidate, confirm
from phi4.pivotal.rollouts import Rollouts, Sample, Solution, Spent, Transcript, fill
from phi4.pivotal.search import Comparison, Pivot

from .fakes import RIGHT, STOP, WRONG, TableServer, ended_right, questions, sampling

PATH = (10, 11)


def rollouts_with(counts: dict[int, tuple[int, int]]) -> Rollouts:
    """Rollouts of the empty prefix: token -> (right, wrong)."""
    rollouts = Rollouts(questions(1)[0], ended_right, sampling(2))
    for token, (right, wrong) in counts.items():
        rollouts.add((), "search", [Sample((token, RIGHT), STOP)] * right)
        rollouts.add((), "search", [Sample((token, WRONG), STOP)] * wrong)
    return rollouts


def pivot(before: int, after: int, n: int = 100) -> Pivot:
    return Pivot(0, Comparison("pivotal", before, after, n))


def test_the_surest_counterpart_is_chosen() -> None:
    counts = {10: (30, 2), 20: (5, 20), 30: (0, 1), 40: (0, 3), 50: (9, 1)}
    solution = Solution(PATH, (-1.0, -1.0))
    rejected = candidate(rollouts_with(counts), solution, pivot(50, 90), min_seen=2)
    assert rejected is not None
    assert (rejected.accepted, rejected.rejected) == (10, 20)  # not 40: three failures prove little
    assert rejected.seen_rejected == (5, 25)
    assert rejected.seen_accepted == (90, 100)
    accepted = candidate(rollouts_with(counts), solution, pivot(50, 10), min_seen=2)
    assert accepted is not None
    assert (accepted.accepted, accepted.rejected) == (50, 10)


def test_no_counterpart_no_pair() -> None:
    solution = Solution(PATH, (-1.0, -1.0))
    assert candidate(rollouts_with({10: (9, 9), 20: (0, 1)}), solution, pivot(50, 90), min_seen=2) is None


def test_lucky_pairs_fail_the_fresh_rollouts() -> None:
    """The search's own numbers look splendid; the truth is a coin."""
    solution, kept = Solution(PATH, (-1.0, -1.0)), 0
    for seed in range(30):
        rollouts = rollouts_with({10: (30, 0), 20: (0, 30)})
        rollouts.sampling = replace(sampling(2), seed=seed)
        # what the search saw behind both tokens was luck too, and must not count again
        rollouts.add((10,), "search", [Sample((11, RIGHT), STOP)] * 256)
        rollouts.add((20,), "search", [Sample((11, WRONG), STOP)] * 256)
        chosen = candidate(rollouts, solution, pivot(50, 100), min_seen=2)
        assert chosen is not None
        coin = TableServer(2, lambda question, path: 0.5)
        attempt = confirm(rollouts, solution, pivot(50, 100), chosen, PivotalTest(two_sided=False))
        with Transcript(None) as transcript:
            try:
                while True:
                    fill([(rollouts, need) for need in next(attempt)], coin, transcript, Spent())
            except StopIteration as end:
                kept += end.value is not None
        assert {need for need, _, _ in coin.calls} == {(100, 10), (100, 20)}
    assert kept == 0


def test_without_confirmation_the_search_numbers_stand() -> None:
    solution = Solution(PATH, (-1.0, -1.0))
    rollouts = rollouts_with({10: (30, 0), 20: (0, 30)})
    chosen = candidate(rollouts, solution, pivot(50, 100), min_seen=2)
    assert chosen is not None
    try:
        next(confirm(rollouts, solution, pivot(50, 100), chosen, None))
        raise AssertionError("nothing needs sampling")
    except StopIteration as end:
        pair = end.value
    assert (pair.p_accepted, pair.p_rejected, pair.n_rejected) == (1.0, 0.0, 30)
