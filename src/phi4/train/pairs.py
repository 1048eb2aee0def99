"""Preference pairs as batches: prefix plus accepted, prefix plus rejected, side by side.

Legend: P pairs, B = 2P rows, T longest row.
"""

from collections.abc import Sequence

import torch

from phi4.data.record import TokenPair
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer
from phi4.train.loader import RowOrder
from phi4.train.objectives import IGNORE, Batch, PairBatch, row_logprobs


def pair_rows(pairs: Sequence[TokenPair]) -> Batch:
    """Rows 2i and 2i+1 hold pair i; only its accepted or rejected tokens are targets."""
    rows = [(pair.prefix, part) for pair in pairs for part in (pair.accepted, pair.rejected)]
    width = max(len(prefix) + len(part) for prefix, part in rows) - 1
    ids, targets, documents = (torch.zeros((len(rows), width), dtype=torch.long) for _ in range(3))
    targets.fill_(IGNORE)
    for row, (prefix, part) in enumerate(rows):
        whole = torch.tensor((*prefix, *part))
        ids[row, : len(whole) - 1] = whole[:-1]
        targets[row, len(prefix) - 1 : len(whole) - 1] = whole[len(prefix) :]
        documents[row, : len(whole) - 1] = 1
    return Batch(ids, targets, documents, torch.arange(width)[None].expand(len(rows), width))


@torch.no_grad()
def reference_margins(
    model: Transformer, pairs: Sequence[TokenPair], rope: Rope, dtype: torch.dtype, at_once: int = 32
) -> torch.Tensor:
    """log p(accepted) - log p(rejected) of each pair under the model before training, [P]."""
    margins = []
    for start in range(0, len(pairs), at_once):
        logprobs_B = row_logprobs(model, pair_rows(pairs[start : start + at_once]), rope, dtype)
        margins.append(logprobs_B[0::2] - logprobs_B[1::2])
    return torch.cat(margins)


class PairLoader:
    """Batches of pairs by step, in one global order like the packed loader's."""

    def __init__(
        self, pairs: Sequence[TokenPair], reference_P: torch.Tensor, per_step: int, seed: int
    ) -> None:
        self.pairs = pairs
        self.reference_P = reference_P
        self.per_step = min(per_step, len(pairs))
        self.order = RowOrder(len(pairs), seed)

    def __call__(self, step: int) -> list[PairBatch]:
        """The one batch of a step."""
        numbers = self.order.at(step * self.per_step, self.per_step)
        rows = pair_rows([self.pairs[i] for i in numbers])
        return [PairBatch(rows, self.reference_P[numbers])]
