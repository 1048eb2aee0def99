"""The shapes of the published models (facts 1.1 and 1.2)."""

from phi4.model.config import LongRope, ModelConfig

PHI_4 = ModelConfig(
    vocab_size=100_352,
    hidden_size=5_120,
    num_hidden_layers=40,
    num_attention_heads=40,
    num_key_value_heads=10,
    intermediate_size=17_920,
    max_position_embeddings=16_384,
    rope_theta=250_000.0,
)

# fmt: off
_MINI_LONG_FACTOR = (
    1.0, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649,
    2.446418898, 2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845, 5.351743533,
    5.984965424, 6.693110555, 7.485043894, 8.370679318, 9.36110372, 10.4687158, 11.70738129, 13.09260651,
    14.64173252, 16.37415215, 18.31155283, 20.47818807, 22.90118105, 25.61086418, 28.64115884, 32.03,
    32.1, 32.13, 32.23, 32.6, 32.61, 32.64, 32.66, 32.7, 32.71, 32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77,
)
# fmt: on

PHI_4_MINI = ModelConfig(
    vocab_size=200_064,
    hidden_size=3_072,
    num_hidden_layers=32,
    num_attention_heads=24,
    num_key_value_heads=8,
    intermediate_size=8_192,
    max_position_embeddings=131_072,
    original_max_position_embeddings=4_096,
    rope_theta=10_000.0,
    partial_rotary_factor=0.75,
    long_rope=LongRope(short_factor=(1.0,) * 48, long_factor=_MINI_LONG_FACTOR),
    tie_word_embeddings=True,
)
