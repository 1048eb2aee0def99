"""One matrix to integers: against brute force, against the algorithm as its paper writes it, and on grids."""

import pytest
import torch
from torch import Tensor

from phi4.errors import ModelError
from phi4.model.config import Quantization
from phi4.model.linear import dequantize, pack, unpack
from phi4.weights.rounding import best_scales, error_fed_back, nearest

KINDS = (Quantization(8), Quantization(8, 32), Quantization(4), Quantization(4, 32), Quantization(4, 128))
ROWS, COLUMNS = 24, 256


def weights(seed: int = 0) -> Tensor:
    """Gaussian with a few heavy rows and outliers."""
    generator = torch.Generator().manual_seed(seed)
    weight_OI = torch.randn((ROWS, COLUMNS), generator=generator)
    weight_OI[::5] *= 10
    weight_OI[:, 7] *= 4
    return weight_OI


def inputs(samples: int, rank: int) -> Tensor:
    """Correlated inputs: mixtures of `rank` directions, and a little noise of their own."""
    generator = torch.Generator().manual_seed(1)
    mixture = torch.randn((samples, rank), generator=generator) @ torch.randn(
        (rank, COLUMNS), generator=generator
    )
    return mixture + 0.1 * torch.randn((samples, COLUMNS), generator=generator)


def plain(rounded: tuple[Tensor, Tensor], kind: Quantization) -> Tensor:
    return dequantize(unpack(rounded[0], kind.bits), rounded[1])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_on_the_grid_come_back_exactly(kind: Quantization, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    half = 1 << kind.bits - 1
    value_OI = torch.randint(-half, half, (ROWS, COLUMNS), generator=generator).to(torch.int8)
    scale_OS = (0.01 + torch.rand((ROWS, kind.scales(COLUMNS)), generator=generator)).to(dtype)
    size = COLUMNS // scale_OS.shape[1]
    value_OI[:, ::size] = half - 1  # the grid is used to its end, or a coarser one could serve
    value_OI[0, :size] = 0
    scale_OS[0, 0] = 1  # nothing says what the scale of zeros was
    weight_OI = dequantize(value_OI, scale_OS.float())
    for rounded in (
        nearest(weight_OI, kind, dtype),
        error_fed_back(weight_OI, inputs(500, 20).T @ inputs(500, 20), kind, dtype),
    ):
        assert torch.equal(unpack(rounded[0], kind.bits), value_OI)
        ulp = 2**-20 if dtype == torch.float32 else 0  # the fit itself is computed in float32
        assert torch.allclose(rounded[1], scale_OS, rtol=ulp, atol=0)


@pytest.mark.parametrize("bits", [4, 8])
def test_scales_are_as_good_as_brute_force(bits: int) -> None:
    """A fine grid of scales over every group; the few candidates come close to the best of it."""
    weight_OSG, half = weights().view(ROWS, -1, 32), 1 << bits - 1

    def error(scale_OS: Tensor) -> Tensor:
        wide = scale_OS[..., None]
        return ((weight_OSG / wide).round().clamp(-half, half - 1) * wide - weight_OSG).pow(2).sum(-1)

    largest_OS = weight_OSG.abs().amax(-1)
    fine = torch.stack([error(largest_OS / (half * step)) for step in torch.linspace(0.7, 1.6, 400)])
    found = float(error(best_scales(weight_OSG, bits, torch.float32)).sum())
    assert found < (1.06 if bits == 4 else 1.4) * float(fine.amin(0).sum())
    assert found < 0.9 * float(error(largest_OS / (half - 0.5)).sum())  # what is commonly done


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_without_correlation_nothing_is_fed_back(kind: Quantization) -> None:
    ours, simple = (
        error_fed_back(weights(), torch.eye(COLUMNS), kind, torch.float32),
        nearest(weights(), kind, torch.float32),
    )
    assert all(torch.equal(a, b) for a, b in zip(ours, simple, strict=True))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_gptq_halves_the_error_of_the_output(kind: Quantization) -> None:
    x_PI, fresh_PI = inputs(2000, 20)[:1000], inputs(2000, 20)[1000:]
    calibrated = plain(error_fed_back(weights(), x_PI.T @ x_PI, kind, torch.float32), kind)
    rounded = plain(nearest(weights(), kind, torch.float32), kind)
    errors = [(fresh_PI @ (found - weights()).T).pow(2).mean() for found in (calibrated, rounded)]
    assert errors[0] < 0.5 * errors[1]
    assert (calibrated - weights()).pow(2).sum() > (rounded - weights()).pow(
        2
    ).sum()  # the weights themselves are further


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_gptq_is_the_algorithm_of_the_paper(kind: Quantization) -> None:
    """Optimal Brain Quantization with the order of columns fixed, in float64, its inverse updated after each column."""
    x_PI = inputs(1000, 300).double()  # not so correlated that float32 could not follow
    moment_II = x_PI.T @ x_PI
    inverse_II = torch.linalg.inv(moment_II + 0.01 * moment_II.diagonal().mean() * torch.eye(COLUMNS))
    weight_OI, half, scales = weights().double(), 1 << kind.bits - 1, []
    value_OI = torch.empty_like(weight_OI)
    size = kind.group_size or COLUMNS
    for i in range(COLUMNS):
        if i % size == 0:
            scales.append(best_scales(weight_OI[:, None, i : i + size].float(), kind.bits, torch.float32))
        scale_O = scales[-1][:, 0].double()
        value_OI[:, i] = (weight_OI[:, i] / scale_O).round().clamp(-half, half - 1)
        error_O = (weight_OI[:, i] - value_OI[:, i] * scale_O) / inverse_II[i, i]
        weight_OI -= error_O[:, None] * inverse_II[i]
        inverse_II = inverse_II - inverse_II[:, i : i + 1] * inverse_II[i : i + 1] / inverse_II[i, i]
    packed, scale_OS = error_fed_back(weights(), moment_II, kind, torch.float32)
    # In float32 a tie may fall to the other side, after which a row goes its own way: most rows must be the same whole.
    same = unpack(packed, kind.bits) == value_OI
    assert same.all(1).double().mean() > 0.7
    assert same[:, :128].double().mean() > 0.97
    theirs = dequantize(value_OI.to(torch.int8), torch.cat(scales, 1))
    errors = [
        (x_PI.float() @ (w - weights()).T).pow(2).mean() for w in (plain((packed, scale_OS), kind), theirs)
    ]
    assert errors[0] == pytest.approx(float(errors[1]), rel=0.05)


def test_more_inputs_than_texts_and_dead_inputs_are_survived() -> None:
    x_PI = inputs(10, 3)
    x_PI[:, 40:50] = 0
    kind = Quantization(4, 32)
    found = plain(error_fed_back(weights(), x_PI.T @ x_PI, kind, torch.float32), kind)
    assert bool(found.isfinite().all())
    found = plain(error_fed_back(weights(), torch.zeros(COLUMNS, COLUMNS), kind, torch.float32), kind)
    assert torch.equal(found, plain(nearest(weights(), kind, torch.float32), kind))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zeros_and_tiny_weights_stay_numbers(dtype: torch.dtype) -> None:
    weight_OI = torch.zeros(2, 64)
    weight_OI[1, :32] = 1e-12
    kind = Quantization(4, 32)
    for rounded in (nearest(weight_OI, kind, dtype), error_fed_back(weight_OI, torch.eye(64), kind, dtype)):
        assert (plain(rounded, kind).float() - weight_OI).abs().max() < 1e-6


def test_what_is_no_number_is_refused() -> None:
    for bad in (float("nan"), float("inf")):
        weight_OI = weights()
        weight_OI[3, 3] = bad
        with pytest.raises(ModelError, match="not a finite number"):
            nearest(weight_OI, Quantization(4, 32), torch.float32)
    with pytest.raises(ModelError, match="calibration"):
        error_fed_back(
            weights(), torch.full((COLUMNS, COLUMNS), float("nan")), Quantization(8), torch.float32
        )


@pytest.mark.parametrize(
    "kind", [Quantization(4, 128), Quantization(8, 64), Quantization(4)], ids=lambda k: k.name
)
def test_rows_that_do_not_divide_are_one_clear_line(kind: Quantization) -> None:
    with pytest.raises(ModelError, match="cannot be"):
        nearest(torch.zeros(2, 36), kind, torch.float32)


@pytest.mark.parametrize(("bits", "group"), [(3, 32), (4, 48), (16, 0), (4, -1)])
def test_other_precisions_are_refused(bits: int, group: int) -> None:
    with pytest.raises(ModelError, match="not a supported quantisation"):
        Quantization(bits, group)


def test_packing_keeps_the_first_value_lowest() -> None:
    assert pack(torch.tensor([[-8, 7, -1, 0, 0, 0, 0, 0]], dtype=torch.int8), 4).view(
        torch.uint8
    ).tolist() == [[0xF0, 0x87, 0x88, 0x88]]
    assert pack(torch.tensor([[-128, 127, -1, 0]], dtype=torch.int8), 8).view(torch.uint8).tolist() == [
        [0, 255, 127, 128]
    ]
