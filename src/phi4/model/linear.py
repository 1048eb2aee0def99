"""Linear maps: plain, and quantised to int8 or int4 with the slow, obvious reference path.

A quantised weight keeps the layout of compressed-tensors' "pack-quantized" format, so files are read as they are:
unsigned nibbles or bytes (value + half the range), the first in the lowest bits of an int32, along the input;
a weight is value * scale, with one scale per row or per group of inputs.

Legend: O outputs, I inputs, S scales per row (1, or I / group_size), W int32 words per row.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phi4.model.config import Quantization


class Linear(nn.Linear):
    """A bias-free linear map whose weight is cast to the activations' dtype.

    Weights stay float32 where they are trained; the compute dtype is whatever flows in.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class QuantizedLinear(nn.Module):
    """The same map from a quantised weight: dequantised in the dtype of the scales, then multiplied."""

    weight_packed: Tensor  # [O, W] int32
    weight_scale: Tensor  # [O, S]

    def __init__(self, n_in: int, n_out: int, quantization: Quantization) -> None:
        super().__init__()
        self.quantization = quantization
        words = n_in * quantization.bits // 32
        self.register_buffer("weight_packed", torch.zeros((n_out, words), dtype=torch.int32))
        self.register_buffer("weight_scale", torch.ones((n_out, quantization.scales(n_in))))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantized().to(x.dtype))

    def dequantized(self) -> Tensor:
        """The weight [O, I] in the dtype of the scales."""
        return dequantize(unpack(self.weight_packed, self.quantization.bits), self.weight_scale)


def linear(n_in: int, n_out: int, quantization: Quantization | None) -> Linear | QuantizedLinear:
    """A plain or quantised linear map."""
    return QuantizedLinear(n_in, n_out, quantization) if quantization else Linear(n_in, n_out)


def pack(value_OI: Tensor, bits: int) -> Tensor:
    """Signed values, as int8, to words_OW."""
    unsigned = (value_OI.to(torch.int16) + (1 << bits - 1)).to(torch.uint8)
    if bits == 4:
        unsigned = unsigned[:, 0::2] | unsigned[:, 1::2] << 4
    return unsigned.contiguous().view(torch.int32)


def unpack(words_OW: Tensor, bits: int) -> Tensor:
    """words_OW to signed values_OI in int8."""
    unsigned = words_OW.contiguous().view(torch.uint8)
    if bits == 4:
        unsigned = torch.stack((unsigned & 15, unsigned >> 4), -1).flatten(1)
    return (unsigned.to(torch.int16) - (1 << bits - 1)).to(torch.int8)


def round_to_scale(weight_OI: Tensor, scale_OS: Tensor, bits: int) -> Tensor:
    """The nearest representable values, int8 [O, I]."""
    half = 1 << bits - 1
    grouped = _groups(weight_OI, scale_OS) / scale_OS[..., None].to(weight_OI.dtype)
    return grouped.round().clamp(-half, half - 1).flatten(1).to(torch.int8)


def dequantize(value_OI: Tensor, scale_OS: Tensor) -> Tensor:
    """value * scale, in the dtype of the scales."""
    return (_groups(value_OI, scale_OS).to(scale_OS.dtype) * scale_OS[..., None]).flatten(1)


def _groups(matrix_OI: Tensor, scale_OS: Tensor) -> Tensor:
    """[O, S, I/S]: the inputs that share a scale, together."""
    return matrix_OI.view(*scale_OS.shape, -1)
