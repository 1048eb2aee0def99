"""Small records and seeded text for the tests of the data side."""

import random

from phi4.data.record import Lineage, Record, Text, root_record
from phi4.text.chat import Conversation, Message

SYLLABLES = [first + second for first in "bdklmnprst" for second in "aeiou"]
LINEAGE = Lineage("collected", "f0", "human")


def vocabulary(size: int, rng: random.Random) -> list[str]:
    """Distinct made-up words."""
    found: dict[str, None] = {}
    while len(found) < size:
        found["".join(rng.choices(SYLLABLES, k=rng.randint(2, 4)))] = None
    return list(found)


def prose(n_words: int, rng: random.Random, words: list[str]) -> str:
    """Sentences of made-up words with enough real stop words to pass for prose."""
    text = [
        rng.choice(["the", "of", "and", "to"]) if rng.random() < 0.3 else rng.choice(words)
        for _ in range(n_words)
    ]
    return " ".join(f"{word}." if number % 11 == 10 else word for number, word in enumerate(text))


def written(locator: str, text: str, kind: str = "docs") -> Record:
    """An organic record."""
    return root_record(
        "tests", locator, Text(text), kind=kind, skill="any", licence="CC0-1.0", lineage=LINEAGE
    )


def problem(locator: str, question: str, solution: str, key: str, template: str = "t/0") -> Record:
    """A procedural record."""
    content = Conversation((Message("user", question), Message("assistant", solution)))
    return root_record(
        "problems",
        locator,
        content,
        kind="procedural",
        skill="adding",
        licence="MIT",
        lineage=Lineage("problems", "f1", "adding"),
        problem_key=key,
        template_id=template,
    )
