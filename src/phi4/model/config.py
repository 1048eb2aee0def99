"""What a network is, in the field names of Hugging Face's configurations (Phi3, Llama and Mistral)."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from phi4.errors import ModelError

Architecture = Literal["Phi3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM"]

# Families whose networks are this one; they differ in the names and defaults of their config.json only.
ARCHITECTURES: dict[str, Architecture] = {
    "phi3": "Phi3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
}

_LARGEST_SIZE = 1 << 24  # a damaged file must not ask for the whole memory
_MOST_LAYERS = 1_000


@dataclass(frozen=True)
class Quantization:
    """How the matrices of a network are stored. Embedding, norms and output matrix stay as they were."""

    bits: int  # 4 or 8
    group_size: int = 0  # inputs that share a scale; 0: a whole row

    def __post_init__(self) -> None:
        if self.bits not in (4, 8) or self.group_size not in (0, 32, 64, 128):
            raise ModelError(
                f"{self.bits} bits in groups of {self.group_size} is not a supported quantisation",
                "4 or 8 bits, per row (0) or in groups of 32, 64 or 128",
            )

    @property
    def name(self) -> str:
        """`int4 in groups of 32`, `int8 per row`."""
        return f"int{self.bits} " + (f"in groups of {self.group_size}" if self.group_size else "per row")

    def scales(self, n_in: int) -> int:
        """Scales per row of `n_in` inputs. Raises ModelError when the groups or words do not fill a row."""
        step = self.group_size or 32 // self.bits
        if n_in % step:
            raise ModelError(f"rows of {n_in} inputs cannot be {self.name}", "choose a smaller group size")
        return n_in // self.group_size if self.group_size else 1


@dataclass(frozen=True)
class LongRope:
    """LongRoPE factors, one per rotated pair (rotary_dim / 2 of each)."""

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a Phi-4 network (facts 1.1 and 1.2; transformers' Phi3Config), or of a Llama or Mistral.

    `architecture` says how checkpoints lay the weights out and name them; the computation is the same.
    """

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
    head_size: int = 0  # 0: hidden_size / heads (config.json: head_dim; it differs in Mistral-Small-24B)
    architecture: Architecture = "Phi3ForCausalLM"
    quantization: Quantization | None = None  # of the matrices inside the layers

    def __post_init__(self) -> None:
        sizes = (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "intermediate_size",
            "max_position_embeddings",
        )
        for name in sizes:
            most = _MOST_LAYERS if name == "num_hidden_layers" else _LARGEST_SIZE
            if not 0 < getattr(self, name) <= most:
                raise ModelError(f"{name} {getattr(self, name)} is not between 1 and {most:,}")
        if not 0 <= self.original_max_position_embeddings <= _LARGEST_SIZE:
            raise ModelError(
                f"original_max_position_embeddings {self.original_max_position_embeddings} is out of range"
            )
        if not 0 < self.partial_rotary_factor <= 1:
            raise ModelError(f"partial_rotary_factor {self.partial_rotary_factor} is not between 0 and 1")
        uneven = not self.head_size and self.hidden_size % self.num_attention_heads
        if uneven or self.num_attention_heads % self.num_key_value_heads:
            raise ModelError(
                f"hidden_size {self.hidden_size}, {self.num_attention_heads} heads and "
                f"{self.num_key_value_heads} key-value heads do not divide each other"
            )
        if not 0 <= self.head_size <= self.hidden_size or self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ModelError(
                f"heads of {self.head_dim} channels with {self.rotary_dim} of them rotated are not possible"
            )
        if not (0 < self.rope_theta < math.inf and 0 < self.rms_norm_eps < 1):
            raise ModelError(
                f"rope_theta {self.rope_theta} or rms_norm_eps {self.rms_norm_eps} is out of range"
            )
        if self.long_rope is not None:
            pairs = self.rotary_dim // 2
            for name in ("short_factor", "long_factor"):
                factors = getattr(self.long_rope, name)
                if len(factors) != pairs or not all(0 < factor < math.inf for factor in factors):
                    raise ModelError(f"rope {name} needs {pairs} positive numbers, one per rotated pair")
            if self.original_context < 2:
                raise ModelError("LongRoPE needs an original context of at least 2 tokens")

    @property
    def head_dim(self) -> int:
        """Channels per head."""
        return self.head_size or self.hidden_size // self.num_attention_heads

    @property
    def rotary_dim(self) -> int:
        """Channels per head that are rotated; the rest pass through."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def original_context(self) -> int:
        """Length up to which LongRoPE uses its short factors."""
        return self.original_max_position_embeddings or self.max_position_embeddings


def to_hf(config: ModelConfig, *, bos_id: int | None, eos_id: int, pad_id: int, dtype: str) -> dict[str, Any]:
    """The config.json of a model folder of the configuration's architecture."""
    ours = ("long_rope", "head_size", "architecture", "original_max_position_embeddings", "quantization")
    plain = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in ours}
    raw = {
        "architectures": [config.architecture],
        "model_type": next(kind for kind, name in ARCHITECTURES.items() if name == config.architecture),
        **plain,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    if config.architecture == "Phi3ForCausalLM":
        raw |= {
            "original_max_position_embeddings": config.original_context,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        }
    else:
        raw |= {"mlp_bias": False}
    if config.architecture != "LlamaForCausalLM":
        raw["sliding_window"] = None
    if config.head_size or config.architecture != "Phi3ForCausalLM":
        raw["head_dim"] = config.head_dim
    raw["rope_scaling"] = None
    if config.long_rope is not None:
        raw["rope_scaling"] = {
            "type": "longrope",
            "short_factor": list(config.long_rope.short_factor),
            "long_factor": list(config.long_rope.long_factor),
        }
    if config.quantization is not None:
        raw["quantization_config"] = _quantization_to_hf(config.quantization)
    return raw


def from_hf(raw: dict[str, Any]) -> ModelConfig:
    """Read a config.json of the phi3, llama or mistral family, written by any transformers version.

    Raises ModelError for another architecture, an active sliding window or an unknown RoPE variant:
    a network that would be computed wrongly is refused, never approximated.
    """
    family = raw.get("model_type")
    if family not in ARCHITECTURES:
        raise ModelError(
            f"model_type {family!r} is not a family this version runs",
            f"these are {', '.join(ARCHITECTURES)}",
        )
    named = raw.get("architectures") or [ARCHITECTURES[family]]
    if named != [ARCHITECTURES[family]]:
        raise ModelError(f"architectures {named} is not {ARCHITECTURES[family]}, the {family} text model")
    # transformers 5 gathers the three RoPE settings under one key.
    rope = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if family == "phi3" and kind in (
        "su",
        "yarn",
    ):  # names under which Phi-3 checkpoints first shipped LongRoPE
        kind = "longrope"
    supported = ("default", "longrope") if family == "phi3" else ("default",)
    if kind not in supported:
        raise ModelError(f"unknown RoPE variant {kind!r}", f"supported in {family}: {', '.join(supported)}")
    biases = any(raw.get(name, False) for name in ("attention_bias", "mlp_bias", "lm_head_bias"))
    if raw.get("hidden_act", "silu") != "silu" or biases:
        raise ModelError("only silu without biases is supported")
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
    heads, hidden = int(raw["num_attention_heads"]), int(raw["hidden_size"])
    head_size = int(raw.get("head_dim") or 0)
    return ModelConfig(
        vocab_size=int(raw["vocab_size"]),
        hidden_size=hidden,
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
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-5 if family == "phi3" else 1e-6)),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        initializer_range=float(raw.get("initializer_range", 0.02)),
        head_size=0 if heads and head_size * heads == hidden else head_size,
        architecture=ARCHITECTURES[family],
        quantization=_quantization_from_hf(raw.get("quantization_config")),
    )


def _quantization_to_hf(quantization: Quantization) -> dict[str, Any]:
    """compressed-tensors' description of weights-only quantisation (its "pack-quantized" format)."""
    weights = {
        "num_bits": quantization.bits,
        "type": "int",
        "symmetric": True,
        "strategy": "group" if quantization.group_size else "channel",
        "group_size": quantization.group_size or None,
        "dynamic": False,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }


def _quantization_from_hf(raw: dict[str, Any] | None) -> Quantization | None:
    """The inverse; ModelError for every kind that this network does not compute."""
    if not raw:
        return None
    method, form = raw.get("quant_method"), raw.get("format")
    if method != "compressed-tensors" or form != "pack-quantized":
        raise ModelError(
            f"weights quantised by {method} ({form}) are not read",
            "compressed-tensors folders in its pack-quantized form, and .gguf files are",
        )
    groups = list(raw.get("config_groups", {}).values())
    group = groups[0] if len(groups) == 1 else {}
    weights = group.get("weights") or {}
    strategy, size = weights.get("strategy"), weights.get("group_size")
    known = (
        weights.get("type", "int") == "int"
        and weights.get("symmetric", True)
        and not weights.get("dynamic")
        # Ordering by activations while weights were rounded leaves no trace; "group" permutes the inputs.
        and weights.get("actorder") in (None, False, "weight", "static")
        and (strategy == "channel" or (strategy == "group" and size))
        and not any(group.get(key) for key in ("input_activations", "output_activations"))
        and group.get("targets") == ["Linear"]
        and raw.get("ignore") in (["lm_head"], ["re:.*lm_head"])
        and not any(raw.get(key) for key in ("kv_cache_scheme", "sparsity_config", "transform_config"))
    )
    if not known:
        raise ModelError(
            "quantised in a way that is not computed here",
            "supported: symmetric int4 or int8 weights of all layers, per row or in groups",
        )
    return Quantization(int(weights["num_bits"]), int(size or 0) if strategy == "group" else 0)
