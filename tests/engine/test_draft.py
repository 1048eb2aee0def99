"""Prompt lookup against a search through the whole text; the switch against texts that do and do not repeat."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi4.engine.draft import _CANDIDATES, _CONTEXT, _GUESS, PromptLookup, StepCost


def searched(ids: list[int], count: int) -> list[int]:
    """Among the most recent places where the last two tokens were before: after the longest match, the latest."""
    places = [end for end in range(len(ids) - 2, 0, -1) if ids[end - 1 : end + 1] == ids[-2:]]
    best, longest = -1, 0
    for end in places[:_CANDIDATES]:
        length = next(
            n for n in range(_CONTEXT, 0, -1) if n <= end + 1 and ids[end + 1 - n : end + 1] == ids[-n:]
        )
        if length > longest:
            best, longest = end, length
    if best < 0:
        return []
    whole = list(ids)  # a match that reaches the end goes on with itself
    for place in range(best + 1, best + 1 + count):
        whole.append(whole[place])
    return whole[len(ids) :]


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 4), st.integers(0, 60), st.lists(st.integers(0, 3), max_size=8), st.integers(0, 10**6))
def test_proposals_are_those_of_a_whole_search(
    letters: int, prompt: int, steps: list[int], seed: int
) -> None:
    rng = random.Random(seed)
    ids = [rng.randrange(letters) for _ in range(prompt)]
    lookup = PromptLookup(ids)
    for step in steps:
        assert lookup.propose(4) == searched(ids, 4)
        assert lookup.propose(2) == searched(ids, 2)
        assert lookup.propose(0) == []
        new = [rng.randrange(letters) for _ in range(step)]
        ids += new
        lookup.extend(new)


def follow(lookup: PromptLookup, text: list[int], longest: int = 8) -> tuple[int, int, int]:
    """(steps, drafted, right) when the model writes exactly this text."""
    place = steps = drafted = right = 0
    while place < len(text):
        draft = lookup.propose(min(longest, len(text) - place - 1))
        kept = 0
        while kept < len(draft) and draft[kept] == text[place + kept]:
            kept += 1
        steps, drafted, right = steps + 1, drafted + len(draft), right + kept
        lookup.extend(text[place : place + kept + 1])
        lookup.report(len(draft), kept)
        place += kept + 1
    return steps, drafted, right


def test_a_copied_text_takes_few_steps() -> None:
    rng = random.Random(0)
    prompt = [rng.randrange(1000) for _ in range(500)]
    steps, drafted, right = follow(PromptLookup(prompt), prompt[100:400])
    assert steps < 300 / 6
    assert right > 0.95 * drafted


@pytest.mark.parametrize("cost", [0.05, 0.15, 0.5])
def test_drafting_that_loses_stops_and_is_tried_again_rarely(cost: float) -> None:
    """The pairs repeat all the time, and what follows never does: the worst text there is."""
    rng = random.Random(1)
    pairs = [(rng.randrange(1000), rng.randrange(1000)) for _ in range(5)]
    plain = rng.sample(range(10_000, 90_000), 2000)
    text = list(plain)
    for new in range(2000, 4000):
        text += [*rng.choice(pairs), new]
    lookup = PromptLookup(text[:2600], lambda: cost)
    steps, drafted, _ = follow(lookup, text[2600:])
    assert steps + cost * drafted < 1.06 * len(text[2600:])
    late = follow(lookup, [x for new in range(5000, 7000) for x in (*rng.choice(pairs), new)])[1]
    assert 0 < late < 200  # of 6000 tokens: one try in at most 512 of them
    steps, drafted, _ = follow(lookup, plain)
    assert steps + cost * drafted < 0.8 * len(plain)  # and it is noticed when drafting pays again


def test_the_work_per_step_does_not_grow_with_the_text() -> None:
    def seconds(length: int) -> float:
        rng = random.Random(2)
        lookup = PromptLookup([rng.randrange(5) for _ in range(length)])
        lookup.propose(4)
        text = [rng.randrange(5) for _ in range(2000)]
        start = time.process_time()
        for id in text:
            lookup.extend([id])
            lookup.propose(4)
        return time.process_time() - start

    assert min(seconds(100_000) for _ in range(3)) < 5 * min(seconds(5_000) for _ in range(3))


def test_a_prompt_of_a_token_or_none_has_no_drafts() -> None:
    for prompt in ([], [3], [3, 3]):
        assert PromptLookup(prompt).propose(4) == []
    assert PromptLookup([3, 3, 3]).propose(4) == [3, 3, 3, 3]


@pytest.mark.parametrize("sequences", [1, 8])
@pytest.mark.parametrize(("fixed", "each"), [(0.05, 0.001), (0.01, 0.01), (0.002, 0.03)])
def test_the_price_of_a_draft_is_measured(fixed: float, each: float, sequences: int) -> None:
    rng = random.Random(0)
    cost = StepCost()
    for _ in range(50):  # no drafts: nothing is learnt, whatever the time
        cost.observe(sequences, sequences, rng.random())
    assert cost.share() == _GUESS
    for _ in range(400):
        rows = sequences + rng.choice([0, 0, 2, 4, 8])
        cost.observe(sequences, rows, (fixed + each * rows) * rng.uniform(0.95, 1.05))
    # A drafted row costs `each`; a token made without drafts its sequence's part of a step.
    assert cost.share() == pytest.approx(each / ((fixed + each * sequences) / sequences), rel=0.3)


def test_a_measured_price_is_kept_without_drafts() -> None:
    cost = StepCost()
    for rows in (1, 5, 1, 3, 5, 1):
        cost.observe(1, rows, 0.1 + 0.02 * rows)
    share = cost.share()
    assert share == pytest.approx(0.02 / 0.12)
    for _ in range(1000):
        cost.observe(1, 1, 0.5)
    assert cost.share() == pytest.approx(share, rel=0.5)
