"""One completion being written: its tokens, its place in the cache, and how it ends."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from phi4.engine.draft import PromptLookup
from phi4.engine.repetition import LoopDetector
from phi4.text.detokenize import TextStream
from phi4.text.generation import Completion, Deliver, Finish, Request, Token

if TYPE_CHECKING:
    from phi4.engine.grammar import Matcher


@dataclass(slots=True, eq=False)
class Sequence:
    """The state of one sample of one request."""

    number: int  # of its request, in the caller's list
    request: Request
    sample: int
    stops: frozenset[int]
    limit: int  # new tokens at most
    deliver: Deliver
    streaming: bool  # deliver every step, not only the end
    ticket: object = None  # what the caller aborts by
    ids: list[int] = field(default_factory=list)  # prompt and written
    cached: int = 0  # tokens whose keys and values are in the cache
    hits: int = 0  # prompt tokens that were there already
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)  # of its full blocks, for the prefix cache
    promised: int = 0  # blocks it may still take
    slot: int = -1  # its row in the block table; -1 while it waits
    long: bool = False  # rotated with LongRoPE's long factors
    followers: list["Sequence"] = field(
        default_factory=list
    )  # samples that wait for this one to read the prompt
    written: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)
    text: TextStream | None = None
    said: list[str] = field(default_factory=list)  # text that is certain
    matcher: "Matcher | None" = None
    lookup: PromptLookup | None = None
    loops: LoopDetector | None = None
    finish: Finish | None = None
    stop_id: int | None = None
    born: float = field(default_factory=time.monotonic)

    @property
    def prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.ids)

    @property
    def pending(self) -> int:
        """Tokens that still have to be read: 1 while decoding."""
        return len(self.ids) - self.cached

    @property
    def overdue(self) -> bool:
        """Is its deadline over?"""
        deadline = self.request.params.deadline
        return deadline is not None and time.monotonic() - self.born > deadline

    def add(self, token: Token) -> str:
        """Take one sampled token; returns the text that became certain. May set `finish`."""
        if token.id in self.stops and (self.matcher is None or self.matcher.stop_allowed):
            self.finish, self.stop_id = "stop", token.id
            return ""
        self.ids.append(token.id)
        self.written.append(token.id)
        self.logprobs.append(token.logprob)
        self.top.append(token.top)
        text = self._say(self.text.feed(token.id)) if self.text is not None else ""
        if self.matcher is not None:
            self.matcher.advance(token.id)
        if self.text is not None and self.text.stopped:
            self.finish = "stop"
            for values in (self.written, self.logprobs, self.top):
                del values[self.text.tokens_before_stop :]
        elif self.matcher is not None and self.matcher.finished:
            self.finish = "stop"
        elif len(self.written) >= self.limit:
            self.finish = "length"
        elif self.loops is not None and self.loops.feed(token.id):
            self.finish = "repetition"
        return text

    def close(self) -> str:
        """Text that was held back because it could have become a stop string or a character."""
        return self._say(self.text.finish()) if self.text is not None else ""

    def _say(self, text: str) -> str:
        if text:
            self.said.append(text)
        return text

    def completion(self) -> Completion:
        """The result, once `finish` is set."""
        assert self.finish is not None
        return Completion(
            self.number,
            self.sample,
            tuple(self.written),
            tuple(self.logprobs),
            self.finish,
            self.stop_id,
            "".join(self.said) if self.request.params.stop else None,
            tuple(self.top) if self.request.params.top_logprobs else (),
            tuple(self.prompt_logprobs),
            self.hits,
        )
