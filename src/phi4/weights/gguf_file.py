"""The inside of a GGUF file: its metadata and where its tensors lie, read with every number checked.

The file is foreign: each count, length and offset is compared with the bytes that are there before anything is
allocated, so a damaged or hostile file costs one clear line. (The gguf library's own reader trusts the file,
and takes seconds for a vocabulary of 200,000 tokens.) Format: ggml's docs/gguf.md, versions 2 and 3.
"""

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from phi4.errors import ModelError

MAGIC = b"GGUF"
_MOST_KEYS, _MOST_TENSORS, _MOST_ELEMENTS = 10_000, 100_000, 1 << 40
_STRING, _ARRAY = 8, 9
# GGUF's scalar types by number: unsigned and signed 8, 16, 32, float32, bool, then 64 bits.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's shape (rows first, as in torch), its encoding, and its bytes in the file."""

    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    start: int
    size: int


@dataclass(frozen=True)
class GgufFile:
    """An opened GGUF file. Tensor bytes stay on the disk until they are read."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    data: np.ndarray[Any, np.dtype[np.uint8]]

    def bytes_of(self, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The encoded bytes of one tensor, still mapped."""
        info = self.tensors[name]
        return self.data[info.start : info.start + info.size]


def open_gguf(path: Path) -> GgufFile:
    """Read a GGUF file's header. Raises ModelError, naming the file and what is wrong with it."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ModelError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:  # mmap refuses an empty file with a ValueError
        raise ModelError(f"{path} cannot be read: {error}") from error
    try:
        metadata, tensors = _Reader(view).header()
    except (_Damaged, struct.error, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is damaged or not a GGUF file: {error}", "fetch it again") from None
    return GgufFile(path, metadata, tensors, np.frombuffer(view, dtype=np.uint8))


class _Damaged(Exception):
    pass


class _Reader:
    """Walks the header once, front to back."""

    def __init__(self, view: mmap.mmap) -> None:
        self.view, self.at = view, 0

    def header(self) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
        if self.take(4) != MAGIC:
            raise _Damaged("it does not begin with GGUF")
        version = self.number("I")
        if version not in (2, 3):
            raise _Damaged(f"version {version} is not 2 or 3")
        tensor_count, key_count = self.number("Q"), self.number("Q")
        if tensor_count > _MOST_TENSORS or key_count > _MOST_KEYS:
            raise _Damaged(f"{tensor_count:,} tensors and {key_count:,} keys are too many")
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self.string()
            if key in metadata:
                raise _Damaged(f"{key} is there twice")
            metadata[key] = self.value(self.number("I"), key)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise _Damaged(f"alignment {alignment!r} is not a power of two")
        found = [self.tensor(alignment) for _ in range(tensor_count)]
        base = -(-self.at // alignment) * alignment
        return metadata, self.placed(found, base)

    def tensor(self, alignment: int) -> tuple[str, TensorInfo]:
        name, dims = self.string(), self.number("I")
        if not 1 <= dims <= 4:
            raise _Damaged(f"{name} has {dims} dimensions")
        shape = tuple(reversed([self.number("Q") for _ in range(dims)]))
        if 0 in shape or math.prod(shape) > _MOST_ELEMENTS:
            raise _Damaged(f"{name} has the shape {shape}")
        number, offset = self.number("I"), self.number("Q")
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise _Damaged(f"{name} has the unknown encoding {number}") from None
        block, size = GGML_QUANT_SIZES[kind]
        if shape[-1] % block:
            raise _Damaged(f"{name}: rows of {shape[-1]} do not divide into {kind.name} blocks of {block}")
        if offset % alignment:
            raise _Damaged(f"{name} begins at {offset}, which is not aligned to {alignment}")
        return name, TensorInfo(shape, kind, offset, math.prod(shape) // block * size)

    def placed(self, found: list[tuple[str, TensorInfo]], base: int) -> dict[str, TensorInfo]:
        """Offsets from the start of the file; within it, and none over another."""
        tensors: dict[str, TensorInfo] = {}
        end = base
        for name, info in sorted(found, key=lambda item: item[1].start):
            start = base + info.start
            if name in tensors:
                raise _Damaged(f"{name} is there twice")
            if start < end:
                raise _Damaged(f"{name} overlaps another tensor")
            end = start + info.size
            if end > len(self.view):
                raise _Damaged(f"{name} ends at {end:,}, behind the file's {len(self.view):,} bytes")
            tensors[name] = TensorInfo(info.shape, info.kind, start, info.size)
        return tensors

    def value(self, kind: int, key: str) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise _Damaged(f"{key} has the unknown type {kind}")
        inner, count = self.number("I"), self.number("Q")
        if inner in _SCALARS:
            code = _SCALARS[inner]
            return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(code))))
        if inner != _STRING:
            raise _Damaged(f"{key} is an array of type {inner}")
        if count * 8 > len(self.view) - self.at:
            raise _Damaged(f"{key} has {count:,} strings, more than the file holds")
        read: Callable[[], str] = self.string
        return [read() for _ in range(count)]

    def string(self) -> str:
        return self.take(self.number("Q")).decode("utf-8")

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0]

    def take(self, count: int) -> bytes:
        if count > len(self.view) - self.at:
            raise _Damaged(f"it ends within its header, at {len(self.view):,} bytes")
        self.at += count
        return self.view[self.at - count : self.at]
