"""`phi4 chat`: talk to a model in the terminal."""

import argparse
import difflib
import json
import random
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from phi4.cli import talk
from phi4.cli.models import (
    Card,
    LoadedModel,
    add_adapter_option,
    add_cache_option,
    add_precision_option,
    load,
)
from phi4.cli.pull import offer
from phi4.cli.terminal import Screen, bold, dim
from phi4.errors import Phi4Error, UsageError

if TYPE_CHECKING:
    from phi4.skills.family import Family, Problem
    from phi4.text.chat import Message

HELP = "Talk to a model. Without MODEL: the one made or used last."

COMMANDS = {
    "/help": "what can be typed here",
    "/example": "an unseen problem, from the family you name or from any: /example addition",
    "/system": "set the system message; alone: show it; `/system none` removes it",
    "/clear": "forget the conversation",
    "/save": "write the conversation to a file (.json, or readable text): /save talk.md",
    "/exit": "leave (so does Ctrl-D)",
}
BLOCK = '"""'


@dataclass
class Session:
    """A conversation with one model. Turns are added only when an answer is there."""

    model: LoadedModel
    settings: talk.Settings
    system: str = ""
    turns: "tuple[Message, ...]" = ()
    thoughts: list[str] = field(default_factory=list)  # one for each answer, empty where it had none
    tokens: int = 0
    rng: random.Random = field(default_factory=random.Random)

    @property
    def messages(self) -> "tuple[Message, ...]":
        """The system message, if any, and all turns."""
        from phi4.text.chat import Message

        return ((Message("system", self.system),) if self.system else ()) + self.turns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `phi4 chat`."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="short name, folder, .gguf file or recipe")
    add_adapter_option(parser)
    add_precision_option(parser)
    add_cache_option(parser)
    talk.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Talk until /exit or the end of input; with --json the whole conversation is the last line."""
    settings = talk.settings(args)
    offer(args.model, yes=args.yes)
    session = Session(load(args.model, args.adapter, args.precision, args.cache), settings, args.system)
    interactive = sys.stdin.isatty()
    if interactive:
        # A chat started from a script's background job inherits a Ctrl-C that is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with suppress(ImportError):
            import readline  # noqa: F401 (line editing and history in input())
        print(banner(session.model.card, session.model.path), flush=True)
    while True:
        try:
            message = read_message(interactive)
            if message is None or not obey(session, message):
                break
        except KeyboardInterrupt:
            print("\n(Ctrl-D or /exit leaves)", flush=True)
        except Phi4Error as error:  # a mistake in a chat costs a line, not the chat
            print(dim(error.message + (f" ({error.hint})" if error.hint else "")), flush=True)
    if args.json:
        messages = [{"role": m.role, "content": m.content} for m in session.messages]
        result = {
            "model": session.model.name,
            "messages": messages,
            "reasoning": session.thoughts,
            "tokens": session.tokens,
        }
        print(json.dumps(result, ensure_ascii=False))
    return 0


def banner(card: Card, path: Path) -> str:
    """What this model is and can do, before the first prompt."""
    lines = [f"{bold(card.name)}  {dim(str(path))}"]
    scores = dict(card.scores)
    skills = card.skills or tuple(scores)
    if skills:
        known = ", ".join(
            skill.replace("_", " ") + (f" {scores[skill]:.0%}" if skill in scores else "") for skill in skills
        )
        width = min(100, shutil.get_terminal_size().columns)
        lines += textwrap.wrap(f"It can: {known}.", width, subsequent_indent="  ")
        lines.append("That is all it knows. /example shows it a problem it has never seen.")
    lines.append(
        dim(f"/help for commands, {BLOCK} around several lines, Ctrl-C stops an answer, Ctrl-D leaves")
    )
    return "\n".join(lines)


def read_message(interactive: bool) -> str | None:
    """One message: a line, lines joined by trailing backslashes, or a block in quotes. None at the end."""
    lines: list[str] = []
    in_block = False
    while True:
        try:
            line = input(("... " if lines or in_block else "> ") if interactive else "")
        except EOFError:
            if interactive:
                print()
            return "\n".join(lines) if lines else None
        if not lines and not in_block and line.lstrip().startswith(BLOCK):
            in_block, line = True, line.lstrip().removeprefix(BLOCK)
            if not line:
                continue
        if in_block:
            if line.rstrip().endswith(BLOCK):
                return "\n".join([*lines, line.rstrip().removesuffix(BLOCK)]).strip("\n")
            lines.append(line)
        elif line.endswith("\\"):
            lines.append(line[:-1])
        else:
            return "\n".join([*lines, line])


def obey(session: Session, message: str) -> bool:
    """Do what a message asks for: a command, or an answer. False when the conversation is over."""
    if not message.strip():
        return True
    if not message.startswith("/"):
        reply(session, message)
        return True
    command, _, argument = message.strip().partition(" ")
    argument = argument.strip()
    if command == "/exit":
        return False
    actions: dict[str, Callable[[], None]] = {
        "/help": lambda: print("\n".join(f"  {name:<9} {dim(what)}" for name, what in COMMANDS.items())),
        "/example": lambda: show_example(session, argument),
        "/system": lambda: set_system(session, argument),
        "/clear": lambda: clear(session),
        "/save": lambda: save(session, argument),
    }
    if command not in actions:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        raise UsageError(
            f"unknown command {command}", f"did you mean {near[0]}?" if near else "/help lists them"
        )
    actions[command]()
    return True


def reply(session: Session, question: str) -> talk.Answer:
    """Stream the answer to `question` and add both to the conversation. Ctrl-C keeps what is there so far."""
    from phi4.text.chat import Conversation, Message

    asked = Conversation((*session.messages, Message("user", question)))
    fitted, ids = talk.fit(asked, session.model, session.settings.max_tokens)
    dropped = len(asked.messages) - len(fitted.messages)
    if dropped:
        print(dim(f"(the {dropped} oldest messages no longer fit and are forgotten)"))
    with _interruptible() as stopped:
        screen = Screen()
        answer = talk.answer(session.model, ids, session.settings, screen.say, stopped, think=screen.think)
    screen.end(answer.solution)
    if sys.stdout.isatty():
        print(dim(f"[{answer.summary}]"), flush=True)
    session.tokens += answer.tokens
    if answer.solution:
        kept = tuple(message for message in fitted.messages if message.role != "system")
        # A thought is many times as long as its solution and of no use to the next question.
        session.turns = (*kept, Message("assistant", answer.solution))
        session.thoughts.append(answer.thought)
        session.settings = replace(session.settings, seed=session.settings.seed + 1)
    return answer


def show_example(session: Session, name: str) -> None:
    """Put a problem to the model that its training never contained, and say whether it got it right."""
    family, problem = _unseen(session, name)
    print(f"{bold(family.title)}: {problem.question}", flush=True)
    answer = reply(session, problem.question)
    if answer.finish == "abort":
        verdict = f"the answer is {problem.answer}"
    elif family.score(problem.answer, answer.solution):
        verdict = "right"
    else:
        verdict = f"wrong: the answer is {problem.answer}"
    print(dim(verdict), flush=True)


def set_system(session: Session, text: str) -> None:
    """Set, show or remove the system message."""
    if text:
        session.system = "" if text.lower() == "none" else text
    print(dim(f"system message: {session.system or 'none'}"))


def clear(session: Session) -> None:
    """Forget the turns; the system message stays."""
    session.turns = ()
    print(dim("forgotten"))


def save(session: Session, name: str) -> None:
    """Write the conversation to a new file. Raises UsageError for a missing name or an existing file."""
    from phi4.run.files import atomic_write

    if not name:
        raise UsageError("/save needs a file name", "for example /save talk.md")
    path = Path(name).expanduser()
    if path.exists():
        raise UsageError(f"{path} exists already and was left alone", "choose another name")
    if path.suffix == ".json":
        messages = [{"role": m.role, "content": m.content} for m in session.messages]
        text = (
            json.dumps({"model": session.model.name, "messages": messages}, indent=1, ensure_ascii=False)
            + "\n"
        )
    else:
        text = "\n\n".join(f"**{m.role}**\n\n{m.content}" for m in session.messages) + "\n"
    try:
        atomic_write(path, text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    print(dim(f"saved {len(session.messages)} messages to {path}"))


def _unseen(session: Session, name: str) -> "tuple[Family, Problem]":
    """A held-out problem at the standard level, of family `name` or of any the model was taught."""
    from phi4.skills.catalog import FAMILIES
    from phi4.skills.split import held_out

    families = {family.name: family for family in FAMILIES}
    if name and name not in families:
        near = difflib.get_close_matches(name, families, n=1)
        hint = f"did you mean {near[0]}?" if near else "there are " + ", ".join(families)
        raise UsageError(f"no family called {name}", hint)
    taught = [skill for skill in session.model.card.skills if skill in families] or list(families)
    family = families[name or session.rng.choice(taught)]
    while True:
        problem = family[session.rng.randrange(1_000_000)]
        if held_out(problem.problem_key):
            return family, problem


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks the answer to stop at its next token, so the engine ends tidily; a second one raises."""
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
