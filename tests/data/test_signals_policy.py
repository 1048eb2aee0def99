"""Signals against slow counting; policies keep technical prose and Python, and drop what is broken."""

import dataclasses
import inspect
import json
import random
import statistics
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi4.data.policy import CODE, DOCS, TEXTBOOK, Policy
from phi4.data.signals import Signals, measure, read_signals, write_signals
from tests.data.helpers import prose, vocabulary

WORDS = vocabulary(800, random.Random(1))
ANY_TEXT = st.text(st.sampled_from("ab 1.\n#-*…{}é\t?A"), max_size=200) | st.text(max_size=80)


@given(ANY_TEXT)
@settings(max_examples=200, deadline=None)
def test_signals_equal_slow_counting(text: str) -> None:
    found = measure(text)
    words = text.split()
    n_words = max(1, len(words))
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    assert found.words == len(words)
    assert found.mean_word_length == pytest.approx(
        sum(len(word) for word in text.lower().split()) / max(1, len(text.lower().split()))
    )
    assert found.alpha_word_fraction == pytest.approx(
        sum(any(letter.isalpha() for letter in word) for word in words) / n_words
    )
    assert found.digit_fraction * max(1, len(text.encode("utf-8", "replace"))) == pytest.approx(
        sum(letter in "0123456789" for letter in text)
    )
    assert found.non_ascii_fraction * max(1, len(text)) == pytest.approx(sum(ord(c) > 127 for c in text))
    repeated = sum(count - 1 for count in Counter(lines).values())
    assert found.duplicate_line_fraction == pytest.approx(repeated / max(1, len(lines)))
    assert found.hash_word_ratio == pytest.approx(text.count("#") / n_words)
    for name, value in dataclasses.asdict(found).items():
        if name.endswith(("fraction", "_gram", "_characters")):
            assert 0 <= value <= 1, name


def slow_duplicate_share(text: str, n: int) -> float:
    """Gopher's measure, in the plainest way: walk, skip what repeats, count its characters."""
    words = text.lower().split()
    seen: list[list[str]] = []
    repeated, at = 0, 0
    while at + n <= len(words):
        gram = words[at : at + n]
        if gram in seen:
            repeated += len("".join(gram))
            at += n
        else:
            seen.append(gram)
            at += 1
    return repeated / len("".join(words))


@pytest.mark.parametrize("seed", range(8))
def test_ngram_signals_equal_slow_counting(seed: int) -> None:
    rng = random.Random(seed)
    phrases = [prose(rng.randint(4, 9), rng, WORDS[:30]) for _ in range(4)]
    text = " ".join(rng.choice(phrases) if rng.random() < 0.3 else rng.choice(WORDS) for _ in range(120))
    found = measure(text)
    for n in range(5, 11):
        assert getattr(found, f"duplicate_{n}_gram") == pytest.approx(slow_duplicate_share(text, n))
    words = text.lower().split()
    for n in (2, 3, 4):
        counts = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
        most = max(counts.values())
        shares = {len(gram.replace(" ", "")) * most for gram, count in counts.items() if count == most > 1}
        top = getattr(found, f"top_{n}_gram") * len("".join(words))
        assert any(top == pytest.approx(share) for share in shares or {0})


def test_signals_are_stored_whole_and_byte_identical(tmp_path: Path) -> None:
    rng = random.Random(3)
    signals = {f"{i:03}": measure(prose(rng.randint(0, 90), rng, WORDS)) for i in range(50)}
    write_signals(tmp_path / "a", signals)
    write_signals(tmp_path / "b", dict(reversed(signals.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_signals(tmp_path / "a") == signals


ARITHMETIC = """To add 347 and 586, begin on the right. 7+6=13: write 3, carry 1.
Then 4+8=12 and 12+1=13: write 3, carry 1. Then 3+5=8 and 8+1=9: write 9.
So 347+586=933. Check: 933-586=347."""


def test_technical_writing_survives() -> None:
    assert TEXTBOOK.decide(measure(ARITHMETIC)) is None
    for module in (json, statistics, dataclasses, argparse_module(), random):
        assert CODE.decide(measure(inspect.getsource(module)[:4000])) is None, module
    docs = [inspect.getdoc(item) or "" for item in vars(statistics).values() if inspect.isfunction(item)]
    long_enough = [text for text in docs if len(text.split()) >= 8]
    assert len(long_enough) > 15
    assert [text for text in long_enough if DOCS.decide(measure(text))] == []


def argparse_module() -> object:
    import argparse

    return argparse


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "words-low"),
        ("too short", "words-low"),
        ("lorem ipsum dolor sit amet and so on and so on as they say", "lorem-ipsum-high"),
        ("the oven \ufffd\ufffd\ufffd to be or not to be and all that " * 2, "replaced-fraction-high"),
        ("Buy now and save!\n" * 60, "compression-ratio-low"),
        ("x" * 30_000 + " and the of to be that have with", "mean-word-length-high"),
        ("= - + * / < > | & ^ ( ) [ ] { } ; : i j", "mean-word-length-low"),
        ("4711 1234 5678 9012 3456 7890 1234 5678 the of", "alpha-word-fraction-low"),
    ],
)
def test_what_is_broken_is_dropped_with_a_reason(text: str, reason: str) -> None:
    found = DOCS.decide(measure(text))
    assert found is not None
    assert found.reason == reason
    assert "above" in found.detail or "below" in found.detail


def test_every_threshold_decides_on_its_own_signal() -> None:
    """A policy with one impossible limit drops for that reason: no field is misspelt or forgotten."""
    signals = measure(prose(300, random.Random(5), WORDS))
    open_policy = Policy(
        **{
            field.name: (float("-inf") if field.name.startswith("min_") else float("inf"))
            for field in dataclasses.fields(Policy)
            if field.name != "repetition_words"
        }
    )
    assert open_policy.decide(signals) is None
    for field in dataclasses.fields(Policy):
        if field.name == "repetition_words":
            continue
        impossible = float("inf") if field.name.startswith("min_") else float("-inf")
        found = dataclasses.replace(open_policy, **{field.name: impossible}).decide(signals)
        assert found is not None
        assert found.reason.rsplit("-", 1)[0] == field.name[4:].replace("_", "-")


def test_the_limit_itself_is_kept() -> None:
    signals = dataclasses.replace(measure(prose(60, random.Random(6), WORDS)), stop_words=2)
    policy = Policy(min_stop_words=2)
    assert policy.decide(signals) is None
    found = policy.decide(dataclasses.replace(signals, stop_words=1))
    assert found is not None
    assert found.reason == "stop-words-low"


def test_repetition_is_judged_from_some_length_on() -> None:
    short = "one two three four five six. one two three four five six."
    assert DOCS.decide(measure(short)) is None
    found = DOCS.decide(measure(short + " " + prose(20, random.Random(1), WORDS) + (" " + short) * 8))
    assert found is not None


def test_an_empty_text_has_signals() -> None:
    assert measure("") == Signals(*(field.type(0) for field in dataclasses.fields(Signals)))  # type: ignore[operator]
