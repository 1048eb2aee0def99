"""Random checkpoints of the published shapes, in shards: for speed and memory, where weights do not matter.

One layer is drawn and written under every layer's name, so that a 14B model takes as long to write as the disk needs.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import quantize
from safetensors.torch import save_file
from torch import Tensor

from phi4.model.config import ModelConfig, to_hf
from phi4.model.transformer import Transformer
from phi4.run.files import atomic_write
from phi4.weights.checkpoint import INDEX
from phi4.weights.gguf_read import ROPE_FACTORS, gguf_name
from phi4.weights.gguf_write import add_metadata, shape_metadata
from phi4.weights.layout import pieces
from phi4.weights.rounding import nearest

_LAYERS_PER_SHARD = 4


def random_tensors(config: ModelConfig, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(tensors outside the layers, tensors of one layer with its number as "{n}"), bf16, under checkpoint names."""
    with torch.device("meta"):
        model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    outside: dict[str, Tensor] = {}
    layer: dict[str, Tensor] = {}
    for name, meta in model.state_dict().items():
        if name.startswith("layers.") and not name.startswith("layers.0."):
            continue
        norm = meta.ndim == 1
        value = torch.ones(meta.shape) if norm else torch.randn(meta.shape, generator=generator) * 0.02
        for piece in pieces(config, name, len(meta)):
            target = layer if name.startswith("layers.0.") else outside
            part = value[piece.start : piece.start + piece.rows].to(torch.bfloat16).contiguous()
            target[piece.name.replace("layers.0.", "layers.{n}.")] = part
    return outside, layer


def write_checkpoint(folder: Path, config: ModelConfig) -> None:
    """A Hugging Face folder of the shape, plain (bf16) or quantised as the configuration says."""
    folder.mkdir(parents=True, exist_ok=True)
    outside, layer = random_tensors(replace(config, quantization=None))
    if config.quantization is not None:
        layer = _quantized(layer, config)
    groups = [outside]
    for first in range(0, config.num_hidden_layers, _LAYERS_PER_SHARD):
        numbers = range(first, min(first + _LAYERS_PER_SHARD, config.num_hidden_layers))
        groups.append({name.replace("{n}", str(n)): value for n in numbers for name, value in layer.items()})
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(groups):
        file = f"model-{number + 1:05}-of-{len(groups):05}.safetensors"
        # safetensors refuses tensors that share memory, as the repeated layers do.
        save_file({name: value.clone() for name, value in tensors.items()}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    atomic_write(folder / INDEX, json.dumps({"metadata": {}, "weight_map": weight_map}))
    raw = to_hf(config, bos_id=0, eos_id=0, pad_id=0, dtype="bfloat16")
    atomic_write(folder / "config.json", json.dumps(raw, indent=2) + "\n")


def _quantized(layer: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The matrices of one layer rounded, under the names a quantised checkpoint has."""
    assert config.quantization is not None
    found = {}
    for name, value in layer.items():
        if value.ndim == 1:
            found[name] = value
            continue
        packed, scales = nearest(value, config.quantization, torch.bfloat16)
        found |= {
            f"{name}_packed": packed,
            f"{name}_scale": scales,
            f"{name}_shape": torch.tensor(value.shape),
        }
    return found


def write_q4_0(path: Path, config: ModelConfig) -> None:
    """The shape for llama.cpp: matrices in Q4_0 (the same numbers), the output matrix in Q6_K, as its quantiser does.

    The vocabulary is left out: the bench speaks in ids.
    """
    outside, layer = random_tensors(config)
    arch = "phi3" if config.architecture == "Phi3ForCausalLM" else "llama"
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("random")
    for key, value in shape_metadata(arch, config).items():
        add_metadata(writer, key, value)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config.vocab_size)
    if config.long_rope is not None:
        for key, name in ROPE_FACTORS.items():
            writer.add_tensor(name, np.array(getattr(config.long_rope, key), dtype=np.float32))
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    for name, value in outside.items():
        _add(writer, gguf_name(name), value, Kind.Q6_K if name == head else Kind.Q4_0)
    encoded = {name: _encoded(value, Kind.Q4_0) for name, value in layer.items()}
    for n in range(config.num_hidden_layers):
        for name, (data, kind) in encoded.items():
            writer.add_tensor(gguf_name(name.replace("{n}", str(n))), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, name: str, value: Tensor, kind: Kind) -> None:
    data, kind = _encoded(value, kind)
    writer.add_tensor(name, data, raw_dtype=kind)


def _encoded(value: Tensor, kind: Kind) -> tuple[np.ndarray[Any, Any], Kind]:
    """A tensor's bytes, and how they are to be read; vectors stay float32."""
    plain = value.float().numpy()
    if value.ndim == 1:
        return plain, Kind.F32
    if kind == Kind.Q6_K:
        return _random_q6_k(value.shape), kind
    return quantize(plain, kind), kind


def _random_q6_k(shape: torch.Size) -> np.ndarray[Any, Any]:
    """Random blocks of llama.cpp's 6-bit encoding, which the gguf library reads but does not write."""
    blocks = shape.numel() // 256
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (blocks, 210), dtype=np.uint8)
    data[:, 192:208] = rng.integers(1, 32, (blocks, 16), dtype=np.uint8)  # signed scales of 16 weights
    data[:, 208:] = np.frombuffer(np.float16(2e-5).tobytes(), dtype=np.uint8)
    return data.reshape(*shape[:-1], -1)
