"""Documents to rows: tokenised once, packed once, memory-mapped ever after.

A row holds `context + 1` tokens, so that every position of the context has its next token in the row. Whole
documents are placed where they fit best among the rows still open; only documents longer than a row are
cut. `documents` numbers the documents of a row from 1 (0 is padding), which is all that attention masks,
positions and targets need; `learn` marks the tokens the model is to produce.
"""

import bisect
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phi4.errors import DataError
from phi4.run.files import atomic_folder, read_json, write_json

_OPEN_ROWS = 256  # rows that may still take a document; more pack tighter but spread documents wider
_SHARD_TOKENS = 1 << 26

Tokens = tuple[list[int], list[int] | None]  # ids and, unless every token is learned, a mask


@dataclass(frozen=True)
class PackedSet:
    """Rows on disk. Arrays are [rows, context + 1] and memory-mapped."""

    folder: Path
    context: int
    rows: int
    tokens: int  # without padding
    fingerprint: str
    _shards: tuple[tuple[NDArray[Any], ...], ...]
    _starts: tuple[int, ...]

    def row(self, index: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """(ids, documents, learn) of one row."""
        shard = bisect.bisect_right(self._starts, index) - 1
        local = index - self._starts[shard]
        ids, documents, learn = self._shards[shard]
        return ids[local], documents[local], learn[local]


def pack(documents: Iterable[Tokens], folder: Path, context: int, vocab_size: int) -> PackedSet:
    """Pack documents in the given order into `folder` (atomically) and open the result.

    Raises DataError when there is nothing to pack.
    """
    width = context + 1
    kind = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    per_shard = max(1, _SHARD_TOKENS // width)
    digest = hashlib.blake2b(digest_size=8)
    sizes: list[int] = []
    tokens = 0
    with atomic_folder(folder) as temporary:
        shard: list[list[Tokens]] = []
        for row in _rows(documents, width):
            shard.append(row)
            tokens += sum(len(ids) for ids, _ in row)
            if len(shard) == per_shard:
                _write_shard(temporary, len(sizes), shard, width, kind, digest)
                sizes.append(len(shard))
                shard = []
        if shard:
            _write_shard(temporary, len(sizes), shard, width, kind, digest)
            sizes.append(len(shard))
        if not sizes:
            raise DataError("nothing to pack: the mixture holds no document", "lower the filters or add data")
        write_json(
            temporary / "manifest.json",
            {
                "context": context,
                "shards": sizes,
                "rows": sum(sizes),
                "tokens": tokens,
                "fill": tokens / (sum(sizes) * width),
                "fingerprint": digest.hexdigest(),
            },
        )
    return open_packed(folder)


def open_packed(folder: Path) -> PackedSet:
    """Open what `pack` wrote."""
    manifest = read_json(folder / "manifest.json")
    shards = tuple(
        tuple(np.load(folder / f"{name}-{i:04}.npy", mmap_mode="r") for name in ("ids", "documents", "learn"))
        for i in range(len(manifest["shards"]))
    )
    starts = tuple(int(n) for n in np.cumsum([0, *manifest["shards"][:-1]]))
    return PackedSet(
        folder,
        int(manifest["context"]),
        int(manifest["rows"]),
        int(manifest["tokens"]),
        str(manifest["fingerprint"]),
        shards,
        starts,
    )


def _rows(documents: Iterable[Tokens], width: int) -> Iterator[list[Tokens]]:
    """Best fit: each piece goes into the fullest open row that still has room for it."""
    open_rows: list[tuple[int, int, list[Tokens]]] = []  # (room left, number, documents), by room
    number = 0
    for ids, mask in documents:
        for start in range(0, len(ids), width - 1 if len(ids) > width else width):
            piece = (ids[start : start + width], None if mask is None else mask[start : start + width])
            size = len(piece[0])
            if size < 2:
                continue  # one token has nothing to predict
            at = bisect.bisect_left(open_rows, (size,))
            if at < len(open_rows):
                room, found, row = open_rows.pop(at)
            else:
                room, found, row = width, number, []
                number += 1
            row.append(piece)
            if room - size < 2:
                yield row
            else:
                bisect.insort(open_rows, (room - size, found, row))
            if len(open_rows) > _OPEN_ROWS:
                yield open_rows.pop(0)[2]
    for _, _, row in open_rows:
        yield row


def _write_shard(
    folder: Path, shard: int, rows: list[list[Tokens]], width: int, kind: type, digest: Any
) -> None:
    ids: NDArray[Any] = np.zeros((len(rows), width), dtype=kind)
    documents = np.zeros((len(rows), width), dtype=np.uint16)
    learn = np.zeros((len(rows), width), dtype=np.uint8)
    for r, row in enumerate(rows):
        at = 0
        for d, (piece, mask) in enumerate(row, start=1):
            end = at + len(piece)
            ids[r, at:end] = piece
            documents[r, at:end] = d
            learn[r, at:end] = 1 if mask is None else mask
            at = end
    for name, array in (("ids", ids), ("documents", documents), ("learn", learn)):
        digest.update(array.tobytes())
        np.save(folder / f"{name}-{shard:04}.npy", array)
