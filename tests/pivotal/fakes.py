"""A model made of a table: where each prefix leads, and how often that ends right."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from phi4.pivotal.rollouts import Question, Sampling
from phi4.text.generation import Completion, Request

STOP, RIGHT, WRONG = 0, 1, 2
PROMPT = 100  # ids from here on are prompts


class Killed(Exception):
    """Stands for kill -9 in the middle of a call."""


@dataclass
class TableSampler:
    """Tokens a (10+i) and b (20+i) at steps i < length, then RIGHT or WRONG and a stop.

    `value(question number, prefix)` is the probability of RIGHT; `follow` that of a at each step. `calls`
    notes every (prompt, seed, sample) ever sampled. With `die_at`, that call raises before it returns.
    """

    length: int
    value: Callable[[int, tuple[int, ...]], float]
    follow: float = 0.5
    die_at: int | None = None
    batches: list[int] = field(default_factory=list)
    calls: list[tuple[tuple[int, ...], int, int]] = field(default_factory=list)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        if self.die_at is not None and len(self.batches) == self.die_at:
            raise Killed
        self.batches.append(sum(request.params.n for request in requests))
        done = []
        for number, request in enumerate(requests):
            for k in range(request.params.first_sample, request.params.first_sample + request.params.n):
                self.calls.append((request.ids, request.params.seed, k))
                done.append(self._complete(number, request, k))
        return done

    def _complete(self, number: int, request: Request, k: int) -> Completion:
        rng = random.Random(f"{request.params.seed}/{k}")
        prefix = request.ids[1:]
        ids: list[int] = []
        while len(prefix) + len(ids) < self.length:
            ids.append((10 if rng.random() < self.follow else 20) + len(prefix) + len(ids))
        path = (*prefix, *ids)
        if not set(path) & {RIGHT, WRONG}:
            ids.append(RIGHT if rng.random() < self.value(request.ids[0] - PROMPT, path) else WRONG)
        finish = len(ids) < request.params.max_tokens
        ids = ids[: request.params.max_tokens]
        logprobs = tuple(-rng.random() for _ in ids)
        return Completion(
            number, k, tuple(ids), logprobs, "stop" if finish else "length", STOP if finish else None
        )


def ended_right(question: Question, ids: tuple[int, ...]) -> bool:
    """The oracle: it sees the completion alone, never the prompt or the stop token."""
    assert STOP not in ids
    assert all(token < PROMPT for token in ids)
    return bool(ids) and ids[-1] == RIGHT


def questions(n: int) -> list[Question]:
    return [Question(f"q{k}", "letters", f"question {k}", (PROMPT + k,)) for k in range(n)]


def sampling(length: int) -> Sampling:
    return Sampling(max_tokens=length + 3, stop_ids=(STOP,), model="table")


def decode(ids: Sequence[int]) -> str:
    names = {STOP: "<end>", RIGHT: "R", WRONG: "W"}
    return "".join(names.get(i, f"{'ab'[i // 10 - 1]}{i % 10}") for i in ids)
