"""Both baselines on families where the right figure is known by counting."""

from itertools import islice

import pytest

from phi4.evals.baselines import baselines, chance, neighbour
from phi4.evals.tasks.skills import skill_task
from phi4.skills.split import distinct_problems
from tests.evals.fakes import SIGNS, SUMS, document


def test_chance_is_the_base_rate_of_the_commonest_answer() -> None:
    task = skill_task(SIGNS, 200, document)
    rate = sum(item.reference == "yes" for item in task.items) / 200
    assert baselines(task, SIGNS, neighbours=300).chance == rate > 0.6


def test_neighbour_knows_what_it_has_seen() -> None:
    task = skill_task(SUMS, 50, document)
    asked = list(islice(distinct_problems(SUMS, held=True), 50))
    others = list(islice(distinct_problems(SUMS, held=False), 200))
    assert neighbour(task, [*others, *asked]) == 1.0
    assert neighbour(task, others) < 0.2
    assert chance(task, others) < 0.1


def test_neighbour_is_the_nearest_by_brute_force() -> None:
    # With one word differing, the training question that shares it wins over longer common boilerplate.
    task = skill_task(SIGNS, 100, document)
    known = list(islice(distinct_problems(SIGNS, held=False), 400))
    # The sign is one character; a neighbour that ignored rare characters would score the base rate.
    rate = sum(item.reference == "yes" for item in task.items) / 100
    assert neighbour(task, known) > rate


@pytest.mark.parametrize("family", [SUMS, SIGNS])
def test_baselines_are_deterministic(family) -> None:
    task = skill_task(family, 30, document)
    assert baselines(task, family, neighbours=200) == baselines(task, family, neighbours=200)
