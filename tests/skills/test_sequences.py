"""Sequences against sympy: interpolation, recurrence search, and that only one rule fits."""

from fractions import Fraction
from itertools import pairwise

import pytest
import sympy

from phi4.skills.family import Problem
from phi4.skills.sequences import SEQUENCES
from tests.skills.family_checks import check_family


def _wrong(problem: Problem) -> str:
    first, second = problem.answer.split(", ")
    return f"{first}, {int(second) + 1}"


def test_family() -> None:
    check_family(SEQUENCES, wrong=_wrong)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_sympy_continues_every_sequence_the_same_way(level: int) -> None:
    n = sympy.Symbol("n")
    for index in range(100):
        problem = SEQUENCES.problem(index, level)
        rule, terms = problem.params
        answer = tuple(int(part) for part in problem.answer.split(", "))
        count = len(terms)
        if rule in ("constant", "growing"):
            polynomial = sympy.interpolate(terms[:3], n)
            expected = tuple(polynomial.subs(n, count + k) for k in (1, 2))
        elif rule == "alternating":
            odd, even = (sympy.interpolate(part[:2], n) for part in (terms[0::2], terms[1::2]))
            halves = [(odd, even)[place % 2].subs(n, place // 2 + 1) for place in range(count + 2)]
            expected = tuple(halves[-2:])
        else:
            recurrence = sympy.Function("t")
            step = sympy.Rational(terms[2] - terms[1], terms[1] - terms[0])
            k = sympy.Symbol("k", integer=True)
            equation = recurrence(k + 1) - step * recurrence(k) - (terms[1] - step * terms[0])
            closed = sympy.rsolve(equation, recurrence(k), {recurrence(0): terms[0]})
            expected = tuple(closed.subs(k, count + j) for j in (0, 1))
        assert answer == expected, problem.question


def test_no_shown_sequence_fits_two_rules() -> None:
    """The steps shown satisfy exactly one of the rules, so the question has one answer."""
    for index in range(1_000):
        _, terms = SEQUENCES[index].params
        steps = [after - before for before, after in pairwise(terms)]
        changes = {after - before for before, after in pairwise(steps)}
        ratios = {Fraction(after, before) for before, after in pairwise(steps)}
        constant = changes == {0}
        growing = len(changes) == 1 and not constant
        alternating = len(steps) == 4 and steps[:2] == steps[2:] and not constant
        # steps 4, -4, 4, -4 both alternate and multiply by -1, with the same continuation
        multiplying = len(ratios) == 1 and not constant and ratios != {-1}
        assert [constant, growing, alternating, multiplying].count(True) == 1, terms
        assert len(terms) in (4, 5)
