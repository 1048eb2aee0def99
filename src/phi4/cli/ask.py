"""`phi4 ask`: one question, one answer; the answer alone on standard output, so that it works in pipes."""

import argparse
import json
import select
import sys

from phi4.cli import talk
from phi4.cli.models import add_adapter_option, add_cache_option, add_precision_option, load
from phi4.cli.pull import offer
from phi4.cli.terminal import Screen
from phi4.errors import DataError, UsageError

HELP = "Ask a model one question. Piped input is appended to the prompt."

_MOST_PIPED_BYTES = 4_000_000  # far more than any model here can read; a guard for memory, not a limit of use


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `phi4 ask`."""
    parser.usage = "phi4 ask [options] [MODEL] PROMPT"
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[MODEL] PROMPT",
        help="one argument is the prompt, the first of two is the model",
    )
    parser.add_argument(
        "-m", "--model", help="short name, folder, .gguf file or recipe (default: the last made or used)"
    )
    add_adapter_option(parser)
    add_precision_option(parser)
    add_cache_option(parser)
    talk.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Answer the prompt; text streams to standard output, the speed goes to standard error."""
    settings = talk.settings(args)
    name, prompt = _words(args.words, args.model)
    prompt = "\n\n".join(part for part in (prompt, _piped()) if part)
    if not prompt:
        raise UsageError("nothing to ask", 'for example: phi4 ask "What is 347 + 586?"')
    offer(name, yes=args.yes)
    model = load(name, args.adapter, args.precision, args.cache)
    from phi4.text.chat import Conversation, Message

    system = (Message("system", args.system),) if args.system else ()
    _, ids = talk.fit(Conversation((*system, Message("user", prompt))), model, settings.max_tokens)
    if args.json:
        answer = talk.answer(model, ids, settings)
        result = {
            "model": model.name,
            "path": str(model.path),
            "prompt": prompt,
            "reasoning": answer.thought,
            "answer": answer.solution,
            "finish": answer.finish,
            "prompt_tokens": len(ids),
            "tokens": answer.tokens,
            "seconds": round(answer.seconds, 4),
            "first_token_seconds": round(answer.first_seconds, 4),
            "tok_s": round(answer.tokens_per_second, 1),
        }
        print(json.dumps(result, ensure_ascii=False))
        return 0
    screen = Screen()
    answer = talk.answer(model, ids, settings, screen.say, think=screen.think)
    screen.end(answer.solution)
    print(answer.summary, file=sys.stderr)
    return 0


def _words(words: list[str], model: str | None) -> tuple[str | None, str]:
    """The model (None: the last one) and the prompt from the positional words."""
    if len(words) > 2 or (len(words) == 2 and model is not None):
        raise UsageError("the prompt must be one argument", 'put quotes around it: phi4 ask "What is 2 + 2?"')
    if len(words) == 2:
        return words[0], words[1].strip()
    return model, words[0].strip() if words else ""


def _piped() -> str:
    """Text on standard input, when it is not a terminal. Raises DataError when it is not text."""
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return ""
    stream = sys.stdin.buffer
    if not select.select([stream], [], [], 1.0)[0]:
        print("phi4: reading standard input (end it with Ctrl-D, or run with </dev/null)", file=sys.stderr)
    data = stream.read(_MOST_PIPED_BYTES + 1)
    if len(data) > _MOST_PIPED_BYTES:
        raise DataError(
            f"the piped input is longer than {_MOST_PIPED_BYTES // 1_000_000} MB",
            "pipe in the part that matters",
        )
    if b"\0" in data:
        raise DataError("the piped input is binary, not text")
    return data.decode("utf-8", errors="replace").strip()
