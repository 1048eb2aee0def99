"""Word problems: the name of a structure is its formula, and sympy works it out."""

import re
import string

import pytest
import sympy

from phi4.skills.stories import THREE_STEP_STORIES, TWO_STEP_STORIES
from phi4.skills.structures import THREE_STEP_STRUCTURES, TWO_STEP_STRUCTURES
from phi4.skills.word_problems import PHRASINGS, THREE_STEP, TWO_STEP
from tests.skills.family_checks import check_family

_FAMILIES = (
    (TWO_STEP, TWO_STEP_STRUCTURES, TWO_STEP_STORIES),
    (THREE_STEP, THREE_STEP_STRUCTURES, THREE_STEP_STORIES),
)


def _swap(params):
    form, numbers, people, _ = params
    if form in ("a*b+c", "a*b-c", "a+b-c", "a+b+c", "a*b+c*d", "(a+b)*c"):
        numbers = (numbers[1], numbers[0], *numbers[2:])
    return form, numbers, people[::-1], "pens"


@pytest.mark.parametrize("family", [TWO_STEP, THREE_STEP], ids=lambda family: family.name)
def test_the_families(family):
    check_family(family, swap=_swap)


def test_sums_and_products_do_not_mind_the_order_but_differences_do():
    key = TWO_STEP.key
    rest = (("Ana", "Ben"), "pens")
    assert key(("a+b+c", (9, 3, 5), *rest)) == key(("a+b+c", (5, 9, 3), *rest))
    assert key(("a-b-c", (40, 9, 5), *rest)) == key(("a-b-c", (40, 5, 9), *rest))
    assert key(("a-b+c", (40, 9, 5), *rest)) != key(("a-b+c", (40, 5, 9), *rest))
    assert key(("a+b-c", (8, 9, 5), *rest)) != key(("a+b+c", (8, 9, 5), *rest))


@pytest.mark.parametrize(("family", "structures", "stories"), _FAMILIES, ids=lambda value: "")
def test_answers_equal_sympy(family, structures, stories):
    seen = set()
    for index in range(200):
        problem = family.problem(index, 1 + index % 3)
        form, numbers, _, _ = problem.params
        seen.add(form)
        values = dict(zip("abcd", numbers, strict=False))
        assert problem.answer == str(sympy.sympify(form).subs(values)), problem
        for line in problem.steps:  # every equals sign of the working is true
            sides = [side.rpartition(" ")[2] for side in line.split("=")] if "=" in line else []
            assert len({sympy.sympify(side) for side in sides}) <= 1, problem
            assert all(0 <= int(number) <= 99 for number in re.findall(r"\d+", line)), problem
    assert seen == set(structures)


@pytest.mark.parametrize(("family", "structures", "stories"), _FAMILIES, ids=lambda value: "")
def test_every_structure_has_its_stories_and_each_story_all_its_numbers(family, structures, stories):
    assert set(structures) == set(stories)
    for form, told in stories.items():
        assert len(told) == PHRASINGS == len(set(told))
        for story in told:
            fields = [field for _, field, _, _ in string.Formatter().parse(story) if field]
            numbers = sorted(field for field in fields if field in "abcd")
            assert numbers == sorted(set(form) & set("abcd")), story  # each exactly once
            assert set(fields) <= {"a", "b", "c", "d", "n", "m", "things"}
            assert story.endswith("?")
            assert not any(sign in story for sign in "+*/=")
