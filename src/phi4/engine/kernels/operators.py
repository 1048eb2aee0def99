"""PyTorch's own products with quantised weights on CPUs, each a function of rows, and the layer made of them.

None is the fastest for every number of rows, and which one is differs between machines by factors: `measured` finds
out. All hold what they need, so the original can go.

Legend: M rows, I inputs, O outputs, S scales per row.
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phi4.engine.kernels.native import activation_group
from phi4.model.linear import QuantizedLinear, dequantize, unpack

Operator = Callable[[Tensor], Tensor]  # rows [M, I] in any float dtype -> [M, O], float32 or bfloat16
Plan = tuple[tuple[int, str], ...]  # (up to so many rows, the kind that multiplies them), ascending
ANY = sys.maxsize  # rows: no bound

_STRETCH = 4096  # rows of a weight converted together; PyTorch's int4 layout comes in blocks of 64 rows


@dataclass(frozen=True)
class ByRow:
    """A weight as int8 with one scale per row."""

    value_OI: Tensor
    scale_O: Tensor  # float32

    @staticmethod
    def of(linear: QuantizedLinear) -> "ByRow":
        """Exact for int8 per row; for 4 bits the rounding is far finer than that to 4 bits was."""
        if linear.quantization.bits == 8:
            return ByRow(unpack(linear.weight_packed, 8), linear.weight_scale.detach()[:, 0].float())
        words_OW, scale_OS = linear.weight_packed, linear.weight_scale.detach()
        value_OI = torch.empty((len(words_OW), words_OW.shape[1] * 8), dtype=torch.int8)
        scale_O = torch.empty(len(words_OW))
        for rows in _stretches(len(words_OW)):
            weight_OI = dequantize(unpack(words_OW[rows], 4), scale_OS[rows]).float()
            scale_O[rows] = weight_OI.abs().amax(1).clamp_min(1e-30) / 127
            value_OI[rows] = weight_OI.div_(scale_O[rows, None]).round_().to(torch.int8)
        return ByRow(value_OI, scale_O)


def int4pack(linear: QuantizedLinear) -> Operator:
    """4 bits in groups. It computes in bfloat16, its only fast dtype."""
    words_OW = linear.weight_packed
    inputs = words_OW.shape[1] * 8
    group = activation_group(linear.quantization.group_size, inputs)
    scale_SO = linear.weight_scale.detach().expand(-1, inputs // group).to(torch.bfloat16).T
    scale_zero_SO2 = torch.stack((scale_SO, torch.zeros_like(scale_SO)), -1)
    convert = torch.ops.aten._convert_weight_to_int4pack_for_cpu
    packed = torch.cat(
        [convert((unpack(words_OW[rows], 4) + 8).int(), 1) for rows in _stretches(len(words_OW))]
    )
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu

    def product(rows_MI: Tensor) -> Tensor:
        y_MO: Tensor = multiply(rows_MI.to(torch.bfloat16), packed, group, scale_zero_SO2)
        return y_MO

    return product


def int8pack(weight: ByRow) -> Operator:
    """int8 weights with bfloat16 rows."""
    scale_O = weight.scale_O.to(torch.bfloat16)

    def product(rows_MI: Tensor) -> Tensor:
        y_MO: Tensor = torch.ops.aten._weight_int8pack_mm(
            rows_MI.to(torch.bfloat16), weight.value_OI, scale_O
        )
        return y_MO

    return product


def int_mm(weight: ByRow) -> Operator:
    """int8 weights with rows rounded to int8, each with a scale of its own; the sums are exact integers."""

    def product(rows_MI: Tensor) -> Tensor:
        wide_MI = rows_MI.float()
        scale_M1 = wide_MI.abs().amax(1, keepdim=True).clamp_min_(1e-30) / 127
        sums_MO = torch._int_mm((wide_MI / scale_M1).round_().to(torch.int8), weight.value_OI.T)
        return (sums_MO * scale_M1).mul_(weight.scale_O)

    return product


def dynamic(weight: ByRow, engine: str) -> Operator:
    """The same by one of PyTorch's engines for quantised networks, "onednn" or "fbgemm", in a layout of its own.

    It rounds all rows with one scale, taken from the smallest and largest number it sees. So rows come in scaled to a
    largest magnitude of 1, and one more row with -1 and 1: every row is rounded as if it were alone.
    """
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there is no other way yet to hand these weights to the operator
            tensor = torch._make_per_channel_quantized_tensor(
                weight.value_OI,
                weight.scale_O.double(),
                torch.zeros(len(weight.scale_O), dtype=torch.long),
                0,
            )
        packed = torch.ops.quantized.linear_prepack(tensor, None)
    finally:
        torch.backends.quantized.engine = before
    # onednn keeps the tensor beside its own copy, to give it back one day: half of the memory.
    tensor.untyped_storage().resize_(0)
    ends_1I = torch.zeros((1, weight.value_OI.shape[1]))
    ends_1I[0, :2] = torch.tensor([-1.0, 1.0])

    def product(rows_MI: Tensor) -> Tensor:
        wide_MI = rows_MI.float()
        largest_M1 = wide_MI.abs().amax(1, keepdim=True).clamp_min_(1e-30)
        together = torch.cat((wide_MI / largest_M1, ends_1I))
        y_MO: Tensor = torch.ops.quantized.linear_dynamic(together, packed)[:-1]
        return y_MO.mul_(largest_M1)

    return product


@dataclass(frozen=True)
class Kind:
    """An operator to choose: what it is made from, and the bytes it holds per weight."""

    form: str  # kinds of the same form share their memory
    bytes: float
    make: Callable[[QuantizedLinear, ByRow], Operator]


KINDS = {
    "int4pack": Kind("int4", 0.5, lambda linear, _: int4pack(linear)),
    "int8pack": Kind("int8", 1.0, lambda _, by_row: int8pack(by_row)),
    "int_mm": Kind("int8", 1.0, lambda _, by_row: int_mm(by_row)),
    "onednn": Kind("onednn", 1.0, lambda _, by_row: dynamic(by_row, "onednn")),
    "fbgemm": Kind("fbgemm", 1.0, lambda _, by_row: dynamic(by_row, "fbgemm")),
}


def kinds_for(linear: QuantizedLinear) -> list[str]:
    """The kinds that can hold this map; none off the CPU, and for int8 in groups, which rows would round again."""
    outputs, quantization = len(linear.weight_packed), linear.quantization
    inputs = linear.weight_packed.shape[1] * 32 // quantization.bits
    if linear.weight_packed.device.type != "cpu" or (quantization.bits == 8 and quantization.group_size):
        return []
    engines = torch.backends.quantized.supported_engines
    found = [name for name in KINDS if name not in ("onednn", "fbgemm") or name in engines]
    if quantization.bits == 8 or outputs % 16 or not activation_group(quantization.group_size, inputs):
        found.remove("int4pack")
    return found


class PlainLinear(nn.Module):
    """A quantised map on the operators of a plan; all of the plan's kinds must be able to hold it."""

    def __init__(self, linear: QuantizedLinear, plan: Plan) -> None:
        super().__init__()
        by_row = ByRow.of(linear) if any(KINDS[kind].form != "int4" for _, kind in plan) else None
        made: dict[str, Operator] = {}
        for _, kind in plan:
            if kind not in made:
                made[kind] = KINDS[kind].make(linear, by_row)  # type: ignore[arg-type]
        self.plan = plan
        self._steps = [(most, made[kind]) for most, kind in plan]

    def forward(self, x: Tensor) -> Tensor:
        rows_MI = x.flatten(0, -2)
        operator = next(operator for most, operator in self._steps if len(rows_MI) <= most)
        return operator(rows_MI).view(*x.shape[:-1], -1).to(x.dtype)


def _stretches(outputs: int) -> list[slice]:
    """Rows to convert together, so that the peak is the result and little more."""
    return [slice(start, start + _STRETCH) for start in range(0, outputs, _STRETCH)]
