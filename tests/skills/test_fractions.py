"""Fractions and percentages against sympy."""

import math
import re

import pytest
import sympy

from phi4.skills.family import Params
from phi4.skills.fractions import FRACTIONS, PERCENTAGES
from tests.skills.family_checks import check_family


def _swapped(params: Params) -> Params | None:
    op, n1, d1, n2, d2 = params
    return (op, n2, d2, n1, d1) if op == "+" else None


def test_fractions() -> None:
    check_family(FRACTIONS, swap=_swapped)


def test_percentages() -> None:
    check_family(PERCENTAGES)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_sympy_agrees_on_fractions(level: int) -> None:
    for index in range(100):
        problem = FRACTIONS.problem(index, level)
        _, n1, d1, n2, d2 = problem.params
        assert d1 != d2
        assert math.gcd(n1, d1) == math.gcd(n2, d2) == 1
        assert {f"{n1}/{d1}", f"{n2}/{d2}"} == set(re.findall(r"\d+/\d+", problem.question))
        assert sympy.Rational(problem.answer) == sympy.sympify(problem.steps[0], rational=True)


def test_every_cancelling_is_shown_and_complete() -> None:
    """The last fraction of the working is the answer, and no factor is left in it."""
    cancelled = 0
    for index in range(300):
        problem = FRACTIONS[index]
        last = re.findall(r"\d+/\d+", "\n".join(problem.steps))[-1]
        assert last == problem.answer
        top, bottom = map(int, problem.answer.split("/"))
        assert math.gcd(top, bottom) == 1
        cancelled += any(line.startswith("cancel") and not line.endswith("no") for line in problem.steps)
    assert cancelled > 20


def test_unreduced_answers_are_refused() -> None:
    assert FRACTIONS.check(("+", 1, 4, 5, 12), "2/3")
    assert not FRACTIONS.check(("+", 1, 4, 5, 12), "8/12")


@pytest.mark.parametrize("level", [1, 2, 3])
def test_sympy_agrees_on_percentages(level: int) -> None:
    x = sympy.Symbol("x")
    kinds = set()
    for index in range(100):
        problem = PERCENTAGES.problem(index, level)
        kind, p, n = problem.params
        kinds.add(kind)
        # solved backwards: which whole x has this answer as its p % more, less or part?
        factor = {"of": 0, "up": 1, "down": 1}[kind] + sympy.Rational(-p if kind == "down" else p, 100)
        assert sympy.solve(sympy.Eq(x * factor, sympy.Integer(problem.answer)), x) == [n]
        assert sorted(re.findall(r"\d+", problem.question)) == sorted((str(p), str(n)))
    assert kinds == ({"of"} if level == 1 else {"of", "up", "down"})
