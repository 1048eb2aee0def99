"""A model that answers by a rule instead of a network, with the real tokenizer and chat form."""

import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from phi4.cli.models import Card, LoadedModel
from phi4.text.detokenize import TextStream
from phi4.text.generation import Completion, Delta, Finish, Request, Token
from phi4.text.tokenizer import Tokenizer
from phi4.text.train_tokenizer import train_tokenizer

CARD = Card("pico", "pico", ("addition", "code_tracing"), (("addition", 0.98), ("code_tracing", 0.91)))


THOUGHT = " is no end"


class FakeEngine:
    """Echoes the last user message in capitals; `slow` makes it pause before every token.

    A message that begins with `think ` is thought about first, with a quoted end mark in the thought.
    """

    def __init__(self, tokenizer: Tokenizer, slow: float = 0.0) -> None:
        self.tokenizer = tokenizer
        self.slow = slow
        self.closed = 0
        self.requests: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        raise NotImplementedError

    def stream(self, request: Request) -> "FakeStream":
        self.requests.append(request)
        prompt = self.tokenizer.decode(request.ids)
        last = prompt.rsplit("<|im_start|>user<|im_sep|>", 1)[1].split("<|im_end|>", 1)[0]
        answer = f"echo {last.upper()}"
        if last.startswith("think "):
            answer = f"<think>\nhm, {last[6:]}</think>{THOUGHT}</think>\n\n{answer}"
        return FakeStream(self, self.tokenizer.encode(answer), request.params.max_tokens)


class FakeStream:
    """The deltas of one answer."""

    def __init__(self, engine: FakeEngine, ids: list[int], limit: int) -> None:
        self.engine, self.ids, self.limit = engine, ids, limit
        self.completions: list[Completion] = []

    def __iter__(self) -> Iterator[Delta]:
        text = TextStream(self.engine.tokenizer)
        for number, id in enumerate(self.ids[: self.limit], start=1):
            time.sleep(self.engine.slow)
            last = number == min(len(self.ids), self.limit)
            yield Delta(0, (Token(id, 0.0),), text.feed(id) + (text.finish() if last else ""))
        finish: Finish = "length" if len(self.ids) >= self.limit else "stop"
        self.completions.append(Completion(0, 0, tuple(self.ids), (), finish))

    def __enter__(self) -> "FakeStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.closed += 1


@cache
def tokenizer() -> Tokenizer:
    return train_tokenizer(["what is the sum of two numbers", "Answer: 12"] * 3, 300)


def fake_model(slow: float = 0.0, context: int = 1024) -> LoadedModel:
    return LoadedModel(
        Path("runs/x/model"), "pico", CARD, tokenizer(), FakeEngine(tokenizer(), slow), context
    )
