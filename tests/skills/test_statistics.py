"""Averages against sympy, and that they are built of lines the trained families use."""

import random
import re

import pytest
from sympy.stats import DiscreteUniform, E

from phi4.skills.columns import div_lines
from phi4.skills.statistics import AVERAGES
from tests.skills.family_checks import check_family, problem_tokens


def _shuffled(params: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(random.Random(5).sample(params, len(params)))


def test_family() -> None:
    # two sums and a division: longer than a trained family may be, but inside the 200-token limit
    check_family(AVERAGES, swap=_shuffled, mean_tokens=170)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_the_mean_is_the_expectation_of_a_fair_draw(level: int) -> None:
    for index in range(60):
        problem = AVERAGES.problem(index, level)
        numbers = [int(number) for number in re.findall(r"\d+", problem.question.split(" numbers ")[-1])]
        shown = numbers if len(numbers) == len(problem.params) else numbers[1:]
        assert tuple(shown) == problem.params
        labels = DiscreteUniform("X", list(range(len(shown))))
        mean = sum(E(labels.pspace.value * 0 + shown[k]) for k in range(len(shown))) / len(shown)
        assert int(problem.answer) == mean


def test_the_last_lines_are_a_long_division() -> None:
    for index in range(50):
        problem = AVERAGES[index]
        division = div_lines(sum(problem.params), len(problem.params))
        assert list(problem.steps[-len(division) :]) == division


def test_hard_ones_fit_the_context() -> None:
    assert max(problem_tokens(AVERAGES.problem(index, 3)) for index in range(300)) < 256 - 8
