"""What a model reads while it is quantised, and what the result is compared on: never the same text.

A model made here reads problems of its own skills as chats, calibrated on the training side of the split and compared
on the other. Others read the textbook and Python's documentation and code, or a text of the user's.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from phi4.data.organic.sources import pydoc_topics, stdlib_modules, textbook
from phi4.data.record import Record, plain_text
from phi4.errors import DataError
from phi4.skills.catalog import family
from phi4.skills.split import distinct_problems
from phi4.text.chat import Conversation, Message, Rendered, render
from phi4.text.tokenizer import Tokenizer
from phi4.weights.layerwise import Passages

LENGTH = 512  # tokens of a passage at most
CALIBRATION_TOKENS = 32_768
HELD_OUT_TOKENS = 8_192
_TEXT_BYTES = 400_000  # of each shipped source


@dataclass(frozen=True)
class Probe:
    """Text to calibrate on, text to compare on, and what they are, in words."""

    calibration: Passages
    held_out: Passages
    about: str


def probe(
    tokenizer: Tokenizer, context: int, skills: Sequence[str], file: Path | None = None, seed: int = 0
) -> Probe:
    """The probe of a model that was taught `skills` (none: it was made elsewhere), or one cut from a text `file`.

    Raises DataError when the file is no text or too short to be split.
    """
    length = min(LENGTH, context)
    if file is not None:
        return _split(_cut(_read(file), tokenizer, length), length, str(file), seed)
    if skills:
        sides = [
            _upto(_chats(skills, tokenizer, held=held, seed=seed), tokens)
            for held, tokens in ((False, CALIBRATION_TOKENS), (True, HELD_OUT_TOKENS))
        ]
        return Probe(
            Passages.of(sides[0], length),
            Passages.of(sides[1], length),
            "problems of its skills, worked, as chats",
        )
    sources = [textbook(), pydoc_topics(_TEXT_BYTES), stdlib_modules(_TEXT_BYTES)]
    texts = ["\n\n".join(_whole(source.records)) for source in sources]
    rows = [row for text in texts for row in _cut(text, tokenizer, length)]
    return _split(rows, length, "the textbook, Python's documentation and code", seed)


def _chats(skills: Sequence[str], tokenizer: Tokenizer, *, held: bool, seed: int) -> list[Rendered]:
    problems = [
        problem
        for name in skills
        for problem in islice(
            distinct_problems(family(name), held=held), CALIBRATION_TOKENS // 50 // len(skills) + 1
        )
    ]
    random.Random(seed).shuffle(problems)
    return [
        render(
            Conversation((Message("user", problem.question), Message("assistant", problem.solution))),
            tokenizer,
        )
        for problem in problems
    ]


def _whole(records: Sequence[Record]) -> list[str]:
    return [plain_text(record) for record in records]


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text: {error}") from error
    return text


def _cut(text: str, tokenizer: Tokenizer, length: int) -> list[Rendered]:
    """Consecutive pieces of a text, all of one length, each opened as the model expects texts to be."""
    opening = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    ids, step = tokenizer.encode(text), length - len(opening)
    pieces = [[*opening, *ids[start : start + step]] for start in range(0, len(ids) - step + 1, step)]
    return [Rendered(piece, [int(i >= len(opening)) for i in range(len(piece))]) for piece in pieces]


def _split(rows: list[Rendered], length: int, about: str, seed: int) -> Probe:
    """A fifth of the passages, spread at random, is held out."""
    if len(rows) < 2:
        raise DataError(
            f"{about}: too short, two passages of {length} tokens are needed", "use a longer text"
        )
    rows = random.Random(seed).sample(rows, len(rows))
    held = max(1, min(len(rows) // 5, HELD_OUT_TOKENS // length))
    return Probe(
        Passages.of(_upto(rows[held:], CALIBRATION_TOKENS), length), Passages.of(rows[:held], length), about
    )


def _upto(rows: list[Rendered], tokens: int) -> list[Rendered]:
    """The first rows that make up about `tokens` tokens."""
    taken, size = [], 0
    for row in rows:
        if size >= tokens:
            break
        taken.append(row)
        size += len(row.ids)
    return taken
