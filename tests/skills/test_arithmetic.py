"""The four operations, against sympy reading the bare task off the first line of the working."""

import re

import pytest
import sympy

from phi4.skills.arithmetic import ADDITION, DIVISION, MULTIPLICATION, SUBTRACTION
from phi4.skills.family import Family
from tests.skills.family_checks import check_family
from tests.skills.test_columns import assert_true_equations

FAMILIES = (ADDITION, SUBTRACTION, MULTIPLICATION, DIVISION)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_family(family: Family) -> None:
    commutes = family in (ADDITION, MULTIPLICATION)
    check_family(family, swap=(lambda params: params[::-1]) if commutes else None)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_sympy_agrees_and_the_question_names_the_same_numbers(family: Family) -> None:
    for index in range(100):
        problem = family[index]
        task = re.sub(r"\b0+(?=\d)", "", problem.steps[0])
        assert sorted(re.findall(r"\d+", task)) == sorted(re.findall(r"\d+", problem.question))
        value = sympy.sympify(task)
        if family is DIVISION:
            whole = sympy.floor(value)
            rest = (value - whole) * problem.params[1]
            assert problem.answer == (f"{whole} remainder {rest}" if rest else f"{whole}")
        else:
            assert sympy.Integer(problem.answer) == value
        assert_true_equations(list(problem.steps))


def test_standard_level_has_the_stated_size() -> None:
    for index in range(300):
        assert all(100 <= number <= 9_999 for number in ADDITION[index].params)
        assert all(100 <= number <= 9_999 for number in SUBTRACTION[index].params)
        a, digit = MULTIPLICATION[index].params
        assert 10 <= a <= 999
        assert 2 <= digit <= 9


def test_order_matters_where_it_should() -> None:
    assert SUBTRACTION.key((500, 300)) != SUBTRACTION.key((500, 200))
    assert ADDITION.key((500, 300)) != SUBTRACTION.key((500, 300))
    assert DIVISION.key((63, 7)) != DIVISION.key((63, 9))


@pytest.mark.parametrize("answer", ["13", "13 remainder 10", "12 remainder 10", "remainder 3", "", "13 r 3"])
def test_division_refuses_loose_answers(answer: str) -> None:
    assert DIVISION.check((94, 7), "13 remainder 3")
    assert not DIVISION.check((94, 7), answer)
