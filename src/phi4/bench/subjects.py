"""What the programs run: published shapes with random weights, and one real model; each in everybody's format."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from phi4.bench.shapes import write_checkpoint, write_q4_0
from phi4.errors import UsageError
from phi4.model.config import ModelConfig, Quantization
from phi4.model.presets import PHI_4, PHI_4_MINI
from phi4.model.rope import Rope
from phi4.model.transformer import causal_attention
from phi4.recipes.calibration import Probe, probe
from phi4.weights.catalog import find, on_disk
from phi4.weights.gguf_read import read_gguf, read_gguf_config
from phi4.weights.gguf_write import write_gguf
from phi4.weights.quantize import open_original, quantize_model

REAL = "smollm2"
_PASSAGES, _TOKENS = 8, 256  # of held-out text that the programs' predictions are compared on


@dataclass(frozen=True)
class Subject:
    """A network, and the files each program reads it from; those that are "" are not compared."""

    name: str
    config: ModelConfig  # quantised as ours is
    head_bits: int  # of our output matrix
    ours: str
    q4_0: str = ""
    bf16: str = ""

    @property
    def about(self) -> str:
        """In words."""
        weights = "real weights" if self.name == REAL else "random weights"
        return f"{self.name}, {weights}"


def subject(name: str, folder: Path, *, peer: bool, say: Callable[[str], None]) -> Subject:
    """A network ready to be run; what is missing in `folder` is written. Raises UsageError for a missing real model."""

    def written(file: str, write: Callable[[Path], object]) -> str:
        path = folder / file
        if not (path / "config.json").exists() and not path.is_file():
            say(f"writing {path}")
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
        return str(path)

    if name == REAL:
        return _real(written, peer=peer)
    config = {"phi-4-mini": PHI_4_MINI, "phi-4": PHI_4}[name]
    # Calibrated, groups of 128 are closer to the original than Q4_0: see bench quantize.
    quantized = replace(config, quantization=Quantization(4, 128))
    mini = name == "phi-4-mini"
    return Subject(
        name,
        quantized,
        4 if config.tie_word_embeddings else 8,
        written(f"{name}-int4-g128", lambda path: write_checkpoint(path, quantized)),
        written(f"{name}-q4_0.gguf", lambda path: write_q4_0(path, config)) if peer else "",
        written(f"{name}-bf16", lambda path: write_checkpoint(path, config)) if mini else "",
    )


def _real(written: Callable[[str, Callable[[Path], object]], str], *, peer: bool) -> Subject:
    quantization = Quantization(4, 64)  # its rows are no multiples of 128
    source = _source()

    def ours(path: Path) -> None:
        original = open_original(source)
        text = held_out(source)
        quantize_model(path, original, quantization, "gptq", text.calibration, text.held_out)

    def theirs(path: Path) -> None:
        write_gguf(path, read_gguf(source).model, open_original(source).tokenizer, "q4_0")

    return Subject(
        REAL,
        replace(read_gguf_config(source), quantization=quantization),
        4,  # as phi-4-mini's: what is timed there is what is compared with the real model here
        written(f"{REAL}-int4-g64", ours),
        written(f"{REAL}-q4_0.gguf", theirs) if peer else "",
    )


def _source() -> Path:
    entry = find(REAL)
    assert entry is not None
    path = on_disk(entry)
    if path is None or path.suffix != ".gguf":
        raise UsageError(f"{REAL} is not on this machine", "make .venv/.dev brings it")
    return path


def held_out(source: Path) -> Probe:
    """The text a real model is calibrated and compared on."""
    original = open_original(source)
    return probe(original.tokenizer, original.config.original_context, [])


@torch.inference_mode()
def expected() -> list[tuple[list[int], Tensor]]:
    """(ids, logits_TV) of some passages by the real model as it is, in float32."""
    model = read_gguf(_source(), torch.float32).model
    found = []
    for ids_T in held_out(_source()).held_out.ids_NT[:_PASSAGES, :_TOKENS]:
        positions_1T = torch.arange(len(ids_T))[None]
        h_1TD = model(ids_T[None], positions_1T, causal_attention, Rope(model.config, len(ids_T)))
        found.append((ids_T.tolist(), model.head(h_1TD)[0]))
    return found


def divergence(wanted_TV: Tensor, found_TV: Tensor) -> float:
    """Mean KL divergence of `found` from `wanted`, nats a token."""
    wanted, found = (logits.double().log_softmax(-1) for logits in (wanted_TV, found_TV))
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())
