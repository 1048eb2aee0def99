"""A network quantised layer by layer, from any source to a folder, then read back and compared.

In memory are one layer, one shard of the result and, for a calibrated method, the states of the calibration text:
never a whole network, so a model of 14 billion parameters needs a few GB.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from phi4.device import measure
from phi4.errors import ModelError, UsageError
from phi4.model.config import ModelConfig, Quantization
from phi4.model.linear import Linear, QuantizedLinear
from phi4.model.transformer import Block, Transformer
from phi4.run.progress import Progress
from phi4.text.tokenizer import Tokenizer
from phi4.weights.checkpoint import (
    EMBEDDING,
    PACKED,
    Checkpoint,
    Source,
    check_names,
    checkpoint_tensors,
    read_parameter,
    to_checkpoint,
    write_shards,
)
from phi4.weights.folder import read_config, save_description
from phi4.weights.gguf_file import open_gguf
from phi4.weights.gguf_read import GgufWeights, config_of
from phi4.weights.gguf_tokenizer import read_tokenizer
from phi4.weights.layerwise import Agreement, LayerByLayer, Passages, compare, read_block
from phi4.weights.rounding import error_fed_back, nearest

Method = Literal["rtn", "gptq"]
METHODS: tuple[Method, ...] = ("rtn", "gptq")
DIVERGENCE = {8: 0.05, 4: 1.0}  # mean KL from the original, nats a token, above which it is another model
_SHARD_BYTES = 2_000_000_000  # smaller than elsewhere: a shard is what is held in memory


@dataclass(frozen=True)
class Original:
    """A model whose weights stay where they lie."""

    config: ModelConfig
    tokenizer: Tokenizer
    source: Source
    dtype: torch.dtype  # of what is not quantised, and of scales

    @property
    def compute(self) -> torch.dtype:
        """Of activations: what a 16-bit model is computed in here; float32 stays float32."""
        return torch.float32 if self.dtype == torch.float32 else measure().compute_dtype

    @property
    def device(self) -> torch.device:
        """Where a layer is computed."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def bytes(self) -> int:
        """Size on disk."""
        path = self.source.path
        files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
        return sum(file.stat().st_size for file in files)


@dataclass(frozen=True)
class Written:
    """What came out, read back from the disk."""

    bytes: int
    agreement: Agreement  # with the original, on text that was not calibrated on


def open_original(path: Path) -> Original:
    """Open a model folder or .gguf file. Raises ModelError, and UsageError for one that is quantised already."""
    source: Source
    if path.suffix == ".gguf":
        file = open_gguf(path)
        config = config_of(file)
        source, tokenizer = GgufWeights(file, config), read_tokenizer(file)
        # What GGUF keeps in blocks has fewer bits than bf16.
        kind = file.tensors["token_embd.weight"].kind.name
        dtype = {"F32": torch.float32, "F16": torch.float16}.get(kind, torch.bfloat16)
    else:
        config, checkpoint = read_config(path), Checkpoint(path)
        source, tokenizer = checkpoint, Tokenizer.load(path)
        dtype = torch.float32
        if config.quantization is None and EMBEDDING in checkpoint.names:
            stored = checkpoint.read(EMBEDDING).dtype
            dtype = stored if stored in (torch.bfloat16, torch.float16) else dtype
    if config.quantization is not None:
        raise UsageError(
            f"{path} is already quantised ({config.quantization.name})", "quantise the model it was made from"
        )
    with torch.device("meta"):
        check_names(Transformer(config), source)
    return Original(config, tokenizer, source, dtype)


def quantize_model(
    folder: Path,
    original: Original,
    quantization: Quantization,
    method: Method,
    calibration: Passages | None,
    held_out: Passages,
) -> Written:
    """Write a quantised model folder, config.json last, then read it back and compare it with the original.

    `calibration` is what GPTQ looks at; rounding to nearest needs none.
    Raises ModelError when rows do not divide into groups (before anything is written) or when the result is no
    longer the model: a mean KL divergence above a stated bound.
    """
    target = replace(original.config, quantization=quantization)
    with torch.device("meta"):
        sizes = to_checkpoint(Transformer(target).to(original.dtype))
    folder.mkdir(parents=True, exist_ok=True)
    with Progress(f"{quantization.name}, {method}", target.num_hidden_layers, "layers") as progress:
        states = None
        if method == "gptq":
            if calibration is None:
                raise UsageError("gptq needs calibration text")
            states = LayerByLayer(
                original.config, original.source, calibration, original.compute, original.device
            )
        values = (
            piece
            for name, tensor in _stream(original, target, states, progress.advance)
            for piece in checkpoint_tensors(target, name, tensor).items()
        )
        write_shards(folder, sizes, _SHARD_BYTES, values)
    save_description(folder, target, original.tokenizer, original.dtype)
    written = replace(original, config=target, source=Checkpoint(folder))
    with torch.device("meta"):
        check_names(Transformer(target), written.source)
    agreement = agreement_of(original, written, held_out)
    if not agreement.divergence <= DIVERGENCE[quantization.bits]:
        raise ModelError(
            f"{quantization.name} does not reproduce the model: KL divergence {agreement.divergence:.3g} nats a token "
            f"(at most {DIVERGENCE[quantization.bits]})",
            "try --method gptq, a smaller group or int8",
        )
    return Written(written.bytes, agreement)


@torch.no_grad()
def load_quantized(original: Original, quantization: Quantization) -> Transformer:
    """The network rounded to nearest while it is read: in memory are the result and one layer of the original."""
    target = replace(original.config, quantization=quantization)
    with torch.device("meta"):
        model = Transformer(target)
    with Progress(f"rounding to {quantization.name}", target.num_hidden_layers, "layers") as progress:
        for name, tensor in _stream(original, target, None, progress.advance):
            model.load_state_dict({name: tensor}, strict=False, assign=True)
    return model.eval()


def agreement_of(first: Original, second: Original, held_out: Passages) -> Agreement:
    """Compare two networks on text, layer by layer, with progress."""
    networks = [
        LayerByLayer(one.config, one.source, held_out, first.compute, first.device) for one in (first, second)
    ]
    with Progress("compare", 2 * first.config.num_hidden_layers, "layers") as progress:
        return compare(networks[0], networks[1], progress.advance)


def dequantized(model: Transformer) -> Transformer:
    """The same network with plain matrices, in the dtype of the scales; what is plain already is shared."""
    with torch.device("meta"):
        plain = Transformer(replace(model.config, quantization=None))
    values = {name: tensor for name, tensor in model.state_dict().items() if name in plain.state_dict()}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            values[f"{name}.weight"] = module.dequantized()
    plain.load_state_dict(values, assign=True)
    return plain.eval()


def _stream(
    original: Original,
    target: ModelConfig,
    states: LayerByLayer | None,
    done: Callable[[], None],
) -> Iterator[tuple[str, Tensor]]:
    """The quantised network's parameters in the order of its state_dict."""
    config, source = original.config, original.source
    with torch.device("meta"):
        outside = {
            name: meta
            for name, meta in Transformer(config).state_dict().items()
            if not name.startswith("layers.")
        }
    for name, meta in outside.items():
        if name.startswith("norm"):  # behind the embedding, before the norm
            for layer in range(config.num_hidden_layers):
                block = _quantized_block(original, target, states, layer)
                yield from (
                    (f"layers.{layer}.{key}", tensor.cpu()) for key, tensor in block.state_dict().items()
                )
                done()
        yield name, read_parameter(source, config, name, meta, original.dtype)


@torch.no_grad()
def _quantized_block(
    original: Original, target: ModelConfig, states: LayerByLayer | None, layer: int
) -> Block:
    """One layer quantised; with `states` calibrated on what reaches it through the quantised layers before."""
    block = read_block(original.config, original.source, layer, original.device)
    moments = {} if states is None else _second_moments(states, block, layer)
    values: dict[str, Tensor] = {}
    for name, weight in block.state_dict().items():
        matrix = name.removesuffix("weight")
        if weight.ndim == 1:
            values[name] = weight.to(original.dtype)
            continue
        assert target.quantization is not None
        try:
            packed, scale = (
                nearest(weight, target.quantization, original.dtype)
                if states is None
                else error_fed_back(weight, moments.pop(matrix), target.quantization, original.dtype)
            )
        except ModelError as error:
            where = f"{original.source.path}: layers.{layer}.{name}"
            raise ModelError(f"{where}: {error.message}", error.hint) from error
        values |= {matrix + PACKED: packed, matrix + "weight_scale": scale}
    with torch.device("meta"):
        result = Block(target)
    result.load_state_dict(values, assign=True)
    if states is not None:
        states.through(result, layer)
    return result


def _second_moments(states: LayerByLayer, block: Block, layer: int) -> dict[str, Tensor]:
    """The sum of x xᵀ over the inputs x of each matrix of a layer, padding left out; keys end with a dot."""
    moments: dict[str, Tensor] = {}
    real_NT = torch.empty(0)

    def see(real: Tensor) -> None:
        nonlocal real_NT
        real_NT = real

    def watch(key: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x_PI = inputs[0][real_NT].float()
            moments[key] = moments.get(key, torch.zeros((), device=x_PI.device)) + x_PI.T @ x_PI

        return add

    handles = [
        part.register_forward_pre_hook(watch(f"{name}."))
        for name, part in block.named_modules()
        if isinstance(part, Linear)
    ]
    states.through(block, layer, keep=False, see=see)
    for handle in handles:
        handle.remove()
    return moments
