"""Small talk: deterministic, varied in the questions, fixed in the replies, held-out wordings kept apart."""

import re
from collections import Counter

import pytest

from phi4.data.synthetic.smalltalk import (
    HELD_OUT_GREETINGS,
    KINDS,
    Kind,
    reply,
    smalltalk,
    wordings,
)

SKILLS = ("addition", "fractions", "sets", "code tracing")
NAME = "pico"
SAMPLE = [smalltalk(index, NAME, SKILLS) for index in range(6_000)]


def folded(text: str) -> str:
    """Letters and digits only: how a reader would call two wordings the same."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def questions() -> list[str]:
    return [m.content for c in SAMPLE for m in c.messages if m.role == "user"]


def test_the_same_index_gives_the_same_conversation() -> None:
    assert [smalltalk(index, NAME, SKILLS) for index in range(300)] == SAMPLE[:300]
    assert len({c.messages for c in SAMPLE[:300]}) > 250


def test_turns_alternate_and_every_reply_fits_its_question() -> None:
    kind_of = {folded(w): kind for kind in KINDS for w in wordings(kind, NAME)}
    for conversation in SAMPLE:
        turns = list(conversation.messages)
        if turns[0].role == "system":
            turns.pop(0)
        assert [m.role for m in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert 2 <= len(turns) <= 6
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            if folded(question.content):
                assert answer.content == reply(kind_of[folded(question.content)], NAME, SKILLS)


def test_no_wording_belongs_to_two_kinds() -> None:
    owners = Counter(folded(w) for kind in KINDS for w in {folded(w) for w in wordings(kind, NAME)})
    assert [w for w, count in owners.items() if count > 1] == []


def test_questions_vary_and_replies_do_not() -> None:
    assert len({folded(q) for q in questions()}) > 600
    assert max(Counter(map(folded, questions())).values()) < 0.02 * len(questions())
    assert len({m.content for c in SAMPLE for m in c.messages if m.role == "assistant"}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_replies_are_short_and_wordings_plain(kind: Kind) -> None:
    pieces = re.findall(r"\w+|[^\w\s]", reply(kind, NAME, SKILLS))
    assert len(pieces) <= 32  # pieces of words; leaves room for a small vocabulary within 40 tokens
    assert len(wordings(kind, NAME)) >= 30
    for wording in wordings(kind, NAME):
        assert wording.isascii()
        assert "{" not in wording
        assert "  " not in wording
        assert wording == wording.strip()


def test_every_kind_occurs_in_a_few_hundred() -> None:
    seen = {m.content for c in SAMPLE[:200] for m in c.messages if m.role == "assistant"}
    assert seen == {reply(kind, NAME, SKILLS) for kind in KINDS}


def test_system_messages_and_several_turns_occur() -> None:
    with_system = sum(c.messages[0].role == "system" for c in SAMPLE) / len(SAMPLE)
    several = sum(sum(m.role == "user" for m in c.messages) > 1 for c in SAMPLE) / len(SAMPLE)
    assert 0.3 < with_system < 0.5
    assert 0.1 < several < 0.2


def test_name_and_skills_are_the_callers() -> None:
    other = [smalltalk(index, "tiny", ("sums",)) for index in range(500)]
    text = " ".join(m.content for c in other for m in c.messages)
    assert "I am tiny" in text
    assert "pico" not in text
    assert "step by step: sums." in text


def test_held_out_wordings_never_occur_in_training() -> None:
    trained = {folded(w) for kind in KINDS for w in wordings(kind, NAME)}
    assert {kind for _, kind in HELD_OUT_GREETINGS} <= set(KINDS)
    assert [w for w, _ in HELD_OUT_GREETINGS if folded(w) in trained] == []
