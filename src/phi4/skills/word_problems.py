"""Word problems of two and three steps.

A structure such as a*b+c has six stories, and one way of working for all of them (see `structures`).
"""

import random
from collections.abc import Sequence

from phi4.skills.audit import stands_above
from phi4.skills.family import Family, Params, Solution
from phi4.skills.names import PEOPLE, THINGS
from phi4.skills.stories import THREE_STEP_STORIES, TWO_STEP_STORIES
from phi4.skills.structures import THREE_STEP_STRUCTURES, TWO_STEP_STRUCTURES, Structure

PHRASINGS = 6


def _family(
    name: str,
    title: str,
    levels: tuple[str, str, str],
    structures: dict[str, Structure],
    stories: dict[str, tuple[str, ...]],
) -> Family:
    forms = tuple(structures)

    def sample(rng: random.Random, level: int) -> Params:
        form = rng.choice(forms)
        numbers = structures[form].draw(rng, {1: 30, 2: 60, 3: 99}[level])
        return form, numbers, tuple(rng.sample(PEOPLE, 2)), rng.choice(THINGS)

    def canonical(params: Params) -> Params:
        form, numbers, _, _ = params
        ordered = list(numbers)
        for i, j in structures[form].same:
            if ordered[i] > ordered[j]:
                ordered[i], ordered[j] = ordered[j], ordered[i]
        return form, tuple(ordered)

    def ask(params: Params, phrasing: int, rng: random.Random) -> str:
        form, numbers, (n, m), things = params
        roles = dict(zip("abcd", numbers, strict=False))
        return stories[form][phrasing].format(n=n, m=m, things=things, **roles)

    def solve(params: Params, rng: random.Random) -> Solution:
        form, numbers, _, _ = params
        lines = structures[form].work(*numbers)
        return Solution(lines, lines[-1].rpartition("=")[2])

    def check(params: Params, answer: str) -> bool:
        form, numbers, _, _ = params
        return answer.strip() == str(structures[form].formula(*numbers))

    def audit(params: Params, lines: Sequence[str]) -> bool:
        return stands_above(params[1], lines)

    return Family(
        name=name,
        title=title,
        levels=levels,
        kind="integer",
        phrasings=PHRASINGS,
        sample=sample,
        canonical=canonical,
        ask=ask,
        solve=solve,
        check=check,
        audit=audit,
    )


_LEVELS = ("numbers up to 30", "numbers up to 60", "numbers up to 99")
TWO_STEP = _family("two_step", "Two-step stories", _LEVELS, TWO_STEP_STRUCTURES, TWO_STEP_STORIES)
THREE_STEP = _family("three_step", "Three-step stories", _LEVELS, THREE_STEP_STRUCTURES, THREE_STEP_STORIES)
