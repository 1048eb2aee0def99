"""What is minimised. Every objective returns (loss_sum, n_units): a unit is a token or a pair.

The trainer divides by the units of the whole step, so a loss never depends on how rows were split into
micro-batches or how long each was.

Legend: B rows, T time, D hidden, N positions that carry loss, V vocabulary, H heads, G key-value heads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from phi4.model.rope import Rope
from phi4.model.transformer import Attend, Transformer

IGNORE = -1
_CHUNK = 256  # positions whose logits exist at one time: they stay in a CPU's cache
_LONG = 256  # rows beyond this are cut row by row
_SHORT_BLOCK, _LONG_BLOCK = 64, 256  # queries that meet their keys at one time


@dataclass(frozen=True)
class Batch:
    """Packed rows. `documents_BT` numbers the documents of a row; targets are next ids or IGNORE."""

    ids_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor
    positions_BT: Tensor

    @property
    def units(self) -> int:
        """Positions that carry loss."""
        return int((self.targets_BT != IGNORE).sum())


@dataclass(frozen=True)
class PairBatch:
    """Preference pairs as rows: 2i is the accepted row of pair i, 2i+1 its rejected one.

    Targets are IGNORE outside the accepted/rejected part; `reference_P` holds the reference model's
    log-probability difference (accepted minus rejected) of each pair.
    """

    rows: Batch
    reference_P: Tensor

    @property
    def units(self) -> int:
        """Pairs."""
        return len(self.reference_P)


def document_attention(documents_BT: Tensor, dtype: torch.dtype) -> Attend:
    """Causal attention inside each document of a packed row; documents never see each other.

    On CPUs the explicit product is used: at training lengths its backward pass is several times faster than
    that of PyTorch's fused CPU kernel. Queries are cut into blocks, each of which meets no later key; in long
    rows it also meets only the keys from the start of its first document on, so a row of short documents costs
    no square of its length. On GPUs the fused kernel is used.
    """
    time = documents_BT.shape[1]
    same = documents_BT[:, :, None] == documents_BT[:, None, :]
    visible_BTT = same & torch.ones(time, time, dtype=torch.bool, device=same.device).tril()
    bias_BTT = torch.zeros(visible_BTT.shape, dtype=dtype, device=same.device)
    bias_BTT.masked_fill_(~visible_BTT, float("-inf"))

    def fused(layer: int, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
        o_BHTK = F.scaled_dot_product_attention(
            q_BTHK.transpose(1, 2),
            k_BTGK.transpose(1, 2),
            v_BTGK.transpose(1, 2),
            attn_mask=bias_BTT[:, None],
            enable_gqa=True,
        )
        return o_BHTK.transpose(1, 2)

    def together(layer: int, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
        parts = [
            _product_attention(
                q_BTHK[:, first : first + _SHORT_BLOCK],
                k_BTGK[:, : first + _SHORT_BLOCK],
                v_BTGK[:, : first + _SHORT_BLOCK],
                bias_BTT[:, first : first + _SHORT_BLOCK, : first + _SHORT_BLOCK],
            )
            for first in range(0, time, _SHORT_BLOCK)
        ]
        return torch.cat(parts, 1)

    def row_by_row(layer: int, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
        rows = []
        for row, blocks in enumerate(seen):
            parts = [
                _product_attention(
                    q_BTHK[row : row + 1, first:last],
                    k_BTGK[row : row + 1, start:last],
                    v_BTGK[row : row + 1, start:last],
                    bias_BTT[row : row + 1, first:last, start:last],
                )
                for start, first, last in blocks
            ]
            rows.append(torch.cat(parts, 1))
        return torch.cat(rows)

    if documents_BT.is_cuda:
        return fused
    if time <= _LONG:
        return together
    starts_BT = visible_BTT.to(torch.uint8).argmax(-1)  # the first key each query sees
    seen = [
        [(int(starts[first]), first, min(first + _LONG_BLOCK, time)) for first in range(0, time, _LONG_BLOCK)]
        for starts in starts_BT
    ]
    return row_by_row


def _product_attention(q_BQHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, bias_BQT: Tensor) -> Tensor:
    """Attention of Q queries over T keys, written out. Query heads of one group are stacked along Q, so keys
    and values are never repeated."""
    batch, queries, heads, channels = q_BQHK.shape
    keys, groups = k_BTGK.shape[1:3]
    q = (q_BQHK * channels**-0.5).view(batch, queries, groups, heads // groups, channels)
    q = q.permute(0, 2, 3, 1, 4).reshape(batch * groups, -1, channels)
    k = k_BTGK.permute(0, 2, 3, 1).reshape(batch * groups, channels, keys)
    v = v_BTGK.transpose(1, 2).reshape(batch * groups, keys, channels)
    scores_BHQT = torch.bmm(q, k).view(batch, heads, queries, keys) + bias_BQT[:, None]
    weights = scores_BHQT.softmax(-1).view(batch * groups, -1, keys)
    o = torch.bmm(weights, v).view(batch, groups, heads // groups, queries, channels)
    return o.permute(0, 3, 1, 2, 4).reshape(batch, queries, heads, channels)


class _LinearCrossEntropy(torch.autograd.Function):
    """Head and cross-entropy together, a chunk of positions at a time.

    The gradient is made in the forward pass, while the chunk's logits exist, so the full [N, V] logits
    never do.
    """

    @staticmethod
    def forward(ctx: Any, h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        weight = weight_VD.to(h_ND.dtype)
        wide = torch.float64 if h_ND.dtype == torch.float64 else torch.float32
        grad_h, grad_w = torch.empty_like(h_ND), torch.zeros(weight_VD.shape, dtype=wide, device=h_ND.device)
        loss = torch.zeros((), dtype=wide, device=h_ND.device)
        for start in range(0, len(h_ND), _CHUNK):
            part = slice(start, start + _CHUNK)
            logprobs = F.linear(h_ND[part], weight).log_softmax(-1, dtype=wide)
            target = targets_N[part, None]
            loss -= logprobs.gather(1, target).sum()
            grad = logprobs.exp_()
            grad.scatter_add_(1, target, grad.new_full(target.shape, -1.0))
            grad = grad.to(h_ND.dtype)
            grad_h[part] = grad @ weight
            grad_w += grad.T @ h_ND[part]
        ctx.save_for_backward(grad_h, grad_w)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_h, grad_w = ctx.saved_tensors
        return grad_h * grads[0], grad_w * grads[0], None


def linear_cross_entropy(h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Sum of -log p(target) over N positions, from hidden states and the head's weight."""
    loss: Tensor = _LinearCrossEntropy.apply(h_ND, weight_VD, targets_N)
    return loss


def hidden_at_targets(
    model: Transformer, batch: Batch, rope: Rope, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states h_ND where a target exists, the targets t_N, and the row each belongs to."""
    attend = document_attention(batch.documents_BT, dtype)
    h_BTD = model(batch.ids_BT, batch.positions_BT, attend, rope, dtype)
    at = batch.targets_BT != IGNORE
    rows_N = at.nonzero()[:, 0]
    return h_BTD[at], batch.targets_BT[at], rows_N


def language_model_loss(model: Transformer, batch: Batch, rope: Rope, dtype: torch.dtype) -> Tensor:
    """Summed next-token loss of the positions that carry one (pretraining, midtraining, SFT)."""
    h_ND, targets_N, _ = hidden_at_targets(model, batch, rope, dtype)
    return linear_cross_entropy(h_ND, model.head_weight, targets_N)


def row_logprobs(model: Transformer, batch: Batch, rope: Rope, dtype: torch.dtype) -> Tensor:
    """log p of each row's target tokens, summed: [B] in float32 or wider."""
    h_ND, targets_N, rows_N = hidden_at_targets(model, batch, rope, dtype)
    logits_NV = model.head(h_ND)
    wide = logits_NV.double() if logits_NV.dtype == torch.float64 else logits_NV.float()
    logprobs_N = wide.log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
    return logprobs_N.new_zeros(len(batch.ids_BT)).index_add(0, rows_N, logprobs_N)


def dpo_loss(beta: float) -> Callable[[Transformer, PairBatch, Rope, torch.dtype], Tensor]:
    """Direct preference optimisation (Rafailov et al. 2023), summed over pairs.

    With pivotal pairs each row's targets are one token, so the whole signal sits where the solution is decided.
    """

    def loss(model: Transformer, batch: PairBatch, rope: Rope, dtype: torch.dtype) -> Tensor:
        logprobs_B = row_logprobs(model, batch.rows, rope, dtype)
        margin_P = logprobs_B[0::2] - logprobs_B[1::2] - batch.reference_P
        return -F.logsigmoid(beta * margin_P).sum()

    return loss
