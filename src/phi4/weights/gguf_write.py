"""GGUF out: a network and its tokenizer as one file that llama.cpp and everything built on it runs.

Tensors are encoded one at a time while the file is written. The file is then read back and compared with the network
before it takes its place; a comparison that fails leaves nothing behind.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.constants import GGMLQuantizationType as Kind
from gguf.constants import LlamaFileType as FileType
from gguf.quants import quantize
from torch import Tensor

from phi4.errors import ModelError
from phi4.model.config import ModelConfig
from phi4.model.cost import parameters
from phi4.model.rope import Rope, attention_factor
from phi4.model.transformer import Transformer, causal_attention
from phi4.run.files import atomic_file
from phi4.text.tokenizer import Tokenizer
from phi4.weights.checkpoint import to_checkpoint
from phi4.weights.gguf_file import open_gguf
from phi4.weights.gguf_read import ROPE_FACTORS, GgufWeights, config_of, gguf_name, read_gguf, swap_halves
from phi4.weights.gguf_tokenizer import tokenizer_metadata

_LOGITS_BELOW = 2_000_000_000  # parameters up to which two copies fit beside each other


@dataclass(frozen=True)
class Encoding:
    """How matrices are stored: their encoding, the head's, and how far the result may be from the network."""

    matrices: Kind
    head: Kind
    file_type: FileType
    error: float  # largest relative error of a tensor (root mean square)
    divergence: float  # largest mean KL divergence on the probe, in nats


ENCODINGS = {
    "f32": Encoding(Kind.F32, Kind.F32, FileType.ALL_F32, 0.0, 1e-9),
    "f16": Encoding(Kind.F16, Kind.F16, FileType.MOSTLY_F16, 1e-3, 1e-3),
    "bf16": Encoding(Kind.BF16, Kind.BF16, FileType.MOSTLY_BF16, 4e-3, 1e-3),
    "q8_0": Encoding(Kind.Q8_0, Kind.Q8_0, FileType.MOSTLY_Q8_0, 0.01, 0.02),
    "q4_0": Encoding(Kind.Q4_0, Kind.Q8_0, FileType.MOSTLY_Q4_0, 0.15, 1.0),
    "q4_1": Encoding(Kind.Q4_1, Kind.Q8_0, FileType.MOSTLY_Q4_1, 0.15, 1.0),
}


@dataclass(frozen=True)
class Written:
    """What was compared before the file was put in place."""

    bytes: int
    error: float  # largest relative error of a tensor
    divergence: float | None  # mean KL divergence in nats; None where two copies would not fit in memory


def write_gguf(
    path: Path, model: Transformer, tokenizer: Tokenizer, kind: str = "f16", name: str = "", licence: str = ""
) -> Written:
    """Write `model` to `path` in the encoding `kind`. Raises ModelError when the file does not reproduce it."""
    if kind not in ENCODINGS:
        raise ModelError(f"GGUF encoding {kind!r} is not one of {', '.join(ENCODINGS)}")
    encoding = ENCODINGS[kind]
    with atomic_file(path) as temporary:
        _write(temporary, model, tokenizer, encoding, name or path.stem, licence)
        return checked(temporary, model, encoding, path)


def checked(file: Path, model: Transformer, encoding: Encoding, path: Path) -> Written:
    """Read a file back and compare it with the network. Raises ModelError, about `path`, when it is too far away."""
    written = _compare(file, model)
    if written.error > encoding.error or (written.divergence or 0.0) > encoding.divergence:
        raise ModelError(
            f"{path} does not reproduce the model: relative error {written.error:.2g}, "
            f"KL divergence {written.divergence} nats (at most {encoding.error}, {encoding.divergence})"
        )
    return written


def _write(
    path: Path, model: Transformer, tokenizer: Tokenizer, encoding: Encoding, name: str, licence: str
) -> None:
    config = model.config
    arch = "phi3" if config.architecture == "Phi3ForCausalLM" else "llama"
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(name)
    if licence:
        writer.add_license(licence)
    writer.add_file_type(encoding.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in {
        **shape_metadata(arch, config),
        **tokenizer_metadata(tokenizer, config.vocab_size),
    }.items():
        add_metadata(writer, key, value)
    for name, tensor, kind in _tensors(model, encoding):
        block, size = gguf.GGML_QUANT_SIZES[kind]
        # Plain dtypes are declared by number type, encoded ones by the bytes of their rows.
        shape = list(tensor.shape)
        if kind not in (Kind.F32, Kind.F16):
            shape[-1] = shape[-1] // block * size
        dtype = {Kind.F32: np.float32, Kind.F16: np.float16}.get(kind, np.uint8)
        nbytes = tensor.numel() // block * size
        writer.add_tensor_info(name, shape, np.dtype(dtype), nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor, kind in _tensors(model, encoding):
        writer.write_tensor_data(_encode(tensor, kind))
    writer.close()


def shape_metadata(arch: str, config: ModelConfig) -> dict[str, Any]:
    """The keys llama.cpp's own converter writes for these architectures."""
    found: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(config.rope_theta),
        "rope.dimension_count": config.rotary_dim,
    }
    if arch == "phi3":
        found["rope.scaling.original_context_length"] = config.original_context
        found["attention.sliding_window"] = 0  # without it some versions assume Phi-3's window
        if config.long_rope is not None:
            found["rope.scaling.attn_factor"] = attention_factor(config)
    else:
        found["vocab_size"] = config.vocab_size
    if config.head_size:
        found["attention.key_length"] = found["attention.value_length"] = config.head_dim
    return {f"{arch}.{key}": value for key, value in found.items()}


def add_metadata(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """A metadata key with the GGUF type of its Python value."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _tensors(model: Transformer, encoding: Encoding) -> Iterator[tuple[str, Tensor, Kind]]:
    """Every tensor of the file, with its encoding, in the file's order."""
    config = model.config
    if config.long_rope is not None:
        for key, name in ROPE_FACTORS.items():
            yield name, torch.tensor(getattr(config.long_rope, key), dtype=torch.float32), Kind.F32
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    for name, tensor in to_checkpoint(model).items():
        kind = encoding.head if name == head else encoding.matrices
        if tensor.ndim == 1:
            kind = Kind.F32
        elif tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = Kind.F16  # a row that does not divide into blocks
        if config.architecture != "Phi3ForCausalLM" and name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = swap_halves(tensor, config.head_dim, to_gguf=True)
        yield gguf_name(name), tensor, kind


def _encode(tensor: Tensor, kind: Kind) -> np.ndarray[Any, Any]:
    if kind == Kind.BF16:
        return tensor.detach().to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
    plain = tensor.detach().to(torch.float32).contiguous().numpy()
    if kind == Kind.F32:
        return plain
    if kind == Kind.F16:
        return plain.astype(np.float16)
    return quantize(plain, kind)


def _compare(path: Path, model: Transformer) -> Written:
    file = open_gguf(path)
    weights = GgufWeights(file, model.config)
    if (
        config_of(file).head_dim != model.config.head_dim
        or config_of(file).rotary_dim != model.config.rotary_dim
    ):
        raise ModelError(f"{path} came out with another shape")
    error = 0.0
    for name, tensor in to_checkpoint(model).items():
        wanted = tensor.detach().float()
        difference = (weights.read(name).float() - wanted).pow(2).mean().sqrt()
        error = max(error, float(difference / wanted.pow(2).mean().sqrt().clamp_min(1e-30)))
    divergence = None
    if parameters(model.config) < _LOGITS_BELOW:
        dtype = model.embed_tokens.weight.dtype
        divergence = mean_divergence(model, read_gguf(path, dtype).model)
    return Written(path.stat().st_size, error, divergence)


@torch.no_grad()
def mean_divergence(first: Transformer, second: Transformer) -> float:
    """Mean KL divergence in nats of `second`'s predictions from `first`'s, on a fixed probe of 32 tokens."""
    config = first.config
    ids_BT = torch.arange(32).mul(7919).remainder(config.vocab_size)[None]
    positions_BT = torch.arange(32)[None]
    logs = [
        model.head(model(ids_BT, positions_BT, causal_attention, Rope(config, 32))).double().log_softmax(-1)
        for model in (first, second)
    ]
    return float((logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean())
