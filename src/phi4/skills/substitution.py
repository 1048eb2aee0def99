"""Substitution: the values of a few letters are given, and expressions in them are to be worked out.

The working says what each letter stands for before it computes, in the words code tracing uses (`k=7, x=4, 7+4=11`):
the same look-up, many times on one page.
"""

import random

from phi4.skills.family import Family, Params, Solution

LETTERS = ("x", "y", "z", "a", "b", "c", "k", "n", "m", "t")
_SHAPES = {1: (2, 2), 2: (3, 3), 3: (5, 4)}  # level: letters, expressions
_ASKS = (
    "Let {given}. Work out {wanted}.",
    "If {given}, what are {wanted}?",
    "Given {given}, find {wanted}.",
    "Put {given} into {wanted}.",
    "Evaluate {wanted} for {given}.",
    "Here {given}. What are the values of {wanted}?",
)

Expression = tuple[int, str, int]  # positions of two letters and the operation between them


def _sample(rng: random.Random, level: int) -> Params:
    """(letters, their values, expressions): the larger letter of a difference stands first."""
    n, count = _SHAPES[level]
    values = [rng.randint(2, 9) if rng.random() < 0.5 else rng.randint(10, 40) for _ in range(n)]
    values[0] = rng.randint(2, 9)  # so that some operation is always easy
    expressions: list[Expression] = []
    while len(expressions) < count:
        left, right = rng.sample(range(n), 2)
        op = rng.choice("+-*")
        small, large = sorted((values[left], values[right]))
        if small > 9 or (op == "*" and large > 10) or (op == "-" and values[left] < values[right]):
            continue
        if (left, op, right) not in expressions:
            expressions.append((left, op, right))
    return tuple(rng.sample(LETTERS, n)), tuple(values), tuple(expressions)


def _canonical(params: Params) -> Params:
    _, values, expressions = params
    return values, expressions


def _written(letters: tuple[str, ...], expression: Expression) -> str:
    left, op, right = expression
    return f"{letters[left]} {op} {letters[right]}"


def _ask(params: Params, phrasing: int, rng: random.Random) -> str:
    letters, values, expressions = params
    given = ", ".join(f"{letter}={value}" for letter, value in zip(letters, values, strict=True))
    wanted = "; ".join(_written(letters, expression) for expression in expressions)
    return _ASKS[phrasing].format(given=given, wanted=wanted)


def _value(values: tuple[int, ...], expression: Expression) -> int:
    left, op, right = expression
    a, b = values[left], values[right]
    return a + b if op == "+" else a - b if op == "-" else a * b


def _solve(params: Params, rng: random.Random) -> Solution:
    letters, values, expressions = params
    lines = []
    for number, expression in enumerate(expressions, 1):
        left, op, right = expression
        known = f"{letters[left]}={values[left]}, {letters[right]}={values[right]}"
        worked = f"{values[left]}{op}{values[right]}={_value(values, expression)}"
        lines.append(f"{number}: {_written(letters, expression)}: {known}, {worked}")
    return Solution(tuple(lines), ", ".join(str(_value(values, expression)) for expression in expressions))


def _check(params: Params, answer: str) -> bool:
    """By Python's own arithmetic on the expressions, with the letters as names; the text is of our own making."""
    letters, values, expressions = params
    if not set(letters) <= set(LETTERS):
        return False
    scope = {"__builtins__": {}, **dict(zip(letters, values, strict=True))}
    found = [str(eval(_written(letters, expression), scope)) for expression in expressions]
    return [part.strip() for part in answer.split(",")] == found


SUBSTITUTION = Family(
    name="substitution",
    title="Putting numbers for letters",
    levels=("2 letters, 2 expressions", "3 letters, 3 expressions", "5 letters, 4 expressions"),
    kind="list",
    phrasings=len(_ASKS),
    sample=_sample,
    canonical=_canonical,
    ask=_ask,
    solve=_solve,
    check=_check,
)
