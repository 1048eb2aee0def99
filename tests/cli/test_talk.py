"""Streaming, fitting, and cleaning of answers."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi4.cli import talk
from phi4.cli.terminal import printable
from phi4.errors import UsageError
from phi4.text.chat import Conversation, Message, render
from tests.cli.fakes import FakeEngine, fake_model


def test_answer_stops_when_asked_and_closes_the_stream() -> None:
    model = fake_model()
    assert isinstance(model.engine, FakeEngine)
    conversation = Conversation((Message("user", "a long question to echo"),))
    _, ids = talk.fit(conversation, model, 100)
    whole = talk.answer(model, ids, talk.Settings())
    assert (whole.text, whole.finish) == ("echo A LONG QUESTION TO ECHO", "stop")
    seen: list[str] = []
    cut = talk.answer(model, ids, talk.Settings(), seen.append, lambda: len(seen) >= 3)
    assert cut.finish == "abort"
    assert whole.text.startswith(cut.text)
    assert 0 < cut.tokens < whole.tokens
    assert "".join(seen) == cut.text
    assert model.engine.closed == 2
    short = talk.answer(model, ids, talk.Settings(max_tokens=4))
    assert (short.tokens, short.finish) == (4, "length")


def test_fit_drops_the_oldest_pairs_and_keeps_the_system_message() -> None:
    model = fake_model(context=120)
    turns = [Message("user" if i % 2 == 0 else "assistant", f"turn number {i}") for i in range(9)]
    whole = Conversation((Message("system", "be kind"), *turns))
    fitted, ids = talk.fit(whole, model, 512)
    assert fitted.messages[0] == whole.messages[0]
    assert fitted.messages[-1] == whole.messages[-1]
    assert fitted.messages[1].role == "user"
    assert fitted.messages[1:] == whole.messages[-len(fitted.messages) + 1 :]
    assert len(ids) + 30 <= 120
    assert ids == render(fitted, model.tokenizer, generation=True).ids
    # as much as possible is kept: one pair more would not fit
    kept = len(fitted.messages) - 1
    longer = Conversation((whole.messages[0], *turns[-(kept + 2) :]))
    assert len(render(longer, model.tokenizer, generation=True).ids) + 30 > 120
    with pytest.raises(UsageError, match="too long for pico"):
        talk.fit(Conversation((Message("user", "word " * 200),)), model, 512)


@given(st.text())
def test_printable_lets_no_control_character_through(text: str) -> None:
    clean = printable(text)
    assert len(clean) == len(text)
    assert not [c for c in clean if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t"]
    assert printable("\x1b]0;title\x07 ok\n") == "\ufffd]0;title\ufffd ok\n"
