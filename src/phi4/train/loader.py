"""From packed rows to batches, in one global order that a single number resumes.

The order of epoch e is a permutation drawn from (seed, e); step s reads positions s*rows .. (s+1)*rows of the
endless concatenation of epochs. So the loader's whole state is the step, whatever the batch was split into.

Legend: B rows, T context.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from phi4.data.pack import PackedSet
from phi4.train.objectives import IGNORE, Batch


@dataclass(frozen=True)
class RowOrder:
    """The global index: which row stands at each position of the endless order."""

    rows: int
    seed: int

    def at(self, start: int, count: int) -> list[int]:
        """Row numbers at positions start .. start+count."""
        found: list[int] = []
        while count > 0:
            epoch, offset = divmod(start, self.rows)
            order = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
            found += order[offset : offset + count].tolist()
            start, count = start + min(count, self.rows - offset), count - min(count, self.rows - offset)
        return found


def collate(ids: NDArray[np.int64], documents: NDArray[np.int64], learn: NDArray[np.int64]) -> Batch:
    """Arrays [B, T+1] to a batch [B, T]: targets are the next ids of the same document that are to be learned."""
    same = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] > 0) & (learn[:, 1:] > 0)
    targets = np.where(same, ids[:, 1:], IGNORE)
    inside = documents[:, :-1]
    index = np.arange(inside.shape[1])
    begins = np.concatenate((np.ones((len(inside), 1), bool), inside[:, 1:] != inside[:, :-1]), 1)
    positions = index - np.maximum.accumulate(np.where(begins, index, 0), 1)
    return Batch(
        torch.from_numpy(ids[:, :-1].copy()),
        torch.from_numpy(targets),
        torch.from_numpy(inside.copy()),
        torch.from_numpy(positions),
    )


class PackedLoader:
    """Micro-batches of a packed set by step."""

    def __init__(self, data: PackedSet, rows: int, seed: int, micro_rows: int = 0) -> None:
        """`rows` per step, read in micro-batches of `micro_rows` (0: all at once)."""
        self.data = data
        self.rows = rows
        self.micro_rows = micro_rows or rows
        self.order = RowOrder(data.rows, seed)

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one step."""
        found = [self.data.row(i) for i in self.order.at(step * self.rows, self.rows)]
        ids, documents, learn = (np.stack(part).astype(np.int64) for part in zip(*found, strict=True))
        return [
            collate(
                ids[i : i + self.micro_rows],
                documents[i : i + self.micro_rows],
                learn[i : i + self.micro_rows],
            )
            for i in range(0, self.rows, self.micro_rows)
        ]
