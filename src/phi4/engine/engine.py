"""The one engine: everything that samples (chat, server, evaluation, rollouts) samples here.

`submit` hands a request to one thread that owns the network: it plans a step, runs it, chooses tokens, and delivers
what came of it. `generate` (lists), `stream` (iterator) and `astream` (asyncio) stand on top of it.
"""

import atexit
import copy
import itertools
import threading
import weakref
from collections.abc import Sequence as Items
from contextlib import suppress
from queue import SimpleQueue

import torch

from phi4.engine.blocks import BlockPool
from phi4.engine.draft import PromptLookup
from phi4.engine.kernels import BLOCK, Kernels, PagedKV, select
from phi4.engine.kv_cache import KVCache
from phi4.engine.loops import LoopDetector
from phi4.engine.memory import available_bytes
from phi4.engine.runner import Runner
from phi4.engine.sampling import Row, check_params, sample
from phi4.engine.scheduler import Scheduler, Work, blocks_for
from phi4.engine.sequence import Deliver, Event, Sequence
from phi4.engine.streams import AsyncStream, Stream
from phi4.errors import BusyError, ModelError
from phi4.model.config import ModelConfig
from phi4.model.cost import parameters
from phi4.model.transformer import Transformer
from phi4.text.detokenize import TextStream
from phi4.text.generation import Completion, Delta, Finish, Request, Token
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
        self._scheduler = Scheduler(self._pool, slots, self.context, short)
        cache = KVCache(config, blocks, self.cache_dtype, self.device, self.kernels)
        self._runner = Runner(model, head, cache, self.kernels)
        self._unused = torch.tensor(tokenizer.unused(config.vocab_size), dtype=torch.long, device=self.device)
        self._vocab_size = config.vocab_size
        self._speculate, self._queue = speculate, queue
        self._lock = threading.Lock()
        self._inbox: list[Sequence] = []
        self._aborted: set[object] = set()
        self._deadlines = False  # has any request ever had one?
        self._closing = False
        # A thread that is inside the network when the interpreter goes away takes the process down with it.
        atexit.register(_close, weakref.ref(self))
        self._thread: threading.Thread | None = None

    def generate(self, requests: Items[Request]) -> list[Completion]:
        """Complete every request; ordered by (request, sample).

        Raises ModelError for a prompt that leaves no room in the context, or parameters that make no sense.
        """
        results: SimpleQueue[Event] = SimpleQueue()
        batches = [self._sequences(request, i, results.put, False) for i, request in enumerate(requests)]
        tickets = [batch[0].ticket for batch in batches]
        # Long prompts first: prompts read side by side are padded less, and the tail of the run is short.
        self._hand_in(sorted(itertools.chain(*batches), key=lambda sequence: -sequence.prompt))
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

    def submit(self, request: Request, deliver: Deliver) -> object:
        """Hand in one request; returns a ticket for `abort`.

        `deliver` is called in the engine's thread with every Delta, then one Completion per sample, or an exception.
        Raises ModelError for a request that cannot be served, BusyError when the queue is full.
        """
        sequences = self._sequences(request, 0, deliver, True)
        if self._queue and len(self._inbox) + len(self._scheduler.waiting) >= self._queue:
            raise BusyError(f"{self._queue} requests are waiting already", "try again in a moment")
        self._hand_in(sequences)
        return sequences[0].ticket

    def abort(self, ticket: object) -> None:
        """Give up a request: its samples end with "abort" and their blocks are free before the next step."""
        with self._lock:
            if self._thread is not None:
                self._aborted.add(ticket)

    def close(self) -> None:
        """Give up everything that runs or waits, and return when the engine's thread has ended."""
        with self._lock:
            thread, self._closing = self._thread, True
        if thread is not None:
            thread.join()
        self._closing = False

    def statistics(self) -> dict[str, int]:
        """Sequences that run and wait, blocks in use and in all."""
        return {
            "running": len(self._scheduler.running),
            "waiting": len(self._scheduler.waiting) + len(self._inbox),
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
                sequence.lookup = PromptLookup(request.ids)
            if params.stop_loops:
                sequence.loops = LoopDetector()
            found.append(sequence)
        found[0].followers = found[1:]
        return found

    def _hand_in(self, sequences: Items[Sequence]) -> None:
        if not sequences:
            return
        with self._lock:
            self._deadlines |= any(sequence.request.params.deadline for sequence in sequences)
            followers = {id(f) for sequence in sequences for f in sequence.followers}
            self._inbox += [sequence for sequence in sequences if id(sequence) not in followers]
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="phi4-engine", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        """The loop. The thread ends when nothing is left to do; the next request starts another."""
        while True:
            with self._lock:
                self._scheduler.waiting.extend(self._inbox)
                self._inbox.clear()
                aborted, self._aborted = self._aborted, set()
                if self._closing:
                    aborted = {sequence.ticket for sequence in self._everyone()}
                if not self._scheduler.busy:
                    self._thread = None
                    return
            if aborted:
                self._end([s for s in self._everyone() if s.ticket in aborted], "abort")
            if self._deadlines:
                self._end([s for s in self._everyone() if s.overdue], "deadline")
            if self._scheduler.busy:
                try:
                    self._step(self._scheduler.plan(self.step_tokens))
                except Exception as error:  # a mistake of ours: nobody is left waiting for an answer
                    for sequence in self._everyone():
                        self._fail(sequence, error)

    def _everyone(self) -> list[Sequence]:
        known = [*self._scheduler.running, *self._scheduler.waiting]
        return [*known, *(f for sequence in known for f in sequence.followers)]

    def _step(self, works: list[Work]) -> None:
        """Run planned work. When it fails, each piece is tried alone: only those that fail by themselves are lost."""
        try:
            logits_RV, rows_of = self._runner.run(works, self._scheduler.table)
        except Exception as error:
            if len(works) == 1:
                self._fail(works[0].sequence, error)
            else:
                for work in works:
                    self._step([work])
            return
        self._choose(works, logits_RV, rows_of)

    def _choose(self, works: list[Work], logits_RV: torch.Tensor, rows_of: list[range]) -> None:
        """The next token of every sequence whose text has been read to its end."""
        picked: list[tuple[Sequence, Work, range]] = []
        rows: list[Row] = []
        index: list[int] = []
        copies: list[tuple[int, int]] = []
        for work, own in zip(works, rows_of, strict=True):
            sequence = work.sequence
            if not work.completes:
                self._scheduler.advance(sequence, work.start + work.count)
                continue
            writers = [sequence]
            if sequence.followers:
                self._scheduler.advance(sequence, work.start + work.count)
                joined, copied = self._scheduler.fork(sequence)
                writers += joined
                copies += copied
            for writer in writers:
                try:
                    asked = _rows(writer, work.draft)
                except Exception as error:
                    self._fail(writer, error)
                    continue
                picked.append((writer, work, range(len(rows), len(rows) + len(own))))
                rows += asked
                index += own
        self._runner.cache.copy(copies)
        if not rows:
            return
        if index != list(range(len(logits_RV))):
            logits_RV = logits_RV[torch.tensor(index, device=self.device)]
        tokens = sample(logits_RV, rows, self._unused)
        ended = []
        for sequence, work, own in picked:
            try:
                self._extend(sequence, work, tokens[own.start : own.stop])
            except Exception as error:
                self._fail(sequence, error)
                continue
            if sequence.finish is not None:
                ended.append(sequence)
        if ended:
            self._scheduler.remove(ended)
            for sequence in ended:
                self._deliver(sequence, sequence.completion())

    def _extend(self, sequence: Sequence, work: Work, tokens: list[Token]) -> None:
        """Take the tokens a step gave a sequence: one, and one more for every drafted token that was right."""
        if not sequence.limit:  # only the log-probabilities of its prompt were asked for
            sequence.finish = "length"
            return
        taken: list[Token] = []
        text = ""
        for place, token in enumerate(tokens):
            length = len(sequence.ids)
            text += sequence.add(token)
            if len(sequence.ids) > length:
                taken.append(token)
            if sequence.finish or (place < len(work.draft) and token.id != work.draft[place]):
                break
        kept = min(len(work.draft), max(0, len(taken) - 1))
        if sequence.lookup is not None:
            sequence.lookup.extend([token.id for token in taken])
            sequence.lookup.report(len(work.draft), kept)
        self._scheduler.advance(sequence, work.start + work.count + kept)
        if sequence.finish is not None:
            text += sequence.close()
        if sequence.streaming and (taken or text):
            self._deliver(sequence, Delta(sequence.sample, tuple(taken), text))

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self._scheduler.remove([sequence])
        self._deliver(sequence, error)

    def _end(self, sequences: list[Sequence], finish: Finish) -> None:
        """End sequences from outside, wherever they are."""
        self._scheduler.remove(sequences)
        for sequence in sequences:
            sequence.finish = finish
            sequence.close()
            self._deliver(sequence, sequence.completion())

    @staticmethod
    def _deliver(sequence: Sequence, event: Event) -> None:
        with suppress(Exception):  # a caller that is gone must not hurt the others
            sequence.deliver(event)


def _close(engine: "weakref.ref[Engine]") -> None:
    alive = engine()
    if alive is not None:
        alive.close()


def _rows(sequence: Sequence, draft: tuple[int, ...]) -> list[Row]:
    """What the sampler must know: one row, and one behind each drafted token."""
    params, prompt = sequence.request.params, sequence.request.ids
    allowed = sequence.matcher.mask() if sequence.matcher is not None else None
    rows = [Row(params, sequence.sample, prompt, sequence.written, allowed)]
    for place in range(len(draft)):
        rows.append(Row(params, sequence.sample, prompt, [*sequence.written, *draft[: place + 1]], None))
    return rows


def _cache_dtype(dtype: torch.dtype, small: bool) -> torch.dtype:
    """Keys and values in bf16, except where they are few and float32 is faster, or float64 is asked for."""
    return dtype if dtype == torch.float64 else torch.float32 if small else torch.bfloat16
