"""The model's layers on fast kernels: what `prepare` puts in place of the reference ones.

Legend: B batch, T time, D hidden, H query heads, G key-value heads, K head channels, M rows, I inputs, O outputs,
V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phi4.engine.kernels import native
from phi4.engine.kernels.cache import PagedAttend
from phi4.engine.kernels.native import Library
from phi4.model.config import Quantization
from phi4.model.linear import QuantizedLinear, pack, round_to_scale
from phi4.model.rope import rotate
from phi4.model.transformer import Attend, Block

_HEAD_GROUP = 32  # inputs that share a scale in a 4-bit output matrix: it decides every token, so the finest
_SHORTLIST = 256  # likeliest tokens whose logits are computed exactly
_STRETCH = 32  # columns of logits that are first looked at together
_HEAD_ROWS = 8192  # rows of the output matrix rounded together


class NativeBlock(nn.Module):
    """One layer: norms inside the matmuls that follow them, silu(gate) * up and the residual inside those before."""

    def __init__(self, library: Library, block: Block) -> None:
        """`block` must be one that `block_fits`."""
        super().__init__()
        attention = block.self_attn
        self.heads, self.groups, self.head_dim = attention.heads, attention.groups, attention.head_dim
        before, between = block.input_layernorm, block.post_attention_layernorm
        qkv, o, gate_up, down = _matrices(block)
        self.library = library
        self.qkv = library.matrix(qkv, before.weight, before.eps)
        self.o = library.matrix(o)
        self.gate_up = library.matrix(gate_up, between.weight, between.eps, gated=True)
        self.down = library.matrix(down)
        self.block = native.describe_block(self.qkv, self.o, self.gate_up, self.down, self.heads)

    def forward(self, x_BTD: Tensor, layer: int, cos_sin: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        batch, time, _ = x_BTD.shape
        if isinstance(attend, PagedAttend) and attend.decoding is not None:
            cache = attend.decoding.layers[layer]
            if cache.described_at and x_BTD.dtype == torch.float32:
                return self.library.decode(self.block, cache, attend.decoding, x_BTD, *cos_sin)
        linear = self.library.linear
        turned = self.heads + self.groups
        qkv = linear(self.qkv, x_BTD).view(batch, time, -1, self.head_dim)
        if qkv.dtype == torch.float32:
            cos_TR, sin_TR = (table.expand(batch, -1, -1).flatten(0, 1) for table in cos_sin)
            self.library.rope(qkv.flatten(0, 1)[:, :turned], cos_TR, sin_TR)
        else:
            qkv[:, :, :turned] = rotate(qkv[:, :, :turned], *cos_sin)
        q_BTHK, k_BTGK, v_BTGK = qkv.split_with_sizes((self.heads, self.groups, self.groups), 2)
        o_BTHK = attend(layer, q_BTHK, k_BTGK, v_BTGK)
        x_BTD = linear(self.o, o_BTHK.reshape(batch, time, -1).to(x_BTD.dtype), x_BTD)
        return linear(self.down, linear(self.gate_up, x_BTD), x_BTD)


def block_fits(block: Block) -> bool:
    """Can this layer be a NativeBlock? All its matrices quantised, and sizes that fill the vectors."""
    matrices = [m for m in _matrices(block) if isinstance(m, QuantizedLinear) and native.fits(m)]
    if len(matrices) < 4:
        return False
    gate_up = matrices[2].weight_packed.shape[0] // 2
    return gate_up % native.TILE == 0


def _matrices(block: Block) -> tuple[QuantizedLinear, QuantizedLinear, QuantizedLinear, QuantizedLinear]:
    attention, mlp = block.self_attn, block.mlp
    return attention.qkv_proj, attention.o_proj, mlp.gate_up_proj, mlp.down_proj  # type: ignore[return-value]


class NativeLinear(nn.Module):
    """A quantised map on its own."""

    def __init__(self, library: Library, linear: QuantizedLinear) -> None:
        super().__init__()
        self.library = library
        self.matrix = library.matrix(linear)

    def forward(self, x: Tensor) -> Tensor:
        return self.library.linear(self.matrix, x)


class ShortlistHead:
    """A coarse output matrix finds the likely tokens, the exact one, a tied embedding, gives their logits.

    A large vocabulary is read once per token in 4 bits instead of 16, and the tokens that matter lose nothing.
    """

    def __init__(self, coarse: Callable[[Tensor], Tensor], weight_VD: Tensor) -> None:
        self.coarse, self.weight_VD = coarse, weight_VD

    def __call__(self, h: Tensor) -> Tensor:
        logits = self.coarse(h)
        flat_MV, h_MD = logits.view(-1, logits.shape[-1]), h.float().view(-1, h.shape[-1])
        index_MS = _likeliest(flat_MV)
        # On a CPU row by row: what one row needs in float32 stays in a core's cache.
        together = 1 if h.device.type == "cpu" else len(h_MD)
        parts = zip(torch.split(index_MS, together), torch.split(h_MD, together), strict=True)
        exact_MS = [
            (F.embedding(index_RS, self.weight_VD).float() @ h_RD[..., None])[..., 0]
            for index_RS, h_RD in parts
        ]
        flat_MV.scatter_(1, index_MS, torch.cat(exact_MS))
        return logits


def _likeliest(logits_MV: Tensor) -> Tensor:
    """The shortlist's ids. Each lies in one of the stretches of columns with the largest maxima: few are searched."""
    rows, columns = logits_MV.shape
    stretches = columns // _STRETCH
    if stretches <= _SHORTLIST or columns % _STRETCH:
        return logits_MV.topk(min(_SHORTLIST, columns)).indices
    split_MCS = logits_MV.view(rows, stretches, _STRETCH)
    stretch_MS = split_MCS.amax(-1).topk(_SHORTLIST).indices
    inside_MS = split_MCS.gather(1, stretch_MS[..., None].expand(-1, -1, _STRETCH)).flatten(1)
    found_MS = inside_MS.topk(_SHORTLIST).indices
    return stretch_MS.gather(1, found_MS // _STRETCH) * _STRETCH + found_MS % _STRETCH


def rounded(weight_OI: Tensor, bits: int) -> QuantizedLinear:
    """A matrix rounded to the nearest of `bits` bits: int4 in groups of 32, int8 per row; scales in float16.

    Few rows at a time, so that the peak is the result and little more.
    """
    outputs, inputs = weight_OI.shape
    quantization = Quantization(bits, _HEAD_GROUP if bits == 4 else 0)
    linear = QuantizedLinear(inputs, 0, quantization)
    scales = quantization.scales(inputs)
    linear.weight_packed = torch.empty((outputs, inputs * bits // 32), dtype=torch.int32)
    linear.weight_scale = torch.empty((outputs, scales), dtype=torch.float16)
    for start in range(0, outputs, _HEAD_ROWS):
        rows_OI = weight_OI[start : start + _HEAD_ROWS].detach().float()
        # The largest magnitude lands between the two ends of the grid, which are -half and half - 1.
        scale_OS = rows_OI.view(len(rows_OI), scales, -1).abs().amax(-1) / ((1 << bits - 1) - 0.5)
        scale_OS = scale_OS.clamp_min(torch.finfo(torch.float16).tiny).half()
        linear.weight_scale[start : start + len(rows_OI)] = scale_OS
        linear.weight_packed[start : start + len(rows_OI)] = pack(
            round_to_scale(rows_OI, scale_OS.float(), bits), bits
        )
    return linear
