"""A model made of a table: where each prefix leads, and how often that ends right."""

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from phi4.pivotal.rollouts import Question, Sampling
from phi4.text.generation import Completion, Deliver, Request

STOP, RIGHT, WRONG = 0, 1, 2
PROMPT = 100  # ids from here on are prompts


class Killed(Exception):
    """Stands for kill -9 in the middle of a call."""


@dataclass
class TableServer:
    """Tokens a (10+i) and b (20+i) at steps i < length, then RIGHT or WRONG and a stop.

    `value(question number, prefix)` is the probability of RIGHT; `follow` that of a at each step. `calls`
    notes every (prompt, seed, sample) ever sampled. The request numbered `die_at` raises. With `late`, another thread
    answers, in random order; `silent` never does.
    """

    length: int
    value: Callable[[int, tuple[int, ...]], float]
    follow: float = 0.5
    die_at: int | None = None
    late: bool = False
    silent: bool = False
    requests: int = 0
    calls: list[tuple[tuple[int, ...], int, int]] = field(default_factory=list)
    aborted: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._held: list[tuple[Completion, Deliver]] = []
        self._count = threading.Semaphore(0)
        if self.late:
            threading.Thread(target=self._answer, daemon=True).start()

    def submit(self, request: Request, deliver: Deliver, *, deltas: bool = True) -> object:
        assert not deltas
        if self.requests == self.die_at:
            raise Killed
        self.requests += 1
        for k in range(request.params.first_sample, request.params.first_sample + request.params.n):
            self.calls.append((request.ids, request.params.seed, k))
            completion = self._complete(0, request, k)
            if self.late:
                self._held.append((completion, deliver))
                self._count.release()
            elif not self.silent:
                deliver(completion)
        return request

    def abort(self, ticket: object) -> None:
        self.aborted.append(ticket)

    def _answer(self) -> None:
        while self._count.acquire():
            completion, deliver = self._held.pop(random.randrange(len(self._held)))
            deliver(completion)

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
