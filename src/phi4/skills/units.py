"""Conversion of units: mixed units to one unit, one unit to mixed units, and sums of mixed units."""

import random
import re

from phi4.skills.columns import difference_lines, sum_lines
from phi4.skills.family import Family, Params, Solution
from phi4.skills.small_sums import plus

# (larger unit, smaller unit, how many smaller make one larger)
_TABLE = (
    ("m", "cm", 100),
    ("dollars", "cents", 100),
    ("km", "m", 1000),
    ("kg", "g", 1000),
    ("l", "ml", 1000),
    ("h", "min", 60),
    ("min", "s", 60),
    ("days", "h", 24),
    ("weeks", "days", 7),
    ("years", "months", 12),
    ("feet", "inches", 12),
)
_FACTOR = {(large, small): factor for large, small, factor in _TABLE}

_ASKS = {
    "down": (
        "How many {small} are {x}?",
        "Convert {x} to {small}.",
        "Write {x} in {small}.",
        "Express {x} in {small} only.",
        "Change {x} into {small}.",
        "What is {x} in {small}?",
    ),
    "up": (
        "How many {large} and {small} are {x}?",
        "Convert {x} to {large} and {small}.",
        "Write {x} in {large} and {small}.",
        "Express {x} in {large} and {small}.",
        "Change {x} into {large} and {small}.",
        "What is {x} in {large} and {small}?",
    ),
    "sum": (
        "How much are {x} and {y} together?",
        "Add {x} and {y}.",
        "What is {x} plus {y}?",
        "Find the sum of {x} and {y}.",
        "First {x}, then {y} more. What is the total?",
        "Work out {x} + {y}.",
    ),
}
_AMOUNT = re.compile(r"(\d{1,9}) ([a-z]+)(?: (\d{1,9}) ([a-z]+))?")


def _sample(rng: random.Random, level: int) -> Params:
    """("down" or "up", large, small, a, b) for a large + b small, or ("sum", large, small, a, b, c, d)."""
    large, small, factor = rng.choice(_TABLE)
    decimal = factor in (100, 1000)
    most = {1: 5, 2: 30 if decimal else 9, 3: 99 if decimal else 12}[level]

    def amount() -> tuple[int, int]:
        return rng.randrange(2, most + 1), rng.randrange(2, factor)

    kind = rng.choice(("down", "up") if level == 1 else ("down", "down", "up", "up", "sum"))
    if kind != "sum" or factor == 1000:
        return (kind if kind != "sum" else "down", large, small, *amount())
    (a, b), (c, d) = amount(), amount()
    if (b + d) % factor == 1:  # "5 feet 1 inches" would be bad English
        d -= 1
    return kind, large, small, a, b, c, d


def _canonical(params: Params) -> Params:
    kind, large, small, *numbers = params
    if kind == "sum":
        first, second = sorted((tuple(numbers[:2]), tuple(numbers[2:])))
        return (kind, large, small, *first, *second)
    return params


def _ask(params: Params, phrasing: int, rng: random.Random) -> str:
    kind, large, small, a, b, *rest = params
    factor = _FACTOR[large, small]
    x = f"{a * factor + b} {small}" if kind == "up" else f"{a} {large} {b} {small}"
    y = f"{rest[0]} {large} {rest[1]} {small}" if rest else ""
    return _ASKS[kind][phrasing].format(x=x, y=y, large=large, small=small)


def _solve(params: Params, rng: random.Random) -> Solution:
    kind, large, small, a, b, *rest = params
    factor = _FACTOR[large, small]
    fact = f"{factor} {small} make 1 {_singular(large)}"
    decimal = factor in (100, 1000)  # sums with a round hundred or thousand only fill in its zeros
    if kind == "down":
        product, total = a * factor, a * factor + b
        added = [f"{product}+{b}={total}"] if decimal else sum_lines(product, b)
        return Solution((fact, f"{a}*{factor}={product}", *added), f"{total} {small}")
    if kind == "up":
        product, total = a * factor, a * factor + b
        if decimal:  # the digits only have to be cut in two
            lines = [f"{total}={product}+{b}", f"{product} {small} make {a} {large}"]
        else:
            tried = [f"{n}*{factor}={n * factor}" for n in range(1, a + 1)]
            lines = [f"{', '.join(tried)} fits in {total}", *difference_lines(total, product)]
        return Solution((fact, *lines), f"{a} {large} {b} {small}")
    c, d = rest
    wholes, parts = a + c, b + d
    lines = [fact, f"{large}: {plus(a, c)}", f"{small}: {plus(b, d)}"]
    if parts < factor:
        lines.append(f"{parts} is less than {factor}")
        return Solution(tuple(lines), f"{wholes} {large} {parts} {small}")
    lines += [f"{parts}-{factor}={parts - factor}", f"{wholes}+1={wholes + 1}"]
    if parts == factor:
        return Solution(tuple(lines), f"{wholes + 1} {large}")
    return Solution(tuple(lines), f"{wholes + 1} {large} {parts - factor} {small}")


def _singular(unit: str) -> str:
    return "foot" if unit == "feet" else unit.removesuffix("s")


def _check(params: Params, answer: str) -> bool:
    """The answer, brought down to the smaller unit, must be the same amount; and in the units asked for."""
    kind, large, small, *numbers = params
    factor = _FACTOR[large, small]
    match = _AMOUNT.fullmatch(answer.strip())
    if match is None:
        return False
    amounts = {match[2]: int(match[1])}
    if match[4] is not None:
        amounts[match[4]] = int(match[3])
    if kind == "down":
        return amounts == {small: numbers[0] * factor + numbers[1]}
    if not set(amounts) <= {large, small} or large not in amounts or amounts.get(small, 0) >= factor:
        return False
    wholes, parts = numbers[0::2], numbers[1::2]
    return amounts[large] * factor + amounts.get(small, 0) == sum(wholes) * factor + sum(parts)


UNITS = Family(
    name="units",
    title="Units of measure",
    levels=("up to 5 of the larger unit", "mixed units and their sums", "larger amounts"),
    kind="text",
    phrasings=len(_ASKS["down"]),
    sample=_sample,
    canonical=_canonical,
    ask=_ask,
    solve=_solve,
    check=_check,
)
