"""A start that can look back: weights with which a fresh model already matches what it reads with what it has read.

To continue `x=7, y=3, x=` a transformer needs two attention layers that work together: heads that bring along which
tokens stood just before, and heads behind them that find the place where the same tokens stood before and copy what
followed (induction heads, Olsson et al. 2022). Found by gradient descent, that pair costs a small model much of its
training: neither half is of use alone. Here both are drawn into the first weights; training is free to change them.
The architecture stays the same, so every tool loads the model. Close in spirit to mimetic initialization
(Trockman and Kolter, 2023).

Legend: D hidden, K head channels, R rotary pairs, V vocabulary.
"""

from typing import cast

import torch
from torch import Tensor, nn

from phi4.model.linear import Linear
from phi4.model.rope import inverse_frequencies
from phi4.model.transformer import Attention, Block, Transformer

LOOK_BACK = 3  # tokens, at most: one key-value head for each
_SHARPNESS = 4.0  # amplitude of a rotary pair in the heads that look back
_MATCH = 2.0  # gain of queries and keys that compare tokens
_WRITE = 0.08  # gain with which heads write into the residual stream


@torch.no_grad()
def prime_induction(model: Transformer, seed: int) -> None:
    """Write induction heads into the first two layers of a model that `init_weights` has drawn.

    Projections into the residual stream are zero elsewhere, so the stream starts out clean. All embeddings get one
    common component: it tells the heads that look back nothing but position, and as every logit gets the same
    from it, it does not change what a tied head predicts. The model needs two layers.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.zero_()

    size, channels = config.hidden_size, config.head_dim
    common_D = nn.functional.normalize(torch.randn(size, generator=generator), dim=0)
    embedding_VD = model.embed_tokens.weight
    embedding_VD -= torch.outer(embedding_VD @ common_D, common_D)
    embedding_VD += embedding_VD.norm(dim=1).mean() * common_D
    # Half of the squared length of a normed embedding is now common: reading it gives sqrt(D / 2).
    constant_D = common_D * (2 / size) ** 0.5

    token_KD = _orthonormal(channels, size, generator)
    token_KD -= torch.outer(token_KD @ common_D, common_D)
    # before_KD[k] reads or writes the token k places back, all in the channels of token_KD.
    before_KD = [token_KD, *(_orthonormal(channels, size, generator) for _ in range(LOOK_BACK))]
    angle_R = inverse_frequencies(config, long=False)
    pairs = len(angle_R)
    # Rotation blurs a match over a distance; the slow half of the pairs, and channels that do not turn, blur least.
    still = [*range(pairs // 2, pairs), *range(pairs + pairs // 2, channels)]
    first, second = (cast(Block, layer).self_attn for layer in model.layers[:2])
    for back in range(1, min(LOOK_BACK, config.num_key_value_heads) + 1):
        q_KD, k_KD, v_KD, o_DK = _head(first, back - 1)
        # The key is turned by `back` positions, so it points where the query does when it stands that far behind.
        q_KD[:pairs] += _SHARPNESS * constant_D
        k_KD[:pairs] += _SHARPNESS * torch.outer(torch.cos(back * angle_R), constant_D)
        k_KD[pairs : 2 * pairs] += _SHARPNESS * torch.outer(torch.sin(back * angle_R), constant_D)
        v_KD.copy_(token_KD)
        o_DK.copy_(_WRITE * before_KD[back].T)

        q_KD, k_KD, v_KD, o_DK = _head(second, back - 1)
        # What stands `back - 1` before here, against what stood `back` before there: there follows what followed.
        q_KD[still] += _MATCH * before_KD[back - 1][: len(still)]
        k_KD[still] += _MATCH * before_KD[back][: len(still)]
        v_KD.copy_(_orthonormal(channels, size, generator))
        o_DK.copy_(_WRITE * v_KD.T)


def _head(attention: Attention, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views of one key-value head, its first query head, and that one's output; queries and keys are hushed."""
    heads, groups, channels = attention.heads, attention.groups, attention.head_dim
    qkv, out = attention.qkv_proj, attention.o_proj
    assert isinstance(qkv, Linear), "a network that is trained is not quantised"
    assert isinstance(out, Linear)
    rows = qkv.weight.view(heads + 2 * groups, channels, -1)
    query = number * heads // groups
    q_KD, k_KD, v_KD = rows[query], rows[heads + number], rows[heads + groups + number]
    q_KD *= 0.1
    k_KD *= 0.1
    return q_KD, k_KD, v_KD, out.weight[:, query * channels : (query + 1) * channels]


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    q: Tensor = torch.linalg.qr(torch.randn(columns, rows, generator=generator))[0]
    return q.T.contiguous()
