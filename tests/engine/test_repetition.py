"""The loop detector on loops of every length, and on honest text that repeats a lot."""

import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import phi4
from phi4.engine.repetition import LoopDetector
from tests.evals.fakes import tokenizer


def caught(ids: list[int]) -> int | None:
    """After how many tokens the detector speaks up."""
    detector = LoopDetector()
    return next((place for place, id in enumerate(ids, start=1) if detector.feed(id)), None)


def repeats(ids: list[int], length: int) -> int:
    """How often the last block of this length stands at the end of the text, one directly behind the other."""
    count, end = 0, len(ids)
    while end >= length and ids[end - length : end] == ids[len(ids) - length :]:
        count, end = count + 1, end - length
    return count


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 13, 21, 34, 63, 64])
def test_a_loop_is_caught_and_soon(length: int) -> None:
    rng = random.Random(length)
    start = [rng.randrange(1000) for _ in range(rng.randrange(5000))]
    block = [2000 + place for place in range(length)]
    found = caught(start + block * 200)
    assert found is not None
    written = found - len(start)
    assert 48 <= written <= 96 + 5 * length
    assert written % length == 0


def test_longer_blocks_and_changing_ones_are_left_alone() -> None:
    assert caught(list(range(65)) * 50) is None
    assert caught([x for n in range(3000) for x in (7, 8, 9, 1000 + n)]) is None


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=9), st.integers(1, 60)), max_size=6)
)
def test_it_speaks_exactly_when_a_block_was_repeated_often_enough(parts: list[tuple[list[int], int]]) -> None:
    ids = [id for block, times in parts for id in block * times]
    loops = (
        end
        for end in range(1, len(ids) + 1)
        if any(repeats(ids[:end], length) >= -(-96 // length) + 4 for length in range(1, 65))
    )
    assert caught(ids) == next(loops, None)


HONEST = {
    "counting": ", ".join(map(str, range(1, 600))),
    "counting in tens": "\n".join(f"{n} and {n + 10}" for n in range(0, 3000, 10)),
    "the times table": "\n".join(f"{a} x {b} = {a * b}" for a in range(1, 13) for b in range(1, 13)),
    "a table": "| name | age | city |\n|------|-----|------|\n"
    + "".join(f"| user{n} | {20 + n % 50} | city{n % 7} |\n" for n in range(200)),
    "a list": "".join(f"- item {n}: not available\n" for n in range(150)),
    "a wide table": "|" + "---|" * 20 + "\n",
    "an identity matrix": str([[int(i == j) for j in range(12)] for i in range(12)]),
    "a song": "\n".join(f"{n} bottles of beer on the wall, {n} bottles of beer." for n in range(99, 0, -1)),
    "a ruler": "=" * 60 + "\nTitle\n" + "=" * 60,
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_repetition_is_no_loop(name: str) -> None:
    assert caught(tokenizer().encode(HONEST[name])) is None
    assert caught(list(HONEST[name].encode())) is None  # letter by letter too


def test_no_chapter_of_the_textbook_is_a_loop() -> None:
    for path in sorted((Path(phi4.__file__).parent / "data/organic/textbook").glob("*.md")):
        assert caught(tokenizer().encode(path.read_text(encoding="utf-8"))) is None


def test_a_sentence_written_again_and_again_is_a_loop() -> None:
    ids = tokenizer().encode("I am not sure, let me think again. " * 60)
    found = caught(ids)
    assert found is not None
    assert found < len(ids) / 2


def test_a_token_costs_microseconds() -> None:
    detector = LoopDetector()
    start = time.process_time()
    for id in range(20_000):
        detector.feed(id % 1000)
    assert time.process_time() - start < 20_000 * 50e-6
