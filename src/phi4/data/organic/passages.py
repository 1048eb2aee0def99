"""Cutting documents into passages along the lines their authors drew: headings, definitions, paragraphs."""

import re
from collections.abc import Iterable

PASSAGE_CHARACTERS = 4_000  # longer passages are cut between paragraphs, then lines, then anywhere

_HEADING = re.compile(r"#{1,6}\s+\S")
_FENCE = re.compile(r"\s{0,3}(```|~~~)")
_DEFINITION = re.compile(r"(?:@|def |class |async def )")


def by_heading(markdown: str) -> list[str]:
    """One passage for each heading with the text below it; a "#" inside a code fence is no heading."""
    sections: list[list[str]] = [[]]
    fence = ""
    for line in markdown.splitlines():
        marker = _FENCE.match(line)
        if marker and not fence:
            fence = marker[1]
        elif marker and marker[1] == fence:
            fence = ""
        elif not fence and _HEADING.match(line):
            sections.append([])
        sections[-1].append(line)
    return _cut_all("\n".join(section) for section in sections)


def by_definition(code: str) -> list[str]:
    """Passages of whole top-level definitions of Python code, as many together as fit in one.

    Goes by line beginnings, not by parsing: hostile or very old Python is text like any other.
    """
    blocks: list[list[str]] = [[]]
    decorated = False
    for line in code.splitlines():
        if _DEFINITION.match(line) and not decorated:
            blocks.append([])
        decorated = line.startswith("@")
        blocks[-1].append(line)
    passages, current = list[str](), ""
    for block in ("\n".join(block).rstrip() for block in blocks):
        if current and len(current) + len(block) + 2 > PASSAGE_CHARACTERS:
            passages.append(current)
            current = ""
        current = f"{current}\n\n{block}" if current else block
    return _cut_all([*passages, current])


def by_paragraph(text: str) -> list[str]:
    """Passages of whole paragraphs, as many together as fit in one."""
    return _cut_all([text])


def _cut_all(sections: Iterable[str]) -> list[str]:
    """Strip, cut what is too long, leave out what is empty."""
    passages = []
    for section in sections:
        passages += _cut(section.strip("\n").rstrip(), ("\n\n", "\n", " "))
    return [passage for passage in passages if passage.strip()]


def _cut(text: str, separators: tuple[str, ...]) -> list[str]:
    """Pieces of at most PASSAGE_CHARACTERS, cut at the first separator that makes it possible."""
    if len(text) <= PASSAGE_CHARACTERS:
        return [text]
    if not separators:
        return [text[at : at + PASSAGE_CHARACTERS] for at in range(0, len(text), PASSAGE_CHARACTERS)]
    separator, finer = separators[0], separators[1:]
    pieces: list[str] = []
    current: list[str] = []
    size = 0
    for part in text.split(separator):
        if current and size + len(part) > PASSAGE_CHARACTERS:
            pieces.append(separator.join(current))
            current, size = [], 0
        if len(part) > PASSAGE_CHARACTERS:
            pieces += _cut(part, finer)
            continue
        current.append(part)
        size += len(part) + len(separator)
    if current:
        pieces.append(separator.join(current))
    return pieces
