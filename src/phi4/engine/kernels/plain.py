"""Attention over the paged cache in PyTorch's own operators: every device, every dtype, no compiler.

Legend: as in cache, and N sequences, H query heads, R query heads per key-value head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from phi4.engine.kernels.cache import BLOCK, PagedKV, quantize_rows


def store(cache: PagedKV, k_TGK: Tensor, v_TGK: Tensor, slots_T: Tensor) -> None:
    """Write the keys and values of T tokens to their slots (int64) in the cache's dtype."""
    blocks, offsets = slots_T // BLOCK, slots_T % BLOCK
    for values, scales, x_TGK in (
        (cache.k_PGCK, cache.k_scale_PGC, k_TGK),
        (cache.v_PGCK, cache.v_scale_PGC, v_TGK),
    ):
        if scales is None:
            values[blocks, :, offsets] = x_TGK.to(values.dtype)
        else:
            values[blocks, :, offsets], scales[blocks, :, offsets] = quantize_rows(x_TGK)


def attention(q_NHK: Tensor, cache: PagedKV, table_NB: Tensor, lengths_N: Tensor, scale: float) -> Tensor:
    """One query per sequence over its cached positions 0..length-1; o_NHK in the dtype of q.

    A sequence of length 0 gets zeros.
    """
    rows, heads, channels = q_NHK.shape
    groups = cache.k_PGCK.shape[1]
    if q_NHK.device.type == "cpu":  # elsewhere, to know the longest would be to wait for the device
        table_NB = table_NB[:, : max(1, -(-int(lengths_N.max()) // BLOCK))]
    dtype = product_dtype(cache, q_NHK)
    k_NGSK, v_NGSK = cache.gather_rows(table_NB, dtype)
    seen_NS = torch.arange(k_NGSK.shape[2], device=q_NHK.device) < lengths_N[:, None]
    # The query heads of a group stand side by side as if they were positions: no key is repeated.
    o_NGRK = F.scaled_dot_product_attention(
        q_NHK.to(dtype).view(rows, groups, heads // groups, channels),
        k_NGSK,
        v_NGSK,
        attn_mask=seen_NS[:, None, None],
        scale=scale,
    )
    o_NHK = o_NGRK.reshape(rows, heads, channels).to(q_NHK.dtype)
    return o_NHK.masked_fill((lengths_N == 0)[:, None, None], 0)


def product_dtype(cache: PagedKV, q: Tensor) -> torch.dtype:
    """In what queries meet keys: bf16 where keys are kept in it (nothing is converted, and CPUs that have it multiply
    six times as fast), else the queries' own."""
    return torch.bfloat16 if cache.k_PGCK.dtype == torch.bfloat16 else q.dtype
