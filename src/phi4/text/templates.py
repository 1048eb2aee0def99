"""Chat templates as plain Python: what stands around the messages of a conversation, for each family of models.

A template yields parts: control tokens by name, and text. Only templates name control tokens; what people write is
text, and text can never become one. Which template a model uses follows from what its own shipped template does
to a probe conversation, or from its control tokens, never from its name.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from phi4.errors import DataError

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. Only assistant turns are learned. `tools`: a JSON list of tool definitions, in a system turn."""

    role: Role
    content: str
    tools: str = ""


@dataclass(frozen=True, slots=True)
class Control:
    """A control token; `learned` where a model learns to produce it."""

    token: str
    learned: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """Text, the template's or a message's. Learned text comes last before the next control token."""

    text: str
    learned: bool = False


Part = Control | Text


class Template(Protocol):
    """How one family of models writes a conversation down."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Control tokens it writes."""
        ...

    @property
    def stops(self) -> tuple[str, ...]:
        """Control tokens that end an assistant's turn."""
        ...

    @property
    def roles(self) -> tuple[Role, ...]:
        """Roles it has a place for."""
        ...

    def parts(self, messages: Sequence[Message], generation: bool) -> Iterator[Part]:
        """The conversation; with `generation`, the opener of an assistant turn behind it."""
        ...


@dataclass(frozen=True)
class Turns:
    """Templates that wrap every message alike: opener, role, separator, content, end."""

    name: str
    needs: tuple[str, ...]
    stops: tuple[str, ...]
    roles: tuple[Role, ...]
    separator: str = ""  # control token between role and content (Phi-4)
    newline: str = ""  # text behind the role and the end (ChatML)
    default_system: str = ""  # what stands first when the conversation brings no system message

    def parts(self, messages: Sequence[Message], generation: bool) -> Iterator[Part]:
        """See Template."""
        if self.default_system and (not messages or messages[0].role != "system"):
            messages = (Message("system", self.default_system), *messages)
        for message in messages:
            yield from self._opener(message.role)
            learned = message.role == "assistant"
            yield Text(message.content, learned)
            yield Control("<|im_end|>", learned)
            if self.newline:
                yield Text(self.newline)
        if generation:
            yield from self._opener("assistant")

    def _opener(self, role: str) -> Iterator[Part]:
        yield Control("<|im_start|>")
        yield Text(role + self.newline)
        if self.separator:
            yield Control(self.separator)


@dataclass(frozen=True)
class Phi4Mini:
    """Phi-4-mini: <|role|>content<|end|>, tools inside the system turn, <|endoftext|> behind a finished talk."""

    name: str = "phi-4-mini"
    needs: tuple[str, ...] = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    stops: tuple[str, ...] = ("<|end|>", "<|endoftext|>")
    roles: tuple[Role, ...] = ("system", "user", "assistant", "tool")

    def parts(self, messages: Sequence[Message], generation: bool) -> Iterator[Part]:
        """See Template."""
        for message in messages:
            learned = message.role == "assistant"
            yield Control(f"<|{message.role}|>")
            yield Text(message.content, learned)
            if message.tools:
                yield Control("<|tool|>")
                yield Text(message.tools)
                yield Control("<|/tool|>")
            yield Control("<|end|>", learned)
        yield Control("<|assistant|>" if generation else "<|endoftext|>")


@dataclass(frozen=True)
class Instructions:
    """Llama-2 and Mistral: a user's turn between [INST] marks, an assistant's behind it, closed by </s>."""

    name: str
    needs: tuple[str, ...]
    stops: tuple[str, ...] = ("</s>",)
    roles: tuple[Role, ...] = ("system", "user", "assistant")
    controls: bool = False  # [INST] and [/INST] are control tokens (Mistral) or text (Llama-2)
    system_controls: bool = False  # the system message has marks of its own (Mistral-Small-24B)
    space: str = " "  # between marks and contents
    every_bos: bool = False  # <s> before every question (Llama-2) or once (Mistral)
    system_last: bool = False  # the system message stands in the last question, not in the first

    def parts(self, messages: Sequence[Message], generation: bool) -> Iterator[Part]:
        """See Template. Raises DataError when questions and answers do not alternate."""
        turns = list(messages)
        system = turns.pop(0).content if turns and turns[0].role == "system" else ""
        if not self.every_bos or not turns:
            yield Control("<s>")
        if system and self.system_controls:
            yield from (Control("[SYSTEM_PROMPT]"), Text(system), Control("[/SYSTEM_PROMPT]"))
            system = ""
        questions = [number for number, message in enumerate(turns) if message.role == "user"]
        told = questions[-1 if self.system_last else 0] if questions else -1
        for number, message in enumerate(turns):
            if message.role != ("user", "assistant")[number % 2]:
                raise DataError(f"{self.name} needs user and assistant messages in turn, a user's first")
            if message.role == "assistant":
                yield Text(self.space)
                yield Text(message.content + (" " if self.every_bos else ""), True)
                yield Control("</s>", True)
                continue
            content = message.content
            if system and number == told:
                block = f"<<SYS>>\n{system}\n<</SYS>>" if self.every_bos else system
                content = f"{block}\n\n{content}"
            if self.every_bos:
                yield Control("<s>")
            yield self._mark("[INST]")
            yield Text(f"{self.space}{content}" + (self.space if self.every_bos else ""))
            yield self._mark("[/INST]")

    def _mark(self, mark: str) -> Part:
        return Control(mark) if self.controls else Text(mark)


_CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
PHI_4 = Turns(
    "phi-4",
    (*_CHATML_TOKENS, "<|im_sep|>"),
    ("<|im_end|>", "<|endoftext|>"),
    ("system", "user", "assistant"),
    separator="<|im_sep|>",
)
PHI_4_MINI = Phi4Mini()
CHATML = Turns(
    "chatml",
    _CHATML_TOKENS,
    ("<|im_end|>", "<|endoftext|>", "</s>"),
    ("system", "user", "assistant"),
    newline="\n",
)
SMOLLM2 = Turns(
    "smollm2",
    _CHATML_TOKENS,
    ("<|im_end|>", "<|endoftext|>"),
    ("system", "user", "assistant"),
    newline="\n",
    default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
)
LLAMA_2 = Instructions("llama-2", ("<s>", "</s>"), every_bos=True)
MISTRAL_24B = Instructions(
    "mistral-v7",
    ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    controls=True,
    system_controls=True,
    space="",
)
MISTRAL_22B = Instructions(
    "mistral-v3", ("<s>", "</s>", "[INST]", "[/INST]"), controls=True, system_last=True
)

# The more control tokens one needs, the earlier it is tried.
TEMPLATES: tuple[Template, ...] = (MISTRAL_24B, MISTRAL_22B, PHI_4_MINI, PHI_4, SMOLLM2, CHATML, LLAMA_2)
_WITHOUT_SHIPPED: tuple[Template, ...] = (MISTRAL_24B, MISTRAL_22B, PHI_4_MINI, PHI_4, CHATML)

PROBES: tuple[tuple[Message, ...], ...] = (
    (Message("user", "q1"),),
    (Message("system", "s0"), Message("user", "q1"), Message("assistant", "a1"), Message("user", "q2")),
)


def written(template: Template, messages: Sequence[Message], generation: bool) -> str:
    """A conversation as one string, control tokens spelled out: what a shipped Jinja template produces."""
    return "".join(
        part.token if isinstance(part, Control) else part.text
        for part in template.parts(messages, generation)
    )


def by_tokens(special: Collection[str]) -> Template | None:
    """The template that goes with a set of control tokens, for models that ship none."""
    return next((t for t in _WITHOUT_SHIPPED if all(token in special for token in t.needs)), None)


def by_text(special: Collection[str], render: "Renderer") -> Template | None:
    """The template that writes the probe conversations exactly as a shipped one does."""
    for template in TEMPLATES:
        if all(token in special for token in template.needs) and all(
            render(messages, True) == written(template, messages, True) for messages in PROBES
        ):
            return template
    return None


class Renderer(Protocol):
    """A shipped template at work: messages and whether an answer follows, to text (None: it refused)."""

    def __call__(self, messages: Sequence[Message], generation: bool, /) -> str | None: ...
