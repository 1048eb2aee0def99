"""Syllogisms against brute force over who belongs where, from the words of the question."""

import itertools
import re

from phi4.skills.syllogisms import SYLLOGISMS
from tests.skills.family_checks import check_family

_STATEMENT = re.compile(r"(Every|No|All) (\w+) (?:is a|are) (\w+)\.")


def test_the_family():
    check_family(
        SYLLOGISMS,
        swap=lambda p: (p[0][::-1], "Zoe", *p[2:]),  # other kinds and another person
    )


def test_answers_follow_from_the_words():
    kinds_of_question = set()
    for index in range(60):
        problem = SYLLOGISMS.problem(index, 1 + index % 2)
        person = problem.params[1]
        must = problem.params[4] == "must"
        kinds_of_question.add(must)
        statements = [
            (form == "No", left.removesuffix("s"), right.removesuffix("s"))
            for form, left, right in _STATEMENT.findall(problem.question)
        ]
        assert len(statements) == len(problem.params[2])
        found = re.search(rf"{person} is a (\w+)", problem.question)
        assert found is not None
        nouns = sorted({noun for _, left, right in statements for noun in (left, right)})
        worlds = []
        for memberships in itertools.product((False, True), repeat=len(nouns)):
            world = dict(zip(nouns, memberships, strict=True))
            fits = all(
                not (world[left] and world[right]) if excludes else world[right] or not world[left]
                for excludes, left, right in statements
            )
            if fits and world[found[1]]:
                worlds.append(world)
        assert worlds, problem
        expected = {noun for noun in nouns if all(world[noun] is must for world in worlds)}
        assert set(problem.answer.split(", ")) == expected, problem
    assert kinds_of_question == {True, False}


def test_the_order_of_statements_is_the_problem_but_not_the_nouns():
    read = (("all", 0, 1), ("no", 1, 2))
    turned = (("no", 1, 2), ("all", 0, 1))
    key = SYLLOGISMS.key
    assert key((("a", "b", "c"), "Ana", read, 0, "must")) == key((("x", "y", "z"), "Ben", read, 0, "must"))
    assert key((("a", "b", "c"), "Ana", read, 0, "must")) != key((("a", "b", "c"), "Ana", turned, 0, "must"))
