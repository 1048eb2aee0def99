"""A model that answers by a rule instead of a network, with the real tokenizer and chat form."""

import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from phi4.cli.models import Card, LoadedModel
from phi4.text.generation import Completion, Request
from phi4.text.tokenizer import Tokenizer, train_tokenizer

CARD = Card("pico", "pico", ("addition", "code_tracing"), (("addition", 0.98), ("code_tracing", 0.91)))


class FakeEngine:
    """Echoes the last user message in capitals; `slow` makes it pause before every token."""

    def __init__(self, tokenizer: Tokenizer, slow: float = 0.0) -> None:
        self.tokenizer = tokenizer
        self.slow = slow
        self.closed = 0
        self.requests: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        raise NotImplementedError

    def stream(self, request: Request) -> Iterator[int]:
        self.requests.append(request)
        prompt = self.tokenizer.decode(request.ids)
        last = prompt.rsplit("<|im_start|>user<|im_sep|>", 1)[1].split("<|im_end|>", 1)[0]
        try:
            for id in self.tokenizer.encode(f"echo {last.upper()}")[: request.params.max_tokens]:
                time.sleep(self.slow)
                yield id
        finally:
            self.closed += 1


@cache
def tokenizer() -> Tokenizer:
    return train_tokenizer(["what is the sum of two numbers", "Answer: 12"] * 3, 300)


def fake_model(slow: float = 0.0, context: int = 1024) -> LoadedModel:
    return LoadedModel(
        Path("runs/x/model"), "pico", CARD, tokenizer(), FakeEngine(tokenizer(), slow), context
    )
