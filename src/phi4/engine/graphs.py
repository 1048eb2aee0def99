"""Decode steps recorded as CUDA graphs: the step's thousand small kernels are launched as one.

A graph has fixed shapes, so steps are filled up to the next recorded size with rows that write into a scratch block.

Legend: D decoding rows, B blocks of the longest row, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from phi4.engine.kernels import BLOCK
from phi4.engine.kv_cache import Step

# ids_D, positions_D, long_D or None, step -> logits_DV
Decode = Callable[[Tensor, Tensor, Tensor | None, Step], Tensor]


@dataclass(frozen=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    ids_D: Tensor
    positions_D: Tensor
    long_D: Tensor | None
    step: Step
    logits_DV: Tensor


class DecodeGraphs:
    """Replays `decode`; a size is recorded the first time it is needed. `scratch`: the block for filled-up rows."""

    def __init__(self, decode: Decode, scratch: int) -> None:
        self._decode, self._scratch = decode, scratch
        self._recorded: dict[tuple[int, int], _Recorded] = {}
        self._pool: Any = None  # graphs run one after another and share their memory

    def run(self, ids_D: Tensor, positions_D: Tensor, long_D: Tensor | None, step: Step) -> Tensor:
        """Logits_DV, the same as `decode` gives."""
        rows, blocks = step.table_DB.shape
        size = _next_power(rows), _next_power(blocks)
        if size not in self._recorded:
            self._recorded[size] = self._record(*size, ids_D.device, with_long=long_D is not None)
        recorded = self._recorded[size]
        recorded.ids_D[:rows] = ids_D
        recorded.positions_D[:rows] = positions_D
        if recorded.long_D is not None and long_D is not None:
            recorded.long_D[:rows] = long_D
        recorded.step.slots_T[:rows] = step.slots_T
        recorded.step.slots_T[rows:] = self._scratch * BLOCK
        recorded.step.table_DB[:rows, :blocks] = step.table_DB
        recorded.step.table_DB[:rows, blocks:] = self._scratch
        recorded.step.table_DB[rows:] = self._scratch
        recorded.step.lengths_D[:rows] = step.lengths_D
        recorded.step.lengths_D[rows:] = 1
        recorded.graph.replay()
        return recorded.logits_DV[:rows]

    def _record(self, rows: int, blocks: int, device: torch.device, *, with_long: bool) -> _Recorded:
        ids_D = torch.zeros(rows, dtype=torch.long, device=device)
        positions_D = torch.zeros_like(ids_D)
        long_D = torch.zeros(rows, dtype=torch.bool, device=device) if with_long else None
        step = Step(
            torch.full_like(ids_D, self._scratch * BLOCK),
            torch.full((rows, blocks), self._scratch, dtype=torch.int32, device=device),
            torch.ones(rows, dtype=torch.int32, device=device),
            (),
        )
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose and allocate before anything is recorded
            for _ in range(3):
                self._decode(ids_D, positions_D, long_D, step)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits_DV = self._decode(ids_D, positions_D, long_D, step)
        self._pool = self._pool or graph.pool()
        return _Recorded(graph, ids_D, positions_D, long_D, step, logits_DV)


def _next_power(count: int) -> int:
    return 1 << (count - 1).bit_length()
