"""A thought and its solution, whole and in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi4.text.reasoning import ReasoningStream, split_reasoning


@pytest.mark.parametrize(
    ("text", "thought", "solution"),
    [
        ("plain", "", "plain"),
        ("<think>a</think>b", "a", "b"),
        ("\n<think>\na\n</think>\n\nb\n", "a", "b"),
        ("<think>a</think>b</think> c", "a</think>b", "c"),  # the last mark counts
        ("a</think>b", "a", "b"),  # a template may have opened the thought already
        ("<think>never ended", "never ended", ""),
        ("in the middle <think> it is text", "", "in the middle <think> it is text"),
        ("<think></think>", "", ""),
        ("", "", ""),
        ("<thin", "", "<thin"),
    ],
)
def test_the_last_mark_ends_the_thought(text: str, thought: str, solution: str) -> None:
    assert split_reasoning(text) == (thought, solution)


PIECES = st.sampled_from(["<think>", "</think>", "<", "</", "think", ">", "a", " b", "\n"])


@given(st.lists(PIECES, max_size=8).map("".join), st.lists(st.integers(0, 60), max_size=12))
def test_pieces_say_what_the_whole_says(text: str, cuts: list[int]) -> None:
    """One end mark at most: then the first is the last, and a stream can know what a whole answer says."""
    if text.count("</think>") > 1 or ("</think>" in text and not text.lstrip().startswith("<think>")):
        return
    stream, parts, at = ReasoningStream(), [], 0
    for cut in [*sorted(c for c in cuts if c < len(text)), len(text)]:
        parts.append(stream.feed(text[at:cut]))
        at = cut
    parts.append(stream.close())
    thought, solution = ("".join(side) for side in zip(*parts, strict=True))
    wanted = split_reasoning(text)
    assert (thought.strip(), solution.strip()) == (wanted[0].strip(), wanted[1].strip())


def test_a_stream_holds_back_only_what_may_be_a_mark() -> None:
    stream = ReasoningStream()
    assert stream.feed("<thi") == ("", "")
    assert stream.feed("nk>one ") == ("one ", "")
    assert stream.feed("two</thi") == ("two", "")
    assert stream.feed("s</think>\n") == ("</thi" + "s", "")
    assert stream.feed("\nfour") == ("", "four")
    assert stream.feed(" </think>") == ("", " </think>")
    plain = ReasoningStream()
    assert plain.feed("4") == ("", "4")
