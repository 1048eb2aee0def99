"""From logits to tokens, reproducibly: the randomness of a token depends on (seed, sample, position) alone.

Legend: N sequences, V vocabulary.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)


def uniforms(seeds: NDArray[np.uint64], samples: NDArray[np.uint64], positions: NDArray[np.uint64]) -> Tensor:
    """One number in [0, 1) per sequence: a counter-based hash (splitmix64's finaliser, chained)."""
    state = _mix(seeds)
    state = _mix(state ^ samples)
    state = _mix(state ^ positions)
    return torch.from_numpy((state >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) & _MASK


def choose(
    logits_NV: Tensor, temperature_N: Tensor, top_p_N: Tensor, uniform_N: Tensor
) -> tuple[Tensor, Tensor]:
    """Pick one token per sequence by inverse transform sampling.

    Returns (token_N, logprob_N); the log-probability is the model's own, at temperature 1 and before top-p.
    Temperature 0 takes the largest logit (the lowest id among equals).
    """
    wide = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    token_N = wide.argmax(-1)
    drawn = temperature_N > 0
    if drawn.any():
        probabilities = (wide[drawn].double() / temperature_N[drawn, None].double()).softmax(-1)
        nucleus = top_p_N[drawn]
        if (nucleus < 1).any():
            probabilities = _keep_nucleus(probabilities, nucleus.double())
        cumulative = probabilities.cumsum(-1)
        aim = uniform_N[drawn, None] * cumulative[:, -1:]
        found = torch.searchsorted(cumulative, aim, right=True)[:, 0]
        token_N[drawn] = found.clamp_max(logits_NV.shape[-1] - 1)
    logprob_N = wide.gather(1, token_N[:, None])[:, 0] - wide.logsumexp(-1)
    return token_N, logprob_N


def _keep_nucleus(probabilities_NV: Tensor, top_p_N: Tensor) -> Tensor:
    """Zero everything outside the smallest set of most likely tokens whose mass reaches top_p."""
    ordered, order = torch.sort(probabilities_NV, dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered  # mass of the likelier tokens: the first one always stays
    kept = torch.where(before < top_p_N[:, None], ordered, torch.zeros_like(ordered))
    return torch.zeros_like(probabilities_NV).scatter(1, order, kept)
