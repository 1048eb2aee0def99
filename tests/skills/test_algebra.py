"""Equations against sympy's solver, reading the equation as the question prints it."""

import re

import pytest
import sympy

from phi4.skills.algebra import EQUATIONS
from phi4.skills.family import Params
from tests.skills.family_checks import check_family

_PRINTED = re.compile(r"[\dxyntk+*/()\-]*\d[\dxyntk+*/()\-]*=[\dxyntk+*/()\-]+")


def _swapped(params: Params) -> Params:
    *numbers, letter, swapped = params
    return (*numbers, "x" if letter != "x" else "y", not swapped)


def _solutions(equation: str) -> list[sympy.Expr]:
    left, right = re.sub(r"(\d)([xyntk(])", r"\1*\2", equation).split("=")
    unknown = sympy.Symbol(re.findall(r"[xyntk]", equation)[0])
    return list(sympy.solve(sympy.Eq(sympy.sympify(left), sympy.sympify(right)), unknown))


def test_family() -> None:
    check_family(EQUATIONS, swap=_swapped)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_sympy_solves_the_printed_equation_to_the_same_number(level: int) -> None:
    forms = set()
    for index in range(100):
        problem = EQUATIONS.problem(index, level, phrasing=0)
        printed = _PRINTED.findall(problem.question)
        assert len(printed) == 1, problem.question
        assert _solutions(printed[0]) == [sympy.Integer(problem.answer)]
        assert _solutions(problem.steps[0]) == [sympy.Integer(problem.answer)]
        forms.add(problem.params[0])
    assert len(forms) == (2 if level == 1 else 7)


def test_every_line_of_the_working_has_the_same_solution() -> None:
    """A line `7x=64-15=49` is an equation in x whose right-hand sides agree; each keeps the solution."""
    for level in (2, 3):
        for index in range(100):
            problem = EQUATIONS.problem(index, level)
            unknown, value = problem.params[5], sympy.Integer(problem.answer)
            for line in problem.steps:
                sides = [
                    sympy.sympify(re.sub(r"(\d)([xyntk(])", r"\1*\2", side)).subs(
                        sympy.Symbol(unknown), value
                    )
                    for side in line.split("=")
                ]
                assert len(set(sides)) == 1, problem.solution


def test_standard_numbers_stay_below_a_hundred() -> None:
    for index in range(500):
        problem = EQUATIONS[index]
        assert all(int(number) < 100 for number in re.findall(r"\d+", problem.question + problem.solution))
        assert 2 <= int(problem.answer) <= 60
