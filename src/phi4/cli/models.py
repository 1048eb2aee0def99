"""Which model is meant, and loading it.

A folder, a .gguf file, a run, a recipe's name, a published model's short name or repository, or the last one used.
"""

import argparse
import difflib
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from phi4.cli.catalog import PRECISIONS
from phi4.errors import ModelError, Phi4Error, UsageError
from phi4.run.files import atomic_write
from phi4.run.folder import RunFolder, find_runs
from phi4.weights.catalog import CATALOG, cached, find, on_disk

if TYPE_CHECKING:
    import torch

    from phi4.model.config import ModelConfig, Quantization
    from phi4.model.transformer import Transformer
    from phi4.text.generation import Completion, Delta, Request, Sampler
    from phi4.text.tokenizer import Tokenizer

    class AnswerStream(Protocol):
        """The pieces of one answer as they are made; leaving the context early aborts it."""

        completions: list[Completion]

        def __iter__(self) -> Iterator[Delta]: ...

        def __enter__(self) -> Self: ...

        def __exit__(self, *_: object) -> None: ...

    class StreamingSampler(Sampler, Protocol):
        """A sampler that can also hand out one answer as it is made."""

        def stream(self, request: Request) -> AnswerStream: ...


_LARGE_VOCABULARY = 32_000  # rows from which an output matrix is worth rounding
_LARGE_HEAD = 100_000_000  # weights from which a shortlist by 4 bits saves more than finding it costs
_SMALL = 50_000_000  # parameters up to which a model is computed as it is stored
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
OFFER = "make one first: `phi4 make tiny` (a minute) or `phi4 make pico` (ten minutes)"


@dataclass(frozen=True)
class Card:
    """What a model says about itself (phi4.json in its folder)."""

    name: str
    recipe: str = ""
    skills: tuple[str, ...] = ()
    scores: tuple[tuple[str, float], ...] = ()  # accuracy 0..1 per family


@dataclass(frozen=True)
class LoadedModel:
    """Everything needed to ask a model something."""

    path: Path
    name: str
    card: Card
    tokenizer: "Tokenizer"
    engine: "StreamingSampler"
    context: int  # tokens the model can read and write together


def load(
    name_or_path: str | None, adapter: Path | None = None, precision: str = "", cache: str = ""
) -> LoadedModel:
    """Load a model, with an adapter's updates if one is given, and remember it as the last one used.

    `precision`: one of catalog.PRECISIONS; by default the largest that fits this machine. `cache`: "int8", or as
    the engine finds best. Raises UsageError or ModelError.
    """
    path = resolve(name_or_path)
    card = read_card(path)
    import torch

    from phi4.engine.engine import Engine

    if adapter is not None:
        card = replace(card, name=f"{card.name} + {adapter.name}")
    model, tokenizer = read_model(path, adapter, precision)
    for notice in tokenizer.notices:
        print(f"phi4: {card.name}: {notice}", file=sys.stderr)
    head_bits = _head_bits(model.config)
    cache_dtype = getattr(torch, cache) if cache else None
    engine = Engine(model, tokenizer, head_bits=head_bits, speculate=True, cache_dtype=cache_dtype)
    remember(path)
    return LoadedModel(
        path=path, name=card.name, card=card, tokenizer=tokenizer, engine=engine, context=engine.context
    )


def read_model(
    path: Path, adapter: Path | None = None, precision: str = ""
) -> "tuple[Transformer, Tokenizer]":
    """The network and tokenizer of a model folder or a .gguf file, in the precision this machine computes in.

    A large model that does not fit in 16 bits is rounded to 8 or 4 while it is read, and a line says so.
    An adapter is merged into plain weights, and computed beside quantised ones. Raises ModelError when
    the file is unusable or its weights do not fit in memory.
    """
    import torch

    from phi4.text.tokenizer import Tokenizer
    from phi4.weights.folder import load_model
    from phi4.weights.gguf_read import read_gguf

    shape = read_shape(path)
    rounding = _rounding(path, shape, precision)
    dtype = None if rounding else _dtype(shape)
    if rounding:
        from phi4.weights.quantize import load_quantized, open_original

        original = open_original(path)
        model, tokenizer = load_quantized(original, rounding), original.tokenizer
    elif path.suffix == ".gguf":
        found = read_gguf(path, dtype or torch.float32)
        model, tokenizer = found.model, found.tokenizer
    else:
        model, tokenizer = load_model(path, dtype), Tokenizer.load(path)
    if adapter is not None:
        _adapt(model, adapter)
    return model, tokenizer


def add_cache_option(parser: argparse.ArgumentParser) -> None:
    """`--cache`, for the verbs that hold long conversations."""
    parser.add_argument(
        "--cache",
        choices=("int8",),
        default="",
        help="keep keys and values in 8 bits: half the memory, so twice the context where that is short",
    )


def add_precision_option(parser: argparse.ArgumentParser) -> None:
    """`--precision`, for the verbs that load a model to use it."""
    parser.add_argument(
        "--precision",
        choices=tuple(PRECISIONS),
        default="",
        help="round the weights while loading (default: the largest precision that fits this machine)",
    )


def _head_bits(config: "ModelConfig") -> int:
    """What a quantised model's output matrix is rounded to, 0 for as it is; Kernels.prepare says what it costs."""
    if not config.quantization or config.vocab_size < _LARGE_VOCABULARY:
        return 0
    shortlist = config.tie_word_embeddings and config.vocab_size * config.hidden_size >= _LARGE_HEAD
    return 4 if shortlist else 8


def _rounding(path: Path, config: "ModelConfig", precision: str) -> "Quantization | None":
    """What a model has to be rounded to. Raises ModelError when nothing fits, or it is rounded already."""
    from phi4.cli.catalog import fitting, memory_bytes
    from phi4.model.config import Quantization
    from phi4.model.cost import parameters

    if config.quantization is not None:
        if precision:
            raise ModelError(f"{path} is {config.quantization.name} already", "leave --precision out")
        return None
    chosen = precision
    if not precision and parameters(config) >= _SMALL:
        chosen = fitting(config, memory_bytes())
        if not chosen:
            raise ModelError(
                f"{parameters(config) / 1e9:.1f} billion parameters do not fit this machine in any precision",
                "`phi4 models` lists what fits",
            )
        if chosen != "bf16":
            print(
                f"phi4: too large for this machine in 16 bits, so it is rounded to {chosen}", file=sys.stderr
            )
    kind = PRECISIONS.get(chosen)
    return Quantization(*kind) if kind else None


def add_adapter_option(parser: argparse.ArgumentParser) -> None:
    """`--adapter DIR`, for the verbs that load a model to use it."""
    parser.add_argument(
        "--adapter", type=Path, metavar="DIR", help="a LoRA adapter of this model (a PEFT folder)"
    )


def _adapt(model: "Transformer", adapter: Path) -> None:
    from phi4.model.lora import merge
    from phi4.weights.adapter import load_adapter

    _, notices = load_adapter(model, adapter)
    for notice in notices:
        print(f"phi4: {adapter}: {notice}", file=sys.stderr)
    if model.config.quantization is None:
        merge(model)


def read_shape(path: Path) -> "ModelConfig":
    """The network's shape, from a model folder or a .gguf file. Raises ModelError."""
    from phi4.weights.folder import read_config
    from phi4.weights.gguf_read import read_gguf_config

    return read_gguf_config(path) if path.suffix == ".gguf" else read_config(path)


def _dtype(config: "ModelConfig") -> "torch.dtype | None":
    """None (as stored) for small models; else what this machine computes in. Raises ModelError without room."""
    from phi4.device import measure
    from phi4.model.cost import parameters, weight_bytes

    count = parameters(config)
    if count < _SMALL:
        return None
    machine = measure()
    needed = weight_bytes(config, machine.compute_dtype.itemsize)
    if machine.device == "cpu" and needed > machine.memory_gb * 2**30:
        raise ModelError(
            f"{count / 1e9:.1f} billion parameters need {needed / 2**30:.0f} GiB in {machine.dtype}; "
            f"this machine has {machine.memory_gb:.0f} GiB",
            "`phi4 models` lists what fits",
        )
    return machine.compute_dtype


def resolve(name_or_path: str | None, runs: Path = Path("runs")) -> Path:
    """The model folder that is meant: a folder, a run folder, a recipe's name, or (None) the last one.

    A recipe's name means its newest finished run under `runs`. Raises UsageError with what can be had.
    """
    if name_or_path is None:
        return _default(runs)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _inside(path)
    if path.suffix == ".gguf" and path.is_file():
        return path
    published = _published(name_or_path)
    if published is not None:
        return published
    made = find_runs(runs, name_or_path)
    for run in made:
        if is_model(run.root / "model"):
            return run.root / "model"
    if made:
        raise ModelError(
            f"the run of {name_or_path} in {made[0].root} is not finished",
            f"`phi4 make {name_or_path}` resumes it",
        )
    if path.exists():
        raise UsageError(
            f"{path} is a file; a model is a folder with config.json and weights, or a .gguf file"
        )
    names = sorted(
        {str(run.read_run().get("name", "")) for run in find_runs(runs)} | {entry.name for entry in CATALOG}
    )
    near = difflib.get_close_matches(name_or_path, names, n=1)
    hint = f"did you mean {near[0]}?" if near else OFFER
    if name_or_path in ("tiny", "pico"):
        hint = f"make it first: `phi4 make {name_or_path}`"
    raise UsageError(f"no model called {name_or_path}: neither a folder nor a finished run in {runs}/", hint)


def to_fetch(name: str | None) -> str | None:
    """The name of a published model that is meant and not on this machine; None for everything else."""
    if name is None or Path(name).expanduser().exists() or not _names_published(name):
        return None
    return name if _on_disk(name) is None else None


def not_here(name: str) -> UsageError:
    """The error for a published model that is not on this machine, with the command that fetches it."""
    entry = find(name)
    size = f", {2 * entry.parameters / 1e9:.1f} GB" if entry else ""
    return UsageError(f"{name} is not on this machine", f"fetch it: `phi4 pull {name}`{size}")


def _published(name: str) -> Path | None:
    """A published model on this machine; None when the name is not that of one.

    Raises UsageError, with the command that fetches it, when it is not here.
    """
    if not _names_published(name):
        return None
    path = _on_disk(name)
    if path is None:
        raise not_here(name)
    return path


def _names_published(name: str) -> bool:
    """Is this a short name, or a repository's (and not a path)?"""
    return find(name) is not None or bool(_REPOSITORY.fullmatch(name) and not Path(name).parent.is_dir())


def _on_disk(name: str) -> Path | None:
    entry = find(name)
    return on_disk(entry) if entry else cached(name)


def is_model(folder: Path) -> bool:
    """Is this a complete model folder or a .gguf file? The exporter writes config.json's siblings first."""
    if folder.suffix == ".gguf":
        return folder.is_file()
    weights = any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json"))
    return weights and all((folder / name).is_file() for name in ("config.json", "tokenizer.json"))


def read_card(folder: Path) -> Card:
    """The card of a model folder; a foreign folder without one is known by its path only."""
    name = folder.parent.name if folder.name == "model" else folder.stem if folder.is_file() else folder.name
    path = folder / "phi4.json"
    if not path.exists():
        return Card(name=name)
    try:
        raw: dict[str, Any] = json.loads(path.read_bytes())
        return Card(
            name=str(raw.get("name", name)),
            recipe=str(raw.get("recipe", "")),
            skills=tuple(map(str, raw.get("skills", ()))),
            scores=tuple((str(family), float(score)) for family, score in raw.get("scores", {}).items()),
        )
    except (ValueError, TypeError, AttributeError, OSError, ArithmeticError, RecursionError) as error:
        raise ModelError(
            f"{path} is not a model card: {error}", "delete it to use the model without one"
        ) from error


def remember(path: Path) -> None:
    """Note the model that was made or used last. A home that cannot be written is no reason to fail."""
    with suppress(Phi4Error, OSError):
        atomic_write(_state_file(), json.dumps({"last": str(path.absolute())}) + "\n")


def last() -> Path | None:
    """The model made or used last, if it is still there."""
    try:
        path = Path(json.loads(_state_file().read_bytes())["last"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return path if is_model(path) else None


def _state_file() -> Path:
    home = os.environ.get("PHI4_HOME")
    return (Path(home) if home else Path.home() / ".phi4") / "state.json"


def _default(runs: Path) -> Path:
    remembered = last()
    if remembered is not None:
        return remembered
    for run in find_runs(runs):
        if is_model(run.root / "model"):
            return run.root / "model"
    raise UsageError("there is no model yet", OFFER)


def _inside(path: Path) -> Path:
    """The model in a folder that is a model, or a run that has one."""
    if (path / "config.json").is_file():
        return path
    if is_model(path / "model"):
        return path / "model"
    if (path / "run.json").is_file():
        name = RunFolder(path).read_run().get("name", "RECIPE")
        raise ModelError(f"the run in {path} is not finished", f"`phi4 make {name}` resumes it")
    raise ModelError(f"{path} is not a model folder (it has no config.json)", OFFER)
