"""Quantised matmuls against the reference: the dequantised weight in float64.

Inputs are rounded to int8 in groups. With that rounding repeated here, results are equal up to float32 sums; without
it, they lie within what half a step of every input can do.
"""

import os
import platform
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from phi4.engine.kernels import native as native_module
from phi4.engine.kernels import operators
from phi4.engine.kernels.native import Library, activation_group
from phi4.engine.kernels.operators import ANY, KINDS, ByRow, PlainLinear, kinds_for
from phi4.model.config import Quantization
from phi4.model.linear import QuantizedLinear, dequantize, pack, unpack

FORMATS = [Quantization(4, 32), Quantization(4, 64), Quantization(4, 128), Quantization(4), Quantization(8)]
FORMATS += [Quantization(8, 64)]
SIZES = [
    (100, 256),
    (64, 384),
    (33, 128),
]  # outputs that do not fill a tile, groups that do not fill a power of two


def quantized(
    outputs: int, inputs: int, quantization: Quantization, scales: torch.dtype, seed: int = 0
) -> QuantizedLinear:
    generator = torch.Generator().manual_seed(seed)
    half = 1 << quantization.bits - 1
    value_OI = torch.randint(-half, half, (outputs, inputs), generator=generator).to(torch.int8)
    linear = QuantizedLinear(inputs, outputs, quantization)
    linear.weight_packed = pack(value_OI, quantization.bits)
    shape = (outputs, quantization.scales(inputs))
    linear.weight_scale = (torch.rand(shape, generator=generator) * 0.01 + 1e-3).to(scales)
    return linear


def rows(count: int, inputs: int, seed: int = 1) -> Tensor:
    x = torch.randn(count, inputs, generator=torch.Generator().manual_seed(seed))
    x[:, 5] *= 50  # an outlier channel, as real activations have
    if count > 3:
        x[3] = 0
    return x


def exact(linear: QuantizedLinear) -> Tensor:
    return dequantize(unpack(linear.weight_packed, linear.quantization.bits), linear.weight_scale.double())


def rounded_inputs(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """The inputs as the kernels see them, and the step of each."""
    grouped = x.view(len(x), -1, group)
    largest = grouped.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > 0, torch.full_like(largest, 127.0) / largest, 0.0)
    step = (largest / 127.0).double()
    return ((grouped * inverse).round().double() * step).view(len(x), -1), step.expand(-1, -1, group).reshape(
        len(x), -1
    )


@pytest.mark.parametrize("scales", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("quantization", FORMATS, ids=lambda q: q.name)
def test_equals_the_reference(library: Library, quantization: Quantization, scales: torch.dtype) -> None:
    for outputs, inputs in SIZES:
        if quantization.group_size and inputs % quantization.group_size:
            continue
        linear = quantized(outputs, inputs, quantization, scales)
        weight_OI = exact(linear)
        x = rows(19, inputs)
        y = library.linear(library.matrix(linear), x)
        seen, step = rounded_inputs(x, activation_group(quantization.group_size, inputs))
        emulated = seen @ weight_OI.T
        assert y.shape == (19, outputs)
        torch.testing.assert_close(y.double(), emulated, rtol=1e-5, atol=2e-5 * float(emulated.abs().max()))
        assert float(emulated.abs().max()) > 1
        bound = (step / 2) @ weight_OI.abs().T
        assert ((y.double() - x.double() @ weight_OI.T).abs() <= bound * 1.0001 + 1e-4).all()


@pytest.mark.parametrize("quantization", [Quantization(4, 32), Quantization(4), Quantization(8)], ids=str)
def test_no_product_saturates(library: Library, quantization: Quantization) -> None:
    """All weights and inputs at the ends of their range, where 16-bit sums of products would overflow."""
    half = 1 << quantization.bits - 1
    for weight in (-half, half - 1):
        for sign in (-1.0, 1.0):
            linear = QuantizedLinear(256, 32, quantization)
            linear.weight_packed = pack(torch.full((32, 256), weight, dtype=torch.int8), quantization.bits)
            y = library.linear(library.matrix(linear), torch.full((3, 256), sign * 127))
            assert y.tolist() == [[weight * sign * 127 * 256] * 32] * 3


@pytest.mark.parametrize(
    "quantization", [Quantization(4, 32), Quantization(4, 128), Quantization(8)], ids=str
)
def test_a_row_alone_and_in_any_batch_and_on_any_number_of_threads(
    library: Library, quantization: Quantization
) -> None:
    linear = quantized(160, 256, quantization, torch.bfloat16)
    matrix = library.matrix(linear)
    x = rows(70, 256)
    alone = torch.cat([library.linear(matrix, x[i : i + 1]) for i in range(len(x))])
    for count in (2, 3, 4, 5, 6, 7, 8, 9, 16, 33, 70):
        assert torch.equal(library.linear(matrix, x[:count]), alone[:count])
    torch.set_num_threads(2)
    try:
        assert torch.equal(library.linear(matrix, x), alone)
        assert torch.equal(library.linear(matrix, x[:1]), alone[:1])
    finally:
        torch.set_num_threads(1)


def test_many_rows_are_cut_into_stretches_that_change_nothing(native: Library) -> None:
    linear = quantized(64, 8192, Quantization(4, 128), torch.float16)
    matrix = native.matrix(linear)
    x = rows(150, 8192)  # more than fit the cache together
    assert torch.equal(native.linear(matrix, x)[[0, 63, 64, 149]], native.linear(matrix, x[[0, 63, 64, 149]]))


@pytest.mark.parametrize("quantization", [Quantization(4, 32), Quantization(8)], ids=str)
def test_instruction_sets_agree_bit_for_bit(
    library: Library, native: Library, quantization: Quantization
) -> None:
    linear = quantized(96, 384, quantization, torch.float16)
    x = rows(11, 384)
    assert torch.equal(library.linear(library.matrix(linear), x), native.linear(native.matrix(linear), x))


def test_residual(library: Library) -> None:
    linear = quantized(50, 128, Quantization(4, 32), torch.float16)
    matrix = library.matrix(linear)
    x, residual = rows(5, 128), torch.randn(5, 50)
    assert torch.equal(library.linear(matrix, x, residual), library.linear(matrix, x) + residual)
    half = x.to(torch.bfloat16)
    plain = library.linear(matrix, half.float())
    with_residual = library.linear(matrix, half, residual.to(torch.bfloat16))
    assert torch.equal(with_residual, (plain + residual.to(torch.bfloat16).float()).to(torch.bfloat16))


def test_gated(library: Library) -> None:
    linear = quantized(128, 256, Quantization(4, 64), torch.float32)
    x = rows(9, 256) * torch.logspace(-1, 3, 9)[:, None]
    gate, up = library.linear(library.matrix(linear), x).double().chunk(2, -1)
    y = library.linear(library.matrix(linear, gated=True), x)
    torch.testing.assert_close(y.double(), F.silu(gate) * up, rtol=2e-6, atol=1e-30)
    assert float(gate.min()) < -100  # where e^100 must not overflow
    assert float(gate.max()) > 100


def test_norm_before(library: Library) -> None:
    linear = quantized(64, 256, Quantization(8), torch.float32)
    gain = torch.rand(256) + 0.5
    x = rows(9, 256)
    y = library.linear(library.matrix(linear, gain, 1e-5), x)
    normed = library.rms_norm(x, gain, 1e-5)
    assert torch.equal(y, library.linear(library.matrix(linear), normed))


def test_bfloat16_and_other_rows(library: Library) -> None:
    linear = quantized(40, 128, Quantization(4, 32), torch.bfloat16)
    matrix = library.matrix(linear)
    x = rows(4, 128)
    for dtype in (torch.bfloat16, torch.float16):
        narrow = x.to(dtype)
        y = library.linear(matrix, narrow.view(2, 2, 128))
        assert torch.equal(y, library.linear(matrix, narrow.float()).to(dtype).view(2, 2, 40))


def test_what_does_not_fit() -> None:
    assert not native_module.fits(quantized(4, 48, Quantization(8), torch.float32))
    assert native_module.fits(quantized(4, 96, Quantization(8), torch.float32))
    assert "int4pack" not in kinds_for(quantized(8, 128, Quantization(4, 32), torch.float32))
    assert "int4pack" in kinds_for(quantized(16, 128, Quantization(4, 32), torch.float32))
    assert "int4pack" not in kinds_for(quantized(16, 128, Quantization(8), torch.float32))
    assert not kinds_for(quantized(32, 128, Quantization(8, 64), torch.float32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantization", FORMATS[:5], ids=lambda q: q.name)
def test_plain_operators(quantization: Quantization, kind: str) -> None:
    """Close to the exact product whatever a row's size, and the other rows make no difference to it."""
    linear = quantized(64, 256, quantization, torch.bfloat16)
    if kind not in kinds_for(linear):
        pytest.skip("not for these weights, or not on this machine")
    layer = PlainLinear(linear, ((ANY, kind),))
    for count in (1, 9, 40):
        x = rows(count, 256) * torch.logspace(-3, 3, count)[:, None]
        expected = x.double() @ exact(linear).T
        y = layer(x)
        assert (y.shape, y.dtype) == ((count, 64), torch.float32)
        error = (y - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-30)  # one of the rows is zero
        assert float(error.max()) < 0.05
        assert torch.equal(layer(x[None]), y[None])
        for row in range(count):
            among_others = x * 1000
            among_others[row] = x[row]
            assert torch.equal(layer(among_others)[row], y[row])


def test_few_rows_lose_nothing_but_what_the_weights_lost() -> None:
    linear = quantized(64, 256, Quantization(4, 32), torch.bfloat16)
    if "onednn" not in kinds_for(linear):
        pytest.skip("not on this machine")
    layer, by_row = PlainLinear(linear, ((ANY, "onednn"),)), ByRow.of(linear)
    weight_OI = by_row.value_OI.double() * by_row.scale_O.double()[:, None]
    for count, most in ((1, 1e-4), (16, 1e-4), (17, 0.03)):
        x = rows(count, 256)
        x[0] = x[0].abs() + 3  # all on one side of zero
        expected = x.double() @ weight_OI.T
        error = (layer(x) - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-30)
        assert float(error.max()) < most


@pytest.mark.skipif(platform.machine() != "x86_64", reason="about x86")
def test_sums_that_saturate_are_no_choice() -> None:
    """Without VNNI oneDNN adds int8 products up in 16 bits, wrongly; the library can be told to do without."""
    script = (
        "from phi4.engine.kernels.operators import kinds_for\n"
        "from phi4.model.config import Quantization\n"
        "from phi4.model.linear import QuantizedLinear\n"
        "print(*kinds_for(QuantizedLinear(128, 64, Quantization(4, 32))))"
    )
    told = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=told, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["int4pack", "int8pack"]


@pytest.mark.parametrize("kind", ["int4pack", "int8pack"])
def test_converted_in_stretches(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    linear = quantized(80, 128, Quantization(4, 32), torch.bfloat16)
    whole = PlainLinear(linear, ((ANY, kind),))
    monkeypatch.setattr(operators, "_STRETCH", 64)
    x = rows(3, 128)
    assert torch.equal(PlainLinear(linear, ((ANY, kind),))(x), whole(x))


def test_a_plan_is_followed() -> None:
    linear = quantized(64, 256, Quantization(4, 32), torch.bfloat16)
    layer = PlainLinear(linear, ((2, "int4pack"), (4, "int8pack"), (ANY, "int4pack")))
    for count, kind in ((1, "int4pack"), (2, "int4pack"), (3, "int8pack"), (4, "int8pack"), (5, "int4pack")):
        x = rows(count, 256)
        assert torch.equal(layer(x), PlainLinear(linear, ((ANY, kind),))(x))
