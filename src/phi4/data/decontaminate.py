"""Decontamination by the report's algorithm (Phi-4 technical report, appendix B, algorithm 1).

1. A 13-gram of words that occurs in an evaluation item, and is not in the allow-list: contaminated.
2. Otherwise, for each item, the distinct 7-grams in common over the smaller number of distinct 7-grams of the
   two; the largest such ratio decides: contaminated, partial (kept, but written down) or clean.
The report does not say its thresholds, nor how it made its allow-list. Here an n-gram is allowed when it
occurs under at least `common_at` distinct problems or documents: boilerplate, not a leaked item. Without it
the plain rule would delete every templated problem. Procedural records are decided by their problem key
(the same problem in any words), and by 13-grams with that allow-list; 7-grams would only find the template.
Evaluation problems of our own families are told apart from foreign items: against procedural records their
key says all, while a 13-gram would still condemn a rare half of a template ("when p is T, q is F, r is T").
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from phi4.data.ngrams import Hashes, WordBatch, WordHashes, hash_words, ngrams, words
from phi4.data.record import Record, plain_text


@dataclass(frozen=True)
class Rules:
    """Lengths are the report's; the three thresholds are ours, as it does not give its own."""

    hit: int = 13  # words; one such n-gram in common is enough
    overlap: int = 7  # words
    partial: float = 0.1  # above this share of 7-grams in common: written down
    contaminated: float = 0.5  # from this share on: dropped
    common_at: int = 20  # distinct problem keys or documents under which an n-gram is boilerplate


Status = Literal["contaminated", "partial", "clean"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found for one record. `ngram` is the first shared 13-gram, `ratio` the 7-gram overlap."""

    status: Status
    rule: str = ""  # "problem-key", "13-gram" or "7-gram"
    item: str = ""
    ratio: float = 0.0
    ngram: str = ""

    @property
    def detail(self) -> str:
        """One line for the ledger."""
        if self.rule == "13-gram":
            return f"shares '{self.ngram}' with {self.item}"
        if self.rule == "7-gram":
            return f"{self.status}: {self.ratio:.2f} of the 7-grams of {self.item}"
        return f"is held-out {self.item}" if self.rule else ""


_CLEAN = Finding("clean")


@dataclass(frozen=True)
class _Table:
    """Distinct (n-gram, item) pairs sorted by n-gram, behind a sieve on the leading bits.

    Most n-grams of a corpus occur in no item; the sieve refuses them with one look-up instead of a search.
    """

    hashes: Hashes  # [E]
    items: NDArray[np.int32]  # [E]
    bits: int
    sieve: NDArray[np.bool_]  # [2**bits]

    @staticmethod
    def build(hashes: Hashes, items: NDArray[np.int32]) -> "_Table":
        order = np.lexsort((items, hashes))
        hashes, items = hashes[order], items[order]
        new = np.ones(len(hashes), np.bool_)
        new[1:] = (hashes[1:] != hashes[:-1]) | (items[1:] != items[:-1])
        bits = min(26, len(hashes).bit_length() + 4)  # at most 64 MB, and one in sixteen taken
        sieve = np.zeros(1 << bits, np.bool_)
        sieve[_leading(hashes, bits)] = True
        return _Table(hashes[new], items[new], bits, sieve)

    def matches(self, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which of `hashes` occur (their numbers [M]), and the first entry of the table for each [M]."""
        maybe = np.flatnonzero(self.sieve[_leading(hashes, self.bits)])
        entries = np.searchsorted(self.hashes, hashes[maybe])
        found = np.searchsorted(self.hashes, hashes[maybe], side="right") > entries
        return maybe[found], entries[found]


@dataclass(frozen=True)
class EvaluationIndex:
    """The evaluation items as n-grams, and the keys of the held-out problems."""

    rules: Rules
    names: tuple[str, ...]  # items first, then problems
    n_items: int
    unmatchable: int  # items with fewer words than the shorter n-gram: text cannot be compared with them
    held_out_keys: frozenset[str]
    hits: _Table = field(repr=False)
    overlaps: _Table = field(repr=False)
    overlap_sizes: NDArray[np.int64] = field(repr=False)  # [items] distinct 7-grams

    @staticmethod
    def build(
        items: Iterable[tuple[str, str]],
        held_out_keys: Iterable[str] = (),
        rules: Rules | None = None,
        *,
        problems: Iterable[tuple[str, str]] = (),
    ) -> "EvaluationIndex":
        """Index items given as (item id, text); 30,000 items take a few seconds and some 100 MB.

        `items` are compared with every record, `problems` (evaluation problems of our own families, whose
        keys are among `held_out_keys`) only with written text.
        """
        rules = rules or Rules()
        foreign = list(items)
        listed = [*foreign, *problems]
        table = WordHashes()
        short: list[tuple[Hashes, NDArray[np.int32]]] = []
        long: list[tuple[Hashes, NDArray[np.int32]]] = []
        unmatchable = 0
        for batch in hash_words((text for _, text in listed), table):
            unmatchable += int(np.sum(batch.lengths < rules.overlap))
            for n, parts in ((rules.overlap, short), (rules.hit, long)):
                hashes, owners = ngrams(batch, n)
                parts.append((hashes, (batch.first + owners).astype(np.int32)))
        overlaps = _joined(short)
        return EvaluationIndex(
            rules=rules,
            names=tuple(name for name, _ in listed),
            n_items=len(foreign),
            unmatchable=unmatchable,
            held_out_keys=frozenset(held_out_keys),
            hits=_joined(long),
            overlaps=overlaps,
            overlap_sizes=np.bincount(overlaps.items, minlength=len(listed)),
        )


def find_contamination(records: Sequence[Record], index: EvaluationIndex) -> list[Finding]:
    """One finding for each record, in order. What is common is counted over exactly these records."""
    rules = index.rules
    groups = _groups(records)
    hit_texts, hit_entries, hit_places = [], [], []
    findings = [_CLEAN] * len(records)
    for batch in hash_words(map(plain_text, records), WordHashes()):
        hashes, owners = ngrams(batch, rules.hit)
        numbers, entries = index.hits.matches(hashes)
        hit_texts.append(batch.first + owners[numbers])
        hit_entries.append(entries)
        hit_places.append(numbers - np.searchsorted(owners, owners[numbers]))  # n-gram number in its text
        for number, finding in _overlaps(batch, index, groups).items():
            findings[number] = finding
    texts = np.concatenate([np.empty(0, np.int64), *hit_texts])
    entries = np.concatenate([np.empty(0, np.int64), *hit_entries])
    places = np.concatenate([np.empty(0, np.int64), *hit_places])
    # The first entry of an n-gram is its smallest item: a problem only if no foreign item has it.
    comparable = (groups[texts] < 0) | (index.hits.items[entries] < index.n_items)
    telling = comparable & ~_common(entries, groups[texts], rules.common_at)
    flagged, first = np.unique(texts[telling], return_index=True)  # hits are in text order: first is leftmost
    for number, entry, place in zip(
        flagged.tolist(), entries[telling][first].tolist(), places[telling][first].tolist(), strict=True
    ):
        ngram = " ".join(words(plain_text(records[number]))[place : place + rules.hit])
        item = index.names[index.hits.items[entry]]
        findings[number] = Finding("contaminated", "13-gram", item, findings[number].ratio, ngram)
    for number, record in enumerate(records):
        if record.problem_key is not None and record.problem_key in index.held_out_keys:
            findings[number] = Finding("contaminated", "problem-key", f"problem {record.problem_key}")
    return findings


def _groups(records: Sequence[Record]) -> NDArray[np.int64]:
    """What counts as one source of an n-gram: a problem key (numbers from 0), or a document (below 0)."""
    keys: dict[str, int] = {}
    return np.asarray(
        [
            -1 - number if record.problem_key is None else keys.setdefault(record.problem_key, len(keys))
            for number, record in enumerate(records)
        ],
        np.int64,
    )


def _common(entries: NDArray[np.int64], groups: NDArray[np.int64], common_at: int) -> NDArray[np.bool_]:
    """For each hit: does its n-gram occur under at least `common_at` distinct groups?"""
    if not len(entries):
        return np.zeros(0, np.bool_)
    order = np.lexsort((groups, entries))
    sorted_entries, sorted_groups = entries[order], groups[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (sorted_entries[1:] != sorted_entries[:-1]) | (sorted_groups[1:] != sorted_groups[:-1])
    distinct = np.bincount(sorted_entries[new])
    return distinct[entries] >= common_at


def _overlaps(batch: WordBatch, index: EvaluationIndex, groups: NDArray[np.int64]) -> dict[int, Finding]:
    """The 7-gram findings of the documents (not the problems) in a batch, by record number."""
    rules, table = index.rules, index.overlaps
    hashes, owners = ngrams(batch, rules.overlap)
    numbers, _ = table.matches(hashes)
    found: dict[int, Finding] = {}
    for owner in np.unique(owners[numbers]).tolist():
        if groups[batch.first + owner] >= 0:
            continue
        low, high = np.searchsorted(owners, [owner, owner + 1])
        distinct = np.unique(hashes[low:high])
        firsts = np.searchsorted(table.hashes, distinct, side="left")
        lasts = np.searchsorted(table.hashes, distinct, side="right")
        present = np.flatnonzero(lasts > firsts)
        items = np.concatenate([table.items[firsts[i] : lasts[i]] for i in present])
        candidates, shared = np.unique(items, return_counts=True)
        ratios = shared / np.minimum(len(distinct), index.overlap_sizes[candidates])
        best = int(np.argmax(ratios))
        ratio = float(ratios[best])
        if ratio > rules.partial:
            status: Status = "contaminated" if ratio >= rules.contaminated else "partial"
            found[batch.first + owner] = Finding(status, "7-gram", index.names[candidates[best]], ratio)
    return found


def _joined(parts: list[tuple[Hashes, NDArray[np.int32]]]) -> _Table:
    hashes = np.concatenate([np.empty(0, np.uint64), *(hashes for hashes, _ in parts)])
    items = np.concatenate([np.empty(0, np.int32), *(items for _, items in parts)])
    return _Table.build(hashes, items)


def _leading(hashes: Hashes, bits: int) -> NDArray[np.int64]:
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)
