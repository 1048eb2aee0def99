"""Propositional logic: truth values of three formulas.

The working copies a formula, puts T and F in place of its parts, and folds it one connective at a time.
"""

import random
import re
from collections.abc import Sequence
from typing import Any

from phi4.skills.family import Family, Params, Solution

# A formula is ("p",), ("not", f) or (connective, f, g): plain tuples, so parameters stay JSON.
Formula = tuple[Any, ...]

_LETTERS = ("p", "q", "r", "s")
_COUNTS = {1: 2, 2: 3, 3: 4}  # level: letters
_PYTHON = {"not": "1-", "implies": "<=", "iff": "=="}
_CONNECTIVES = {1: ("and", "or"), 2: ("and", "or", "implies"), 3: ("and", "or", "implies", "iff")}


def _literal(rng: random.Random, letters: tuple[str, ...]) -> Formula:
    letter = rng.choice(letters)
    return ("not", (letter,)) if rng.random() < 0.35 else (letter,)


def _formula(rng: random.Random, level: int) -> Formula:
    letters = _LETTERS[: _COUNTS[level]]
    connectives = _CONNECTIVES[level]
    left, right = rng.sample(letters, 2)
    pair: Formula = (
        rng.choice(connectives),
        ("not", (left,)) if rng.random() < 0.35 else (left,),
        ("not", (right,)) if rng.random() < 0.35 else (right,),
    )
    if level == 1:
        return pair
    if level == 3 and rng.random() < 0.4:
        pair = ("not", pair)
    single = _literal(rng, letters)
    outer = rng.choice(connectives)
    return (outer, pair, single) if rng.random() < 0.5 else (outer, single, pair)


def truth(formula: Formula, values: dict[str, bool]) -> bool:
    """The value of a formula, straight from the definitions of the connectives."""
    if len(formula) == 1:
        return values[formula[0]]
    if formula[0] == "not":
        return not truth(formula[1], values)
    left, right = truth(formula[1], values), truth(formula[2], values)
    return {"and": left and right, "or": left or right, "implies": not left or right, "iff": left == right}[
        formula[0]
    ]


def written(formula: Formula, inner: bool = False) -> str:
    """A formula in words with brackets around every inner connective."""
    if len(formula) == 1:
        return str(formula[0])
    if formula[0] == "not":
        return f"not {written(formula[1], True)}"
    text = f"{written(formula[1], True)} {formula[0]} {written(formula[2], True)}"
    return f"({text})" if inner else text


def _mark(value: bool) -> str:
    return "T" if value else "F"


def _sample(rng: random.Random, level: int) -> Params:
    values = tuple(rng.random() < 0.5 for _ in range(_COUNTS[level]))
    named = dict(zip(_LETTERS, values, strict=False))
    formulas: list[Formula] = []
    for _ in range(3):
        target = rng.random() < 0.5  # "or" and "implies" are mostly true: draw the value, then a formula
        formula = _formula(rng, level)
        while truth(formula, named) != target or formula in formulas:
            formula = _formula(rng, level)
        formulas.append(formula)
    return values, tuple(formulas)


def _normal(formula: Formula) -> Formula:
    """The same formula with the operands of commutative connectives in a fixed order."""
    if len(formula) == 1:
        return formula
    parts = [_normal(part) for part in formula[1:]]
    return formula[0], *(parts if formula[0] in ("not", "implies") else sorted(parts, key=repr))


def _canonical(params: Params) -> Params:
    values, formulas = params
    return values, tuple(sorted((_normal(formula) for formula in formulas), key=repr))


def _ask(params: Params, phrasing: int, rng: random.Random) -> str:
    values, formulas = params
    named = list(zip(_LETTERS, values, strict=False))
    words = [f"{letter} is {'true' if value else 'false'}" for letter, value in named]
    marks = ", ".join(f"{letter} is {_mark(value)}" for letter, value in named)
    listed = "; ".join(written(formula) for formula in formulas)
    numbered = " ".join(f"{place}) {written(formula)}" for place, formula in enumerate(formulas, start=1))
    rows = "\n".join(written(formula) for formula in formulas)
    spoken = ", ".join(words[:-1]) + " and " + words[-1]
    return (
        f"Suppose {spoken}. Give the truth values of: {listed}.",
        f"Let {marks}. Evaluate: {listed}.",
        f"If {spoken}, what are the truth values of {listed}?",
        f"Given that {spoken}, say T or F for each formula: {numbered}",
        f"Evaluate {listed} where {marks}.",
        f"T or F for each line, when {marks}?\n{rows}",
    )[phrasing]


def _put_in(formula: Formula, values: dict[str, bool], inner: bool = False) -> str:
    """The formula with each literal replaced by its value: `(p and not q) or r` -> `(T and F) or T`."""
    if len(formula) == 1 or (formula[0] == "not" and len(formula[1]) == 1):
        return _mark(truth(formula, values))
    if formula[0] == "not":
        return f"not {_put_in(formula[1], values, True)}"
    text = f"{_put_in(formula[1], values, True)} {formula[0]} {_put_in(formula[2], values, True)}"
    return f"({text})" if inner else text


def _folds(formula: Formula, values: dict[str, bool]) -> list[str]:
    """The formula with values put in, then with its inner parts folded level by level, down to one value."""
    stages = [_put_in(formula, values)]
    while len(stages[-1]) > 1:
        formula = _fold_once(formula, values)
        stages.append(_put_in(formula, values))
    return stages


def _fold_once(formula: Formula, values: dict[str, bool]) -> Formula:
    """Replace every innermost connective by a letter of its value (T and F are letters that stand for it)."""
    if len(formula) == 1:
        return formula
    if all(len(part) == 1 or (part[0] == "not" and len(part[1]) == 1) for part in formula[1:]):
        return (_mark(truth(formula, values)),)
    return formula[0], *(
        (_mark(truth(part, values)),) if part[0] == "not" and len(part[1]) == 1 else _fold_once(part, values)
        for part in formula[1:]
    )


def _solve(params: Params, rng: random.Random) -> Solution:
    values, formulas = params
    named = dict(zip(_LETTERS, values, strict=False)) | {"T": True, "F": False}
    results = [_mark(truth(formula, named)) for formula in formulas]
    lines = [", ".join(f"{letter} is {_mark(named[letter])}" for letter in _LETTERS[: len(values)])]
    lines += [f"{written(formula)}: {': '.join(_folds(formula, named))}" for formula in formulas]
    return Solution(tuple(lines), " ".join(results))


def _check(params: Params, answer: str) -> bool:
    """By arithmetic on 0 and 1: and = product, or = sum minus product, implies = a <= b, iff = equality."""
    values, formulas = params
    number = dict(zip(_LETTERS, (int(value) for value in values), strict=False))

    def value(formula: Formula) -> int:
        match formula:
            case (letter,):
                return number[letter]
            case ("not", part):
                return 1 - value(part)
            case ("and", left, right):
                return value(left) * value(right)
            case ("or", left, right):
                return max(value(left), value(right))
            case ("implies", left, right):
                return int(value(left) <= value(right))
            case _:
                return int(value(formula[1]) == value(formula[2]))

    return answer.split() == ["FT"[value(formula)] for formula in formulas]


def _audit(params: Params, lines: Sequence[str]) -> bool:
    """The letters have the given values, each formula is one that was asked, and Python agrees with every fold."""
    values, formulas = params
    named = dict(zip(_LETTERS, values, strict=False)) | {"T": True, "F": False}
    first, *folded = lines
    given = [f"{letter} is {_mark(value)}" for letter, value in zip(_LETTERS, values, strict=False)]
    stages = [line.split(": ") for line in folded]
    return (
        first == ", ".join(given)
        and [stage[0] for stage in stages] == [written(formula) for formula in formulas]
        and all(len({_by_python(text, named) for text in stage}) == 1 for stage in stages)
    )


def _by_python(text: str, named: dict[str, bool]) -> bool:
    """A formula in words as Python reads it: comparisons of 0 and 1 stand for what it has no word for."""
    if not set(re.findall(r"\w+", text)) <= {*named, *_PYTHON, "and", "or"}:
        raise ValueError(f"not a formula: {text}")
    return bool(eval(re.sub(r"not |implies|iff", lambda word: _PYTHON[word[0].strip()], text), {}, named))


PROPOSITIONS = Family(
    name="propositions",
    title="Truth values",
    levels=(
        "three formulas of one connective, two letters",
        "three formulas of two connectives, three letters",
        "three formulas of two or three connectives, four letters",
    ),
    kind="text",
    phrasings=6,
    sample=_sample,
    canonical=_canonical,
    ask=_ask,
    solve=_solve,
    check=_check,
    audit=_audit,
)
