"""Is an answer right? The final answer is found by its marker, then compared by what kind of thing it is.

Equality is exact: numbers compare as fractions (0.5 = 1/2 = 50 %), lists in order, sets without order.
There is no partial credit and no containment, the two commonest ways a scorer lies.
"""

import re
from fractions import Fraction
from typing import Literal

AnswerKind = Literal["integer", "number", "text", "list", "set"]

MARKER = "Answer:"
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:/\d+)?%?")
_MAX_NUMBER_LENGTH = 60  # longer "numbers" are rejected unparsed: exponent and digit bombs stay cheap


def final_answer(text: str) -> str | None:
    """What stands after the last answer marker, up to the end of its line; None without a marker."""
    start = text.rfind(MARKER)
    if start < 0:
        return None
    answer = text[start + len(MARKER) :].split("\n", 1)[0].strip()
    return answer or None


def parse_number(text: str) -> Fraction | None:
    """An integer, decimal, fraction, mixed number ("1 2/3") or percentage as an exact fraction."""
    text = text.strip().rstrip(".").replace(",", "").replace("$", "")
    if not text or len(text) > _MAX_NUMBER_LENGTH:
        return None
    whole, _, rest = text.partition(" ")
    if rest and "/" in rest and whole.lstrip("-").isdigit():
        first, second = parse_number(whole), parse_number(rest)
        if first is None or second is None:
            return None
        return first - second if whole.startswith("-") else first + second
    if not _NUMBER.fullmatch(text):
        return None
    scale = Fraction(1)
    if text.endswith("%"):
        text, scale = text[:-1], Fraction(1, 100)
    numerator, _, denominator = text.partition("/")
    if denominator and int(denominator) == 0:
        return None
    return Fraction(numerator) / int(denominator or 1) * scale


def equal(expected: str, given: str, kind: AnswerKind) -> bool:
    """Do two answers mean the same? `kind` says what sort of thing the expected answer is."""
    if kind in ("integer", "number"):
        left, right = parse_number(expected), parse_number(given)
        return left is not None and left == right
    if kind == "text":
        return _fold(expected) == _fold(given)
    left_parts, right_parts = _parts(expected), _parts(given)
    if kind == "set":
        return len(left_parts) == len(right_parts) and sorted(left_parts) == sorted(right_parts)
    return left_parts == right_parts


def _fold(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _parts(text: str) -> list[str]:
    return [_fold(part) for part in text.strip("{}[]() ").split(",")]
