"""Averages, built from column addition and long division.

Training never sees this family: it shows whether the pieces learned elsewhere combine on a new task.
"""

import random

from phi4.grading.answers import parse_number
from phi4.skills.columns import div_lines, sum_lines
from phi4.skills.family import Family, Params, Solution
from phi4.skills.names import PEOPLE

_ASKS = (
    "What is the average of {list}?",
    "Find the mean of {list}.",
    "Calculate the average of {list}.",
    "{name} scores {list} points. What is the mean score?",
    "On {n} days a shop sells {list} loaves. What is the average per day?",
    "Work out the mean of the {n} numbers {list}.",
)


def _sample(rng: random.Random, level: int) -> Params:
    """Three or four numbers whose mean is whole; the last is chosen so that the count divides the sum."""
    three, four = [range(20, 90)] * 3, [range(12, 33)] * 4
    spans = {
        1: [range(2, 20)] * 3,
        2: rng.choice((three, three, four)),
        3: [range(50, 98), range(50, 98), range(100, 400)],
    }
    numbers = [rng.choice(span) for span in spans[level]]
    numbers[-1] += -sum(numbers) % len(numbers)
    return tuple(numbers)


def _ask(params: Params, phrasing: int, rng: random.Random) -> str:
    listed = ", ".join(map(str, params[:-1])) + f" and {params[-1]}"
    return _ASKS[phrasing].format(list=listed, n=len(params), name=rng.choice(PEOPLE))


def _solve(params: Params, rng: random.Random) -> Solution:
    total, lines = params[0], []
    for number in params[1:]:
        lines += sum_lines(total, number)
        total += number
    return Solution((*lines, *div_lines(total, len(params))), str(total // len(params)))


def _check(params: Params, answer: str) -> bool:
    """The deviations from the mean must cancel."""
    mean = parse_number(answer)
    return mean is not None and sum(number - mean for number in params) == 0


AVERAGES = Family(
    name="averages",
    title="Averages (never trained on)",
    levels=("three numbers to 20", "three or four numbers of 2 digits", "three numbers, one of 3 digits"),
    kind="number",
    phrasings=len(_ASKS),
    sample=_sample,
    canonical=lambda params: tuple(sorted(params)),
    ask=_ask,
    solve=_solve,
    check=_check,
)
