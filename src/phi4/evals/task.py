"""What an evaluation is made of: items with references, the prompt of an item, the score of a response.

A task never sees a model. It hands out prompts and judges text, so stored responses can be judged again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from phi4.text.chat import Conversation, Message, render
from phi4.text.generation import Finish
from phi4.text.tokenizer import Tokenizer

Mode = Literal["chat", "few-shot"]
MODES: tuple[Mode, ...] = ("chat", "few-shot")


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its reference answer."""

    task: str  # name of the frozen set, e.g. skills-v1
    family: str
    index: int
    problem_key: str
    question: str  # as a user would ask it
    stub: str  # as a training document would open, up to where the solution starts
    reference: str  # the answer a response is compared with
    solution: str  # a worked reference; bounds how long a response may get


@dataclass(frozen=True, slots=True)
class Score:
    """The verdict on one response. A response that breaks the format is never correct."""

    parsed: str | None  # the final answer that was found
    correct: bool
    format_ok: bool  # there is an answer line and the response ended by itself


Scorer = Callable[[str, str, Finish], Score]  # (reference, response, how it ended) -> verdict


@dataclass(frozen=True)
class Task:
    """A frozen list of items of one family and how to judge them."""

    name: str
    family: str
    level: str
    items: tuple[Item, ...]
    scorer: Scorer
    answer_end: Callable[[str], int | None]  # where a base model's answer is complete, before it runs on
    shots: tuple[str, ...] = ()  # worked documents shown before the question to a base model


def few_shot_prompt(shots: Sequence[str], question_stub: str) -> str:
    """Worked documents, then the opening of one more, separated by blank lines.

    Trailing blanks are cut: in training they belong to the token that follows them.
    """
    return "\n\n".join((*shots, question_stub)).rstrip(" ")


def prompt_ids(task: Task, item: Item, tokenizer: Tokenizer, mode: Mode, room: int) -> tuple[int, ...]:
    """Prompt of one item in token ids.

    chat: the question as the user's turn, opened for the assistant. few-shot: as many of the task's
    shots as fit into `room` tokens, then the stub; the stub itself is never cut.
    """
    if mode == "chat":
        conversation = Conversation((Message("user", item.question),))
        return tuple(render(conversation, tokenizer, generation=True).ids)
    for first in range(len(task.shots) + 1):
        ids = tuple(tokenizer.encode(few_shot_prompt(task.shots[first:], item.stub)))
        if len(ids) <= room:
            break
    return ids
