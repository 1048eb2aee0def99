"""What a network costs: parameters, FLOPs, bytes. Counted from the configuration, tested against the model.

FLOP convention: a multiply-add is 2 FLOPs; attention counts the full square of the context, as the
published MFU figures this project compares itself with do. Embedding look-ups cost nothing.
"""

from phi4.model.config import ModelConfig


def matmul_parameters(config: ModelConfig) -> int:
    """Weights that take part in a matrix product per token (layers and head; a tied head counts once)."""
    hidden, channels = config.hidden_size, config.head_dim
    qkv = hidden * (config.num_attention_heads + 2 * config.num_key_value_heads) * channels
    out = config.num_attention_heads * channels * hidden
    mlp = 3 * hidden * config.intermediate_size
    return config.num_hidden_layers * (qkv + out + mlp) + config.vocab_size * hidden


def parameters(config: ModelConfig) -> int:
    """All parameters."""
    norms = (2 * config.num_hidden_layers + 1) * config.hidden_size
    embedding = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    return matmul_parameters(config) + norms + embedding


def weight_bytes(config: ModelConfig, bytes_per_value: int = 2) -> int:
    """Bytes of the weights in memory: quantised matrices as they are stored, the rest at `bytes_per_value`."""
    quantization = config.quantization
    if quantization is None:
        return bytes_per_value * parameters(config)
    inside = matmul_parameters(config) - config.vocab_size * config.hidden_size
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    rows = heads * config.head_dim + 2 * config.hidden_size + 2 * config.intermediate_size
    scales = inside // quantization.group_size if quantization.group_size else config.num_hidden_layers * rows
    outside = parameters(config) - inside
    return inside * quantization.bits // 8 + bytes_per_value * (outside + scales)


def forward_flops_per_token(config: ModelConfig, context: int) -> int:
    """FLOPs to read one token in a context of `context` tokens."""
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * context
    return 2 * matmul_parameters(config) + attention


def training_flops_per_token(config: ModelConfig, context: int) -> int:
    """Forward and backward: three forwards."""
    return 3 * forward_flops_per_token(config, context)


def kv_bytes_per_token(config: ModelConfig, bytes_per_value: int = 2) -> int:
    """Key-value cache bytes of one token."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * bytes_per_value


def training_bytes(config: ModelConfig, batch_tokens: int) -> int:
    """Rough peak of training: float32 weights, gradients, two moments; bf16 activations and logits."""
    per_token = config.num_hidden_layers * (16 * config.hidden_size + 4 * config.intermediate_size) * 2
    return 16 * parameters(config) + batch_tokens * (per_token + 6 * config.hidden_size)
