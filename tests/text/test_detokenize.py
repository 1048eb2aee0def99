"""Streamed text against the decoding of the whole, cut at the first stop string."""

import codecs
import itertools
import json
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from phi4.text.detokenize import TextStream
from phi4.text.tokenizer import Tokenizer
from phi4.weights.gguf_tokenizer import _sentence_piece
from tests.evals.fakes import tokenizer

LETTERS = "ab\n é😀�"


class Chunks(Tokenizer):
    """Ids stand for whatever bytes a test wants."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks

    def token_bytes(self, id: int) -> bytes:
        return self.chunks[id]


def expected(whole: bytes, stop: tuple[str, ...]) -> tuple[str, bool]:
    """Letter by letter, the plain way."""
    text = whole.decode("utf-8", errors="replace")
    for end in range(len(text) + 1):
        met = [s for s in stop if text[:end].endswith(s)]
        if met:
            return text[: end - max(map(len, met))], True
    return text, False


def streamed(chunks: list[bytes], stop: tuple[str, ...]) -> tuple[str, TextStream, list[str]]:
    stream = TextStream(Chunks(chunks), stop)
    parts = []
    for id in range(len(chunks)):
        parts.append(stream.feed(id))
        if stream.stopped:
            break
    parts.append(stream.finish())
    return "".join(parts), stream, parts


def split(whole: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    return [whole[a:b] for a, b in itertools.pairwise(places)]


TEXTS = st.lists(
    st.one_of(
        st.text(LETTERS, max_size=4).map(str.encode), st.binary(max_size=3), st.just("😀".encode()[:3])
    ),
    max_size=12,
).map(b"".join)
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3).map(tuple)


@settings(max_examples=800, deadline=None)
@given(TEXTS, STOPS, st.lists(st.integers(0, 1000), max_size=20))
@example(b"\xed\xa0", (), [])
@example(b"\xed\xa0\x80", (), [1, 2])
def test_any_split_gives_the_whole_up_to_the_first_stop(
    whole: bytes, stop: tuple[str, ...], cuts: list[int]
) -> None:
    chunks = split(whole, cuts)
    text, stream, parts = streamed(chunks, stop)
    assert (text, stream.stopped) == expected(whole, stop)
    # Nothing that is certain is held back: only what may still become a stop string or a character is.
    shown, read = "", b""
    for chunk, part in zip(chunks, parts, strict=False):
        read += chunk
        shown += part
        if stream.stopped and shown == text:
            break
        held = _certain(read)[len(shown) :]
        assert not held or any(s.startswith(held) for s in stop)


def _certain(read: bytes) -> str:
    """All characters of these bytes that no further byte can change."""
    endings = [b"", *(first + b"\x80" * n for first in (b"\x80", b"\x90", b"\xa0") for n in range(3))]
    texts = [(read + ending + b"a").decode("utf-8", errors="replace") for ending in endings]
    length = 0
    while all(len(t) > length and t[length] == texts[0][length] for t in texts):
        length += 1
    return texts[0][: min(length, len(texts[0]) - 1)]


def starts(whole: bytes) -> list[int]:
    """The first byte of each character; broken bytes are as many characters as the codec's error handler is asked."""
    found: list[int] = []

    def broken(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        spans.append((error.start, error.end))
        return "\N{REPLACEMENT CHARACTER}", error.end

    spans: list[tuple[int, int]] = []
    codecs.register_error("phi4-test-spans", broken)
    whole.decode("utf-8", errors="phi4-test-spans")
    good, place = dict(spans), 0
    while place < len(whole):
        found.append(place)
        size = next(n for lead, n in ((0xF0, 4), (0xE0, 3), (0xC0, 2), (0, 1)) if whole[place] >= lead)
        place = good.get(place, place + size)
    return found


@settings(max_examples=800, deadline=None)
@given(TEXTS, STOPS, st.lists(st.integers(0, 1000), max_size=20))
@example(b"\xed\xa0", ("\N{REPLACEMENT CHARACTER}" * 2,), [])
@example(b"a\xed\xa0b", ("\N{REPLACEMENT CHARACTER}b",), [3])
def test_tokens_before_the_stop_are_those_that_end_before_its_first_byte(
    whole: bytes, stop: tuple[str, ...], cuts: list[int]
) -> None:
    chunks = split(whole, cuts)
    found, stream, _ = streamed(chunks, stop)
    ends = [len(b"".join(chunks[: i + 1])) for i in range(len(chunks))]
    if stream.stopped:
        assert stream.tokens_before_stop == sum(end <= starts(whole)[len(found)] for end in ends)


def test_a_stop_string_across_tokens_never_leaks() -> None:
    stream = TextStream(Chunks([b"The end", b".\n", b"\nUs", b"er", b": no"]), ("\n\nUser:",))
    assert [stream.feed(id) for id in range(5)] == ["The end", ".", "", "", ""]
    assert stream.stopped
    assert stream.finish() == stream.feed(0) == ""
    assert stream.tokens_before_stop == 1
    false_alarm = TextStream(Chunks([b"The end.\n", b"\nUs", b"ed"]), ("\n\nUser:",))
    assert [false_alarm.feed(id) for id in range(3)] == ["The end.", "", "\n\nUsed"]
    unfinished = TextStream(Chunks([b"a\n\nUse"]), ("\n\nUser:",))
    assert [unfinished.feed(0), unfinished.finish()] == ["a", "\n\nUse"]
    assert not unfinished.stopped


def test_characters_are_never_split() -> None:
    smile = "😀".encode()
    stream = TextStream(Chunks([b"a" + smile[:1], smile[1:3], smile[3:] + b"b", smile[:2]]), ())
    assert [stream.feed(id) for id in range(4)] == ["a", "", "😀b", ""]
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"


def test_the_earliest_of_several_stops_wins() -> None:
    for chunks in ([b"xabcy"], [b"x", b"a", b"b", b"c", b"y"], [b"xa", b"bcy"]):
        assert streamed(chunks, ("abc", "b"))[0] == "xa"
        assert streamed(chunks, ("c", "bc", "y"))[0] == "xa"


@cache
def sentence_piece() -> Tokenizer:
    """A vocabulary of the kind whose decoder strips the first space."""
    pieces = ["<unk>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "b", "▁a", "ab", "▁ab", "é"]
    types = [2, 3, *[6] * 256, *[1] * 7]

    scores = [0.0] * 258 + [-float(i) for i in range(7)]
    file: Any = SimpleNamespace(path="x", metadata={"tokenizer.ggml.scores": scores})
    model, around = _sentence_piece(file, pieces, types)
    added = [{
        "id": 1, "content": "</s>", "special": True, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False,
    }]  # fmt: skip
    spec = {"version": "1.0", "added_tokens": added, **around, "post_processor": None, "model": model}
    return Tokenizer.from_parts(json.dumps(spec), bos_id=None, eos_id=1, pad_id=None, stop_ids=(1,))


@pytest.mark.parametrize("vocabulary", [tokenizer, sentence_piece])
def test_streams_of_real_vocabularies_equal_decode(vocabulary: Callable[[], Tokenizer]) -> None:
    tok = vocabulary()

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.integers(0, tok.vocab_size + 5), max_size=40))
    def check(ids: list[int]) -> None:
        stream = TextStream(tok)
        assert "".join(map(stream.feed, ids)) + stream.finish() == tok.decode(ids)

    check()
    for text in ("ab a ab", " ab", "éab"):
        stream = TextStream(tok)
        ids = tok.encode(text)
        assert "".join(map(stream.feed, ids)) + stream.finish() == tok.decode(ids)
