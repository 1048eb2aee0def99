"""Which kernels a machine runs, and the one call that puts them into a model."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn

from phi4.engine.kernels import build, measured, native, plain
from phi4.engine.kernels.cache import PagedKV
from phi4.engine.kernels.layers import (
    NativeBlock,
    NativeLinear,
    ShortlistHead,
    block_fits,
    rounded,
)
from phi4.engine.kernels.native import Library
from phi4.engine.kernels.operators import PlainLinear, kinds_for
from phi4.engine.memory import available_bytes
from phi4.errors import ModelError
from phi4.model.cost import matmul_parameters
from phi4.model.linear import QuantizedLinear
from phi4.model.transformer import Block, Transformer

Head = Callable[[Tensor], Tensor]  # hidden states h[..., D] -> logits [..., V], at least float32

_LARGE = 100_000_000  # weights from which a model is worth some seconds of measuring, once
_SWITCH = "PHI4_KERNELS"  # "plain" switches the native kernels off


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
    note: str  # why the native kernels are not used; empty when they are
    dtype: torch.dtype  # activations: hand it to the model's forward
    attention: Attention
    store: Store
    library: Library | None = None
    block: Callable[[Block], nn.Module] | None = None  # what a whole layer becomes on a GPU

    @torch.no_grad()
    def prepare(self, model: Transformer, head_bits: int = 0) -> Head:
        """Replace the layers of `model` in place by the fast ones and return its output matrix as a function.

        Layer by layer, each original is freed before the next, so the peak is the model and one layer.
        `head_bits` 8 or 4 rounds the output matrix at load (tied or not; the embedding keeps its precision, an
        output matrix of its own is freed; one of 4 bits that is tied only finds the likely tokens, whose logits are
        then exact). On PyTorch's CPU operators 4 means 8, which they read as fast. The logits are float32, or
        float64 for float64.
        Raises ModelError for other head_bits.
        """
        if head_bits not in (0, 4, 8):
            raise ModelError(
                f"an output matrix of {head_bits} bits is not supported", "choose 0 (as it is), 4 or 8"
            )
        if self.dtype == torch.float64:  # exactness is asked for: the reference layers stay
            return self._head(model)
        chosen = _Choice.of(model, self.library)
        for number, block in enumerate(model.layers):
            assert isinstance(block, Block)
            model.layers[number] = self._block(block, chosen)
        return self._rounded_head(model, head_bits, chosen) if head_bits else self._head(model)

    def _block(self, block: Block, chosen: "_Choice") -> nn.Module:
        if chosen.library and block_fits(block):
            return NativeBlock(chosen.library, block)
        if self.block is not None:
            return self.block(block)
        for part in (block.self_attn, block.mlp):
            for name, child in part.named_children():
                if isinstance(child, QuantizedLinear):
                    setattr(part, name, chosen.faster(child))
        return block

    def _head(self, model: Transformer) -> Head:
        def head(h: Tensor) -> Tensor:
            weight_VD = model.head_weight
            logits = h.to(weight_VD.dtype) @ weight_VD.T if h.dtype == torch.float32 else model.head(h)
            return logits if logits.dtype == torch.float64 else logits.float()

        return head

    def _rounded_head(self, model: Transformer, bits: int, chosen: "_Choice") -> Head:
        weight_VD = model.head_weight
        if weight_VD.shape[1] % 32:
            raise ModelError(f"an output matrix of {weight_VD.shape[1]} columns cannot be rounded")
        if chosen.library is None and weight_VD.device.type == "cpu":
            bits = 8
        small = rounded(weight_VD, bits)
        if not model.config.tie_word_embeddings:
            del model.lm_head
        layer = chosen.faster(small)

        def fast(h: Tensor) -> Tensor:
            logits: Tensor = layer(h.float())
            return logits

        return ShortlistHead(fast, weight_VD) if bits == 4 and model.config.tie_word_embeddings else fast


@dataclass(frozen=True)
class _Choice:
    """How one model's quantised maps are multiplied: natively, or by PyTorch's operators, and which of them."""

    library: Library | None
    times: measured.Times | None  # None: too small a model to measure for, or not on the CPU
    spare: float  # bytes per weight that its maps may hold

    @staticmethod
    def of(model: Transformer, library: Library | None) -> "_Choice":
        """A large model is worth measuring for, once on each machine. Half of the free memory may be used."""
        device, weights = model.embed_tokens.weight.device, matmul_parameters(model.config)
        spare = available_bytes(device) / 2 / weights
        quantization = model.config.quantization
        if device.type != "cpu" or quantization is None or weights < _LARGE:
            return _Choice(library, None, spare)
        times = measured.times(library)
        kinds = kinds_for(QuantizedLinear(1024, 1024, quantization))
        return _Choice(library if library and times.native_wins(kinds, spare) else None, times, spare)

    def faster(self, linear: QuantizedLinear) -> nn.Module:
        """The map on what was chosen, or itself where that does not reach."""
        if self.library and native.fits(linear):
            return NativeLinear(self.library, linear)
        kinds = kinds_for(linear)
        kinds = kinds if self.times is None else self.times.timed(kinds)
        if not kinds:
            return linear
        if self.times is not None:
            return PlainLinear(linear, self.times.plan(kinds, self.spare))
        return PlainLinear(linear, measured.default_plan(kinds, linear.quantization.bits, self.spare))


def select(device: torch.device, dtype: torch.dtype | None = None) -> Kernels:
    """The fastest kernels this machine has for activations of `dtype` (default: float32 on CPUs, else bfloat16).

    PHI4_KERNELS=plain switches the native kernels off. A missing compiler is no error: `note` says so.
    """
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    library, note = None, ""
    if device.type == "cuda" and dtype == torch.bfloat16 and os.environ.get(_SWITCH) != "plain":
        try:
            from phi4.engine.kernels import gpu  # needs Triton, which comes with PyTorch's CUDA builds
        except ImportError:
            note = "Triton is not installed"
        else:
            return Kernels("triton", "", dtype, gpu.attention, gpu.store, block=gpu.GpuBlock)
    if device.type != "cpu" or dtype == torch.float64:
        note = f"{dtype} on {device.type} is computed by PyTorch".replace("torch.", "")
    elif os.environ.get(_SWITCH) == "plain":
        note = f"switched off by {_SWITCH}"
    else:
        library, note = _library()
    if library is None:
        return Kernels("plain", note, dtype, plain.attention, plain.store)
    return Kernels(f"native {library.name}", "", dtype, library.attention, library.store, library)


@lru_cache(maxsize=1)
def _library() -> tuple[Library | None, str]:
    try:
        return Library(build.library()), ""
    except build.BuildError as error:
        return None, error.message
