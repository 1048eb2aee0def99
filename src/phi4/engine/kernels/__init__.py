"""Faster arithmetic for the engine: matmuls on quantised weights and attention over a paged cache.

    kernels = select(device, dtype)                  # native on CPUs with a C++ compiler, else PyTorch's operators
    head = kernels.prepare(model, head_bits=4)       # in place: the model's forward now runs on the fast layers
    cache = PagedKV.empty(blocks, groups, channels, torch.int8, device)          # one per layer
    kernels.store(cache, k_TGK, v_TGK, slots_T)
    o_NHK = kernels.attention(q_NHK, cache, table_NB, lengths_N, scale)

The reference of every path is `phi4.model.linear` and plain attention in float64; the tests hold all to it.
"""

from phi4.engine.kernels.cache import BLOCK, Decoding, PagedAttend, PagedKV
from phi4.engine.kernels.choose import Kernels, select
from phi4.engine.kernels.plain import product_dtype

__all__ = ["BLOCK", "Decoding", "Kernels", "PagedAttend", "PagedKV", "product_dtype", "select"]
