"""Documents put together from others: sheets of problems, whole chapters, and key-value lists of any length."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from phi4.data.record import Record, Text, derived_record, plain_text, root_id
from phi4.skills.lookup import recall_document, recall_question, recall_solution

LICENCE = "MIT"  # of everything the project writes itself, but for the CC0 textbook


def sheets(curated: Sequence[Record], name: str, size: int, most: int) -> Iterator[tuple[str, list[Record]]]:
    """Problems of one family in the plain form, together at most `size` characters but at least two."""
    by_skill: dict[str, list[Record]] = defaultdict(list)
    for record in curated:
        if record.kind == "procedural" and plain_text(record).startswith("Problem: "):
            by_skill[record.skill].append(record)
    for records in by_skill.values():
        group: list[Record] = []
        made = 0
        for record in records:
            length = sum(len(plain_text(part)) for part in (*group, record))
            if len(group) >= 2 and length > size:
                yield name, group
                group, made = [], made + 1
                if made == most:
                    break
            group.append(record)


def chapters(curated: Sequence[Record], size: int) -> Iterator[tuple[str, list[Record]]]:
    """The passages of one chapter, topic or module in order, in stretches of about `size` characters."""
    by_origin: dict[str, list[Record]] = defaultdict(list)
    for record in curated:
        if record.kind in ("textbook", "docs", "code"):
            by_origin[f"{record.source}/{record.parents[0]}"].append(record)
    for records in by_origin.values():
        group: list[Record] = []
        for record in records:
            group.append(record)
            if sum(len(plain_text(part)) for part in group) >= size:
                yield "chapters", group
                group = []
        if sum(len(plain_text(part)) for part in group) >= size // 2:
            yield "chapters", group


def recall_records(context: int, count: int = 400) -> Iterator[Record]:
    """Key-value documents of growing length, from a quarter of the context to nearly all of it."""
    for i in range(count):
        rng = random.Random(f"recall/{i}")
        pairs = rng.randint(max(2, context // 32), max(3, context // 8))
        text, key, value = recall_document(rng, min(pairs, 200))
        solution = recall_solution(key, value)
        page = f"Problem: {text} {recall_question(key)}\nSolution:\n{solution}"
        yield derived_record(
            "assemble",
            "recall",
            (root_id("recall", str(i)),),
            0,
            Text(page),
            kind="recall",
            skill="lookup",
            licence=LICENCE,
            source="recall",
            generator="procedural teacher",
            meta={"locator": str(i), "solution": len(page) - len(solution)},
        )
