"""Word n-grams as 64-bit numbers, for near duplicates and decontamination.

Words are lower-cased runs of letters and digits; everything else is a gap ("1.8" becomes "1 8"), as in the
strings that the report prints for its decontamination. Hashes are the same on every machine and in every
run, and depend on nothing but the words.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_WORD = re.compile(r"[^\W_]+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_BATCH_WORDS = 1 << 20


def words(text: str) -> list[str]:
    """The words of a text, lower-cased, without punctuation."""
    return _WORD.findall(text.lower())


class WordHashes(dict[str, int]):
    """64-bit hash of a word, remembered: a corpus has few distinct words."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
        value = int.from_bytes(digest, "little")
        self[word] = value
        return value


@dataclass(frozen=True)
class WordBatch:
    """The words of some consecutive texts, end to end."""

    first: int  # number of the first text
    hashes: Hashes  # [W] one per word
    lengths: NDArray[np.int64]  # [N] words per text

    @property
    def starts(self) -> NDArray[np.int64]:
        """[N] where each text begins in `hashes`."""
        return np.cumsum(self.lengths) - self.lengths


def hash_words(texts: Iterable[str], table: WordHashes) -> Iterator[WordBatch]:
    """Hash the words of texts, in order, in batches of about a million words (8 MB)."""
    first, pending, lengths = 0, list[str](), list[int]()
    for text in texts:
        found = words(text)
        pending += found
        lengths.append(len(found))
        if len(pending) >= _BATCH_WORDS:
            yield _batch(first, pending, lengths, table)
            first, pending, lengths = first + len(lengths), [], []
    if lengths:
        yield _batch(first, pending, lengths, table)


def ngrams(batch: WordBatch, n: int) -> tuple[Hashes, NDArray[np.int64]]:
    """All n-grams within one text, in order: hashes [G], and which text of the batch each is in [G]."""
    owners = np.repeat(np.arange(len(batch.lengths)), np.maximum(batch.lengths - n + 1, 0))
    total = len(batch.hashes)
    if not len(owners):
        return np.empty(0, np.uint64), owners
    rolled = np.zeros(total - n + 1, np.uint64)
    for offset in range(n):
        rolled *= _MULTIPLIER
        rolled += batch.hashes[offset : total - n + 1 + offset]
    ends = np.repeat(batch.starts + batch.lengths, batch.lengths)
    inside = np.arange(total - n + 1) + n <= ends[: total - n + 1]
    return mix(rolled[inside]), owners


def mix(values: Hashes) -> Hashes:
    """Spread 64-bit values evenly (the finaliser of splitmix64)."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _batch(first: int, pending: Sequence[str], lengths: Sequence[int], table: WordHashes) -> WordBatch:
    hashes = np.fromiter(map(table.__getitem__, pending), np.uint64, len(pending))
    return WordBatch(first, hashes, np.asarray(lengths, np.int64))
