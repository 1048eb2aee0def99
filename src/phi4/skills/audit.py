"""Does the working of a solution hold together? Judged from the lines themselves, not by writing them again.

Written columns are read the way a teacher marks them: the digits stand under their places, the carry is what the
column gives, the result grows by its digit, and nothing is worked on that does not stand on the page above.
Families with lines of their own bring their own audit (`Family.audit`).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from phi4.skills.columns import PLACES

_PLACE = rf"(?P<place>{'|'.join(PLACES)}) "
_HEADING = re.compile(r"(\d+)([-+*/])(\d+)")
_COLUMN = re.compile(
    _PLACE + r"(?P<x>\d)(?P<op>[-+*])(?P<y>\d)(?:[-+](?P<carry>\d))?=(?:\S+=)?(?P<total>-?\d+)"
    r"(?: (?:carry|borrow) (?P<next>\d))? write (?P<written>\d+)"
)
_QUOTIENT = re.compile(
    _PLACE + r"(?P<part>\d+): (?P<times>\d)\*(?P<by>\d)=(?P<product>\d+) "
    r"(?P=part)-(?P=product)=(?P<left>\d+) write (?P<written>\d+)"
)
_FACT = re.compile(r"so (\d+)([-+*/])(\d+)=(\d+)(?: remainder (\d+))?")
_NUMBER = re.compile(r"\d+")


def stands_above(given: Iterable[int], lines: Sequence[str]) -> bool:
    """Is every number that a line starts from given, or reached on a line above it?

    A line starts from all its numbers but the results: `7 fewer: 20-7=20-5-2=13` starts from 7 and 20.
    """
    page = set(given)
    for line in lines:
        numbers = {int(number) for number in _NUMBER.findall(line)}
        if not {int(number) for number in _NUMBER.findall(line.partition("=")[0])} <= page:
            return False
        page |= numbers
    return True


@dataclass
class _Columns:
    """Written columns so far: the operands as they stand in the heading, and what the last column left."""

    top: str
    op: str
    bottom: str
    places: int = 0
    carry: int = 0  # or borrow, or what is left of a division
    written: str = ""


def columns_follow(question: str, lines: Sequence[str]) -> bool:
    """Is every written column of the working right, and about numbers that stand above it?

    Lines that are no columns are passed over; equations of plain numbers are the verifier's own business.
    """
    page = {int(number) for number in _NUMBER.findall(question)}
    columns: _Columns | None = None
    for line in lines:
        if heading := _HEADING.fullmatch(line):
            columns = _Columns(heading[1], heading[2], heading[3])
            # What is divided by may be a count ("the average of these three"), which stands nowhere as a number.
            copied = {int(columns.top)} if columns.op == "/" else {int(columns.top), int(columns.bottom)}
            if not copied <= page:
                return False
        elif line.split(" ")[0] in PLACES:
            if columns is None or not _column_follows(columns, line):
                return False
        elif line.startswith("so ") and columns is not None:
            if not _fact_follows(columns, line):
                return False
            columns = None
        page |= {int(number) for number in _NUMBER.findall(line)}
    return True


def _column_follows(columns: _Columns, line: str) -> bool:
    """Check one column and take over its carry and its result."""
    if columns.places == len(columns.top):
        return False
    if columns.op == "/":
        return _quotient_follows(columns, line)
    found = _COLUMN.fullmatch(line)
    if not found or found["op"] != columns.op or found["place"] != PLACES[columns.places]:
        return False
    total, last = int(found["total"]), columns.places == len(columns.top) - 1
    bottom = columns.bottom if columns.op == "*" else columns.bottom[-1 - columns.places]
    carry = -(total // 10) if columns.op == "-" else total // 10
    digits = str(total if last and columns.op != "-" else total % 10)
    if (
        (found["x"], found["y"]) != (columns.top[-1 - columns.places], bottom)
        or int(found["carry"] or 0) != columns.carry
        or (found["next"] is None) is not last
        or (not last and int(found["next"]) != carry)
        or found["written"] != digits + columns.written
    ):
        return False
    columns.places, columns.carry, columns.written = columns.places + 1, carry, found["written"]
    return True


def _quotient_follows(columns: _Columns, line: str) -> bool:
    found = _QUOTIENT.fullmatch(line)
    if not found or found["place"] != PLACES[len(columns.top) - 1 - columns.places]:
        return False
    left = int(found["left"])
    if (
        int(found["part"]) != 10 * columns.carry + int(columns.top[columns.places])
        or found["by"] != columns.bottom
        or left >= int(columns.bottom)
        or found["written"] != columns.written + found["times"]
    ):
        return False
    columns.places, columns.carry, columns.written = columns.places + 1, left, found["written"]
    return True


def _fact_follows(columns: _Columns, line: str) -> bool:
    """The last line copies the heading's operands and the result that was written."""
    found = _FACT.fullmatch(line)
    if not found or columns.places != len(columns.top):
        return False
    left, op, right, result, remainder = found.groups()
    return (int(left), op, int(right), int(result), int(remainder or 0)) == (
        int(columns.top),
        columns.op,
        int(columns.bottom),
        int(columns.written),
        columns.carry if columns.op == "/" else 0,
    )
