"""The questions of a pivotal token search."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from phi4.recipes.pico import pico
from phi4.recipes.preferences import pivotal_problems


def test_no_question_is_searched_twice() -> None:
    """The search refuses two questions with one prompt; small families repeat theirs in a large pool."""
    recipe = pico()
    assert recipe.pivotal is not None
    recipe = replace(recipe, pivotal=replace(recipe.pivotal, questions=6_000))
    problems = pivotal_problems(cast(Any, SimpleNamespace(recipe=recipe)))
    questions = [problem.question for problem in problems.values()]
    assert len(questions) > 1_000
    assert len(questions) == len(set(questions))
