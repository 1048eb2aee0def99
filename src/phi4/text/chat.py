"""Conversations and the one renderer that turns them into ids and a loss mask.

Phi-4's form (report section 4): every message is <|im_start|> role <|im_sep|> content <|im_end|>,
no newline anywhere. SFT, DPO, evaluation, chat and server all call `render`, so what a model was
trained on is what it is asked with. Nothing derives a mask from text, and nothing decodes to re-encode.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from phi4.errors import DataError
from phi4.text.tokenizer import TURN_END, TURN_SEP, TURN_START, Tokenizer

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. Only assistant turns are learned."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Rendered:
    """Ids and, for each id, 1 where the model learns to produce it."""

    ids: list[int]
    loss_mask: list[int]


def render(conversation: Conversation, tokenizer: Tokenizer, *, generation: bool = False) -> Rendered:
    """Render a conversation; `generation` appends the opener of an assistant turn.

    The mask covers the content of assistant turns and the <|im_end|> that closes them: a model that
    never learns its end token never stops. Raises DataError for a role Phi-4 does not have.
    """
    ids: list[int] = []
    mask: list[int] = []
    for message in conversation.messages:
        if message.role not in get_args(Role):
            raise DataError(f"unknown role {message.role!r}", "roles are system, user and assistant")
        opener = _opener(message.role, tokenizer)
        body = [*tokenizer.encode(message.content), tokenizer.special[TURN_END]]
        ids += opener + body
        mask += [0] * len(opener) + [int(message.role == "assistant")] * len(body)
    if generation:
        opener = _opener("assistant", tokenizer)
        ids += opener
        mask += [0] * len(opener)
    return Rendered(ids, mask)


def _opener(role: Role, tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.special[TURN_START], *tokenizer.encode(role), tokenizer.special[TURN_SEP]]
