"""Expressions against sympy, reading them as the question prints them."""

import re

import pytest
import sympy

from phi4.skills.substitution import SUBSTITUTION
from tests.skills.family_checks import check_family


def test_the_family() -> None:
    check_family(
        SUBSTITUTION,
        swap=lambda p: (tuple({"x": "y", "y": "x"}.get(letter, letter) for letter in p[0]), *p[1:]),
        wrong=lambda problem: problem.answer + "1",
        mean_tokens=130,
    )


@pytest.mark.parametrize("level", [1, 2, 3])
def test_sympy_agrees(level: int) -> None:
    for index in range(100):
        problem = SUBSTITUTION.problem(index, level)
        values = dict(re.findall(r"\b([a-z])=(\d+)", problem.question))
        wanted = re.findall(r"\b([a-z] [-+*] [a-z])\b", problem.question)
        found = [str(sympy.sympify(text).subs(values)) for text in wanted]
        assert ", ".join(found) == problem.answer, problem


def test_letters_cannot_smuggle_code_into_the_check() -> None:
    assert not SUBSTITUTION.check((("__import__",), (1,), ((0, "+", 0),)), "2")
