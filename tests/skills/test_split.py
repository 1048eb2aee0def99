"""The split is fixed by the key alone, has the stated size and two disjoint sides."""

from itertools import islice

import pytest

from phi4.errors import DataError
from phi4.skills.family import Family, Solution
from phi4.skills.split import distinct_problems, held_out

SUMS = Family(
    name="sums",
    title="sums",
    levels=("one digit", "two digits", "three digits"),
    kind="integer",
    phrasings=2,
    sample=lambda rng, level: tuple(rng.randrange(10**level) for _ in range(2)),
    canonical=lambda params: tuple(sorted(params)),
    ask=lambda params, phrasing, rng: ("What is {}+{}?", "Add {} and {}.")[phrasing].format(*params),
    solve=lambda params, rng: Solution((f"{params[0]}+{params[1]}",), str(sum(params))),
    check=lambda params, answer: int(answer) == sum(params),
)
KEYS = [f"{n:016x}" for n in range(20_000)]


def test_share_is_what_was_asked_for() -> None:
    # binomial standard deviation of 10 % of 20,000 is 42
    assert abs(sum(held_out(key) for key in KEYS) - 2_000) < 5 * 42
    assert not any(held_out(key, 0) for key in KEYS[:100])
    assert all(held_out(key, 100) for key in KEYS[:100])


def test_more_percent_only_adds() -> None:
    assert all(held_out(key, 15) for key in KEYS if held_out(key, 10))


def test_frozen() -> None:
    """Reported scores depend on this choice: it must never move."""
    assert [n for n, key in enumerate(KEYS[:100]) if held_out(key)] == [37, 52, 71, 93]


def test_sides_are_disjoint_and_free_of_repeats() -> None:
    train = [p.problem_key for p in islice(distinct_problems(SUMS, held=False), 500)]
    test = [p.problem_key for p in islice(distinct_problems(SUMS, held=True), 100)]
    assert len(set(train)) == 500
    assert len(set(test)) == 100
    assert not set(train) & set(test)


def test_all_wordings_of_a_problem_are_on_one_side() -> None:
    for index in range(50):
        keys = {SUMS.problem(index, phrasing=phrasing).problem_key for phrasing in range(2)}
        assert len(keys) == 1


def test_an_exhausted_level_ends() -> None:
    # level 1 has 55 unordered pairs of digits
    train = list(distinct_problems(SUMS, held=False, level=1, patience=2_000))
    test = list(distinct_problems(SUMS, held=True, level=1, patience=2_000))
    assert len(train) + len(test) == 55
    with pytest.raises(DataError, match="no held-out problem"):
        list(distinct_problems(SUMS, held=True, level=1, percent=0, patience=100))
