"""Small random networks whose attention is sharp enough for a mistake to show."""

import torch
from torch import Tensor

from phi4.model.config import ModelConfig
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer, causal_attention


def network(vocab_size: int = 61, context: int = 64, seed: int = 0, *, tied: bool = True) -> Transformer:
    """Two layers in float64: GQA, partial rotary, gains that are not 1."""
    config = ModelConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=context,
        rope_theta=250_000.0,
        partial_rotary_factor=0.75,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    model = Transformer(config).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(0.0, 0.3, generator=generator)
            if "norm" in name:
                weight.add_(1.0)
    return model.eval()


def plain_logits(model: Transformer, ids: list[int]) -> Tensor:
    """Logits [T, V] of one sequence by the plain uncached forward."""
    ids_1T = torch.tensor([ids])
    positions_1T = torch.arange(len(ids))[None]
    rope = Rope(model.config, model.config.max_position_embeddings)
    return model.head(model(ids_1T, positions_1T, causal_attention, rope))[0]
