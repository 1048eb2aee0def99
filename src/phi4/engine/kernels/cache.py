"""Keys and values of one layer in blocks of 32 positions, whole or as int8 with one scale per key.

A sequence is a list of block numbers (a row of a block table); position p lies in block table[p // 32] at p % 32.
A slot is the number of a position in the whole cache: block * 32 + offset.

Legend: P blocks, G key-value heads, C positions of a block, K head channels, T tokens, S positions read, B blocks
of a sequence, D decoding rows.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

BLOCK = 32  # positions of a block
LANES = 16  # numbers in the widest vector of native.cpp
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}  # `Type` of native.cpp


class _Described(ctypes.Structure):
    """`Cache` of native.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("k", "v", "k_scale", "v_scale")),
        *((name, ctypes.c_int64) for name in ("groups", "channels")),
        ("type", ctypes.c_int32),
    )


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
        blocks = table_B[: -(-length // BLOCK)]
        k_SGK, v_SGK = (
            _read(values, scales, blocks, dtype).transpose(1, 2).flatten(0, 1)[:length]
            for values, scales in ((self.k_PGCK, self.k_scale_PGC), (self.v_PGCK, self.v_scale_PGC))
        )
        return k_SGK, v_SGK

    @cached_property
    def described_at(self) -> int:
        """Where the native kernels find this cache described (made once, lives as long as the cache).

        0: they cannot read it, because it is float64, not on the CPU, or its heads do not fill their vectors.
        """
        k = self.k_PGCK
        native = k.device.type == "cpu" and k.dtype in TYPES and k.shape[3] % LANES == 0
        return ctypes.addressof(self._described) if native else 0

    @cached_property
    def _described(self) -> _Described:
        k, v, k_scale, v_scale = self.k_PGCK, self.v_PGCK, self.k_scale_PGC, self.v_scale_PGC
        return _Described(
            k=k.data_ptr(),
            v=v.data_ptr(),
            k_scale=None if k_scale is None else k_scale.data_ptr(),
            v_scale=None if v_scale is None else v_scale.data_ptr(),
            groups=k.shape[1],
            channels=k.shape[3],
            type=TYPES[k.dtype],
        )

    def gather_rows(self, table_NB: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(k_NGSK, v_NGSK) of all positions of the blocks of N sequences, in `dtype`."""
        rows, groups = len(table_NB), self.k_PGCK.shape[1]
        # A block of one head lies in one piece: copied in this order, a head's blocks stand one behind the other.
        group_G1 = torch.arange(groups, device=table_NB.device)[:, None]
        pieces = (table_NB[:, None] * groups + group_G1).flatten()
        k_NGSK, v_NGSK = (
            _read(values.flatten(0, 1), None if scales is None else scales.flatten(0, 1), pieces, dtype).view(
                rows, groups, -1, values.shape[3]
            )
            for values, scales in ((self.k_PGCK, self.k_scale_PGC), (self.v_PGCK, self.v_scale_PGC))
        )
        return k_NGSK, v_NGSK


@dataclass(frozen=True)
class Decoding:
    """A step that only decodes: the cache of every layer, and where the rows belong in each of them."""

    layers: Sequence[PagedKV]
    slots_D: Tensor  # int64: block * BLOCK + place in the block
    table_DB: Tensor  # int32: blocks of each row's sequence
    lengths_D: Tensor  # int32: positions each row sees, itself included
    scale: float  # of the scores


class PagedAttend:
    """An `attend` over paged caches that says so when a step only decodes: kernels may then do a layer in one go."""

    decoding: Decoding | None = None


def _read(values: Tensor, scales: Tensor | None, which: Tensor, dtype: torch.dtype) -> Tensor:
    """Entries `which` (int32 or int64) of keys or values, in `dtype`."""
    read = values.index_select(0, which).to(dtype)
    return read if scales is None else read.mul_(scales.index_select(0, which)[..., None])


def quantize_rows(x_TGK: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values and their scale per (token, head): the largest magnitude becomes 127."""
    wide = x_TGK.float()
    largest_TG = wide.abs().amax(-1)
    # A tensor over a tensor: PyTorch computes a number over a tensor by way of the reciprocal, which rounds twice.
    inverse_TG = torch.where(largest_TG > 0, torch.full_like(largest_TG, 127.0) / largest_TG, 0.0)
    return (wide * inverse_TG[..., None]).round().to(torch.int8), largest_TG / 127.0
