"""How fast the engine's matmuls and attention are, next to the memory bandwidth measured in the same moment.

A matmul of one row can be no faster than its weights are read; one of many rows is bound by arithmetic. Neighbours on
a shared machine slow both, so bandwidth is measured right before each line, and the best of some repeats counts.

Legend: O outputs, I inputs, M rows.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from phi4.engine.kernels import BLOCK, PagedKV, select
from phi4.engine.kernels.native import Library
from phi4.errors import UsageError
from phi4.model.config import Quantization
from phi4.model.linear import QuantizedLinear

# (outputs, inputs) of Phi-4-mini's matrices
MINI = {"qkv": (5120, 3072), "o": (3072, 3072), "gate_up": (16384, 3072), "down": (3072, 8192)}
ROWS = (1, 2, 4, 8, 16, 64, 512)
_BEYOND_CACHE = 1 << 28  # bytes that no cache holds: what a matmul of one row must read anew
_REPEATS = 5


@dataclass(frozen=True)
class Speed:
    """One measurement."""

    what: str
    rows: int
    read_gbs: float  # bytes of weights or cache per second
    gops: float  # multiplications and additions per second
    bandwidth_gbs: float  # what this machine reads, measured beside it

    def __str__(self) -> str:
        share = self.read_gbs / self.bandwidth_gbs
        return (
            f"{self.what:<34}{self.rows:>5} rows {self.read_gbs:7.1f} GB/s ({share:4.0%} of {self.bandwidth_gbs:.1f})"
            f" {self.gops:8.0f} GOP/s"
        )


def matmuls(
    quantization: Quantization, rows: Sequence[int] = ROWS, shapes: dict[str, tuple[int, int]] = MINI
) -> Iterator[Speed]:
    """The quantised matmuls of one layer shape, for each number of rows. Raises UsageError without native kernels."""
    library = _library()
    memory = torch.ones(_BEYOND_CACHE, dtype=torch.uint8)
    for name, (outputs, inputs) in shapes.items():
        linear = QuantizedLinear(inputs, outputs, quantization)
        linear.weight_packed.random_(-(2**31), 2**31 - 1)
        linear.weight_scale = linear.weight_scale.to(torch.float16)
        matrix = library.matrix(linear)
        copies = [matrix]
        while sum(copy.bytes for copy in copies) < _BEYOND_CACHE:
            copies.append(library.matrix(linear))
        for count in rows:
            x_MI = torch.randn(count, inputs)
            used = copies if count <= 16 else copies[:1]  # many rows are bound by arithmetic, not by reading
            bandwidth = _bandwidth(library, memory)

            def once(used: Sequence[object] = used, x_MI: torch.Tensor = x_MI) -> None:
                for copy in used:
                    library.linear(copy, x_MI)  # type: ignore[arg-type]

            seconds = _best(once) / len(used)
            operations = 2 * count * outputs * inputs / seconds / 1e9
            yield Speed(
                f"{name} {quantization.name}", count, matrix.bytes / seconds / 1e9, operations, bandwidth
            )


def attention(
    dtype: torch.dtype,
    length: int = 4096,
    rows: Sequence[int] = (1, 8),
    shape: tuple[int, int, int] = (24, 8, 128),
) -> Iterator[Speed]:
    """Decode attention of sequences of `length` positions. `shape`: query heads, key-value heads, head channels."""
    library = _library()
    heads, groups, channels = shape
    memory = torch.ones(_BEYOND_CACHE, dtype=torch.uint8)
    blocks = -(-length // BLOCK)
    for count in rows:
        cached = length * PagedKV.position_bytes(groups, channels, dtype) * count
        layers = [
            PagedKV.empty(blocks * count, groups, channels, dtype, torch.device("cpu"))
            for _ in range(-(-_BEYOND_CACHE // cached))
        ]
        x_TGK = torch.randn(blocks * count * BLOCK, groups, channels)
        for layer in layers:
            library.store(layer, x_TGK, x_TGK, torch.arange(len(x_TGK)))
        table = torch.randperm(blocks * count).int().view(count, blocks)
        lengths = torch.full((count,), length, dtype=torch.int32)
        q_NHK = torch.randn(count, heads, channels)
        bandwidth = _bandwidth(library, memory)

        def once(
            layers: Sequence[PagedKV] = layers,
            q_NHK: torch.Tensor = q_NHK,
            table: torch.Tensor = table,
            lengths: torch.Tensor = lengths,
        ) -> None:
            for layer in layers:
                library.attention(q_NHK, layer, table, lengths, channels**-0.5)

        seconds = _best(once) / len(layers)
        operations = 4 * count * heads * channels * length / seconds / 1e9
        name = str(dtype).removeprefix("torch.")
        yield Speed(
            f"attention {name}, {length} positions", count, cached / seconds / 1e9, operations, bandwidth
        )


def _library() -> Library:
    kernels = select(torch.device("cpu"))
    if kernels.library is None:
        raise UsageError(f"no native kernels to measure: {kernels.note}", "install a C++ compiler")
    return kernels.library


def _bandwidth(library: Library, memory: torch.Tensor) -> float:
    return memory.nbytes / _best(lambda: library.read(memory)) / 1e9


def _best(work: Callable[[], None]) -> float:
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
