"""Ordering against all permutations, read from the words of the question."""

import itertools
import re

from phi4.skills.ordering import ORDERING
from tests.skills.family_checks import check_family

_CLUE = re.compile(r"(\w+) is (\w+) than (\w+)\.")
_MORE = {"taller", "older", "faster", "heavier", "stronger", "richer"}
_PLACES = {"": 0, "second ": 1, "third ": 2}


def test_the_family():
    check_family(
        ORDERING,
        swap=lambda p: (tuple(reversed(p[0])), p[1], p[2]),  # other people, the same clues
    )


def test_answers_follow_from_the_words_alone():
    for index in range(150):
        problem = ORDERING.problem(index, 1 + index % 3)
        clues = _CLUE.findall(problem.question)
        pairs = [(a, b) if word in _MORE else (b, a) for a, word, b in clues]
        people = {person for pair in pairs for person in pair}
        orders = [
            order
            for order in itertools.permutations(sorted(people))
            if all(order.index(high) < order.index(low) for high, low in pairs)
        ]
        assert len(orders) == 1, problem
        order = list(orders[0])
        asked = problem.question.split(". ")[-1]
        top = re.search(r"(\w+e)st\b", asked)
        assert top is not None, asked
        if top[1] + "r" not in _MORE:
            order.reverse()
        rank = re.search(r"the (second |third )?\w+est", asked)
        if rank is None or asked.startswith(("List", "Put")):
            assert problem.answer == ", ".join(order), problem
        else:
            assert problem.answer == order[_PLACES[rank[1] or ""]], problem


def test_an_order_that_is_not_fixed_is_refused():
    params = (("Ana", "Ben", "Dan"), ((0, False),), ("rank", False, 1))
    assert not ORDERING.check(params, "Ana")
