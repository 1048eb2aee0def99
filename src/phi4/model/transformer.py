"""The Phi-4 network in one readable file.

- pre-norm blocks: x + attention(norm(x)), then x + mlp(norm(x)); RMSNorm with a learned gain
- grouped-query attention with rotary positions; scale 1/sqrt(head_dim); no biases anywhere
- SwiGLU: down(up * silu(gate))
- fused weights in the checkpoints' layout: qkv rows are all Q, all K, all V; gate rows come before up
- one forward for everyone: the caller hands in how positions turn (`rope`) and how queries meet keys
  (`attend`), so training masks documents, the engine reads its cache, and both run this code

Parameter names equal Hugging Face's below the "model." prefix. Source: transformers' modeling_phi3.py.

Legend: B batch, T time, D hidden, H query heads, G key-value heads, K head channels, F mlp channels, V vocabulary.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phi4.model.config import ModelConfig
from phi4.model.linear import Linear, linear
from phi4.model.rope import rotate

RopeTable = Callable[[Tensor], tuple[Tensor, Tensor]]


class Attend(Protocol):
    """How queries meet keys: full attention under a mask in training, a cache in the engine."""

    def __call__(self, layer: int, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, /) -> Tensor:
        """Returns o_BTHK."""
        ...


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back, times a gain."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.double() if x.dtype == torch.float64 else x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight.to(x.dtype) * normed.to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention over fused projections."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.groups, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        fused = (self.heads + 2 * self.groups) * self.head_dim
        self.qkv_proj = linear(config.hidden_size, fused, config.quantization)
        self.o_proj = linear(self.heads * self.head_dim, config.hidden_size, config.quantization)

    def forward(self, x_BTD: Tensor, layer: int, cos_sin: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        batch, time, _ = x_BTD.shape
        qkv = self.qkv_proj(x_BTD).view(batch, time, -1, self.head_dim)
        # Q and K sit side by side in the fused layout, so one rotation serves both.
        qk, v_BTGK = qkv.split((self.heads + self.groups, self.groups), 2)
        q_BTHK, k_BTGK = rotate(qk, *cos_sin).split((self.heads, self.groups), 2)
        o_BTHK = attend(layer, q_BTHK, k_BTGK, v_BTGK)
        return self.o_proj(o_BTHK.reshape(batch, time, -1))


class MLP(nn.Module):
    """SwiGLU with gate and up fused, gate first."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up_proj = linear(config.hidden_size, 2 * config.intermediate_size, config.quantization)
        self.down_proj = linear(config.intermediate_size, config.hidden_size, config.quantization)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTF, up_BTF = self.gate_up_proj(x_BTD).chunk(2, -1)
        return self.down_proj(up_BTF * F.silu(gate_BTF))


class Block(nn.Module):
    """One layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor, layer: int, cos_sin: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), layer, cos_sin, attend)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Transformer(nn.Module):
    """ids and positions in, final hidden states out; `head` turns hidden states into logits.

    The head is separate so that a loss can apply it in chunks, and a decoder to the last position only.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size)

    def forward(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor,
        attend: Attend,
        rope: RopeTable,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Hidden states h_BTD after the final norm, computed in `dtype` (default: that of the weights)."""
        x_BTD = self.embed_tokens(ids_BT)
        x_BTD = x_BTD if dtype is None else x_BTD.to(dtype)
        cos_BTR, sin_BTR = rope(positions_BT)
        cos_sin = (cos_BTR.to(x_BTD.dtype), sin_BTR.to(x_BTD.dtype))
        for layer, block in enumerate(self.layers):
            x_BTD = block(x_BTD, layer, cos_sin, attend)
        hidden: Tensor = self.norm(x_BTD)
        return hidden

    @property
    def head_weight(self) -> Tensor:
        """The output matrix [V, D]: its own, or the embedding's when tied."""
        return self.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def head(self, h: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        return F.linear(h, self.head_weight.to(h.dtype))

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw all weights from one seed, in the order of `named_parameters`.

        Normal with initializer_range; the two projections that write into the residual stream are scaled
        down by sqrt(2 * layers) (GPT-2's rule), so depth does not change the variance at the start.
        """
        generator = torch.Generator().manual_seed(seed)
        deep = (2 * self.config.num_hidden_layers) ** -0.5
        for name, weight in self.named_parameters():
            if name.endswith(("layernorm.weight", "norm.weight")):
                weight.fill_(1.0)
                continue
            scale = deep if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            weight.normal_(0.0, self.config.initializer_range * scale, generator=generator)


def causal_attention(layer: int, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
    """Plain causal attention over whole rows: the reference `attend`."""
    o_BHTK = F.scaled_dot_product_attention(
        q_BTHK.transpose(1, 2),
        k_BTGK.transpose(1, 2),
        v_BTGK.transpose(1, 2),
        is_causal=True,
        enable_gqa=True,
    )
    return o_BHTK.transpose(1, 2)
