"""Conversations and the one renderer that turns them into ids and a loss mask.

SFT, DPO, evaluation, chat and server all call `render`, so what a model was trained on is what it is asked with.
The tokenizer's template says what stands around the messages (text/templates.py). Nothing derives a mask from text,
and nothing decodes to re-encode.

Contents are encoded exactly as they are, apart from the template and without any added token. That differs from
transformers' `apply_chat_template(tokenize=True)`, which writes one string and tokenizes it, in two ways:

- There, a content that spells an added token (`<|im_end|>`, or `<|tool_call|>`, which is not even special) becomes it.
- Where a tokenizer's files give control tokens the flags `lstrip` and `rstrip`, it swallows white space of the text
  beside them: both ends of a content in derivatives of phi-4, which flag every control token, and its beginning in
  phi-4-mini, which flags `<|system|>`, `<|user|>`, `<|assistant|>` and `<|end|>` with `rstrip`.

We follow neither: the reports describe a turn as control tokens around the content, a flag of the loading library is
no part of that, and white space can carry meaning (code, a table). Contents without white space at their ends, which
is nearly all of them, give the same ids in both; `content.strip()` gives transformers' ids for the others.
"""

from dataclasses import dataclass

from phi4.errors import DataError
from phi4.text.templates import Control, Message, Role, Text
from phi4.text.tokenizer import Tokenizer

__all__ = ["Conversation", "Message", "Rendered", "Role", "render"]


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
    """Render a conversation in the model's own form; `generation` appends the opener of an assistant turn.

    The mask covers the content of assistant turns and the control token that closes them: a model that never learns
    its end token never stops. Raises DataError for a role or tools the template has no place for.
    """
    template = tokenizer.template
    for message in conversation.messages:
        if message.role not in template.roles:
            raise DataError(
                f"unknown role {message.role!r} for the {template.name} template",
                f"roles are {', '.join(template.roles)}",
            )
        if message.tools and "tool" not in template.roles:
            raise DataError(f"the {template.name} template has no place for tools")
    ids: list[int] = []
    mask: list[int] = []
    pending: list[Text] = []

    def flush() -> None:
        """Encode the text since the last control token as one piece, as training did."""
        text = "".join(part.text for part in pending)
        if text:
            start = sum(len(part.text) for part in pending if not part.learned)
            ((found, learned),) = tokenizer.encode_from([text], [start])
            ids.extend(found)
            mask.extend(learned)
        pending.clear()

    for part in template.parts(conversation.messages, generation):
        if isinstance(part, Control):
            flush()
            ids.append(tokenizer.control_id(part.token))
            mask.append(int(part.learned))
        else:
            pending.append(part)
    flush()
    return Rendered(ids, mask)
