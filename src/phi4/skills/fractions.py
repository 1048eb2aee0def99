"""Fractions with unlike denominators, and percentages: parts of a whole in exact steps."""

import math
import random
from fractions import Fraction

from phi4.grading.answers import parse_number
from phi4.skills.columns import mul_lines
from phi4.skills.family import Family, Params, Solution

_FRACTION_ASKS = (
    "What is {sum}?",
    "Calculate {sum} and reduce the result.",
    "Work out {sum} in lowest terms.",
    "Give {sum} as one reduced fraction.",
    "Simplify {sum}.",
    "Find {sum} as a fraction.",
)
_FRACTION_WORDS = {
    "+": ("Add {x} and {y}.", "One jug holds {x} l of water, another {y} l. How many litres is that?"),
    "-": ("Subtract {y} from {x}.", "Of {x} l of water, {y} l is poured out. How many litres are left?"),
}
_PERCENT_ASKS = {
    "of": (
        "What is {p}% of {n}?",
        "Calculate {p}% of {n}.",
        "Find {p} percent of {n}.",
        "A school has {n} pupils and {p}% of them walk. How many walk?",
        "A farm has {n} trees. {p}% of them are apple trees. How many is that?",
        "Of {n} tickets, {p}% are sold. How many tickets are sold?",
        "How much is {p}% of {n} g?",
    ),
    "up": (
        "What is {n} increased by {p}%?",
        "Increase {n} by {p}%.",
        "Raise {n} by {p} percent.",
        "A town of {n} people grows by {p}%. How many people live there now?",
        "A price of {n} dollars rises by {p}%. What is the new price?",
        "A club with {n} members gains {p}%. How many members has it now?",
        "{n} g plus {p}% is how much?",
    ),
    "down": (
        "What is {n} decreased by {p}%?",
        "Decrease {n} by {p}%.",
        "Lower {n} by {p} percent.",
        "A town of {n} people shrinks by {p}%. How many people live there now?",
        "A coat costs {n} dollars and is {p}% off. What is the new price?",
        "A club with {n} members loses {p}%. How many members are left?",
        "{n} g minus {p}% is how much?",
    ),
}


def _reduced(rng: random.Random, largest: int) -> tuple[int, int]:
    """A fraction in lowest terms between 0 and 2, not a whole number."""
    while True:
        denominator = rng.randrange(2, largest + 1)
        numerator = rng.randrange(1, 2 * denominator)
        if math.gcd(numerator, denominator) == 1:
            return numerator, denominator


def _sample_fractions(rng: random.Random, level: int) -> Params:
    """(op, n1, d1, n2, d2): both reduced, unlike denominators, expanded numerators below the bound."""
    largest, common, bound = {1: (8, 24, 50), 2: (12, 72, 100), 3: (15, 120, 200)}[level]
    while True:
        (n1, d1), (n2, d2) = _reduced(rng, largest), _reduced(rng, largest)
        lcm = math.lcm(d1, d2)
        if d1 == d2 or lcm > common or (level == 1 and lcm != max(d1, d2)):
            continue
        if max(n1 * (lcm // d1), n2 * (lcm // d2)) >= bound:
            continue
        if rng.random() < 0.5:
            return "+", n1, d1, n2, d2
        return ("-", n1, d1, n2, d2) if n1 * d2 > n2 * d1 else ("-", n2, d2, n1, d1)


def _canonical_fractions(params: Params) -> Params:
    op, n1, d1, n2, d2 = params
    if op == "+" and (n2, d2) < (n1, d1):
        return op, n2, d2, n1, d1
    return params


def _ask_fractions(params: Params, phrasing: int, rng: random.Random) -> str:
    op, n1, d1, n2, d2 = params
    x, y = f"{n1}/{d1}", f"{n2}/{d2}"
    asks = _FRACTION_ASKS + _FRACTION_WORDS[op]
    return asks[phrasing].format(sum=f"{x} {op} {y}", x=x, y=y)


def _solve_fractions(params: Params, rng: random.Random) -> Solution:
    """Common denominator by listing multiples, expand, add, then cancel.

    Only a prime that both denominators share can cancel in the result of two reduced fractions, so only
    those are tried, each until it no longer divides.
    """
    op, n1, d1, n2, d2 = params
    large, common = max(d1, d2), math.lcm(d1, d2)
    multiples = " ".join(str(multiple) for multiple in range(large, common + 1, large))
    e1, e2 = n1 * (common // d1), n2 * (common // d2)
    top = e1 + e2 if op == "+" else e1 - e2
    shared = [prime for prime in (2, 3, 5, 7) if d1 % prime == 0 and d2 % prime == 0]
    lines = [
        f"{n1}/{d1}{op}{n2}/{d2}",
        f"multiples of {large}: {multiples}",
        f"{common}/{d1}={common // d1}, {n1}*{common // d1}={e1}",
        f"{common}/{d2}={common // d2}, {n2}*{common // d2}={e2}",
        f"{e1}{op}{e2}={top}, so {top}/{common}",
        f"{d1} and {d2} share {', '.join(map(str, shared)) or 'no factor'}",
    ]
    bottom = common
    for prime in shared:
        while top % prime == 0 and bottom % prime == 0:
            lines.append(f"cancel {prime} in {top}/{bottom}: {top // prime}/{bottom // prime}")
            top, bottom = top // prime, bottom // prime
        lines.append(f"cancel {prime} in {top}/{bottom}: no")
    return Solution(tuple(lines), f"{top}/{bottom}")


def _check_fractions(params: Params, answer: str) -> bool:
    """Exact rational arithmetic, and the answer must be written in lowest terms."""
    op, n1, d1, n2, d2 = params
    given = parse_number(answer)
    second = Fraction(n2, d2) if op == "+" else -Fraction(n2, d2)
    expected = Fraction(n1, d1) + second
    return given == expected and answer.strip() == f"{expected.numerator}/{expected.denominator}"


def _unit(percent: int, n: int) -> int | None:
    """The percentage to go through (1, 5 or 10) so that the rest is one multiplication by one digit."""
    if percent % 10 == 0 and percent < 100 and n % 10 == 0:
        return 10
    if percent % 5 == 0 and percent < 50 and n % 20 == 0:
        return 5
    if n % 100 == 0 and 100 < n < 1000:
        return 1
    return None


def _sample_percentages(rng: random.Random, level: int) -> Params:
    """(kind, p, n): p% of n, n increased by p%, n decreased by p%; always a whole number of hundredths."""
    while True:
        kind = "of" if level == 1 else rng.choice(("of", "of", "up", "down"))
        unit = 1 if kind == "up" else rng.choice((1, 5, 10, 10))
        if level == 1:
            unit = rng.choice((5, 10))
        largest = {1: 400, 2: 1990, 3: 9990}[level]
        multiple = {1: 100, 5: 20, 10: 10}[unit]
        n = multiple * rng.randrange(1, (999 if unit == 1 else largest) // multiple + 1)
        p = unit * rng.randrange(1, 99 // unit + 1)
        target = _target(kind, p)
        if target > 0 and target not in (5, 10) and n >= 20 and _unit(target, n) is not None:
            return kind, p, n


def _target(kind: str, p: int) -> int:
    return {"of": p, "up": 100 + p, "down": 100 - p}[kind]


def _ask_percentages(params: Params, phrasing: int, rng: random.Random) -> str:
    kind, p, n = params
    return _PERCENT_ASKS[kind][phrasing].format(p=p, n=n)


def _solve_percentages(params: Params, rng: random.Random) -> Solution:
    kind, p, n = params
    target = _target(kind, p)
    unit = _unit(target, n)
    lines = [] if kind == "of" else [f"100{'+' if kind == 'up' else '-'}{p}={target}"]
    if unit == 1:
        lines += [f"1% of {n}={n // 100}", *mul_lines(target, n // 100)]
    elif unit == 10:
        lines += [f"10% of {n}={n // 10}", f"{target}/10={target // 10}", *mul_lines(n // 10, target // 10)]
    else:
        lines += [f"10% of {n}={n // 10}", f"5% of {n}={n // 10}/2={n // 20}"]
        lines += [f"{target}/5={target // 5}", *mul_lines(n // 20, target // 5)]
    return Solution(tuple(lines), str(n * target // 100))


def _check_percentages(params: Params, answer: str) -> bool:
    """Fractions of the whole: n * p/100, added to or taken from n."""
    kind, p, n = params
    given = parse_number(answer)
    part = Fraction(p, 100) * n
    return bool(given == {"of": part, "up": n + part, "down": n - part}[kind])


FRACTIONS = Family(
    name="fractions",
    title="Fractions with unlike denominators",
    levels=(
        "one denominator a multiple of the other, to 8",
        "denominators to 12, reduced",
        "denominators to 15, reduced",
    ),
    kind="number",
    phrasings=len(_FRACTION_ASKS) + len(_FRACTION_WORDS["+"]),
    sample=_sample_fractions,
    canonical=_canonical_fractions,
    ask=_ask_fractions,
    solve=_solve_fractions,
    check=_check_fractions,
)
PERCENTAGES = Family(
    name="percentages",
    title="Percentages",
    levels=("parts of numbers to 400", "parts, rises and falls of numbers to 2000", "numbers to 10000"),
    kind="integer",
    phrasings=len(_PERCENT_ASKS["of"]),
    sample=_sample_percentages,
    canonical=lambda params: params,
    ask=_ask_percentages,
    solve=_solve_percentages,
    check=_check_percentages,
)
