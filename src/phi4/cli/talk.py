"""What `chat` and `ask` share: sampling options, fitting a conversation, streaming an answer as text."""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phi4.errors import UsageError

if TYPE_CHECKING:
    from phi4.cli.models import LoadedModel
    from phi4.text.chat import Conversation
    from phi4.text.generation import Finish, Grammar

DEFAULT_MAX_TOKENS = 512
_ENDINGS = {
    "stop": "",
    "length": ", cut at the token limit",
    "repetition": ", cut because it only repeated itself",
    "deadline": ", out of time",
    "abort": ", stopped",
}


@dataclass(frozen=True)
class Settings:
    """How to sample, as asked for on the command line."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int = DEFAULT_MAX_TOKENS
    grammar: "Grammar | None" = None


@dataclass(frozen=True)
class Answer:
    """One answer and what it took; seconds count from handing in the prompt."""

    text: str
    tokens: int
    seconds: float
    first_seconds: float
    finish: "Finish"

    @property
    def thought(self) -> str:
        """What a reasoning model wrote before its solution; empty for others."""
        from phi4.text.reasoning import split_reasoning

        return split_reasoning(self.text)[0]

    @property
    def solution(self) -> str:
        """The answer without the thought."""
        from phi4.text.reasoning import split_reasoning

        return split_reasoning(self.text)[1]

    @property
    def tokens_per_second(self) -> float:
        """Tokens over all the seconds, reading the prompt included."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def summary(self) -> str:
        """`43 tokens in 0.4 s, 108 tok/s`, with a word when the answer did not end by itself."""
        ending = _ENDINGS[self.finish]
        tokens = f"{self.tokens} token{'' if self.tokens == 1 else 's'}"
        return f"{tokens} in {self.seconds:.1f} s, {self.tokens_per_second:.0f} tok/s{ending}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `Settings` and the system prompt."""
    defaults = Settings()
    parser.add_argument(
        "--temperature",
        type=float,
        default=defaults.temperature,
        help="0 always takes the likeliest token (default)",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=defaults.top_p,
        help="sample from the likeliest tokens of this mass (default 1)",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="seed of the sampling (default 0)")
    parser.add_argument(
        "--max-tokens", type=int, default=defaults.max_tokens, help="longest answer (default %(default)s)"
    )
    parser.add_argument("--system", default="", metavar="TEXT", help="system message")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument(
        "--schema", metavar="JSON", help="answer in JSON of this schema (a file's name, or the schema)"
    )
    shape.add_argument("--regex", help="answer with text of which all matches this expression")
    shape.add_argument("--choice", metavar="A,B,...", help="answer with one of these")
    parser.add_argument("--yes", action="store_true", help="fetch a model that is not here without asking")


def settings(args: argparse.Namespace) -> Settings:
    """The options as checked Settings. Raises UsageError."""
    if not 0 <= args.temperature < float("inf"):
        raise UsageError(f"--temperature {args.temperature}: must be 0 or more")
    if not 0 < args.top_p <= 1:
        raise UsageError(f"--top-p {args.top_p}: must be above 0 and at most 1")
    if args.max_tokens < 1:
        raise UsageError(f"--max-tokens {args.max_tokens}: must be at least 1")
    return Settings(args.temperature, args.top_p, args.seed, args.max_tokens, _grammar(args))


def _grammar(args: argparse.Namespace) -> "Grammar | None":
    """What the answer must look like. Raises UsageError for a schema file that cannot be read."""
    from phi4.text.generation import Grammar

    if args.regex is not None:
        return Grammar("regex", args.regex)
    if args.choice is not None:
        return Grammar("choice", json.dumps([choice.strip() for choice in args.choice.split(",")]))
    if args.schema is None:
        return None
    if args.schema.lstrip().startswith("{"):
        return Grammar("json_schema", args.schema)
    try:
        return Grammar("json_schema", Path(args.schema).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--schema {args.schema} cannot be read: {error}") from error


def fit(
    conversation: "Conversation", model: "LoadedModel", max_tokens: int
) -> tuple["Conversation", list[int]]:
    """The conversation and its prompt ids, the oldest turns dropped until an answer fits behind them.

    The system message and the last message always stay; UsageError when those alone are too long.
    """
    from phi4.text.chat import Conversation, render

    reserve = min(max_tokens, model.context // 4)
    messages = conversation.messages
    while True:
        ids = render(Conversation(messages), model.tokenizer, generation=True).ids
        if len(ids) + reserve <= model.context:
            return Conversation(messages), ids
        system = messages[:1] if messages[0].role == "system" else ()
        turns = messages[len(system) :]
        if len(turns) <= 1:
            raise UsageError(
                f"{len(ids)} tokens are too long for {model.name}",
                f"it reads at most {model.context - reserve}: shorten the text",
            )
        # Questions and answers go together: a conversation never begins with an answer.
        drop = 2 if len(turns) > 2 else 1
        messages = system + turns[drop:]


def answer(
    model: "LoadedModel",
    ids: list[int],
    settings: Settings,
    show: Callable[[str], None] = lambda text: None,
    stopped: Callable[[], bool] = lambda: False,
    think: Callable[[str], None] = lambda text: None,
) -> Answer:
    """Generate an answer to prompt `ids`, handing its text to `show` as it comes, and a thought before it to `think`.

    `stopped` is asked after each token; once true, the engine's stream is closed and what is there is kept.
    """
    from phi4.text.generation import Request, SamplingParams
    from phi4.text.reasoning import ReasoningStream

    limit = min(settings.max_tokens, model.context - len(ids))
    params = SamplingParams(
        max_tokens=limit,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
        grammar=settings.grammar,
        stop_loops=True,
    )
    begun = time.perf_counter()
    first = 0.0
    count = 0
    pieces, reasoning = [], ReasoningStream()
    interrupted = False

    def hand_on(thought: str, solution: str) -> None:
        if thought:
            think(thought)
        if solution:
            show(solution)

    with model.engine.stream(Request(tuple(ids), params)) as stream:
        for delta in stream:
            first = first or time.perf_counter()
            count += len(delta.tokens)
            if delta.text:
                pieces.append(delta.text)
                hand_on(*reasoning.feed(delta.text))
            if stopped():
                interrupted = True
                break
    hand_on(*reasoning.close())
    seconds = time.perf_counter() - begun
    ending: Finish = stream.completions[0].finish if stream.completions else "abort"
    return Answer(
        text="".join(pieces),
        tokens=count,
        seconds=seconds,
        first_seconds=first - begun if first else seconds,
        finish="abort" if interrupted else ending,
    )
