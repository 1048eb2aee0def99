"""Foreign chat templates: Jinja in a sandbox, in a process of its own with a time and a memory limit.

A template is somebody else's program. It sees placeholders instead of what people wrote, so the contents are put in
afterwards as plain text, and a placeholder is the only thing it can pass on.
"""

import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from phi4.errors import DataError, ModelError
from phi4.text.templates import PHI_4, Control, Message, Part, Role, Template, Text, by_text, by_tokens

# Phi-4's own, for the files of models made here.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<|im_sep|>' "
    "+ message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
_SECONDS, _BYTES, _LONGEST_TEMPLATE, _LONGEST_OUTPUT = 10, 1 << 30, 200_000, 2_000_000
_MARK = re.compile("\ufdd0(\\d+)\ufdd1")  # code points that no text uses


@dataclass(frozen=True)
class JinjaTemplate:
    """A shipped template that is none of ours, run for every conversation."""

    source: str
    special: frozenset[str]
    variables: tuple[tuple[str, str], ...] = ()  # bos_token, eos_token, ...
    stops: tuple[str, ...] = ()
    name: str = "jinja"
    needs: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ("system", "user", "assistant", "tool")

    def parts(self, messages: Sequence[Message], generation: bool) -> Iterator[Part]:
        """See templates.Template. Raises DataError when the template refuses the conversation."""
        marked = [
            Message(message.role, f"\ufdd0{number}\ufdd1", message.tools)
            for number, message in enumerate(messages)
        ]
        text = render(self.source, marked, generation, dict(self.variables))
        after_answer = False
        for number, piece in enumerate(_MARK.split(text)):
            if number % 2:
                if int(piece) >= len(messages):
                    raise DataError("the model's chat template invents messages")
                after_answer = messages[int(piece)].role == "assistant"
                yield Text(messages[int(piece)].content, after_answer)
                continue
            for part in _controls(piece, self.special):
                closes = after_answer and isinstance(part, Control)
                yield Control(part.token, closes) if isinstance(part, Control) else part
                after_answer = False


def render(source: str, messages: Sequence[Message], generation: bool, variables: dict[str, str]) -> str:
    """Run a Jinja chat template. Raises ModelError for one that breaks a limit, DataError for one that refuses."""
    if len(source) > _LONGEST_TEMPLATE:
        raise ModelError(
            f"the model's chat template has {len(source):,} characters; {_LONGEST_TEMPLATE:,} are allowed"
        )
    request = {
        "source": source,
        "messages": [
            {"role": m.role, "content": m.content} | ({"tools": m.tools} if m.tools else {}) for m in messages
        ],
        "generation": generation,
        "variables": variables,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _WORKER],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=_SECONDS,
            check=False,
        )
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise ModelError(f"the model's chat template ran longer than {_SECONDS} s and was stopped") from None
    except ValueError:
        raise ModelError("the model's chat template could not be run within its limits") from None
    if "error" in answer:
        raise DataError(f"the model's chat template refuses this conversation: {answer['error']}")
    text: str = answer["text"]
    return text


_WORKER = f"""
import json, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({_BYTES}, {_BYTES}))
except (ImportError, ValueError, OSError):
    pass
from datetime import datetime
from jinja2.sandbox import ImmutableSandboxedEnvironment
class Refused(Exception):
    pass
def refuse(message):
    raise Refused(message)
request = json.loads(sys.stdin.read())
loops = ["jinja2.ext.loopcontrols"]
environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=loops)
environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
environment.globals.update(raise_exception=refuse, strftime_now=lambda form: datetime.now().strftime(form))
try:
    pieces, size = [], 0
    stream = environment.from_string(request["source"]).generate(
        messages=request["messages"], add_generation_prompt=request["generation"], **request["variables"])
    for piece in stream:
        size += len(piece)
        if size > {_LONGEST_OUTPUT}:
            refuse("it writes too much")
        pieces.append(piece)
    answer = {{"text": "".join(pieces)}}
except Exception as error:
    answer = {{"error": " ".join(str(error).split())[:200] or type(error).__name__}}
print(json.dumps(answer))
"""


def _controls(text: str, special: Collection[str]) -> Iterator[Part]:
    """Template text, with the control tokens in it recognised."""
    if not text:
        return
    names = sorted(special, key=len, reverse=True)
    pattern = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None
    for number, piece in enumerate(pattern.split(text) if pattern else [text]):
        if piece:
            yield Control(piece) if number % 2 else Text(piece)


def choose_template(
    source: str, special: dict[str, int], variables: dict[str, str]
) -> tuple[str, Template | None, bool]:
    """(chat template to save, the template to use, whether a launch-era one was replaced)."""
    if not source:
        return "", by_tokens(special), False
    if source == CHAT_TEMPLATE and all(token in special for token in PHI_4.needs):
        return source, PHI_4, False

    def shipped(messages: Sequence[Message], generation: bool) -> str | None:
        try:
            return render(source, messages, generation, variables)
        except (DataError, ModelError):
            return None

    known = by_text(special, shipped)
    if known is PHI_4 and shipped((Message("user", "q1"),), False) == shipped((Message("user", "q1"),), True):
        return CHAT_TEMPLATE, PHI_4, True
    if known is not None:
        return source, known, False
    guess = by_tokens(special)
    return (
        source,
        JinjaTemplate(source, frozenset(special), tuple(variables.items()), guess.stops if guess else ()),
        False,
    )
