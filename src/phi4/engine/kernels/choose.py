"""Which kernels a machine runs, and the one call that puts them into a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from phi4.engine.kernels import plain
from phi4.engine.kernels.cache import PagedKV
from phi4.model.transformer import Transformer

Head = Callable[
    [Tensor], Tensor
]  # hidden states h[..., D] -> logits [..., V] in float32 (float64 for float64)


class Attention(Protocol):
    """Decode attention over the paged cache; see `plain.attention`."""

    def __call__(
        self, q_NHK: Tensor, cache: PagedKV, table_NB: Tensor, lengths_N: Tensor, scale: float
    ) -> Tensor:
        """o_NHK. table_NB and lengths_N are int32; row n sees positions 0..lengths_N[n]-1."""
        ...


class Store(Protocol):
    """Write keys and values of tokens into the cache; see `plain.store`."""

    def __call__(self, cache: PagedKV, k_TGK: Tensor, v_TGK: Tensor, slots_T: Tensor) -> None:
        """slots_T is int64: block * 32 + offset."""
        ...


@dataclass(frozen=True)
class Kernels:
    """A set of kernels for one device and one dtype of activations."""

    name: str  # "native avx512vnni", "plain"
    note: str  # why the native library is not used; empty when it is
    dtype: torch.dtype  # activations: hand it to the model's forward
    attention: Attention
    store: Store

    def prepare(self, model: Transformer, head_bits: int = 0) -> Head:
        """Replace the layers of `model` in place by the fast ones and return its output matrix as a function.

        Layer by layer, each original is freed before the next, so the peak is the model and one layer.
        `head_bits` 8 or 4 rounds the output matrix at load (tied or not; the embedding keeps its precision).
        """
        if head_bits:
            raise NotImplementedError
        return model.head


def select(device: torch.device, dtype: torch.dtype | None = None) -> Kernels:
    """The fastest kernels this machine has for activations of `dtype` (default: float32 on CPUs, else bfloat16).

    PHI4_KERNELS=plain switches the native library off. A missing compiler is no error: `note` says so.
    """
    chosen = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    return Kernels("plain", "", chosen, plain.attention, plain.store)
