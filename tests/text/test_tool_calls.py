"""Tool calls in both spellings, whole and in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi4.text.tool_calls import Stream, ToolCall, parse

CALL = '{"name": "f", "arguments": {"x": [1, [2]], "s": "a]b"}}'
WANTED = ToolCall("f", {"x": [1, [2]], "s": "a]b"})


@pytest.mark.parametrize(
    ("text", "rest", "calls"),
    [
        (f"functools[{CALL}]", "", (WANTED,)),
        (f"<|tool_call|>[{CALL}, {CALL}]<|/tool_call|>", "", (WANTED, WANTED)),
        (f"Let me see. functools [{CALL}] done", "Let me see.  done", (WANTED,)),
        (f"[{CALL}]", "", (WANTED,)),
        ('functools[{"name": "f", "parameters": {}}]', "", (ToolCall("f", {}),)),
        ('functools[{"name": "f", "arguments": "{\\"a\\": 1}"}]', "", (ToolCall("f", {"a": 1}),)),
        ("[1, 2, 3]", "[1, 2, 3]", ()),
        (f"the list [{CALL}]", f"the list [{CALL}]", ()),
        ("functools is a module", "functools is a module", ()),
        ('functools[{"name": "f", "argu', 'functools[{"name": "f", "argu', ()),
        ('functools[{"name": 3}]', 'functools[{"name": 3}]', ()),
        (f"functools[{CALL}, 7]", f"functools[{CALL}, 7]", ()),
        ("functools" + "[" * 100_000, "functools" + "[" * 100_000, ()),
        ("", "", ()),
    ],
)
def test_calls_are_found_and_text_is_kept(text: str, rest: str, calls: tuple[ToolCall, ...]) -> None:
    assert parse(text) == (rest, calls)


PIECES = st.sampled_from(
    ["functools", "<|tool_call|>", "<|/tool_call|>", f"[{CALL}]", "[1]", "func", "<|", " ", "x", "["]
)


@given(st.lists(PIECES, max_size=6), st.lists(st.integers(0, 60), max_size=10))
def test_pieces_say_what_the_whole_says(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    stream, said, at = Stream(), "", 0
    for cut in [*sorted(c for c in cuts if c < len(text)), len(text)]:
        said += stream.feed(text[at:cut])
        at = cut
    rest, calls = stream.close()
    whole, wanted = parse(text)
    assert calls == wanted
    assert not (calls and any(f"{mark}[{CALL}" in said for mark in ("functools", "<|tool_call|>")))
    assert (said + rest).split() == whole.split()
