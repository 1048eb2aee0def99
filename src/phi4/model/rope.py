"""Rotary position embedding: plain, partial and LongRoPE (transformers' modeling_rope_utils, facts 2.2).

Legend: B batch, T positions, R rotary channels, H heads, K head channels.
"""

import math

import torch
from torch import Tensor

from phi4.model.config import ModelConfig


def attention_factor(config: ModelConfig) -> float:
    """Factor on cos and sin: sqrt(1 + ln s / ln original), fixed by the configuration, not by the length.

    So it also acts on short prompts (1.190238 for Phi-4-mini).
    """
    scale = config.max_position_embeddings / config.original_context
    if config.long_rope is None or scale <= 1:
        return 1.0
    return math.sqrt(1 + math.log(scale) / math.log(config.original_context))


def inverse_frequencies(config: ModelConfig, *, long: bool, device: torch.device | None = None) -> Tensor:
    """Angle per position of each rotated pair, [R/2] in float32."""
    exponent = torch.arange(0, config.rotary_dim, 2, dtype=torch.int64, device=device).float()
    frequencies = config.rope_theta ** (exponent / config.rotary_dim)
    if config.long_rope is not None:
        factors = config.long_rope.long_factor if long else config.long_rope.short_factor
        frequencies = torch.tensor(factors, dtype=torch.float32, device=device) * frequencies
    return 1.0 / frequencies


class Rope:
    """cos/sin tables for one configuration up to `length` positions; call it with positions to look up.

    The LongRoPE factor set follows from `length`, the longest position this table will serve: the caller
    decides once, and the choice is visible. Short tables use the short factors.
    """

    def __init__(self, config: ModelConfig, length: int, device: torch.device | None = None) -> None:
        self.long = config.long_rope is not None and length > config.original_context
        frequencies = inverse_frequencies(config, long=self.long, device=device)
        angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequencies
        factor = attention_factor(config)
        # Each half of the rotated channels uses the same angles ("rotate half", facts 2.2).
        self.cos_TR = torch.cat((angles, angles), -1).cos() * factor
        self.sin_TR = torch.cat((angles, angles), -1).sin() * factor

    def __call__(self, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(cos_BTR, sin_BTR) in float32."""
        return self.cos_TR[positions_BT], self.sin_TR[positions_BT]


class RowRope:
    """cos/sin of any positions, with a choice of LongRoPE's factors for every single token.

    `Rope` looks up a table for one length; this serves sequences of different lengths side by side, with equal values.
    """

    def __init__(self, config: ModelConfig, device: torch.device | None = None) -> None:
        self._short_R = inverse_frequencies(config, long=False, device=device)
        self._long_R = inverse_frequencies(config, long=True, device=device)
        self._factor = attention_factor(config)

    def __call__(self, positions_BT: Tensor, long_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(cos_BTR, sin_BTR) in float32; `long_BT` says which tokens use the long factors (None: none does)."""
        frequencies = self._short_R
        if long_BT is not None:
            frequencies = torch.where(long_BT[..., None], self._long_R, self._short_R)
        angles = positions_BT[..., None].float() * frequencies
        angles = torch.cat((angles, angles), -1)
        return angles.cos() * self._factor, angles.sin() * self._factor


def rotate(x_BTHK: Tensor, cos_BTR: Tensor, sin_BTR: Tensor) -> Tensor:
    """Rotate the first R channels of each head, pairing channel i with i + R/2; the rest pass through."""
    rotary = cos_BTR.shape[-1]
    cos, sin = cos_BTR[:, :, None].to(x_BTHK.dtype), sin_BTR[:, :, None].to(x_BTHK.dtype)
    turned, passed = x_BTHK[..., :rotary], x_BTHK[..., rotary:]
    first, second = turned.chunk(2, -1)
    turned = turned * cos + torch.cat((-second, first), -1) * sin
    return turned if rotary == x_BTHK.shape[-1] else torch.cat((turned, passed), -1)
