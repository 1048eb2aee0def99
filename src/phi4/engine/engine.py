"""The one engine: everything that samples (chat, server, evaluation, rollouts) samples here.

`submit` hands a request to the loop, one thread that owns the network. `generate` (lists), `stream` (iterator) and
`astream` (asyncio) stand on top of it.
"""

import copy
import itertools
from collections.abc import Sequence as Items
from queue import SimpleQueue

import torch

from phi4.engine.blocks import BlockPool
from phi4.engine.draft import PromptLookup
from phi4.engine.kernels import BLOCK, Kernels, PagedKV, select
from phi4.engine.kv_cache import KVCache
from phi4.engine.loop import Loop
from phi4.engine.memory import available_bytes
from phi4.engine.repetition import LoopDetector
from phi4.engine.runner import Runner
from phi4.engine.sampling import check_params
from phi4.engine.scheduler import Scheduler, blocks_for
from phi4.engine.sequence import Sequence
from phi4.engine.streams import AsyncStream, Stream
from phi4.errors import BusyError, ModelError
from phi4.model.config import ModelConfig
from phi4.model.cost import parameters
from phi4.model.transformer import Transformer
from phi4.text.detokenize import TextStream
from phi4.text.generation import Completion, Deliver, Event, Request
from phi4.text.tokenizer import Tokenizer

_SMALL = 50_000_000  # parameters up to which a step is cheap and the cache small
_SMALL_STEP, _LARGE_STEP, _GPU_STEP = 8192, 512, 2048  # prompt tokens read in one step


class Engine:
    """A model ready to complete prompts, up to `slots` of them at a time.

    `context` bounds prompt plus completion; by default it is all the model has and the cache has room for.
    `cache_bytes` is what keys and values may take (default: what `slots` full contexts need, at most a quarter of the
    free memory). `queue` bounds the requests that wait (0: no bound). `speculate` drafts from the text itself where
    that pays. `kernels` and `head_bits` choose the arithmetic: see engine/kernels.

    The model is changed in place when its layers are quantised: they are repacked for the kernels.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        dtype: torch.dtype | None = None,
        slots: int = 256,
        context: int = 0,
        *,
        cache_dtype: torch.dtype | None = None,
        cache_bytes: int = 0,
        queue: int = 0,
        speculate: bool = False,
        kernels: Kernels | None = None,
        head_bits: int = 0,
        step_tokens: int = 0,
    ) -> None:
        config = model.config
        small = parameters(config) < _SMALL
        self.tokenizer = tokenizer
        self.device = model.embed_tokens.weight.device
        stored = model.embed_tokens.weight.dtype
        if config.quantization is None:
            dtype = dtype or stored
            model = model if stored == dtype else copy.deepcopy(model).to(dtype)
        self.kernels = kernels or select(self.device, dtype)
        head = self.kernels.prepare(model.eval(), head_bits)
        self.cache_dtype = cache_dtype or _cache_dtype(self.kernels.dtype, small)
        self.context = min(context or config.max_position_embeddings, config.max_position_embeddings)
        blocks = self._blocks(config, slots, cache_bytes)
        self.context = min(self.context, blocks * BLOCK)
        self.slots = slots
        large = _LARGE_STEP if self.device.type == "cpu" else _GPU_STEP
        self.step_tokens = step_tokens or (_SMALL_STEP if small else large)
        self._pool = BlockPool(blocks)
        short = config.original_context if config.long_rope else None
        scheduler = Scheduler(self._pool, slots, self.context, short)
        cache = KVCache(config, blocks, self.cache_dtype, self.device, self.kernels)
        unused = torch.tensor(tokenizer.unused(config.vocab_size), dtype=torch.long, device=self.device)
        self.loop = Loop(scheduler, Runner(model, head, cache, self.kernels), self.step_tokens, unused)
        self._vocab_size = config.vocab_size
        self._speculate, self._queue = speculate, queue

    def generate(self, requests: Items[Request]) -> list[Completion]:
        """Complete every request; ordered by (request, sample).

        Raises ModelError for a prompt that leaves no room in the context, or parameters that make no sense.
        """
        results: SimpleQueue[Event] = SimpleQueue()
        batches = [self._sequences(request, i, results.put, False) for i, request in enumerate(requests)]
        tickets = [batch[0].ticket for batch in batches]
        # Long prompts first: prompts read side by side are padded less, and the tail of the run is short.
        self.loop.hand_in(sorted(itertools.chain(*batches), key=lambda sequence: -sequence.prompt))
        completions: list[Completion] = []
        try:
            for _ in range(sum(request.params.n for request in requests)):
                event = results.get()
                if isinstance(event, BaseException):
                    raise event
                assert isinstance(event, Completion)
                completions.append(event)
        except BaseException:
            for ticket in tickets:
                self.abort(ticket)
            raise
        return sorted(completions, key=lambda c: (c.request, c.sample))

    def stream(self, request: Request) -> Stream:
        """The answer as it is made. Raises as `submit` does, before any token."""
        return Stream(lambda deliver: self.submit(request, deliver), self.abort, request.params.n)

    def astream(self, request: Request) -> AsyncStream:
        """The same for a coroutine."""
        return AsyncStream(lambda deliver: self.submit(request, deliver), self.abort, request.params.n)

    def submit(self, request: Request, deliver: Deliver, *, deltas: bool = True) -> object:
        """Hand in one request; returns a ticket for `abort`.

        `deliver` is called in the engine's thread with every Delta (unless they are not wanted), then with one
        Completion per sample as each is done, or with an exception.
        Raises ModelError for a request that cannot be served, BusyError when the queue is full.
        """
        sequences = self._sequences(request, 0, deliver, deltas)
        if self._queue and self.loop.waiting >= self._queue:
            raise BusyError(f"{self._queue} requests are waiting already", "try again in a moment")
        self.loop.hand_in(sequences)
        return sequences[0].ticket

    def abort(self, ticket: object) -> None:
        """Give up a request: its samples end with "abort" and their blocks are free before the next step."""
        self.loop.abort(ticket)

    def close(self) -> None:
        """Give up everything that runs or waits, and return when the engine's thread has ended."""
        self.loop.close()

    def statistics(self) -> dict[str, int]:
        """Sequences that run and wait, blocks in use and in all."""
        return {
            "running": len(self.loop.scheduler.running),
            "waiting": self.loop.waiting,
            "blocks_used": self._pool.used,
            "blocks": self._pool.count,
        }

    def forget(self) -> None:
        """Empty the prefix cache of an idle engine."""
        self._pool.forget()

    def _blocks(self, config: ModelConfig, slots: int, cache_bytes: int) -> int:
        """Blocks of the cache. Raises ModelError when not even one fits."""
        position = PagedKV.position_bytes(config.num_key_value_heads, config.head_dim, self.cache_dtype)
        block = BLOCK * config.num_hidden_layers * position
        most = (cache_bytes or available_bytes(self.device) // 4) // block
        if most < 1:
            raise ModelError("there is no memory for the keys and values of a single block of tokens")
        return min(slots * blocks_for(self.context), most)

    def _sequences(self, request: Request, number: int, deliver: Deliver, streaming: bool) -> list[Sequence]:
        """The samples of a checked request; all but the first follow it."""
        params, length = request.params, len(request.ids)
        if not 0 < length < self.context:
            raise ModelError(
                f"request {number} has {length} tokens; the context is {self.context}",
                "shorten the prompt or the conversation",
            )
        if min(request.ids) < 0 or max(request.ids) >= self._vocab_size:
            raise ModelError(f"request {number} has ids outside the vocabulary of {self._vocab_size}")
        check_params(params, self._vocab_size)
        grammar = None
        if params.grammar is not None:
            from phi4.engine.grammar import (
                compile_grammar,
            )  # needs llguidance, which machines that train lack

            grammar = compile_grammar(params.grammar, self.tokenizer, self._vocab_size)
        ticket = object()
        found = []
        for number_of in range(params.first_sample, params.first_sample + params.n):
            sequence = Sequence(
                number,
                request,
                number_of,
                frozenset(params.stop_ids or self.tokenizer.stop_ids),
                min(params.max_tokens, self.context - length),
                deliver,
                streaming,
                ticket,
                ids=list(request.ids),
            )
            if streaming or params.stop:
                sequence.text = TextStream(self.tokenizer, params.stop)
            if grammar is not None:
                sequence.matcher = grammar.matcher(sequence.stops)
            elif self._speculate:
                sequence.lookup = PromptLookup(request.ids, self.loop.cost.share)
            if params.stop_loops:
                sequence.loops = LoopDetector()
            found.append(sequence)
        found[0].followers = found[1:]
        return found


def _cache_dtype(dtype: torch.dtype, small: bool) -> torch.dtype:
    """Keys and values in bf16, except where they are few and float32 is faster, or float64 is asked for."""
    return dtype if dtype == torch.float64 else torch.float32 if small else torch.bfloat16
