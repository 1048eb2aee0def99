"""What a network is, in the field names of Hugging Face's Phi3Config."""

from dataclasses import dataclass, fields
from typing import Any

from phi4.errors import ModelError


@dataclass(frozen=True)
class LongRope:
    """LongRoPE factors, one per rotated pair (rotary_dim / 2 of each)."""

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a Phi-4 network (facts 1.1 and 1.2; transformers' Phi3Config)."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    max_position_embeddings: int
    original_max_position_embeddings: int = 0  # 0: same as max_position_embeddings
    rope_theta: float = 10_000.0
    partial_rotary_factor: float = 1.0
    long_rope: LongRope | None = None
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            raise ModelError(
                f"hidden_size {self.hidden_size}, {self.num_attention_heads} heads and "
                f"{self.num_key_value_heads} key-value heads do not divide each other"
            )
        if self.long_rope is not None:
            pairs = self.rotary_dim // 2
            for name in ("short_factor", "long_factor"):
                if len(getattr(self.long_rope, name)) != pairs:
                    raise ModelError(f"rope {name} needs {pairs} values, one per rotated pair")

    @property
    def head_dim(self) -> int:
        """Channels per head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def rotary_dim(self) -> int:
        """Channels per head that are rotated; the rest pass through."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def original_context(self) -> int:
        """Length up to which LongRoPE uses its short factors."""
        return self.original_max_position_embeddings or self.max_position_embeddings


def to_hf(config: ModelConfig, *, bos_id: int, eos_id: int, pad_id: int, dtype: str) -> dict[str, Any]:
    """The config.json of a Phi3ForCausalLM folder."""
    plain = {f.name: getattr(config, f.name) for f in fields(config) if f.name != "long_rope"}
    scaling = None
    if config.long_rope is not None:
        scaling = {
            "type": "longrope",
            "short_factor": list(config.long_rope.short_factor),
            "long_factor": list(config.long_rope.long_factor),
        }
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        **plain,
        "original_max_position_embeddings": config.original_context,
        "rope_scaling": scaling,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "sliding_window": None,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
        "torch_dtype": dtype,
        "use_cache": True,
    }


def from_hf(raw: dict[str, Any]) -> ModelConfig:
    """Read a config.json of the phi3 family, written by any transformers version.

    Raises ModelError for another architecture, an active sliding window or an unknown RoPE variant:
    a network that would be computed wrongly is refused, never approximated.
    """
    if raw.get("model_type") != "phi3":
        raise ModelError(f"model_type {raw.get('model_type')!r} is not phi3, the family this version runs")
    # transformers 5 gathers the three RoPE settings under one key.
    rope = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in ("su", "yarn"):  # names under which Phi-3 checkpoints first shipped LongRoPE
        kind = "longrope"
    if kind not in ("default", "longrope"):
        raise ModelError(f"unknown RoPE variant {kind!r}", "supported: default, longrope")
    if raw.get("hidden_act", "silu") != "silu" or raw.get("attention_bias", False):
        raise ModelError("only silu without attention biases is supported")
    window, limit = raw.get("sliding_window"), int(raw["max_position_embeddings"])
    if window is not None and window < limit:
        raise ModelError(f"a sliding window of {window} inside a context of {limit} is not supported")
    original = int(
        rope.get("original_max_position_embeddings") or raw.get("original_max_position_embeddings") or limit
    )
    long_rope = None
    if kind == "longrope":
        if (
            rope.get("attention_factor") is not None
            or rope.get("factor", limit / original) != limit / original
        ):
            raise ModelError(
                "LongRoPE with an attention_factor or factor of its own is not supported",
                "the published Phi models derive both from their context lengths",
            )
        long_rope = LongRope(tuple(rope["short_factor"]), tuple(rope["long_factor"]))
    heads = int(raw["num_attention_heads"])
    return ModelConfig(
        vocab_size=int(raw["vocab_size"]),
        hidden_size=int(raw["hidden_size"]),
        num_hidden_layers=int(raw["num_hidden_layers"]),
        num_attention_heads=heads,
        num_key_value_heads=int(raw.get("num_key_value_heads") or heads),
        intermediate_size=int(raw["intermediate_size"]),
        max_position_embeddings=limit,
        original_max_position_embeddings=original,
        rope_theta=float(rope.get("rope_theta", raw.get("rope_theta", 10_000.0))),
        partial_rotary_factor=float(
            rope.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) or 1.0
        ),
        long_rope=long_rope,
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-5)),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        initializer_range=float(raw.get("initializer_range", 0.02)),
    )
