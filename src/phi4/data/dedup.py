"""Duplicates: of texts (exact and near), and of problems.

Texts are near duplicates when the estimated Jaccard similarity of their word 5-gram sets reaches a threshold
(MinHash, 14 bands of 8 rows, as FineWeb uses). Problems are duplicates when they are the same problem, in
whatever words (design decision 2): each problem key and each template has a quota.
Every choice of which one stays goes by record id, so it does not depend on the order of the input.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from phi4.data.ngrams import Hashes, WordBatch, WordHashes, hash_words, mix, ngrams
from phi4.data.record import Record

_CHUNK_SHINGLES = 1 << 15  # shingles times permutations times 8 bytes is the working memory: 30 MB
_ALL_PAIRS = 32  # buckets up to this size compare all pairs; larger ones compare with their first member


@dataclass(frozen=True)
class MinHash:
    """How near duplicates are found: 14 bands of 8 rows meet 92 % of the pairs of similarity 0.8."""

    bands: int = 14
    rows: int = 8
    shingle: int = 5  # words
    threshold: float = 0.7  # of estimated Jaccard similarity; the estimate's standard error is 0.04
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Text number `index` repeats text number `of`, which stays."""

    index: int
    of: int
    similarity: float


@dataclass(frozen=True)
class Quotas:
    """How often a procedural problem or wording may come back."""

    per_problem: int = 4  # records of one problem key: the same problem in other words still teaches
    template_share: float = 0.5  # of a family's records; raised to 1/templates where a family has few


def exact_duplicates(texts: Sequence[str], ids: Sequence[str]) -> list[Duplicate]:
    """Texts that are equal up to case and white space; the one with the smallest id stays."""
    first: dict[bytes, int] = {}
    found = []
    for index in sorted(range(len(texts)), key=ids.__getitem__):
        folded = " ".join(texts[index].lower().split()).encode("utf-8", "replace")
        of = first.setdefault(hashlib.blake2b(folded, digest_size=16).digest(), index)
        if of != index:
            found.append(Duplicate(index, of, 1.0))
    return sorted(found, key=lambda duplicate: duplicate.index)


def near_duplicates(
    texts: Sequence[str], ids: Sequence[str], settings: MinHash | None = None
) -> list[Duplicate]:
    """Texts of one cluster of near duplicates but its member with the smallest id, which stays.

    `similarity` is estimated against the member that stays; in a chain a~b~c it can lie below the threshold.
    """
    settings = settings or MinHash()
    order = sorted(range(len(texts)), key=ids.__getitem__)
    signatures, filled = minhash([texts[index] for index in order], settings)
    pairs = _verified(_candidates(signatures, filled, settings), signatures, settings.threshold)
    cluster = _clusters(len(order), pairs)
    found = [
        Duplicate(order[member], order[keeper], float(np.mean(signatures[member] == signatures[keeper])))
        for member, keeper in enumerate(cluster.tolist())
        if member != keeper
    ]
    return sorted(found, key=lambda duplicate: duplicate.index)


def minhash(texts: Sequence[str], settings: MinHash) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """MinHash signatures [N, bands*rows], and which texts have one: an empty text has no shingles.

    A text with fewer words than a shingle is one shingle of all its words.
    """
    size = settings.bands * settings.rows
    rng = np.random.Generator(np.random.PCG64(settings.seed))
    factors = rng.integers(0, 2**63, size, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = rng.integers(0, 2**63, size, dtype=np.uint64)
    signatures = np.full((len(texts), size), np.iinfo(np.uint32).max, np.uint32)
    filled = np.zeros(len(texts), np.bool_)
    for batch in hash_words(texts, WordHashes()):
        shingles, owners = _shingles(batch, settings.shingle)
        for start, stop in _chunks(owners):
            hashed = shingles[start:stop, None] * factors + offsets  # multiply-shift: the high bits are good
            rows = owners[start:stop]
            heads = np.flatnonzero(np.diff(rows, prepend=-1))
            lowest = (np.minimum.reduceat(hashed, heads, axis=0) >> np.uint64(32)).astype(np.uint32)
            members = batch.first + rows[heads]
            signatures[members] = np.minimum(signatures[members], lowest)
            filled[members] = True
    return signatures, filled


def over_quota(records: Sequence[Record], quotas: Quotas) -> dict[int, tuple[str, str]]:
    """Procedural records beyond their quota: number -> (reason, detail).

    First each problem key keeps its `per_problem` records with the smallest ids, then in each family the
    templates with too large a share are cut. Records without a problem key are not looked at.
    """
    order = sorted(
        (i for i, record in enumerate(records) if record.problem_key is not None),
        key=lambda i: records[i].id,
    )
    found: dict[int, tuple[str, str]] = {}
    keepers: dict[str, list[str]] = defaultdict(list)
    by_skill: dict[str, list[int]] = defaultdict(list)
    for i in order:
        record = records[i]
        keeping = keepers[record.problem_key or ""]
        if len(keeping) < quotas.per_problem:
            keeping.append(record.id)
            by_skill[record.skill].append(i)
        else:
            found[i] = ("duplicate-problem", f"problem {record.problem_key} is already in {keeping[0]}")
    for members in by_skill.values():
        counts = Counter(records[i].template_id or "" for i in members)
        limit = _template_limit(list(counts.values()), quotas.template_share)
        taken: Counter[str] = Counter()
        for i in members:
            template = records[i].template_id or ""
            taken[template] += 1
            if taken[template] > limit:
                found[i] = ("template-share", f"{template} has more than {limit} of {len(members)} records")
    return found


def _template_limit(counts: list[int], share: float) -> int:
    """The largest L such that, with every template cut to L, none has more than `share` of what is left."""
    share = max(share, 1 / len(counts))
    limit = max(counts)
    while (lower := max(1, int(share * sum(min(count, limit) for count in counts) + 1e-9))) < limit:
        limit = lower
    return limit


def _shingles(batch: WordBatch, size: int) -> tuple[Hashes, NDArray[np.int64]]:
    """Shingle hashes and the text each belongs to, ordered by text."""
    hashes, owners = ngrams(batch, size)
    short = np.flatnonzero((batch.lengths > 0) & (batch.lengths < size))
    if not len(short):
        return hashes, owners
    whole = np.zeros(len(short), np.uint64)
    for offset in range(size):
        inside = batch.lengths[short] > offset
        whole[inside] = mix(whole[inside] + batch.hashes[batch.starts[short[inside]] + offset])
    hashes, owners = np.concatenate([hashes, whole]), np.concatenate([owners, short])
    ordered = np.argsort(owners, kind="stable")
    return hashes[ordered], owners[ordered]


def _chunks(owners: NDArray[np.int64]) -> list[tuple[int, int]]:
    edges = [*range(0, len(owners), _CHUNK_SHINGLES), len(owners)]
    return [(start, stop) for start, stop in pairwise(edges) if start < stop]


def _candidates(
    signatures: NDArray[np.uint32], filled: NDArray[np.bool_], settings: MinHash
) -> NDArray[np.int64]:
    """Pairs [P, 2] (smaller first) that agree in at least one whole band; found by sorting, band by band."""
    members = np.flatnonzero(filled)
    pairs = [np.empty((0, 2), np.int64)]
    for band in range(settings.bands):
        columns = signatures[members, band * settings.rows : (band + 1) * settings.rows].astype(np.uint64)
        keys = np.zeros(len(members), np.uint64)
        for row in range(settings.rows):
            keys = mix(keys + columns[:, row])
        ordered = np.argsort(keys, kind="stable")  # stable: within a bucket members stay in id order
        heads = np.flatnonzero(np.diff(keys[ordered]) != 0) + 1
        edges = [0, *heads.tolist(), len(ordered)]
        for start, stop in pairwise(edges):
            if stop - start > 1:
                pairs.append(_bucket_pairs(members[ordered[start:stop]]))
    return np.unique(np.concatenate(pairs), axis=0)


def _bucket_pairs(bucket: NDArray[np.int64]) -> NDArray[np.int64]:
    """All pairs of a small bucket; a large one (boilerplate) is a star, or its pairs would be millions."""
    if len(bucket) <= _ALL_PAIRS:
        left, right = np.triu_indices(len(bucket), 1)
        return np.stack([bucket[left], bucket[right]], axis=1)
    return np.stack([np.full(len(bucket) - 1, bucket[0]), bucket[1:]], axis=1)


def _verified(
    pairs: NDArray[np.int64], signatures: NDArray[np.uint32], threshold: float
) -> NDArray[np.int64]:
    verified: NDArray[np.bool_] = np.ones(len(pairs), np.bool_)
    for start in range(0, len(pairs), 10_000):  # in parts: each pair takes a kilobyte while it is compared
        left, right = pairs[start : start + 10_000].T
        alike = np.mean(signatures[left] == signatures[right], axis=1)
        verified[start : start + 10_000] = alike >= threshold
    return pairs[verified]


def _clusters(size: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Union-find: for each of `size` members the smallest member of its cluster."""
    parent = list(range(size))

    def root(member: int) -> int:
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    for left, right in pairs.tolist():
        low, high = sorted((root(left), root(right)))
        parent[high] = low
    return np.asarray([root(member) for member in range(size)], np.int64)
