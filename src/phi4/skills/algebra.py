"""Equations in one unknown, solved by undoing one operation per line."""

import random
import re
from collections.abc import Sequence
from fractions import Fraction

from phi4.grading.answers import parse_number
from phi4.skills.family import Family, Params, Solution
from phi4.skills.small_sums import minus, plus, quotient, shared

# plus ax+b=c, minus ax-b=c, less b-ax=c, group a(x+b)=c, spread a(x-b)=c, over x/a+b=c, both ax+b=cx+d
_FORMS = ("plus", "minus", "less", "group", "spread", "over", "both")
_LETTERS = "xyntk"
_ASKS = (
    "Solve {e}.",
    "Solve {e} for {v}.",
    "Find {v} if {e}.",
    "What is {v} when {e}?",
    "Which {v} makes {e} true?",
    "Given {e}, what is {v}?",
)
_WORDED = {
    "plus": "I think of a number {v}, multiply it by {a}, add {b} and get {c}. What is {v}?",
    "minus": "I think of a number {v}, multiply it by {a}, subtract {b} and get {c}. What is {v}?",
    "less": "I think of a number {v}, multiply it by {a}, take that from {b} and get {c}. What is {v}?",
    "group": "I think of a number {v}, add {b}, multiply by {a} and get {c}. What is {v}?",
    "spread": "I think of a number {v}, subtract {b}, multiply by {a} and get {c}. What is {v}?",
    "over": "I think of a number {v}, divide it by {a}, add {b} and get {c}. What is {v}?",
    "both": "Multiplying {v} by {a} and adding {b} gives as much as {c} times {v} plus {d}. What is {v}?",
}


def _sample(rng: random.Random, level: int) -> Params:
    """(form, a, b, c, d, letter, swapped): the letters of the form (0 where it has none), how it is written.

    Up to the standard level every number on the page is a natural number below 100; hard ones go negative.
    """
    form = rng.choice(_FORMS[:2] if level == 1 else _FORMS)
    letter, swapped = rng.choice(_LETTERS), rng.random() < 0.25
    a = rng.randrange(2, 6 if level == 1 else 10)
    low, high = (-12, 12) if level == 3 else (2, 10 if level == 1 else 60)
    while True:
        x = rng.randrange(low, high + 1)
        b, c, d = rng.randrange(1, 50), rng.randrange(2, 8), 0
        if form == "both":
            if a - c < 2:
                a = rng.randrange(4, 10)
                continue
            d = (a - c) * x + b
        elif form == "over":
            if x % a:
                continue
            c = x // a + b
        elif form == "less":
            c, b = b, a * x + b
        else:
            c = {"plus": a * x + b, "minus": a * x - b, "group": a * (x + b), "spread": a * (x - b)}[form]
        natural = min(c, d + 1) > 0 and max(b, c, d, c + b if form == "minus" else 0) < 100
        if x and (natural or (level == 3 and b > 0 and d >= 0 and abs(c) < 200)):
            return form, a, b, c, d, letter, swapped


def _canonical(params: Params) -> Params:
    return params[:5]


def _equation(params: Params) -> str:
    """The equation with the unknown's side first, as the working writes it."""
    form, a, b, c, d, v, _ = params
    return {
        "plus": f"{a}{v}+{b}={c}",
        "minus": f"{a}{v}-{b}={c}",
        "less": f"{b}-{a}{v}={c}",
        "group": f"{a}({v}+{b})={c}",
        "spread": f"{a}({v}-{b})={c}",
        "over": f"{v}/{a}+{b}={c}",
        "both": f"{a}{v}+{b}={c}{v}+{d}",
    }[form]


def _ask(params: Params, phrasing: int, rng: random.Random) -> str:
    form, a, b, c, d, v, swapped = params
    if phrasing == len(_ASKS):
        return _WORDED[form].format(a=a, b=b, c=c, d=d, v=v)
    left, _, right = _equation(params).partition("=")
    equation = f"{right}={left}" if swapped else f"{left}={right}"
    return _ASKS[phrasing].format(e=equation, v=v)


def _solve(params: Params, rng: random.Random) -> Solution:
    form, a, b, c, d, v, _ = params
    lines = [_equation(params)]
    if form == "plus":
        lines.append(f"{a}{v}={_less(c, b)}")
    elif form == "minus":
        lines.append(f"{a}{v}={_sum(c, b)}")
    elif form == "less":
        lines.append(f"{a}{v}={_less(b, c)}")
    elif form == "both":
        lines += [f"{a}{v}-{c}{v}={a - c}{v}", _less(d, b), f"{a - c}{v}={d - b}"]
    if form in ("group", "spread"):
        inner = c // a
        x = inner - b if form == "group" else inner + b
        sign, undone = ("+", _less(inner, b)) if form == "group" else ("-", _sum(inner, b))
        lines += [f"{v}{sign}{b}={_over(c, a)}", f"{v}={undone}"]
    elif form == "over":
        x = (c - b) * a
        lines += [f"{v}/{a}={_less(c, b)}", f"{v}={c - b}*{a}={x}"]
    else:
        multiple = {"plus": c - b, "minus": c + b, "less": b - c, "both": d - b}[form]
        factor = a - c if form == "both" else a
        x = multiple // factor
        lines.append(f"{v}={_over(multiple, factor)}")
    return Solution(tuple(lines), str(x))


def _sum(a: int, b: int) -> str:
    return plus(a, b) if a >= 0 else f"{a}+{b}={a + b}"


def _less(a: int, b: int) -> str:
    if b < 0:
        return f"{a}-({b})={a - b}"
    return minus(a, b) if a >= b else f"{a}-{b}={a - b}"


def _over(a: int, b: int) -> str:
    return quotient(a, b) if a >= 0 else shared(a, b)


def _check(params: Params, answer: str) -> bool:
    """Put the answer in for the unknown: both sides must come out equal."""
    form, a, b, c, d, _, _ = params
    x = parse_number(answer)
    if x is None:
        return False
    left = {
        "plus": a * x + b,
        "minus": a * x - b,
        "less": b - a * x,
        "group": a * (x + b),
        "spread": a * (x - b),
        "over": x / Fraction(a) + b,
        "both": a * x + b,
    }[form]
    return bool(left == (c * x + d if form == "both" else c))


def _audit(params: Params, lines: Sequence[str]) -> bool:
    """Put the solution in for the unknown on every line: all sides of each must come out equal."""
    x = _root(params)
    return all(len({_side(side, params[5], x) for side in line.split("=")}) == 1 for line in lines)


def _root(params: Params) -> Fraction:
    """The solution, as where the difference of the two sides, a straight line, crosses zero."""
    at_zero, at_one = _gap(params, Fraction(0)), _gap(params, Fraction(1))
    return at_zero / (at_zero - at_one)


def _gap(params: Params, x: Fraction) -> Fraction:
    left, right = _equation(params).split("=")
    return _side(left, params[5], x) - _side(right, params[5], x)


def _side(text: str, letter: str, x: Fraction) -> Fraction:
    """The value of one side at x; raises ValueError or SyntaxError for what is no plain arithmetic."""
    if not re.fullmatch(rf"[\d{letter}()*/+-]+", text) or "**" in text or "//" in text:
        raise ValueError(f"not arithmetic: {text}")
    spelled = re.sub(rf"(?<=\d)(?=[{letter}(])", "*", text)
    return Fraction(eval(re.sub(r"\d+", r"Fraction(\g<0>)", spelled), {"Fraction": Fraction, letter: x}))


EQUATIONS = Family(
    name="equations",
    title="Equations in one unknown",
    levels=("ax+b=c with small numbers", "seven forms, solutions 2 to 60", "negative solutions"),
    kind="integer",
    phrasings=len(_ASKS) + 1,
    sample=_sample,
    canonical=_canonical,
    ask=_ask,
    solve=_solve,
    check=_check,
    audit=_audit,
)
