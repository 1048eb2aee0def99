"""Keys and values of one layer in blocks of 32 positions, whole or as int8 with one scale per key.

A sequence is a list of block numbers (a row of a block table); position p lies in block table[p // 32] at p % 32.
A slot is the number of a position in the whole cache: block * 32 + offset.

Legend: P blocks, G key-value heads, C positions of a block, K head channels, T tokens, S positions read, B blocks
of a sequence.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 32  # positions of a block


@dataclass(frozen=True)
class PagedKV:
    """The cache of one layer. `k_scale` and `v_scale` exist when keys and values are int8."""

    k_PGCK: Tensor  # float64, float32, bfloat16, float16 or int8
    v_PGCK: Tensor
    k_scale_PGC: Tensor | None = None  # float32: key = int8 * scale
    v_scale_PGC: Tensor | None = None

    @staticmethod
    def empty(blocks: int, groups: int, channels: int, dtype: torch.dtype, device: torch.device) -> "PagedKV":
        """A cache of `blocks` blocks, zeroed (so that what was never written is finite)."""
        shape = (blocks, groups, BLOCK, channels)
        k, v = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        if dtype != torch.int8:
            return PagedKV(k, v)
        k_scale, v_scale = (torch.zeros(shape[:3], device=device) for _ in range(2))
        return PagedKV(k, v, k_scale, v_scale)

    @staticmethod
    def position_bytes(groups: int, channels: int, dtype: torch.dtype) -> int:
        """Bytes of one position of one layer."""
        return 2 * groups * (channels * dtype.itemsize + (4 if dtype == torch.int8 else 0))

    def gather(self, table_B: Tensor, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(k_SGK, v_SGK) of the first `length` positions of one sequence, in `dtype`: what prefill attends to."""
        blocks = table_B[: -(-length // BLOCK)].long()
        k_SGK, v_SGK = (
            _read(values, scales, blocks, dtype).transpose(1, 2).flatten(0, 1)[:length]
            for values, scales in ((self.k_PGCK, self.k_scale_PGC), (self.v_PGCK, self.v_scale_PGC))
        )
        return k_SGK, v_SGK

    def gather_rows(self, table_NB: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(k_NGSK, v_NGSK) of all positions of the blocks of N sequences, in `dtype`."""
        k_NGSK, v_NGSK = (
            _read(values, scales, table_NB.long(), dtype).transpose(1, 2).flatten(2, 3)
            for values, scales in ((self.k_PGCK, self.k_scale_PGC), (self.v_PGCK, self.v_scale_PGC))
        )
        return k_NGSK, v_NGSK


def _read(values_PGCK: Tensor, scales_PGC: Tensor | None, blocks: Tensor, dtype: torch.dtype) -> Tensor:
    read = values_PGCK[blocks].to(dtype)
    return read if scales_PGC is None else read * scales_PGC[blocks][..., None].to(dtype)


def quantize_rows(x_TGK: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values and their scale per (token, head): the largest magnitude becomes 127."""
    wide = x_TGK.float()
    largest_TG = wide.abs().amax(-1)
    inverse_TG = torch.where(largest_TG > 0, 127.0 / largest_TG, torch.zeros_like(largest_TG))
    return (wide * inverse_TG[..., None]).round().to(torch.int8), largest_TG / 127.0
