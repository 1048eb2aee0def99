"""Keys and values of the sequences in flight: one slot per sequence, the active slots always in front.

Slots are dense so that a decode step reads one contiguous block; a sequence that ends hands its slot to the
last active one. Legend: L layers, S slots, G key-value heads, C context, K head channels.
"""

import torch
from torch import Tensor

from phi4.model.config import ModelConfig
from phi4.model.transformer import Attend


class KVCache:
    """Cache of `slots` sequences of up to `context` tokens."""

    def __init__(
        self, config: ModelConfig, slots: int, context: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (
            config.num_hidden_layers,
            slots,
            config.num_key_value_heads,
            context,
            config.head_dim,
        )
        self.k_LSGCK = torch.zeros(shape, dtype=dtype, device=device)
        self.v_LSGCK = torch.zeros(shape, dtype=dtype, device=device)

    def copy(self, source: int, target: int, length: int, count: int = 1) -> None:
        """Give slots target .. target+count the first `length` tokens of slot `source`."""
        for cache in (self.k_LSGCK, self.v_LSGCK):
            cache[:, target : target + count, :, :length] = cache[:, source, None, :, :length].clone()

    def prefill(self, first: int) -> Attend:
        """Attention for whole prompts that fill slots first, first+1, ...: causal, and remembered."""

        def attend(layer: int, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
            batch, time, heads, _ = q_BTHK.shape
            groups = k_BTGK.shape[2]
            k_BGTK, v_BGTK = k_BTGK.transpose(1, 2), v_BTGK.transpose(1, 2)
            self.k_LSGCK[layer, first : first + batch, :, :time] = k_BGTK
            self.v_LSGCK[layer, first : first + batch, :, :time] = v_BGTK
            o_BHTK = torch.nn.functional.scaled_dot_product_attention(
                q_BTHK.transpose(1, 2),
                k_BGTK.repeat_interleave(heads // groups, 1),
                v_BGTK.repeat_interleave(heads // groups, 1),
                is_causal=True,
            )
            return o_BHTK.transpose(1, 2)

        return attend

    def decode(self, lengths_N: Tensor, longest: int) -> Attend:
        """Attention for one new token in each of the active slots, whose lengths before it are `lengths_N`.

        `longest` is the largest of them, known to the caller without asking the device.
        """
        active, end = len(lengths_N), longest + 1
        rows = torch.arange(active, device=lengths_N.device)
        hidden_NC = torch.arange(end, device=lengths_N.device)[None] > lengths_N[:, None]
        bias = torch.zeros((active, 1, 1, end), dtype=self.k_LSGCK.dtype, device=lengths_N.device)
        bias.masked_fill_(hidden_NC[:, None, None], float("-inf"))

        def attend(layer: int, q_N1HK: Tensor, k_N1GK: Tensor, v_N1GK: Tensor) -> Tensor:
            heads, channels = q_N1HK.shape[2:]
            groups = k_N1GK.shape[2]
            self.k_LSGCK[layer, rows, :, lengths_N] = k_N1GK[:, 0].to(self.k_LSGCK.dtype)
            self.v_LSGCK[layer, rows, :, lengths_N] = v_N1GK[:, 0].to(self.v_LSGCK.dtype)
            # The query heads of a group stand side by side as if they were positions: no key is repeated.
            o_NGRK = torch.nn.functional.scaled_dot_product_attention(
                q_N1HK.view(active, groups, heads // groups, channels).to(self.k_LSGCK.dtype),
                self.k_LSGCK[layer, :active, :, :end],
                self.v_LSGCK[layer, :active, :, :end],
                attn_mask=bias,
            )
            return o_NGRK.reshape(active, 1, heads, channels).to(q_N1HK.dtype)

        return attend
