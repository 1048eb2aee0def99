"""Divisibility against sympy's number theory."""

import pytest
import sympy

from phi4.skills.family import Params
from phi4.skills.number_theory import NUMBER_THEORY
from tests.skills.family_checks import check_family


def _swapped(params: Params) -> Params | None:
    kind, *numbers = params
    return (kind, *numbers[::-1]) if kind in ("gcd", "lcm") else None


def test_family() -> None:
    check_family(NUMBER_THEORY, swap=_swapped)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_sympy_agrees(level: int) -> None:
    kinds = set()
    for index in range(120):
        problem = NUMBER_THEORY.problem(index, level)
        kind, *numbers = problem.params
        kinds.add(kind)
        if kind == "factors":
            found = sympy.factorint(numbers[0], multiple=True)
            assert [int(part) for part in problem.answer.split(", ")] == found
        else:
            oracle = {"gcd": sympy.igcd, "lcm": sympy.ilcm, "remainder": sympy.Mod}[kind]
            assert int(problem.answer) == oracle(*numbers), problem.question
    assert kinds == ({"gcd", "remainder"} if level == 1 else {"gcd", "lcm", "remainder", "factors"})


def test_prime_factors_in_any_order_are_right_but_not_composites_or_ones() -> None:
    params = ("factors", 84)
    assert NUMBER_THEORY.check(params, "7, 2, 3, 2")
    assert NUMBER_THEORY.score("2, 2, 3, 7", "Answer: 7, 2, 3, 2")
    for wrong in ("2, 3, 7", "4, 3, 7", "1, 2, 2, 3, 7", "84", "2, 2, 21"):
        assert not NUMBER_THEORY.check(params, wrong)
        assert not NUMBER_THEORY.score("2, 2, 3, 7", f"Answer: {wrong}")


def test_huge_answers_are_refused_cheaply() -> None:
    for params in (("factors", 84), ("gcd", 84, 36), ("lcm", 12, 9), ("remainder", 100, 7)):
        assert not NUMBER_THEORY.check(params, "9" * 500)
        assert not NUMBER_THEORY.check(params, "-2")
