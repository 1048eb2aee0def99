"""Contract 6: rendered ids and masks equal the golden files; no control token ever comes from content."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from phi4.errors import DataError
from phi4.text.chat import Conversation, Message, render
from phi4.text.tokenizer import CONTROL_TOKENS, TURN_END, TURN_SEP, TURN_START, Tokenizer

GOLDEN = Path(__file__).parent / "golden"
CASES: list[dict[str, Any]] = json.loads((GOLDEN / "render.json").read_text())


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.load(GOLDEN)


def conversation(messages: list[list[Any]]) -> Conversation:
    return Conversation(tuple(Message(role, content) for role, content in messages))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden(case: dict[str, Any]) -> None:
    rendered = render(conversation(case["messages"]), tokenizer(), generation=case["generation"])
    assert rendered.ids == case["ids"]
    assert rendered.loss_mask == case["mask"]
    tokens = [tokenizer().token_bytes(id).decode("latin-1") for id in rendered.ids]
    assert tokens == case["tokens"]  # what a reader of the golden file sees is what the ids are


@pytest.mark.parametrize(
    "case", [c for c in CASES if "control" not in c["name"]], ids=lambda case: case["name"]
)
def test_the_exported_template_says_the_same_to_transformers(case: dict[str, Any], tmp_path: Path) -> None:
    """transformers renders our folder's own chat template; only contents that spell control tokens differ."""
    tokenizer().save(tmp_path)
    foreign = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": role, "content": content} for role, content in case["messages"]]
    rendered = foreign.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=case["generation"], return_dict=False
    )
    assert list(rendered) == case["ids"]
    assert foreign.eos_token_id == tokenizer().eos_id
    assert foreign.pad_token_id == tokenizer().pad_id
    assert len(foreign) == tokenizer().vocab_size


pieces = st.one_of(
    st.sampled_from([*CONTROL_TOKENS, "<|", "|>", "im_end", "user", "assistant", "\n", " ", "<|im_", "42"]),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
)
contents = st.lists(pieces, max_size=6).map("".join)
conversations = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), contents), max_size=5)


@settings(max_examples=200, deadline=None)
@given(conversations, st.booleans())
def test_no_control_token_comes_from_content(messages: list[tuple[Any, str]], generation: bool) -> None:
    """The whole structure can be read back from the ids, whatever the contents say."""
    tok = tokenizer()
    rendered = render(conversation([list(m) for m in messages]), tok, generation=generation)
    start, sep, end = (tok.special[name] for name in (TURN_START, TURN_SEP, TURN_END))
    assert len(rendered.ids) == len(rendered.loss_mask)
    read: list[tuple[str, str]] = []
    at = 0
    while at < len(rendered.ids):
        assert rendered.ids[at] == start
        separator = rendered.ids.index(sep, at)
        role = tok.decode(rendered.ids[at + 1 : separator])
        if generation and separator == len(rendered.ids) - 1:
            assert role == "assistant"
            assert not any(rendered.loss_mask[at:])
            break
        stop = rendered.ids.index(end, separator)
        body = rendered.ids[separator + 1 : stop]
        assert not set(body) & set(tok.special.values())
        assert rendered.loss_mask[at : stop + 1] == (
            [0] * (separator + 1 - at) + [int(role == "assistant")] * (len(body) + 1)
        )
        read.append((role, tok.decode(body)))
        at = stop + 1
    assert read == messages
    assert (at < len(rendered.ids)) == generation


@settings(max_examples=200, deadline=None)
@given(contents)
def test_encode_is_lossless_and_never_special(text: str) -> None:
    ids = tokenizer().encode(text)
    assert not set(ids) & set(tokenizer().special.values())
    assert b"".join(map(tokenizer().token_bytes, ids)) == text.encode()
    assert tokenizer().decode(ids) == text


@given(st.integers(0, 10**12))
def test_every_digit_is_its_own_token(number: int) -> None:
    ids = tokenizer().encode(str(number))
    assert [tokenizer().decode([id]) for id in ids] == list(str(number))


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(DataError, match="unknown role 'tool'"):
        render(conversation([["tool", "42"]]), tokenizer())


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    tokenizer().save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == tokenizer().fingerprint
    assert again.encode("What is 347+586?") == tokenizer().encode("What is 347+586?")
