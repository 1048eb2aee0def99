"""One step of the network: the planned work laid out as one flat row of tokens, through the forward, to logits.

Legend: T tokens of the step, D decoding rows, B blocks of the longest row, R rows whose logits are wanted,
V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phi4.engine.graphs import DecodeGraphs
from phi4.engine.kernels import BLOCK, Kernels
from phi4.engine.kv_cache import Chunk, KVCache, Step
from phi4.engine.scheduler import Work, blocks_for
from phi4.model.rope import RowRope
from phi4.model.transformer import Transformer

_SCORED_ROWS = 64  # rows of a prompt whose log-probabilities are made at once: each has a column per token

Table = np.ndarray[Any, np.dtype[np.int32]]


class Runner:
    """A network, its output matrix, its cache, and the kernels they run on."""

    def __init__(
        self, model: Transformer, head: Callable[[Tensor], Tensor], cache: KVCache, kernels: Kernels
    ) -> None:
        self.model, self.head, self.cache, self.kernels = model, head, cache, kernels
        self.device = model.embed_tokens.weight.device
        self._rope = RowRope(model.config, self.device)
        self._graphs = DecodeGraphs(self.decode, cache.scratch) if self.device.type == "cuda" else None

    @torch.inference_mode()
    def run(self, works: list[Work], table: Table) -> tuple[Tensor, list[range]]:
        """(logits_RV, for each piece of work the rows that are its). `table` [slots, blocks]: each sequence's blocks.

        Decoding work has the rows behind its token and behind each drafted one; a prompt has the row behind its last
        token once that is read, none before. Log-probabilities of prompts that ask for them go to their sequences.
        """
        decoding = [work for work in works if work.decodes]
        reading = [work for work in works if not work.decodes]
        ids_T, positions_T, step = self._layout(decoding, reading, table)
        long_T = self._long(decoding, reading)
        if self._graphs is not None and not reading:
            logits_DV = self._graphs.run(ids_T, positions_T, long_T, step)
            ends = np.cumsum([work.tokens for work in works]).tolist()
            return logits_DV, [range(end - work.tokens, end) for work, end in zip(works, ends, strict=True)]
        h_TD = self.hidden(ids_T, positions_T, long_T, step)
        rows: dict[int, range] = {}
        wanted: list[int] = []
        for work in decoding:
            rows[id(work)] = range(len(wanted), len(wanted) + work.tokens)
            wanted += rows[id(work)]
        for work, chunk in zip(reading, step.chunks, strict=True):
            h_CD = h_TD[chunk.offset : chunk.offset + chunk.count]
            if work.sequence.request.params.prompt_logprobs and not work.sequence.written:
                self._score(work, h_CD)
            rows[id(work)] = range(len(wanted), len(wanted) + work.completes)
            if work.completes:
                wanted.append(chunk.offset + chunk.count - 1)
        if not wanted:  # nothing but the inside of prompts
            return h_TD.new_empty((0, self.model.config.vocab_size)), [rows[id(work)] for work in works]
        h_RD = h_TD[torch.tensor(wanted, dtype=torch.long, device=self.device)]
        return self.head(h_RD), [rows[id(work)] for work in works]

    def hidden(self, ids_T: Tensor, positions_T: Tensor, long_T: Tensor | None, step: Step) -> Tensor:
        """Hidden states h_TD of one step's tokens."""
        long_1T = None if long_T is None else long_T[None]
        h_1TD: Tensor = self.model(
            ids_T[None],
            positions_T[None],
            self.cache(step),
            lambda positions_1T: self._rope(positions_1T, long_1T),
            self.kernels.dtype,
        )
        return h_1TD[0]

    def decode(self, ids_D: Tensor, positions_D: Tensor, long_D: Tensor | None, step: Step) -> Tensor:
        """Logits_DV of a step that only decodes: a fixed sequence of operations, which a GPU can replay."""
        return self.head(self.hidden(ids_D, positions_D, long_D, step))

    def _layout(self, decoding: list[Work], reading: list[Work], table: Table) -> tuple[Tensor, Tensor, Step]:
        """ids_T, positions_T, and where everything belongs: decoding rows first, then chunks."""
        ids: list[int] = []
        places: list[int] = []  # position of each token in its text
        owners: list[int] = []  # row of the table
        for work in decoding:
            ids.append(work.sequence.ids[-1])
            ids += work.draft
            places += range(work.start, work.start + work.tokens)
            owners += [work.sequence.slot] * work.tokens
        decoded = len(ids)
        offsets: list[int] = []
        for work in reading:
            offsets.append(len(ids))
            ids += work.sequence.ids[work.start : work.start + work.count]
            places += range(work.start, work.start + work.count)
            owners += [work.sequence.slot] * work.count
        place = np.array(places, dtype=np.int64)
        owner = np.array(owners, dtype=np.int64)
        slots = table[owner, place // BLOCK].astype(np.int64) * BLOCK + place % BLOCK
        width = blocks_for(int(place[:decoded].max()) + 1) if decoded else 0
        chunks = tuple(
            Chunk(
                offset,
                work.count,
                work.start,
                self._put(table[work.sequence.slot, : blocks_for(work.start + work.count)].astype(np.int64)),
            )
            for offset, work in zip(offsets, reading, strict=True)
        )
        step = Step(
            self._put(slots),
            self._put(table[owner[:decoded], :width]),
            self._put((place[:decoded] + 1).astype(np.int32)),
            chunks,
        )
        return self._put(np.array(ids, dtype=np.int64)), self._put(place), step

    def _long(self, decoding: list[Work], reading: list[Work]) -> Tensor | None:
        """Which tokens LongRoPE's long factors rotate; None where the network has no such choice."""
        if self.model.config.long_rope is None:
            return None
        works = [*decoding, *reading]
        flags = np.repeat([work.sequence.long for work in works], [work.tokens for work in works])
        return self._put(flags)

    def _score(self, work: Work, h_CD: Tensor) -> None:
        """Log-probabilities of the tokens behind those of a chunk, as far as they belong to the prompt."""
        following = work.sequence.ids[work.start + 1 : work.start + work.count + 1]
        for begin in range(0, len(following), _SCORED_ROWS):
            part = following[begin : begin + _SCORED_ROWS]
            logits_RV = self.head(h_CD[begin : begin + len(part)])
            wide_RV = logits_RV if logits_RV.dtype == torch.float64 else logits_RV.float()
            target_R1 = torch.tensor(part, device=self.device)[:, None]
            found_R = wide_RV.gather(1, target_R1)[:, 0] - wide_RV.logsumexp(-1)
            work.sequence.prompt_logprobs += found_R.tolist()

    def _put(self, values: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
