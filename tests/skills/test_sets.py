"""Sets against sympy's finite sets."""

import sympy

from phi4.grading.answers import equal
from phi4.skills.sets import SETS
from tests.skills.family_checks import check_family


def _swap(params):
    operation, first, second = params
    if operation == "difference":
        return operation, first[::-1], second[::-1]
    return operation, second, first


def test_the_family():
    check_family(SETS, swap=_swap)


def test_a_difference_the_other_way_round_is_another_problem():
    assert SETS.key(("difference", (1, 2, 3), (3, 4))) != SETS.key(("difference", (3, 4), (1, 2, 3)))


def test_answers_equal_sympy():
    operations = {
        "union": sympy.Union,
        "intersection": sympy.Intersection,
        "difference": sympy.Complement,
        "symmetric difference": sympy.SymmetricDifference,
    }
    seen = set()
    for index in range(200):
        problem = SETS.problem(index, 1 + index % 3)
        operation, first, second = problem.params
        seen.add(operation)
        expected = operations[operation](sympy.FiniteSet(*first), sympy.FiniteSet(*second))
        answer = ", ".join(str(element) for element in expected)
        assert equal(problem.answer, answer, "set"), problem
    assert seen == set(operations)


def test_check_wants_each_element_once():
    params = ("intersection", (1, 2, 3), (2, 3, 4))
    assert SETS.check(params, "{3, 2}")
    assert not SETS.check(params, "{2,2,3}")
    assert not SETS.check(params, "{2}")
