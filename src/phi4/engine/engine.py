"""The one engine: everything that samples (chat, evaluation, rollouts) samples here.

Requests become sequences; sequences wait, read their prompt in batches (prefill), then write one token each
per step, all together (decode). The samples of one request share the reading of its prompt. A finished
sequence leaves at once and a waiting one takes its place, so the batch stays full.

Legend: N active sequences, B prompts read together, T prompt length, V vocabulary.
"""

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from phi4.engine.kv_cache import KVCache
from phi4.engine.sampling import choose, uniforms
from phi4.errors import ModelError
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer
from phi4.text.generation import Completion, Finish, Request, SamplingParams
from phi4.text.tokenizer import Tokenizer

_PREFILL_TOKENS = 8192  # prompt tokens read in one forward pass


@dataclass(slots=True)
class _Sequence:
    request: int
    sample: int
    params: SamplingParams
    stops: frozenset[int]
    length: int  # tokens in the cache
    limit: int  # new tokens at most
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Engine:
    """A model ready to complete prompts, up to `slots` of them at a time.

    `context` bounds prompt plus completion. By default it is all the model has; with LongRoPE it is the original
    context, because one engine uses one factor set and a longer context would change short prompts.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        dtype: torch.dtype | None = None,
        slots: int = 256,
        context: int = 0,
    ) -> None:
        config = model.config
        self.device = model.embed_tokens.weight.device
        self.dtype = dtype or model.embed_tokens.weight.dtype
        limit = config.original_context if config.long_rope else config.max_position_embeddings
        self.context = min(context or limit, config.max_position_embeddings)
        self.slots = slots
        same = model.embed_tokens.weight.dtype == self.dtype
        self.model = (model if same else copy.deepcopy(model).to(self.dtype)).eval()
        self.tokenizer = tokenizer
        self.unused = torch.tensor(tokenizer.unused(config.vocab_size), dtype=torch.long, device=self.device)
        self.rope = Rope(config, self.context, self.device)
        # On CPUs PyTorch's attention over one query is twice as fast on float32 keys as on bf16 ones, although
        # they are twice the bytes.
        bf16_on_cpu = self.device.type == "cpu" and self.dtype == torch.bfloat16
        self.cache_dtype = torch.float32 if bf16_on_cpu else self.dtype

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete every request; ordered by (request, sample).

        Raises ModelError for a prompt that leaves no room in the context.
        """
        if not requests:
            return []
        run = _Run(self, requests, min(self.slots, sum(request.params.n for request in requests)))
        while run.busy:
            run.step()
        return sorted(run.completions, key=lambda c: (c.request, c.sample))

    def stream(self, request: Request) -> Iterator[int]:
        """The tokens of one completion as they are made, without the stop token. Closing it ends the work."""
        run = _Run(self, [request], slots=1)
        sent = 0
        while run.busy:
            run.step()
            written = run.completions[0].ids if run.completions else run.active[0].ids
            yield from written[sent:]
            sent = len(written)


class _Run:
    """The state of one `generate` call: who waits, who writes, who is done."""

    def __init__(self, engine: Engine, requests: Sequence[Request], slots: int) -> None:
        self.engine = engine
        self.completions: list[Completion] = []
        self._requests = requests
        self.active: list[_Sequence] = []
        self._slots = slots
        longest = 0
        for number, request in enumerate(requests):
            if not 0 < len(request.ids) < engine.context:
                raise ModelError(
                    f"request {number} has {len(request.ids)} tokens; the context is {engine.context}",
                    "shorten the prompt or the conversation",
                )
            if request.params.max_tokens < 1 or request.params.n < 1:
                raise ModelError(f"request {number} asks for nothing: max_tokens and n must be at least 1")
            longest = max(longest, len(request.ids) + request.params.max_tokens)
        # Long prompts first: the padding of a prefill batch stays small and the tail of the run short.
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].ids))
        self._waiting = deque(
            (i, requests[i].params.first_sample + k) for i in order for k in range(requests[i].params.n)
        )
        self._cache = KVCache(
            engine.model.config, slots, min(longest, engine.context), engine.cache_dtype, engine.device
        )

    @property
    def busy(self) -> bool:
        """Is any sequence waiting or writing?"""
        return bool(self._waiting or self.active)

    @torch.inference_mode()
    def step(self) -> None:
        """Admit what fits once a quarter of the slots is free, then write one token per active sequence."""
        free = self._slots - len(self.active)
        if self._waiting and (not self.active or free >= max(1, self._slots // 4)):
            self._prefill(free)
        elif self.active:
            self._decode()

    def _prefill(self, free: int) -> None:
        engine, first = self.engine, len(self.active)
        admitted: list[_Sequence] = []
        prompts: list[tuple[int, int]] = []  # (request, position of its first sequence among the admitted)
        width = 0
        while self._waiting and len(admitted) < free:
            number, sample = self._waiting[0]
            request = self._requests[number]
            if not prompts or prompts[-1][0] != number:
                width = max(width, len(request.ids))
                if prompts and width * (len(prompts) + 1) > _PREFILL_TOKENS:
                    break
                prompts.append((number, len(admitted)))
            self._waiting.popleft()
            length = len(request.ids)
            admitted.append(
                _Sequence(
                    number,
                    sample,
                    request.params,
                    frozenset(request.params.stop_ids or engine.tokenizer.stop_ids),
                    length,
                    min(request.params.max_tokens, engine.context - length),
                )
            )
        lengths = [len(self._requests[number].ids) for number, _ in prompts]
        ids_BT = torch.zeros((len(prompts), max(lengths)), dtype=torch.long)
        for row, (number, _) in enumerate(prompts):
            ids_BT[row, : lengths[row]] = torch.tensor(self._requests[number].ids)
        ids_BT = ids_BT.to(engine.device)
        positions_BT = torch.arange(ids_BT.shape[1], device=engine.device)[None].expand_as(ids_BT)
        # Prompts fill the slots right behind the active ones; causal masking makes the right padding harmless.
        h_BTD = engine.model(ids_BT, positions_BT, self._cache.prefill(first), engine.rope)
        last = torch.tensor(lengths, device=engine.device) - 1
        logits_BV = engine.model.head(h_BTD[torch.arange(len(prompts), device=engine.device), last])
        # Spread each prompt's cache to the slots of its samples, last prompt first so that none is overwritten.
        counts = [
            end - start
            for (_, start), (_, end) in zip(prompts, [*prompts[1:], (0, len(admitted))], strict=True)
        ]
        for row in reversed(range(len(prompts))):
            start = prompts[row][1]
            self._cache.copy(first + row, first + start, lengths[row], counts[row])
        owner = torch.repeat_interleave(torch.arange(len(prompts)), torch.tensor(counts)).to(engine.device)
        self.active += admitted
        self._extend(admitted, logits_BV[owner])

    def _decode(self) -> None:
        engine = self.engine
        lengths = [sequence.length for sequence in self.active]
        lengths_N = torch.tensor(lengths, device=engine.device)
        ids_N1 = torch.tensor([[sequence.ids[-1]] for sequence in self.active], device=engine.device)
        attend = self._cache.decode(lengths_N, max(lengths))
        h_N1D = engine.model(ids_N1, lengths_N[:, None], attend, engine.rope)
        for sequence in self.active:
            sequence.length += 1
        self._extend(self.active, engine.model.head(h_N1D[:, 0]))

    def _extend(self, sequences: list[_Sequence], logits_NV: torch.Tensor) -> None:
        """Choose the next token of each sequence, and let those that end go."""
        if len(self.engine.unused):
            logits_NV = logits_NV.index_fill(1, self.engine.unused, float("-inf"))
        uniform_N = uniforms(
            np.array([s.params.seed for s in sequences], dtype=np.uint64),
            np.array([s.sample for s in sequences], dtype=np.uint64),
            np.array([len(s.ids) for s in sequences], dtype=np.uint64),
        )
        device = logits_NV.device
        token_N, logprob_N = choose(
            logits_NV,
            torch.tensor([s.params.temperature for s in sequences], device=device),
            torch.tensor([s.params.top_p for s in sequences], device=device),
            uniform_N.to(device),
        )
        ended = False
        for sequence, token, logprob in zip(sequences, token_N.tolist(), logprob_N.tolist(), strict=True):
            if token in sequence.stops:
                self._finish(sequence, "stop", token)
                ended = True
                continue
            sequence.ids.append(token)
            sequence.logprobs.append(logprob)
            if len(sequence.ids) >= sequence.limit:
                self._finish(sequence, "length", None)
                ended = True
        if ended:
            self._compact()

    def _finish(self, sequence: _Sequence, finish: Finish, stop_id: int | None) -> None:
        self.completions.append(
            Completion(
                sequence.request,
                sequence.sample,
                tuple(sequence.ids),
                tuple(sequence.logprobs),
                finish,
                stop_id,
            )
        )
        sequence.limit = 0  # marks it for removal

    def _compact(self) -> None:
        """Close the gaps: the last active sequence takes the slot of one that ended."""
        slot = 0
        while slot < len(self.active):
            if self.active[slot].limit:
                slot += 1
                continue
            last = self.active.pop()
            if slot < len(self.active):
                if last.limit:
                    self._cache.copy(len(self.active), slot, last.length)
                self.active[slot] = last
