"""The kernels in PyTorch's own operators: every device, every dtype, no compiler.

Legend: as in cache, and N sequences, H query heads, R query heads per key-value head, M rows, I inputs, O outputs.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phi4.engine.kernels.cache import BLOCK, PagedKV, quantize_rows
from phi4.model.linear import QuantizedLinear, unpack

_GROUPS = (128, 64, 32)  # inputs that share a scale in PyTorch's int4 operator, where the weights do not say
_FEW = 32  # rows up to which PyTorch's int8 operator beats a dense product


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
    wide = torch.float64 if q_NHK.dtype == torch.float64 else torch.float32
    k_NGSK, v_NGSK = cache.gather_rows(table_NB, wide)
    seen_NS = torch.arange(k_NGSK.shape[2], device=q_NHK.device) < lengths_N[:, None]
    # The query heads of a group stand side by side as if they were positions: no key is repeated.
    o_NGRK = F.scaled_dot_product_attention(
        q_NHK.to(wide).view(rows, groups, heads // groups, channels),
        k_NGSK,
        v_NGSK,
        attn_mask=seen_NS[:, None, None],
        scale=scale,
    )
    o_NHK = o_NGRK.reshape(rows, heads, channels).to(q_NHK.dtype)
    return o_NHK.masked_fill((lengths_N == 0)[:, None, None], 0)


class PlainInt4(nn.Module):
    """An int4 map through PyTorch's CPU operator. It computes in bfloat16, its only fast dtype."""

    def __init__(self, linear: QuantizedLinear, copy: bool) -> None:
        """`copy`: keep int8 weights too, for more than one row, where they are several times faster."""
        super().__init__()
        self.many = _by_row(linear) if copy else None
        value_OI = unpack(linear.weight_packed, 4)
        inputs = value_OI.shape[1]
        self.group = linear.quantization.group_size or _group(inputs)
        scale_SO = linear.weight_scale.detach().expand(-1, inputs // self.group).to(torch.bfloat16).T
        self.register_buffer("scale_zero_SO2", torch.stack((scale_SO, torch.zeros_like(scale_SO)), -1))
        pack_int4 = torch.ops.aten._convert_weight_to_int4pack_for_cpu
        self.register_buffer("packed", pack_int4((value_OI + 8).int(), 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.many is not None and x.numel() > x.shape[-1]:
            return self.many(x.flatten(0, -2)).view(*x.shape[:-1], -1).to(x.dtype)
        rows_MI = x.flatten(0, -2).to(torch.bfloat16)
        multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
        y_MO: Tensor = multiply(rows_MI, self.packed, self.group, self.scale_zero_SO2)
        return y_MO.view(*x.shape[:-1], -1).to(x.dtype)


class ManyRows:
    """A product of int8 weights with activations rounded to int8, row by row: for batches and prompts.

    PyTorch's operator rounds all rows with one scale, taken from the smallest and largest number it sees. So rows come
    in scaled to a largest magnitude of 1, and one more row with -1 and 1: every row is rounded as if it were alone.
    """

    def __init__(self, value_OI: Tensor, scale_O: Tensor) -> None:
        """One scale per row."""
        torch.backends.quantized.engine = "onednn"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there is no other way yet to hand these weights to the operator
            weight = torch._make_per_channel_quantized_tensor(
                value_OI, scale_O.double(), torch.zeros(len(scale_O), dtype=torch.long), 0
            )
        self._packed = torch.ops.quantized.linear_prepack(weight, None)
        self._ends_1I = torch.zeros((1, value_OI.shape[1]))
        self._ends_1I[0, :2] = torch.tensor([-1.0, 1.0])

    def __call__(self, rows_MI: Tensor) -> Tensor:
        wide_MI = rows_MI.float()
        largest_M1 = wide_MI.abs().amax(1, keepdim=True).clamp_min(1e-30)
        together = torch.cat((wide_MI / largest_M1, self._ends_1I))
        y_MO: Tensor = torch.ops.quantized.linear_dynamic(together, self._packed)[:-1]
        return y_MO * largest_M1


def _by_row(linear: QuantizedLinear) -> ManyRows:
    """Any quantised map with int8 values and one scale per row; the rounding is far finer than that to 4 bits."""
    weight_OI = linear.dequantized().float()
    scale_O = weight_OI.abs().amax(1).clamp_min(1e-30) / 127
    return ManyRows((weight_OI / scale_O[:, None]).round().to(torch.int8), scale_O)


class PlainInt8(nn.Module):
    """An int8 map with one scale per row, in bfloat16: by PyTorch's operator for few rows, dequantised for many."""

    value_OI: Tensor
    scale_O: Tensor

    def __init__(self, linear: QuantizedLinear, copy: bool) -> None:
        super().__init__()
        self.many = _by_row(linear) if copy else None
        self.register_buffer("value_OI", unpack(linear.weight_packed, 8))
        self.register_buffer("scale_O", linear.weight_scale.detach()[:, 0].to(torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        rows_MI = x.flatten(0, -2).to(torch.bfloat16)
        if self.many is not None and len(rows_MI) > 1:
            y_MO = self.many(x.flatten(0, -2))
        elif len(rows_MI) <= _FEW:
            y_MO = torch.ops.aten._weight_int8pack_mm(rows_MI, self.value_OI, self.scale_O)
        else:
            y_MO = F.linear(rows_MI, self.value_OI.to(torch.bfloat16)) * self.scale_O
        return y_MO.view(*x.shape[:-1], -1).to(x.dtype)


def faster(linear: QuantizedLinear, copy: bool) -> nn.Module:
    """The map on PyTorch's operators for quantised weights, or `linear` itself where they do not reach.

    `copy`: memory allows int8 weights beside the others, for batches and prompts.
    """
    outputs, quantization = len(linear.weight_packed), linear.quantization
    inputs = linear.weight_packed.shape[1] * 32 // quantization.bits
    if linear.weight_packed.device.type != "cpu":
        return linear
    if quantization.bits == 8:
        return linear if quantization.group_size else PlainInt8(linear, copy)
    return (
        PlainInt4(linear, copy)
        if outputs % 16 == 0 and (quantization.group_size or _group(inputs))
        else linear
    )


def _group(inputs: int) -> int:
    return next((group for group in _GROUPS if inputs % group == 0), 0)
