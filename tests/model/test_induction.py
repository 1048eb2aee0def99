"""A primed model looks back and copies before it has read a single page."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from phi4.model.config import ModelConfig
from phi4.model.induction import LOOK_BACK, prime_induction
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer, causal_attention

CONFIG = ModelConfig(
    vocab_size=512,
    hidden_size=128,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    intermediate_size=256,
    max_position_embeddings=256,
    rope_theta=2_000.0,
    initializer_range=0.06,
    tie_word_embeddings=True,
)
LENGTH = 60  # of the random text that is read twice


def _model(primed: bool, config: ModelConfig = CONFIG) -> Transformer:
    model = Transformer(config)
    model.init_weights(0)
    if primed:
        prime_induction(model, 0)
    return model


def _twice() -> Tensor:
    """Eight rows: random text without repetition, read two times."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randperm(CONFIG.vocab_size, generator=generator)[:LENGTH] for _ in range(8)]
    return torch.stack(rows).repeat(1, 2)


def _read(model: Transformer, ids_BT: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """The loss of every next token, and the attention weights [B, H, T, T] of every layer."""
    weights = {}

    def attend(layer: int, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
        k_BTHK = k_BTGK.repeat_interleave(q_BTHK.shape[2] // k_BTGK.shape[2], 2)
        scores = torch.einsum("bthk,bshk->bhts", q_BTHK, k_BTHK) * q_BTHK.shape[-1] ** -0.5
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -torch.inf)
        weights[layer] = scores.softmax(-1)
        return causal_attention(layer, q_BTHK, k_BTGK, v_BTGK)

    positions = torch.arange(ids_BT.shape[1])[None].expand_as(ids_BT)
    with torch.no_grad():
        logits = model.head(model(ids_BT, positions, attend, Rope(model.config, ids_BT.shape[1])))
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none")
    return loss.view(len(ids_BT), -1), weights


def test_heads_of_the_first_layer_look_one_two_and_three_tokens_back() -> None:
    _, weights = _read(_model(primed=True), _twice())
    for back in range(1, LOOK_BACK + 1):
        assert weights[0][:, back - 1].diagonal(-back, 1, 2).mean() > 0.5, back


def test_heads_of_the_second_layer_find_what_followed_the_same_tokens() -> None:
    _, weights = _read(_model(primed=True), _twice())
    for back in range(LOOK_BACK):
        seen = weights[1][:, back, LENGTH:]
        found = seen.diagonal(1, 1, 2)[:, LOOK_BACK:]  # the place after the first occurrence of each token
        assert found.mean() > 3 * seen.mean(), back


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, num_attention_heads=8)], ids=["plain", "grouped"])
def test_a_repeated_text_is_continued_without_any_training(config: ModelConfig) -> None:
    def gain(primed: bool) -> float:
        loss, _ = _read(_model(primed, config), _twice())
        return float(loss[:, : LENGTH - 1].mean() - loss[:, LENGTH:].mean())

    assert gain(primed=True) > gain(primed=False) + 0.04


def test_the_common_component_does_not_change_what_a_tied_head_predicts() -> None:
    embedding = _model(primed=True).embed_tokens.weight.detach()
    common = F.normalize(embedding.mean(0), dim=0)
    hidden = torch.randn(3, CONFIG.hidden_size, generator=torch.Generator().manual_seed(2))
    shift = hidden @ common * (embedding @ common)[:, None]
    assert (embedding @ common).std() < 0.02 * (embedding @ common).mean()
    assert shift.std(0).max() < 0.05
