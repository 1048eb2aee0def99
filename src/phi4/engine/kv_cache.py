"""Keys and values of all sequences in flight, in blocks, and how the queries of one step meet them.

Every step's tokens stand in one flat row: the decoding ones first (a draft adds rows of the same sequence), then chunks
of prompts. Their keys are stored; decoding rows then read their sequence's blocks, chunks attend under a causal mask.

Legend: T tokens of the step, H query heads, G key-value heads, K head channels, D decoding rows, B blocks of the
longest of them, C context of a chunk, P chunks padded side by side.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from phi4.engine.kernels import Decoding, Kernels, PagedAttend, PagedKV, product_dtype
from phi4.model.config import ModelConfig


@dataclass(frozen=True)
class Chunk:
    """Tokens `offset` .. `offset + count` of the step: a piece of a prompt that begins at position `start`."""

    offset: int
    count: int
    start: int
    blocks: Tensor  # of the sequence, up to the end of the chunk, int64


@dataclass(frozen=True)
class Step:
    """Where the tokens of one step belong."""

    slots_T: Tensor  # int64: block * BLOCK + place in the block
    table_DB: Tensor  # int32: blocks of each decoding row
    lengths_D: Tensor  # int32: positions each decoding row sees, itself included
    chunks: tuple[Chunk, ...]


class KVCache:
    """The blocks of every layer, in one dtype."""

    def __init__(
        self, config: ModelConfig, blocks: int, dtype: torch.dtype, device: torch.device, kernels: Kernels
    ) -> None:
        shape = (config.num_key_value_heads, config.head_dim)
        self.scratch = blocks  # one more block, for rows that only fill up a step
        self.layers = [
            PagedKV.empty(blocks + 1, *shape, dtype, device) for _ in range(config.num_hidden_layers)
        ]
        self.kernels = kernels
        self.scale = config.head_dim**-0.5

    def copy(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole blocks (from, to)."""
        if not pairs:
            return
        source, target = torch.tensor(pairs, device=self.layers[0].k_PGCK.device).T
        for layer in self.layers:
            for tensor in (layer.k_PGCK, layer.v_PGCK, layer.k_scale_PGC, layer.v_scale_PGC):
                if tensor is not None:
                    tensor[target] = tensor[source]

    def __call__(self, step: Step) -> "Attention":
        """The `attend` of one step."""
        return Attention(self, step)


class Attention(PagedAttend):
    """How one step's queries meet the cache."""

    def __init__(self, cache: KVCache, step: Step) -> None:
        self.cache, self.step, self.kernels = cache, step, cache.kernels
        if not step.chunks:
            self.decoding = Decoding(cache.layers, step.slots_T, step.table_DB, step.lengths_D, cache.scale)
        whole = [chunk for chunk in step.chunks if chunk.start == 0]
        self._whole = _Padded(whole, step.slots_T.device) if len(whole) > 1 else None
        self._single = [chunk for chunk in step.chunks if chunk.start or self._whole is None]

    def __call__(self, layer: int, q_1THK: Tensor, k_1TGK: Tensor, v_1TGK: Tensor) -> Tensor:
        """o_1THK."""
        q_THK, k_TGK, v_TGK = q_1THK[0], k_1TGK[0], v_1TGK[0]
        cache, step = self.cache.layers[layer], self.step
        self.kernels.store(cache, k_TGK, v_TGK, step.slots_T)
        decoding = len(step.lengths_D)
        if not step.chunks:
            return self._decode(q_THK, cache)[None]
        o_THK = torch.empty_like(q_THK)
        if decoding:
            o_THK[:decoding] = self._decode(q_THK[:decoding], cache)
        dtype = product_dtype(cache, q_THK)
        if self._whole is not None:
            self._whole.attend(q_THK.to(dtype), k_TGK.to(dtype), v_TGK.to(dtype), o_THK)
        for chunk in self._single:
            rows = slice(chunk.offset, chunk.offset + chunk.count)
            if chunk.start:
                k_CGK, v_CGK = cache.gather(chunk.blocks, chunk.start + chunk.count, dtype)
            else:
                k_CGK, v_CGK = k_TGK[rows].to(dtype), v_TGK[rows].to(dtype)
            o_THK[rows] = _attend_chunk(q_THK[rows], k_CGK, v_CGK, chunk.start)
        return o_THK[None]

    def _decode(self, q_DHK: Tensor, cache: PagedKV) -> Tensor:
        return self.kernels.attention(q_DHK, cache, self.step.table_DB, self.step.lengths_D, self.cache.scale)


class _Padded:
    """Whole prompts side by side. The padding comes behind, where causal attention does not look."""

    def __init__(self, chunks: list[Chunk], device: torch.device) -> None:
        longest = max(chunk.count for chunk in chunks)
        index = np.zeros((len(chunks), longest), dtype=np.int64)
        for row, chunk in enumerate(chunks):
            index[row, : chunk.count] = np.arange(chunk.offset, chunk.offset + chunk.count)
        flat = np.concatenate([row * longest + np.arange(chunk.count) for row, chunk in enumerate(chunks)])
        self._index_PC = torch.from_numpy(index).to(device)
        self._back_T = torch.from_numpy(flat).to(device)
        self._rows_T = torch.cat([self._index_PC[row, : chunk.count] for row, chunk in enumerate(chunks)])

    def attend(self, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, o_THK: Tensor) -> None:
        """Fill the rows of these chunks in `o_THK`."""
        q_PHCK, k_PGCK, v_PGCK = (x[self._index_PC].transpose(1, 2) for x in (q_THK, k_TGK, v_TGK))
        repeat = q_PHCK.shape[1] // k_PGCK.shape[1]
        o_PHCK = F.scaled_dot_product_attention(
            q_PHCK, k_PGCK.repeat_interleave(repeat, 1), v_PGCK.repeat_interleave(repeat, 1), is_causal=True
        )
        o_THK[self._rows_T] = o_PHCK.transpose(1, 2).flatten(0, 1)[self._back_T].to(o_THK.dtype)


def _attend_chunk(q_THK: Tensor, k_CGK: Tensor, v_CGK: Tensor, start: int) -> Tensor:
    """A chunk that begins at position `start` under a causal mask; keys reach to its last token."""
    heads = q_THK.shape[1]
    context, groups, _ = k_CGK.shape
    q_1HTK = q_THK.transpose(0, 1)[None].to(k_CGK.dtype)
    k_1HCK, v_1HCK = (x.transpose(0, 1).repeat_interleave(heads // groups, 0)[None] for x in (k_CGK, v_CGK))
    if start == 0:
        o_1HTK = F.scaled_dot_product_attention(q_1HTK, k_1HCK, v_1HCK, is_causal=True)
    else:
        places = torch.arange(context, device=q_THK.device)
        mask_TC = places[None] <= places[start:, None]
        o_1HTK = F.scaled_dot_product_attention(q_1HTK, k_1HCK, v_1HCK, attn_mask=mask_TC)
    return o_1HTK[0].transpose(0, 1).to(q_THK.dtype)
