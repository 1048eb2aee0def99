"""Signals: what can be measured on a text, measured once.

The quantities of Gopher (Rae et al. 2021, table A1 and section A1.1), C4 (Raffel et al. 2020, section 2.2)
and FineWeb (Penedo et al. 2024, section 3.5), plus a compression ratio; the text is split only once.
Nothing is decided here: thresholds are in `policy`, so they change without measuring again.
"Words" are the words as written (split at white space). Counting word fractions over a tokenizer's pieces,
where every bracket is a word, drops six times as many technical documents.
"""

import re
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

_BULLET = re.compile(r"[-*+•‣▪●○◦]\s|\d+[.)]\s")
_PARAGRAPH = re.compile(r"\n\s*\n")
_STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_TERMINAL = (".", "!", "?", '"', "”", ":", ";", "'", "`", ")")
_DIGITS = b"0123456789"
_CAPITALS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BRACES = b"{}"
SHORT_LINE = 30  # characters, as FineWeb counts


@dataclass(frozen=True, slots=True)
class Signals:
    """Everything measured on one text. Fractions are between 0 and 1; those of an empty text are 0."""

    characters: int
    words: int
    lines: int  # that are not blank
    paragraphs: int
    mean_word_length: float
    mean_line_length: float
    longest_line: int
    unique_word_fraction: float
    alpha_word_fraction: float  # words with at least one letter
    stop_words: int  # occurrences of the eight words of Gopher's list
    hash_word_ratio: float  # "#" per word
    ellipsis_word_ratio: float
    bullet_line_fraction: float
    ellipsis_line_fraction: float
    terminal_line_fraction: float  # lines that end like a sentence
    short_line_fraction: float
    newline_word_ratio: float
    digit_fraction: float
    capital_fraction: float
    brace_fraction: float
    non_ascii_fraction: float
    replaced_fraction: float  # U+FFFD, the mark of a decoding that went wrong
    lorem_ipsum: bool
    duplicate_line_fraction: float
    duplicate_line_characters: float
    duplicate_paragraph_fraction: float
    duplicate_paragraph_characters: float
    top_2_gram: float  # share of the characters of words in the most frequent word 2-gram, if it recurs
    top_3_gram: float
    top_4_gram: float
    duplicate_5_gram: float  # share of the characters of words in repeated, not overlapping word 5-grams
    duplicate_6_gram: float
    duplicate_7_gram: float
    duplicate_8_gram: float
    duplicate_9_gram: float
    duplicate_10_gram: float
    compression_ratio: float  # bytes after zlib over bytes before; repetition is low, noise is high


def measure(text: str) -> Signals:
    """Measure every signal of one text; some 2,000 texts of 360 words a second and core."""
    raw = text.encode("utf-8", "replace")
    words = text.lower().split()
    n_words = max(1, len(words))
    lengths = [len(word) for word in words]
    letters = sum(lengths)
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    n_lines = max(1, len(lines))
    line_lengths = [len(line) for line in lines]
    paragraphs = [part for part in map(str.strip, _PARAGRAPH.split(text)) if part]
    duplicate_lines, duplicate_line_characters = _repeated(lines)
    duplicate_paragraphs, duplicate_paragraph_characters = _repeated(paragraphs)
    top = [_top_ngram(words, letters, n) for n in (2, 3, 4)]
    duplicate = _duplicate_ngrams(words, lengths, letters)
    return Signals(
        characters=len(text),
        words=len(words),
        lines=len(lines),
        paragraphs=len(paragraphs),
        mean_word_length=letters / n_words,
        mean_line_length=sum(line_lengths) / n_lines,
        longest_line=max(line_lengths, default=0),
        unique_word_fraction=len(set(words)) / n_words,
        alpha_word_fraction=sum(1 for word in words if word.isalpha() or any(map(str.isalpha, word)))
        / n_words,
        stop_words=sum(1 for word in words if word in _STOP_WORDS),
        hash_word_ratio=text.count("#") / n_words,
        ellipsis_word_ratio=(text.count("...") + text.count("…")) / n_words,
        bullet_line_fraction=sum(1 for line in lines if _BULLET.match(line)) / n_lines,
        ellipsis_line_fraction=sum(1 for line in lines if line.endswith(("...", "…"))) / n_lines,
        terminal_line_fraction=sum(1 for line in lines if line.endswith(_TERMINAL)) / n_lines,
        short_line_fraction=sum(1 for length in line_lengths if length <= SHORT_LINE) / n_lines,
        newline_word_ratio=text.count("\n") / n_words,
        digit_fraction=_byte_fraction(raw, _DIGITS),
        capital_fraction=_byte_fraction(raw, _CAPITALS),
        brace_fraction=_byte_fraction(raw, _BRACES),
        non_ascii_fraction=(len(text) - len(text.encode("ascii", "ignore"))) / max(1, len(text)),
        replaced_fraction=text.count("\ufffd") / max(1, len(text)),
        lorem_ipsum="lorem ipsum" in text.lower(),
        duplicate_line_fraction=duplicate_lines,
        duplicate_line_characters=duplicate_line_characters,
        duplicate_paragraph_fraction=duplicate_paragraphs,
        duplicate_paragraph_characters=duplicate_paragraph_characters,
        top_2_gram=top[0],
        top_3_gram=top[1],
        top_4_gram=top[2],
        duplicate_5_gram=duplicate[0],
        duplicate_6_gram=duplicate[1],
        duplicate_7_gram=duplicate[2],
        duplicate_8_gram=duplicate[3],
        duplicate_9_gram=duplicate[4],
        duplicate_10_gram=duplicate[5],
        compression_ratio=len(zlib.compress(raw, 1)) / len(raw) if raw else 0.0,
    )


def write_signals(path: Path, signals: Mapping[str, Signals]) -> None:
    """Store signals as columns keyed by content hash, sorted, so that equal data gives equal bytes."""
    from phi4.data.tables import write_table

    keys = sorted(signals)
    rows: dict[str, list[Any]] = {"content_hash": keys}
    for column in fields(Signals):
        rows[column.name] = [getattr(signals[key], column.name) for key in keys]
    write_table(path, _schema(), [rows])


def read_signals(path: Path) -> dict[str, Signals]:
    """Read what `write_signals` wrote."""
    from phi4.data.tables import read_table

    columns = read_table(path, list(_schema().names)).to_pydict()
    keys = columns.pop("content_hash")
    return {key: Signals(*row) for key, row in zip(keys, zip(*columns.values(), strict=True), strict=True)}


def _repeated(parts: list[str]) -> tuple[float, float]:
    """Share of the parts, and of their characters, that repeat an earlier part."""
    if len(set(parts)) == len(parts):
        return 0.0, 0.0
    again = [(count - 1, len(part)) for part, count in Counter(parts).items()]
    characters = sum(map(len, parts))
    return sum(n for n, _ in again) / len(parts), sum(n * length for n, length in again) / characters


def _top_ngram(words: list[str], letters: int, n: int) -> float:
    counts = Counter(zip(*(words[offset:] for offset in range(n)), strict=False))
    if not counts:
        return 0.0
    gram, times = counts.most_common(1)[0]
    return min(1.0, times * sum(map(len, gram)) / letters) if times > 1 else 0.0


def _duplicate_ngrams(words: list[str], lengths: list[int], letters: int) -> list[float]:
    """For n = 5..10. A repeated (n+1)-gram holds a repeated n-gram, so the first 0 is followed by zeros."""
    shares = [0.0] * 6
    for place, n in enumerate(range(5, 11)):
        seen: set[tuple[str, ...]] = set()
        repeated = 0
        at = 0
        while at + n <= len(words):
            gram = tuple(words[at : at + n])
            if gram in seen:
                repeated += sum(lengths[at : at + n])
                at += n
            else:
                seen.add(gram)
                at += 1
        if not repeated:
            break
        shares[place] = repeated / letters
    return shares


def _byte_fraction(raw: bytes, wanted: bytes) -> float:
    return (len(raw) - len(raw.translate(None, wanted))) / max(1, len(raw))


def _schema() -> Any:
    import pyarrow as pa

    types: dict[Any, Any] = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    columns = [pa.field("content_hash", pa.string(), nullable=False)]
    columns += [pa.field(column.name, types[column.type], nullable=False) for column in fields(Signals)]
    return pa.schema(columns)
