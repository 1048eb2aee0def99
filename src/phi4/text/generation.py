"""What is asked of a sampler, and what comes back.

These types are the whole interface between those who need text (chat, evaluation, rollouts)
and the engine that makes it. They live here so that `pivotal` and `evals` never import the engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample one request. temperature 0 is greedy; top_p 1 keeps the whole distribution.

    The randomness of sample k at position t depends on (seed, k, t) alone, never on the batch around it.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    n: int = 1
    first_sample: int = 0  # number of the first of the n samples, so that a request can be continued
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt in token ids. The n samples of one request share the work of reading it."""

    ids: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation; `ids` and `logprobs` exclude the stop token that ended it."""

    request: int  # position of its request in the list that was submitted
    sample: int  # first_sample .. first_sample + n - 1
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # log p(token) under the model at temperature 1, before top-p
    finish: Finish
    stop_id: int | None = None


class Sampler(Protocol):
    """Anything that completes prompts: our engine, or a fake in a test."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete every request; the result is ordered by (request, sample)."""
        ...
