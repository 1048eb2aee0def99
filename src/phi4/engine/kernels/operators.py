"""PyTorch's own products with quantised weights on CPUs, each a function of rows, and the layer made of them.

None is the fastest for every number of rows, and which one is differs between machines by factors: `measured` finds
out. All hold what they need, so the original can go.

Legend: M rows, I inputs, O outputs, S scales per row.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from phi4.engine.kernels.native import activation_group
from phi4.model.linear import QuantizedLinear, dequantize, unpack

Operator = Callable[[Tensor], Tensor]  # rows [M, I] in any float dtype -> [M, O], float32 or bfloat16
Plan = tuple[tuple[int, str], ...]  # (up to so many rows, the kind that multiplies them), ascending
ANY = sys.maxsize  # rows: no bound
FEW = 16  # up to so many rows reading the weights decides, beyond arithmetic

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


def onednn(weight: ByRow) -> Operator:
    """int8 weights in oneDNN's own layout with rows rounded to 8 bits between their extremes; sums are exact integers.

    What rounding leaves of few rows is rounded again, 254 times as fine, and multiplied beside them: reading the
    weights decides what few rows cost, so 16 bits cost what 8 do. Many rows would take twice as long.
    """
    packed = torch.ops.onednn.qlinear_prepack(weight.value_OI, None)
    scale_O, zero_O = weight.scale_O, torch.zeros(len(weight.scale_O), dtype=torch.int32)
    sum_O = weight.value_OI.sum(1, dtype=torch.int32) * scale_O

    def product(rows_MI: Tensor) -> Tensor:
        wide_MI = rows_MI.float()
        count, inputs = wide_MI.shape
        low_M1, high_M1 = (end.view(count, 1) for end in wide_MI.aminmax(dim=1))
        step_M1 = (high_M1.clamp_min_(0) - low_M1.clamp_max_(0)).clamp_min_(1e-30).div_(255)
        zero_M1 = (low_M1 / -step_M1).round_()
        scaled_MI = wide_MI / step_M1
        coarse_MI = scaled_MI.round()
        if count > FEW:
            y_MO = _integer_product(
                coarse_MI.add_(zero_M1).clamp_(0, 255).to(torch.uint8), packed, scale_O, zero_O
            )
        else:
            byte_MI = torch.empty((2 * count, inputs), dtype=torch.uint8)
            byte_MI[count:] = scaled_MI.sub_(coarse_MI).mul_(254).add_(128).round_()
            byte_MI[:count] = coarse_MI.add_(zero_M1).clamp_(0, 255)
            both_MO = _integer_product(byte_MI, packed, scale_O, zero_O)
            y_MO = both_MO[:count].add_(both_MO[count:], alpha=1 / 254)
            zero_M1 += 128 / 254
        return y_MO.addr_(zero_M1[:, 0], sum_O, alpha=-1).mul_(step_M1)

    return product


def _integer_product(value_MI: Tensor, packed: Tensor, scale_O: Tensor, zero_O: Tensor) -> Tensor:
    """uint8 rows times a prepacked int8 matrix, times the scale of each of its rows; float32."""
    y_MO: Tensor = torch.ops.onednn.qlinear_pointwise(
        value_MI, 1.0, 0, packed, scale_O, zero_O, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return y_MO


@lru_cache(maxsize=1)
def _adds_exactly() -> bool:
    """Does oneDNN add up int8 products exactly here? Without VNNI it saturates at 16 bits, and nothing says so."""
    value_OI = torch.full((32, 256), 127, dtype=torch.int8)
    with suppress(RuntimeError, AttributeError):  # a PyTorch that does not have the operator
        packed = torch.ops.onednn.qlinear_prepack(value_OI, None)
        zero_O = torch.zeros(32, dtype=torch.int32)
        products = (
            _integer_product(torch.full((rows, 256), 255, dtype=torch.uint8), packed, torch.ones(32), zero_O)
            for rows in (1, 2, 32)
        )
        return all(bool((y_MO == 256 * 255 * 127).all()) for y_MO in products)
    return False


@dataclass(frozen=True)
class Kind:
    """An operator to choose: what it is made from, and the bytes it holds per weight."""

    bytes: float
    by_row: bool  # made from the weight as int8 with one scale per row
    make: Callable[[QuantizedLinear, ByRow], Operator]


KINDS = {
    "int4pack": Kind(0.5, False, lambda linear, _: int4pack(linear)),
    "int8pack": Kind(1.0, True, lambda _, by_row: int8pack(by_row)),
    "onednn": Kind(1.0, True, lambda _, by_row: onednn(by_row)),
}


def kinds_for(linear: QuantizedLinear) -> list[str]:
    """The kinds that can hold this map; none off the CPU, and for int8 in groups, which rows would round again."""
    outputs, quantization = len(linear.weight_packed), linear.quantization
    inputs = linear.weight_packed.shape[1] * 32 // quantization.bits
    if linear.weight_packed.device.type != "cpu" or (quantization.bits == 8 and quantization.group_size):
        return []
    found = [name for name in KINDS if name != "onednn" or _adds_exactly()]
    if quantization.bits == 8 or outputs % 16 or not activation_group(quantization.group_size, inputs):
        found.remove("int4pack")
    return found


class PlainLinear(nn.Module):
    """A quantised map on the operators of a plan; all of the plan's kinds must be able to hold it."""

    def __init__(self, linear: QuantizedLinear, plan: Plan) -> None:
        super().__init__()
        by_row = ByRow.of(linear) if any(KINDS[kind].by_row for _, kind in plan) else None
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
