"""What is asked of a sampler, and what comes back.

These types are the whole interface between those who need text (chat, server, evaluation, rollouts)
and the engine that makes it. They live here so that `pivotal` and `evals` never import the engine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

# stop: an end token, a stop string, or a finished grammar; length: max_tokens or the context;
# repetition: the model went round in circles; deadline: out of time; abort: the caller no longer wants it.
Finish = Literal["stop", "length", "repetition", "deadline", "abort"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like. `source`: a JSON Schema, a regular expression, or a JSON list of choices."""

    kind: Literal["json_schema", "regex", "choice"]
    source: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample one request. temperature 0 is greedy; the other defaults change nothing.

    The randomness of sample k at position t depends on (seed, k, t) alone, never on the batch around it.
    Penalties: `repetition_penalty` divides positive and multiplies negative logits of every token seen, prompt
    included; `presence_penalty` and `frequency_penalty` are subtracted once, or once per occurrence, for tokens
    written so far (OpenAI's definitions).
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    n: int = 1
    first_sample: int = 0  # number of the first of the n samples, so that a request can be continued
    stop_ids: tuple[int, ...] = ()  # () means the tokenizer's own end tokens
    stop: tuple[str, ...] = ()  # strings; the text ends before the first of them
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int = 0  # likeliest alternatives to report for each token
    prompt_logprobs: bool = False  # log p of each prompt token too, for log-likelihood evaluation
    grammar: Grammar | None = None
    stop_loops: bool = False  # end with "repetition" when the text only repeats itself
    deadline: float | None = None  # seconds from submission


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt in token ids. The n samples of one request share the work of reading it.

    `salt` keeps prefix caches apart: requests with different salts never see each other's cached prompts.
    """

    ids: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    salt: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation; `ids` and `logprobs` exclude the stop token that ended it."""

    request: int  # position of its request in the list that was submitted
    sample: int  # first_sample .. first_sample + n - 1
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # log p(token) under the model at temperature 1, before any other setting
    finish: Finish
    stop_id: int | None = None
    text: str | None = None  # the answer up to its stop string; only where stop strings were asked for
    top: tuple[tuple[tuple[int, float], ...], ...] = ()  # per token, (id, logprob) of the likeliest
    prompt_logprobs: tuple[float, ...] = ()  # of prompt tokens 1, 2, ...: the first has no predecessor
    cached_tokens: int = 0  # prompt tokens that were already in the prefix cache


@dataclass(frozen=True, slots=True)
class Token:
    """A sampled token, its log-probability, and the (id, logprob) of the likeliest, likeliest first."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to a completion. `text` holds whole characters and no part of a stop string."""

    sample: int
    tokens: tuple[Token, ...]
    text: str


Event = Delta | Completion | BaseException
Deliver = Callable[[Event], None]


class Sampler(Protocol):
    """Anything that completes prompts: our engine, or a fake in a test."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete every request; the result is ordered by (request, sample)."""
        ...


class Server(Protocol):
    """Anything that completes prompts as they are handed in: our engine, or a fake in a test."""

    def submit(self, request: Request, deliver: Deliver, *, deltas: bool = True) -> object:
        """Hand in one request; returns a ticket for `abort`.

        `deliver` is called, in whatever thread, with every Delta (unless they are not wanted), then with one
        Completion per sample as each is done, or with an exception.
        """
        ...

    def abort(self, ticket: object) -> None:
        """Give up a request; one that has ended is no error."""
        ...
