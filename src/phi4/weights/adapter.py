"""LoRA adapters in PEFT's layout: adapter_config.json beside adapter_model.safetensors.

What another tool put into the configuration either is computed here exactly or is refused by name. An adapter written
here remembers its base, and goes onto no other; pickled adapters are never opened. Format: peft's LoraConfig and
its get_peft_model_state_dict.
"""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from phi4.errors import ModelError
from phi4.model.config import Architecture, ModelConfig
from phi4.model.linear import QuantizedLinear
from phi4.model.lora import LoraConfig, LoraUpdate, adapted, attach, ends_with, new_update
from phi4.model.transformer import Transformer
from phi4.run.files import atomic_file, atomic_write
from phi4.weights.adapter_config import CONFIG, read_settings
from phi4.weights.checkpoint import Checkpoint, refuse_pickled
from phi4.weights.layout import pieces

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_BASE = "phi4_base"  # inside auto_mapping, which peft reads only where task_type is missing
_SAMPLE = 256  # values per tensor in a fingerprint


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix an adapter can update: rows `start` .. `start + rows` of our linear map `module`."""

    module: str
    start: int
    rows: int
    n_in: int


def add_adapter(model: Transformer, config: LoraConfig, seed: int = 0) -> None:
    """Give a network new updates, drawn from one seed, that train while the rest is frozen.

    Raises ModelError when a target names no matrix inside the layers, as the architecture's checkpoints name them.
    """
    own = matrices(model.config)
    for target in config.targets:
        if not any(ends_with(name, target) for name in own):
            names = ", ".join(dict.fromkeys(name.rsplit(".", 1)[1] for name in own))
            raise ModelError(f"no matrix of this network is called {target}", f"there are {names}")
    generator = torch.Generator().manual_seed(seed)
    device = model.embed_tokens.weight.device
    model.requires_grad_(False)
    for name, at in own.items():
        if config.targeted(name):
            update = new_update(config, name, at.start, at.rows, at.n_in, generator)
            attach(model, at.module, name, update.to(device))


def save_adapter(folder: Path, model: Transformer, config: LoraConfig, base_name: str = "") -> None:
    """Write a network's updates as a PEFT folder that also remembers the base.

    `config` must be the one they were made with; `base_name` is shown to people and other tools.
    """
    tensors: dict[str, Tensor] = {}
    for _, layer in adapted(model):
        for name, update in layer.named_updates():
            for part in ("lora_A", "lora_B"):
                tensors[f"{_PREFIX}{name}.{part}.weight"] = getattr(update, part).detach().cpu().contiguous()
    targets = config.targets or tuple(
        dict.fromkeys(name.rsplit(".", 1)[1] for name in matrices(model.config))
    )
    raw = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "auto_mapping": {_BASE: fingerprint(model)},
        "base_model_name_or_path": base_name or None,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "use_rslora": config.rslora,
        "target_modules": list(targets),
        "rank_pattern": dict(config.ranks),
        "alpha_pattern": dict(config.alphas),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    with atomic_file(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, {"format": "pt"})
    atomic_write(folder / CONFIG, json.dumps(raw, indent=2) + "\n")


def load_adapter(model: Transformer, folder: Path) -> tuple[LoraConfig, tuple[str, ...]]:
    """Put an adapter's updates on a network (see `lora.merge`); returns its settings and notices for the user.

    Nothing is changed unless all of it fits. Raises ModelError, naming what is wrong: not an adapter, pickled,
    another base, a kind of adapter or a tensor that this network does not have.
    """
    folder = Path(folder)
    config, raw = read_settings(folder)
    if adapted(model):
        raise ModelError("this network has an adapter already", "merge it first")
    notices = _check_base(folder, raw, model)
    source = _open(folder)
    names = _updated(source)
    known = _layout(source, model.config, names)
    _check_targets(source, raw, config, names, known)
    found = []
    for name in names:
        at, rank = known[name], config.rank_of(name)
        read = []
        for part, shape in (("lora_A", (rank, at.n_in)), ("lora_B", (at.rows, rank))):
            tensor = f"{_PREFIX}{name}.{part}.weight"
            if source.shape(tensor) != shape:
                raise ModelError(f"{source.path / WEIGHTS}: {tensor} is {source.shape(tensor)}, not {shape}")
            value = source.read(tensor)
            if not value.is_floating_point() or value.element_size() < 2:
                raise ModelError(f"{source.path / WEIGHTS}: {tensor} is {value.dtype}, not a plain weight")
            read.append(value)
        found.append((at.module, name, LoraUpdate(read[0], read[1], at.start, config.scale_of(name))))
    device = model.embed_tokens.weight.device
    model.requires_grad_(False)
    for module, name, update in found:
        attach(model, module, name, update.to(device))
    return config, notices


def matrices(config: ModelConfig) -> dict[str, Matrix]:
    """The matrices inside the layers under the names of the architecture's checkpoints, without .weight."""
    hidden, inner = config.hidden_size, config.intermediate_size
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    shapes = {
        "self_attn.qkv_proj": ((heads + 2 * groups) * config.head_dim, hidden),
        "self_attn.o_proj": (hidden, heads * config.head_dim),
        "mlp.gate_up_proj": (2 * inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    found = {}
    for layer in range(config.num_hidden_layers):
        for part, (rows, n_in) in shapes.items():
            module = f"layers.{layer}.{part}"
            for piece in pieces(config, f"{module}.weight", rows):
                name = piece.name.removesuffix(".weight")
                found[name] = Matrix(module, piece.start, piece.rows, n_in)
    return found


def fingerprint(model: Transformer) -> dict[str, str]:
    """What tells a base from others: hashes of its shape with what lies outside the layers, and of their matrices.

    They cover some values of every tensor, rounded to bfloat16, so that a base is the same in every precision it is
    computed in. Quantised matrices differ from the plain ones; `quantization` says that they are.
    """
    config = model.config
    shape = (
        config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads,
        config.num_key_value_heads, config.intermediate_size, config.head_dim, config.rotary_dim,
    )  # fmt: skip
    outside = hashlib.blake2b(struct.pack("<8qf", *shape, config.rope_theta), digest_size=16)
    inside = hashlib.blake2b(digest_size=16)
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, QuantizedLinear):
            rows = torch.linspace(0, len(module.weight_packed) - 1, 8).long()
            packed = module.weight_packed[rows]
            inside.update(packed.flatten()[:: -(-packed.numel() // _SAMPLE)].cpu().numpy().tobytes())
        elif isinstance(weight, Tensor):
            flat = weight.detach().flatten()
            sample = flat[:: -(-len(flat) // _SAMPLE)].to(torch.bfloat16).contiguous().cpu()
            hashed = inside if "proj" in name else outside
            hashed.update(sample.view(torch.uint8).numpy().tobytes())
    return {
        "outside": outside.hexdigest(),
        "inside": inside.hexdigest(),
        "quantization": config.quantization.name if config.quantization else "",
    }


def _check_base(folder: Path, raw: Mapping[str, Any], model: Transformer) -> tuple[str, ...]:
    """Is this the base the adapter was made on? Notices where that cannot be said for certain."""
    mapping = raw.get("auto_mapping")
    written = mapping.get(_BASE) if isinstance(mapping, dict) else None
    named = raw.get("base_model_name_or_path")
    told = f" (made on {named!r:.80})" if named else ""
    if written is None:
        return (
            f"the adapter does not say on which weights it was made{told}: only its shapes were compared",
        )
    ours = fingerprint(model)
    if not isinstance(written, dict) or written.keys() != ours.keys():
        raise ModelError(f"{folder / CONFIG}: {_BASE} is not a base's fingerprint")
    if written == ours:
        return ()
    quantised = written["quantization"] != ours["quantization"]
    if written["outside"] == ours["outside"] and quantised:
        kinds = [str(kind or "plain weights") for kind in (written["quantization"], ours["quantization"])]
        return (f"the adapter was made on {kinds[0]:.40} and now works on {kinds[1]}",)
    raise ModelError(f"{folder} was made on another base{told}", "load the model it was trained on")


def _open(folder: Path) -> Checkpoint:
    if not (folder / WEIGHTS).is_file():
        refuse_pickled(folder)
        raise ModelError(f"no {WEIGHTS} in {folder}")
    return Checkpoint(folder, [WEIGHTS])


def _updated(source: Checkpoint) -> list[str]:
    """Names of the matrices the file updates, each by an A and a B. Raises ModelError for any other tensor."""
    names = dict.fromkeys(
        tensor.removeprefix(_PREFIX).removesuffix(".weight").rsplit(".", 1)[0]
        for tensor in sorted(source.names)
    )
    wanted = {f"{_PREFIX}{name}.{part}.weight" for name in names for part in ("lora_A", "lora_B")}
    for tensor in sorted(source.names - wanted) + sorted(wanted - source.names):
        what = "unexpected" if tensor in source.names else "missing"
        raise ModelError(f"{source.path / WEIGHTS}: {what} tensor {tensor:.200}")
    if not names:
        raise ModelError(f"{source.path / WEIGHTS} updates nothing")
    return list(names)


def _layout(source: Checkpoint, config: ModelConfig, names: Sequence[str]) -> dict[str, Matrix]:
    """The network's matrices by the names the adapter uses: its own, or those of a Phi-4 split into Llama's.

    Both lie in the same rows, so such an adapter fits the original exactly. Raises ModelError when neither has them.
    """
    layouts: tuple[Architecture, ...] = (config.architecture, "LlamaForCausalLM", "Phi3ForCausalLM")
    for architecture in layouts:
        known = matrices(replace(config, architecture=architecture))
        if known.keys() >= set(names):
            return known
    own = matrices(config)
    odd = next(name for name in names if name not in own)
    raise ModelError(f"{source.path / WEIGHTS}: this network has no {odd:.200} that an adapter could change")


def _check_targets(
    source: Checkpoint,
    raw: Mapping[str, Any],
    config: LoraConfig,
    names: Sequence[str],
    known: Mapping[str, Matrix],
) -> None:
    """The file must update what the configuration targets, where that says plainly what it is."""
    if not config.targets:
        return
    partly = bool(raw.get("exclude_modules")) or raw.get("layers_to_transform") is not None
    for name in known:
        if config.targeted(name) and name not in names and not partly:
            raise ModelError(f"{source.path / WEIGHTS} has no update of {name}, which {CONFIG} targets")
        if name in names and not config.targeted(name):
            raise ModelError(f"{source.path / WEIGHTS} updates {name}, which {CONFIG} does not target")
