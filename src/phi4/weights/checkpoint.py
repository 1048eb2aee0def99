"""Safetensors checkpoints, whole or in shards: read tensor by tensor, written shard by shard.

Reading holds the tensors in their target precision plus the one that is being converted; a tensor that needs no
conversion stays mapped to the file and costs no memory of its own until it is used.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from phi4.errors import ModelError
from phi4.model.config import ModelConfig
from phi4.model.transformer import Transformer
from phi4.run.files import atomic_file, atomic_write
from phi4.weights.layout import pieces

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
EMBEDDING = "model.embed_tokens.weight"
PACKED = "weight_packed"  # how names of quantised matrices end
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class Source(Protocol):
    """Where weights come from, under checkpoint names."""

    @property
    def path(self) -> Path:
        """The file or folder, for messages."""
        ...

    @property
    def names(self) -> set[str]:
        """Checkpoint names of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor."""
        ...


class Checkpoint:
    """The safetensors files of a model folder, opened but not read. Raises ModelError, naming the file.

    `files`: their names, where they are not a model's.
    """

    def __init__(self, folder: Path, files: Iterable[str] | None = None) -> None:
        self.path = Path(folder)
        self._files: dict[str, Any] = {}
        self._file_of: dict[str, str] = {}
        for file in files or _shards(self.path):
            path = self.path / file
            with _readable(path):
                self._files[file] = safe_open(path, framework="pt")
                for name in self._files[file].keys():  # noqa: SIM118 (not a mapping)
                    if name in self._file_of:
                        raise ModelError(f"{name} lies in both {self._file_of[name]} and {file} of {folder}")
                    self._file_of[name] = file
        self.names = set(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, from the header alone."""
        return tuple(self._files[self._file_of[name]].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """One tensor, mapped to its file where possible."""
        file = self._file_of[name]
        with _readable(self.path / file):
            tensor: Tensor = self._files[file].get_tensor(name)
            return tensor


def load_weights(model: Transformer, source: Source, dtype: torch.dtype | None = None) -> None:
    """Fill a network made on the meta device. `dtype` None keeps each tensor's own.

    Raises ModelError, naming the tensor, when a weight is missing, unexpected or of another shape.
    """
    check_names(model, source)
    load_part(model, "", source, model.config, dtype)


def load_part(
    module: nn.Module, prefix: str, source: Source, config: ModelConfig, dtype: torch.dtype | None = None
) -> None:
    """Fill a part of a network, made on the meta device, whose parameters' names begin with `prefix`."""
    for name, meta in module.state_dict().items():
        value = read_parameter(source, config, prefix + name, meta, dtype)
        module.load_state_dict({name: value}, strict=False, assign=True)


def check_names(model: Transformer, source: Source) -> None:
    """Does the source hold this network, no tensor more or less, each of the right shape? Else ModelError."""
    config, path = model.config, source.path
    wanted = {name: pieces(config, name, len(tensor)) for name, tensor in model.state_dict().items()}
    needed = {piece.name for parts in wanted.values() for piece in parts}
    shapes = {name: _shape_name(name) for name in needed if name.endswith(PACKED)}
    needed |= set(shapes.values())
    ignored = {"lm_head.weight"} if config.tie_word_embeddings else set()
    found = {name for name in source.names - ignored if not name.endswith("rotary_emb.inv_freq")}
    for name in sorted(needed ^ found):
        raise ModelError(f"{path}: {'missing' if name in needed else 'unexpected'} tensor {name}")
    for name, tensor in model.state_dict().items():
        columns = tuple(tensor.shape[1:])
        for piece in wanted[name]:
            shape = source.shape(piece.name)
            if shape != (piece.rows, *columns):
                raise ModelError(f"{path}: {piece.name} is {shape}, not {(piece.rows, *columns)}")
            if piece.name in shapes and config.quantization is not None:
                whole = [piece.rows, columns[0] * 32 // config.quantization.bits]
                if source.read(shapes[piece.name]).flatten().tolist() != whole:
                    raise ModelError(f"{path}: {shapes[piece.name]} is not {whole}")


def read_parameter(
    source: Source, config: ModelConfig, name: str, meta: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """One of our tensors, put together from its pieces; `meta` has its shape. Raises ModelError."""
    parts = pieces(config, name, len(meta))
    packed = name.endswith(PACKED)
    value: Tensor | None = None
    for piece in parts:
        found = source.read(piece.name)
        plain = found.is_floating_point() and found.element_size() >= 2
        if found.dtype != torch.int32 if packed else not plain:
            raise ModelError(f"{source.path}: {piece.name} is {found.dtype}, which is not a plain weight")
        target = found.dtype if packed else dtype or found.dtype
        if len(parts) == 1:
            return found.to(target)
        if value is None:
            value = torch.empty(meta.shape, dtype=target)
        value[piece.start : piece.start + piece.rows] = found
    assert value is not None
    return value


def save_weights(folder: Path, model: Transformer, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a network's weights in its architecture's layout, in shards of at most `shard_bytes`."""
    write_shards(folder, to_checkpoint(model), shard_bytes)


def to_checkpoint(model: Transformer) -> dict[str, Tensor]:
    """Tensors under Hugging Face's names, in the layout of the architecture (views, not copies)."""
    return {
        named: piece
        for name, tensor in model.state_dict().items()
        for named, piece in checkpoint_tensors(model.config, name, tensor).items()
    }


def checkpoint_tensors(config: ModelConfig, name: str, tensor: Tensor) -> dict[str, Tensor]:
    """One of our tensors under Hugging Face's names; a packed one brings the shapes of what is packed in it."""
    found = {}
    for piece in pieces(config, name, len(tensor)):
        found[piece.name] = tensor[piece.start : piece.start + piece.rows]
        if name.endswith(PACKED) and config.quantization is not None:
            whole = [piece.rows, tensor.shape[1] * 32 // config.quantization.bits]
            found[_shape_name(piece.name)] = torch.tensor(whole, device="cpu")
    return found


def write_shards(
    folder: Path,
    tensors: Mapping[str, Tensor],
    shard_bytes: int = SHARD_BYTES,
    values: Iterable[tuple[str, Tensor]] | None = None,
) -> None:
    """One model.safetensors, or numbered shards and their index when they would be larger.

    With `values`, which brings the same tensors in the same order, `tensors` only tells their sizes and may lie on
    the meta device: no more than one shard is ever in memory.
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += tensor.nbytes
    count = len(shards)
    files = [WEIGHTS] if count == 1 else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    stream = iter(tensors.items() if values is None else values)
    for file, names in zip(files, shards, strict=True):
        shard = {name: tensor.contiguous() for name, tensor in islice(stream, len(names))}
        assert list(shard) == names
        with atomic_file(folder / file) as temporary:
            save_file(shard, temporary, {"format": "pt"})
        shard.clear()
    if count > 1:
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
            "weight_map": {name: file for file, names in zip(files, shards, strict=True) for name in names},
        }
        atomic_write(folder / INDEX, json.dumps(index, indent=2) + "\n")


def _shape_name(packed: str) -> str:
    """The name under which compressed-tensors keeps the shape of a packed matrix."""
    return packed.removesuffix(PACKED) + "weight_shape"


def _shards(folder: Path) -> Iterator[str]:
    """File names of a folder's weights. An index wins over a single file, as in transformers."""
    if not (folder / INDEX).is_file():
        if not (folder / WEIGHTS).is_file():
            refuse_pickled(folder)
            raise ModelError(f"no {WEIGHTS} in {folder}")
        yield WEIGHTS
        return
    try:
        files = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        if any(not isinstance(file, str) for file in files):
            raise TypeError("a file name is not text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{folder / INDEX} is not an index of safetensors files: {error}") from error
    for file in sorted(files):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ModelError(f"{folder / INDEX} points to {file!r}, which is not a file of this folder")
        if not (folder / file).is_file():
            raise ModelError(
                f"{folder} is incomplete: {file} is missing", "fetch the model again: it resumes"
            )
        yield file


def refuse_pickled(folder: Path) -> None:
    """Says why, in a folder without safetensors, what else lies there is not opened. Raises ModelError."""
    for path in sorted(folder.glob("*")):
        if path.suffix in _PICKLED:
            raise ModelError(
                f"{path} is pickled, which can run code when it is opened, and {folder} has nothing else",
                "get the safetensors files",
            )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged or not a safetensors file: {error}") from error
