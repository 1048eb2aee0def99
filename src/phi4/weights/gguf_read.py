"""GGUF in: a file of the phi3 or llama architecture becomes our network and tokenizer.

Weights are decoded tensor by tensor into the target precision. llama.cpp keeps Phi-3's fused matrices as they are
and permutes the rows of Llama's Q and K for its interleaved rotation; that is undone here.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from torch import Tensor

from phi4.errors import ModelError
from phi4.model.config import LongRope, ModelConfig
from phi4.model.rope import attention_factor
from phi4.model.transformer import Transformer
from phi4.text.tokenizer import Tokenizer
from phi4.weights.checkpoint import load_weights
from phi4.weights.gguf_file import GgufFile, open_gguf
from phi4.weights.gguf_tokenizer import read_tokenizer

READABLE = (
    Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1,
    Kind.Q4_K, Kind.Q5_K, Kind.Q6_K,
)  # fmt: skip
_PLAIN = {Kind.F32: torch.float32, Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}

# Checkpoint names and GGUF names; {n} is the layer.
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_FUSED_PARTS = [
    part
    for part in LAYER_NAMES
    if not part.endswith((".q_proj", ".k_proj", ".v_proj", ".gate_proj", ".up_proj"))
]
_SEPARATE_PARTS = [part for part in LAYER_NAMES if not part.endswith(("qkv_proj", "gate_up_proj"))]
ROPE_FACTORS = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}


@dataclass(frozen=True)
class GgufModel:
    """What a GGUF file holds."""

    model: Transformer
    tokenizer: Tokenizer

    @property
    def config(self) -> ModelConfig:
        """The network's shape."""
        return self.model.config


def read_gguf(path: Path, dtype: torch.dtype = torch.bfloat16) -> GgufModel:
    """Load a GGUF file, its weights converted to `dtype`. Raises ModelError, naming what is wrong."""
    file = open_gguf(path)
    tokenizer = read_tokenizer(file)
    with torch.device("meta"):
        model = Transformer(config_of(file))
    load_weights(model, GgufWeights(file, model.config), dtype)
    return GgufModel(model, tokenizer)


def read_gguf_config(path: Path) -> ModelConfig:
    """The shape of the network in a GGUF file. Raises ModelError."""
    return config_of(open_gguf(path))


def gguf_name(name: str) -> str:
    """The GGUF name of a checkpoint's tensor."""
    if name in NAMES:
        return NAMES[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[part]}.weight"


class GgufWeights:
    """The tensors of a GGUF file under checkpoint names, decoded when they are read (see `load_weights`)."""

    def __init__(self, file: GgufFile, config: ModelConfig) -> None:
        self.file, self.config, self.path = file, config, file.path

    @cached_property
    def names(self) -> set[str]:
        """Checkpoint names; a tensor without one goes by its GGUF name, and will be found unexpected."""
        parts = _FUSED_PARTS if self.config.architecture == "Phi3ForCausalLM" else _SEPARATE_PARTS
        layers = range(self.config.num_hidden_layers)
        known = [*NAMES, *(f"model.layers.{n}.{part}.weight" for n in layers for part in parts)]
        by_theirs = {gguf_name(name): name for name in known}
        return {by_theirs.get(name, name) for name in self.file.tensors.keys() - set(ROPE_FACTORS.values())}

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return self.file.tensors[gguf_name(name)].shape

    def read(self, name: str) -> Tensor:
        """One tensor, decoded to float32 unless it is stored plainly."""
        return self.rows_in_order(name, self.decode(gguf_name(name)))

    def decode(self, name: str) -> Tensor:
        """A tensor by its GGUF name."""
        info = self.file.tensors[name]
        if info.kind not in READABLE:
            raise ModelError(
                f"{self.path}: {name} is encoded as {info.kind.name}",
                f"readable are {', '.join(kind.name for kind in READABLE)}",
            )
        raw = self.file.bytes_of(name)
        if info.kind in _PLAIN:
            return torch.from_numpy(raw.copy()).view(_PLAIN[info.kind]).view(info.shape)
        blocks = raw.reshape(*info.shape[:-1], -1)
        return torch.from_numpy(dequantize(blocks, info.kind).astype(np.float32, copy=False)).view(info.shape)

    def rows_in_order(self, name: str, tensor: Tensor) -> Tensor:
        """Undo llama.cpp's permutation of Q and K."""
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            return swap_halves(tensor, self.config.head_dim, to_gguf=False)
        return tensor


def swap_halves(weight: Tensor, head_dim: int, *, to_gguf: bool) -> Tensor:
    """Reorder the rows of Q or K between halves side by side (ours) and interleaved pairs (llama.cpp's Llama)."""
    pairs = (2, head_dim // 2) if to_gguf else (head_dim // 2, 2)
    return weight.view(-1, *pairs, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def config_of(file: GgufFile) -> ModelConfig:
    """The network's shape from the metadata. Raises ModelError for what would be computed wrongly."""
    arch = file.metadata.get("general.architecture")
    if arch not in ("phi3", "llama"):
        raise ModelError(
            f"{file.path}: architecture {arch!r} is not one this version runs", "phi3 and llama are"
        )
    meta = _Metadata(file, arch)
    if meta.get("expert_count", 0):
        raise ModelError(f"{file.path} is a mixture of experts, which this version does not run")
    heads, hidden = meta["attention.head_count"], meta["embedding_length"]
    head_dim = meta.get("attention.key_length", hidden // max(1, heads))
    if meta.get("attention.value_length", head_dim) != head_dim:
        raise ModelError(f"{file.path}: keys and values of different widths are not supported")
    context = meta["context_length"]
    window = meta.get("attention.sliding_window", 0)
    if 0 < window < context:
        raise ModelError(
            f"{file.path}: a sliding window of {window} inside a context of {context} is not supported"
        )
    scaling = file.metadata.get(f"{arch}.rope.scaling.type", "none")
    if scaling not in ("none", "longrope") or "rope_freqs.weight" in file.tensors:
        raise ModelError(
            f"{file.path}: RoPE scaling {scaling!r} is not supported", "supported: none, longrope"
        )
    long_rope = _long_rope(file)
    rotary = meta.get("rope.dimension_count", head_dim)
    if long_rope is not None:  # some converters write the whole head here; the factors cannot be wrong
        rotary = 2 * len(long_rope.short_factor)
    if "token_embd.weight" not in file.tensors:
        raise ModelError(f"{file.path}: missing tensor token_embd.weight")
    config = ModelConfig(
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        hidden_size=hidden,
        num_hidden_layers=meta["block_count"],
        num_attention_heads=heads,
        num_key_value_heads=meta.get("attention.head_count_kv", heads),
        intermediate_size=meta["feed_forward_length"],
        max_position_embeddings=context,
        original_max_position_embeddings=meta.get("rope.scaling.original_context_length", context),
        rope_theta=meta.number("rope.freq_base", 10_000.0),
        partial_rotary_factor=rotary / head_dim if head_dim else 1.0,
        long_rope=long_rope,
        rms_norm_eps=_rounded(meta.number("attention.layer_norm_rms_epsilon", 1e-5)),
        tie_word_embeddings="output.weight" not in file.tensors,
        head_size=0 if head_dim * heads == hidden else head_dim,
        architecture="Phi3ForCausalLM" if arch == "phi3" else "LlamaForCausalLM",
    )
    factor = meta.number("rope.scaling.attn_factor", attention_factor(config))
    if abs(factor - attention_factor(config)) > 1e-3:
        raise ModelError(f"{file.path}: attention factor {factor} does not follow from its context lengths")
    return config


class _Metadata:
    """Integers of an architecture's metadata, checked."""

    def __init__(self, file: GgufFile, arch: str) -> None:
        self.file, self.arch = file, arch

    def __getitem__(self, key: str) -> int:
        value = self.file.metadata.get(f"{self.arch}.{key}")
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]  # one value per layer, all alike
        if not isinstance(value, int) or isinstance(value, bool):
            raise ModelError(f"{self.file.path}: {self.arch}.{key} is {value!r:.40}, not one whole number")
        return value

    def get(self, key: str, default: int) -> int:
        return self[key] if f"{self.arch}.{key}" in self.file.metadata else default

    def number(self, key: str, default: float) -> float:
        value = self.file.metadata.get(f"{self.arch}.{key}", default)
        if not isinstance(value, int | float):
            raise ModelError(f"{self.file.path}: {self.arch}.{key} is {value!r:.40}, not a number")
        return float(value)


def _rounded(value: float) -> float:
    """The decimal number that was meant by a float32 in the file."""
    return float(str(np.float32(value)))


def _long_rope(file: GgufFile) -> LongRope | None:
    there = {key: name for key, name in ROPE_FACTORS.items() if name in file.tensors}
    if not there:
        return None
    if len(there) < 2 or any(file.tensors[name].kind != Kind.F32 for name in there.values()):
        raise ModelError(f"{file.path}: the LongRoPE factors are not two float32 tensors")
    values = {
        key: tuple(_rounded(x) for x in file.bytes_of(name).view("<f4").tolist())
        for key, name in there.items()
    }
    return LongRope(values["short_factor"], values["long_factor"])
