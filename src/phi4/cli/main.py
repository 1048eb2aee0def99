"""`phi4 VERB ...`: finds the verb's module, and turns every way to fail into one clear line.

Only the chosen verb is imported, so `phi4 --help` answers before torch could even be found on the disk.
"""

import argparse
import difflib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol, cast

from phi4 import __version__
from phi4.errors import Phi4Error, UsageError

# verb: (module, one line of help). The order is the order in which a newcomer needs them.
VERBS: dict[str, tuple[str, str]] = {
    "make": ("phi4.cli.make", "make a model by a recipe: tiny (a minute), pico (ten minutes)"),
    "models": ("phi4.cli.catalog", "list the models there are, what is on disk and what fits this machine"),
    "pull": ("phi4.cli.pull", "fetch a model: phi-4, phi-4-mini, smollm2, or any repository of the hub"),
    "chat": ("phi4.cli.chat", "talk to a model"),
    "ask": ("phi4.cli.ask", "ask a model one question; works in pipes"),
    "eval": ("phi4.cli.eval", "score a model on problems it has never seen"),
    "report": ("phi4.cli.report", "draw what happened in a run as one HTML file"),
    "show": ("phi4.cli.show", "print a model's shape, parameters and cost"),
    "export": ("phi4.cli.export", "write a model as GGUF, Hugging Face folder or for Ollama"),
    "quantize": ("phi4.cli.quantize", "store a model as int8 or int4, a half or a quarter the size"),
    "data": ("phi4.cli.data", "look into the training data: trace, why-dropped"),
    "ablate": ("phi4.cli.ablate", "train variants of a recipe side by side and compare them"),
    "bench": ("phi4.cli.bench", "measure what the README claims"),
}

STOPPED = 130  # what shells call a process ended by Ctrl-C
PIPE_CLOSED = 141


class Verb(Protocol):
    """What a verb's module offers."""

    HELP: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """argparse that reports a mistake like every other mistake: one line and a hint."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"`{self.prog} --help` shows what it takes")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code. Never raises, except SystemExit for --help."""
    arguments, common = _common(list(sys.argv[1:] if argv is None else argv))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character must not end the work
            stream.reconfigure(errors="replace")
    try:
        code = _dispatch(arguments, common)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("\nphi4: stopped; run the same command to resume", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Exception as error:
        return _report(error, common)


def _common(arguments: list[str]) -> tuple[list[str], argparse.Namespace]:
    """Take --json and --debug out, wherever they stand (but not behind `--`)."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, rest = arguments[:end], arguments[end:]
    common = argparse.Namespace(json="--json" in options, debug="--debug" in options)
    return [word for word in options if word not in ("--json", "--debug")] + rest, common


def _dispatch(arguments: list[str], common: argparse.Namespace) -> int:
    if not arguments:
        print(_overview())
        return UsageError.exit_code
    name, rest = arguments[0], arguments[1:]
    if name in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if name == "--version":
        print(f"phi4 {__version__}")
        return 0
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean `phi4 {near[0]}`?" if near else "`phi4 --help` lists what there is"
        raise UsageError(f"unknown command {name!r}", hint)
    verb = cast(Verb, importlib.import_module(VERBS[name][0]))
    parser = Parser(prog=f"phi4 {name}", description=verb.HELP, allow_abbrev=False)
    verb.add_arguments(parser)
    # Taken out by `_common` already; declared so that --help shows them.
    parser.add_argument("--json", action="store_true", help="end with one JSON object as the last line")
    parser.add_argument("--debug", action="store_true", help="show where in the code an error comes from")
    # Options may stand between the model and the prompt; argparse offers that where there are no verbs within verbs.
    parse = parser.parse_args if parser._subparsers else parser.parse_intermixed_args
    namespace = parse(rest)
    namespace.json, namespace.debug = common.json, common.debug
    return verb.run(namespace)


def _overview() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {line}" for name, (_, line) in VERBS.items())
    return (
        "usage: phi4 COMMAND ...\n\n"
        "Make small reasoning models by the Phi-4 recipe, and run them.\n\n"
        f"{verbs}\n\n"
        "`phi4 COMMAND --help` explains one; --json and --debug work with all of them.\n"
        "Start with `phi4 make tiny`, then `phi4 chat`."
    )


def _report(error: Exception, common: argparse.Namespace) -> int:
    if common.debug:
        traceback.print_exception(error)
    message, hint, code = _explain(error)
    print(f"phi4: {message}" + (f"\n  {hint}" if hint else ""), file=sys.stderr)
    if common.json:
        print(json.dumps({"error": message, "hint": hint}))
    return code


def _explain(error: Exception) -> tuple[str, str, int]:
    """What happened, what to do about it, and the exit code."""
    if isinstance(error, Phi4Error):
        return error.message, error.hint, error.exit_code
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        hint = "" if error.filename else "run it again with --debug to see where"
        from phi4.run.files import is_out_of_space

        if is_out_of_space(error):
            hint = "free some space and run the same command again: nothing finished is lost"
        return f"{where}{error.strerror or error}", hint, 1
    if isinstance(error, MemoryError):
        return "out of memory", "close other programs, or make the batch or the model smaller", 1
    what = " ".join(str(error).split())
    return (
        f"internal error: {type(error).__name__}: {what}"[:500],
        "this is a bug in phi4; run it again with --debug to see where",
        1,
    )
