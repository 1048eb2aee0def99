"""How one matrix becomes integers and scales: to the nearest value, or with each error passed on (GPTQ).

Legend: O outputs, I inputs, W words per row, S scales per row, G inputs that share a scale, C columns of a block.
"""

import torch
from torch import Tensor

from phi4.errors import ModelError
from phi4.model.config import Quantization
from phi4.model.linear import pack, round_to_scale

# Where on the grid a group's largest magnitude is tried: at its upper end, at its lower, and beyond, which clips the
# largest weights and rounds the others more finely.
_PLACES = {4: (7.0, 7.5, 8.0, 8.5, 9.0, 9.75, 10.5), 8: (127.0, 127.5, 128.0)}
_COLUMNS = 128  # GPTQ passes errors on within this many columns at once, to all later ones afterwards
_ELEMENTS = 1 << 17  # weights whose scales are searched together: what a core's cache holds
_DAMPING = (0.01, 0.03, 0.1, 0.3, 1.0)  # of the mean diagonal; the first that makes the matrix invertible


def nearest(weight_OI: Tensor, quantization: Quantization, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(packed_OW, scale_OS): the nearest values, with the scales (in `dtype`) that leave the smallest squared error.

    Raises ModelError for weights that are not numbers.
    """
    packed, scales = [], []
    step = max(1, _ELEMENTS // weight_OI.shape[1])
    for start in range(0, len(weight_OI), step):
        rows_OI = _finite(weight_OI[start : start + step])
        scale_OS = best_scales(
            rows_OI.view(len(rows_OI), quantization.scales(rows_OI.shape[1]), -1), quantization.bits, dtype
        )
        packed.append(pack(round_to_scale(rows_OI, scale_OS.float(), quantization.bits), quantization.bits))
        scales.append(scale_OS)
    return torch.cat(packed), torch.cat(scales)


def best_scales(weight_OSG: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """scale_OS in `dtype` with the smallest squared error for each group of float32 weights, among a few candidates.

    The largest magnitude is put at several places of the grid; the values v that gives are kept and the scale fitted
    to them by least squares, w·v / v·v, which leaves |w|² - (w·v)² / v·v and so finds the scale of weights that lie on
    a grid again.
    """
    half = 1 << bits - 1
    largest_OS1 = weight_OSG.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    scale_OS = gain_OS = torch.zeros(weight_OSG.shape[:2], device=weight_OSG.device)
    for place in _PLACES[bits]:
        value_OSG = (weight_OSG * (place / largest_OS1)).round_().clamp_(-half, half - 1)
        product_OS = (weight_OSG * value_OSG).sum(-1)
        fitted_OS = product_OS / value_OSG.pow_(2).sum(-1).clamp_min_(1)
        better_OS = product_OS * fitted_OS > gain_OS
        gain_OS = torch.where(better_OS, product_OS * fitted_OS, gain_OS)
        scale_OS = torch.where(better_OS, fitted_OS, scale_OS)
    stored_OS = scale_OS.to(dtype)
    # 1 where a group is all zeros, or too small for the dtype
    return torch.where(stored_OS > 0, stored_OS, torch.ones_like(stored_OS))


def error_fed_back(
    weight_OI: Tensor, second_moment_II: Tensor, quantization: Quantization, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(packed_OW, scale_OS): round column by column; those still to come make up for each error.

    second_moment_II: the sum of x xᵀ over calibration inputs x. What is minimised is the squared error of the output
    over those inputs. A group's scales are chosen when its first column is reached, so they fit what is then to be
    rounded. Source: Frantar et al., "GPTQ" (2023), with their lazy batches, without their ordering of columns.
    """
    weight_OI = _finite(weight_OI).clone()
    rows, columns = weight_OI.shape
    bits, size = quantization.bits, quantization.group_size or columns
    quantization.scales(columns)
    factor_II = _inverse_factor(second_moment_II.float())
    value_IO = torch.empty((columns, rows), dtype=torch.int8, device=weight_OI.device)
    scales: list[Tensor] = []
    if not quantization.group_size:
        scales = [best_scales(weight_OI[:, None], bits, dtype)]
    for start in range(0, columns, _COLUMNS):
        stop = min(start + _COLUMNS, columns)
        block_CO = weight_OI[:, start:stop].T.contiguous()
        error_CO = torch.empty_like(block_CO)
        for i, at in enumerate(range(start, stop)):
            if quantization.group_size and at % size == 0:
                scales.append(best_scales(block_CO[i : i + size].T[:, None].contiguous(), bits, dtype))
            scale_O1 = scales[-1].float()
            value_O1 = round_to_scale(block_CO[i, :, None], scale_O1, bits)
            value_IO[at] = value_O1[:, 0]
            error_CO[i] = (block_CO[i] - (value_O1 * scale_O1)[:, 0]) / factor_II[at, at]
            block_CO[i + 1 :].addr_(factor_II[at, at + 1 : stop], error_CO[i], alpha=-1)
        weight_OI[:, stop:].addmm_(error_CO.T, factor_II[start:stop, stop:], alpha=-1)
    return pack(value_IO.T.contiguous(), bits), torch.cat(scales, 1)


def _inverse_factor(moment_II: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped second moments.

    An input that was never anything but 0 gets the weight of the damping alone.
    """
    diagonal = moment_II.diagonal()
    mean = float(diagonal.mean()) or 1.0
    for damping in _DAMPING:
        damped = moment_II.clone()
        damped.diagonal().add_(damping * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if int(failed):
            continue
        upper_II: Tensor
        upper_II, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not int(failed) and bool(upper_II.isfinite().all()):
            return upper_II
    raise ModelError(
        "the calibration text gives inputs that cannot be used",
        "use another --calibration text or --method rtn",
    )


def _finite(weight: Tensor) -> Tensor:
    wide = weight.float()
    if not bool(wide.isfinite().all()):
        raise ModelError("a weight is not a finite number", "the model is damaged: fetch or make it again")
    return wide
