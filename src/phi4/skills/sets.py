"""Sets: union, intersection, difference and symmetric difference of two small sets of numbers.

The working walks through one set, says of each element whether it is in the other one, and repeats the list
kept so far on the same line, so the answer is a copy of the last list and never a search through the walk.
"""

import random
import re
from collections.abc import Sequence

from phi4.skills.family import Family, Params, Solution
from phi4.skills.names import PEOPLE

_SHAPES = {1: (2, 4, 12), 2: (3, 5, 20), 3: (3, 5, 60)}  # level: smallest set, largest set, largest element
_SYMMETRIC = ("union", "intersection", "symmetric difference")


def braces(elements: tuple[int, ...] | list[int]) -> str:
    """A set as written everywhere in this family: {3,7,12}."""
    return "{" + ",".join(str(element) for element in elements) + "}"


def _sample(rng: random.Random, level: int) -> Params:
    smallest, largest, top = _SHAPES[level]
    operation = rng.choice(("union", "intersection", "difference", "symmetric difference"))
    if operation in ("union", "symmetric difference"):
        largest -= 1  # these keep most elements: one less keeps the working as long as the others'
    sizes = rng.randint(smallest, largest), rng.randint(smallest, largest)
    # Something in common and something of its own in each set: no empty answer, no idle question.
    common = rng.randint(1, min(sizes) - 1)
    drawn = rng.sample(range(1, top + 1), sum(sizes) - common)
    first = sorted(drawn[: sizes[0]])
    second = sorted(drawn[sizes[0] - common :])
    return operation, tuple(first), tuple(second)


def _canonical(params: Params) -> Params:
    operation, first, second = params
    pair = [tuple(sorted(first)), tuple(sorted(second))]
    return operation, *(sorted(pair) if operation in _SYMMETRIC else pair)


_PLAIN = {
    "union": "the union of {a} and {b}",
    "intersection": "the intersection of {a} and {b}",
    "difference": "the difference {a} minus {b}",
    "symmetric difference": "the symmetric difference of {a} and {b}",
}
_DESCRIBED = {
    "union": "are in {a} or in {b}",
    "intersection": "are in both {a} and {b}",
    "difference": "are in {a} but not in {b}",
    "symmetric difference": "are in exactly one of {a} and {b}",
}
_CHOSEN = {
    "union": "did {n} or {m} choose",
    "intersection": "did {n} and {m} both choose",
    "difference": "did {n} choose but {m} not",
    "symmetric difference": "did only one of {n} and {m} choose",
}
_TICKETS = {
    "union": "are with {n} or with {m}",
    "intersection": "are with both {n} and {m}",
    "difference": "are with {n} but not with {m}",
    "symmetric difference": "are with only one of {n} and {m}",
}


def _ask(params: Params, phrasing: int, rng: random.Random) -> str:
    operation, first, second = params
    a, b = braces(first), braces(second)
    n, m = rng.sample(PEOPLE, 2)
    plain = _PLAIN[operation].format(a="A", b="B")
    return (
        f"Let A={a} and B={b}. Find {plain}.",
        f"A={a}, B={b}. Which numbers {_DESCRIBED[operation].format(a='A', b='B')}?",
        f"{n} chose the numbers {a} and {m} chose {b}. Which numbers {_CHOSEN[operation].format(n=n, m=m)}?",
        f"What is {_PLAIN[operation].format(a=a, b=b)}?",
        f"The tickets {a} are with {n}, the tickets {b} with {m}. "
        f"Which tickets {_TICKETS[operation].format(n=n, m=m)}?",
        f"The set A is {a}. The set B is {b}. List the elements of {plain}.",
        f"Two sets are given: A={a} and B={b}. List the numbers that "
        f"{_DESCRIBED[operation].format(a='A', b='B')}.",
    )[phrasing]


def _walk(
    elements: tuple[int, ...], other: tuple[int, ...], keep_common: bool
) -> tuple[list[str], list[int]]:
    """One line per element, in or out of `other`, with the list kept so far."""
    lines: list[str] = []
    kept: list[int] = []
    for element in elements:
        inside = element in other
        if inside == keep_common:
            kept.append(element)
        lines.append(f"{element} {'in' if inside else 'out'}: {braces(kept)}")
    return lines, kept


def _solve(params: Params, rng: random.Random) -> Solution:
    operation, first, second = params
    if operation == "intersection":
        lines, kept = _walk(first, second, True)
        return Solution(("First and second:", *lines), braces(kept))
    own_second, kept_second = _walk(second, first, False)
    of_second = ("Second without first:", *own_second)
    if operation == "union":
        return Solution((*of_second, "Join it to the first."), braces([*first, *kept_second]))
    own_first, kept_first = _walk(first, second, False)
    of_first = ("First without second:", *own_first)
    if operation == "difference":
        return Solution(of_first, braces(kept_first))
    return Solution((*of_first, *of_second, "Join both."), braces([*kept_first, *kept_second]))


def _check(params: Params, answer: str) -> bool:
    operation, first, second = params
    try:
        given = [int(part) for part in answer.strip("{} ").split(",")]
    except ValueError:
        return False
    a, b = set(first), set(second)
    expected = {"union": a | b, "intersection": a & b, "difference": a - b, "symmetric difference": a ^ b}
    return len(given) == len(set(given)) and set(given) == expected[operation]


_STEP = re.compile(r"(\d+) (in|out): (\{[\d,]*\})")
_WALKS = {
    "First and second:": (1, 2, True),
    "First without second:": (1, 2, False),
    "Second without first:": (2, 1, False),
}


def _audit(params: Params, lines: Sequence[str]) -> bool:
    """Membership is asked of the sets themselves: all elements of every walk, and the list kept so far."""
    own: tuple[int, ...] = ()
    other: tuple[int, ...] = ()
    walked: tuple[int, ...] = ()
    common = True
    for line in lines:
        if line in _WALKS:
            first, second, common = _WALKS[line]
            own, other, walked = params[first], params[second], ()
        elif step := _STEP.fullmatch(line):
            walked += (int(step[1]),)
            kept = [element for element in walked if (element in other) is common]
            if (step[2] == "in") is not (walked[-1] in other) or step[3] != braces(kept):
                return False
            if walked != own[: len(walked)]:
                return False
    return walked == own


SETS = Family(
    name="sets",
    title="Sets",
    levels=(
        "sets of 2-4 numbers up to 12",
        "sets of 3-5 numbers up to 20",
        "sets of 3-5 numbers up to 60",
    ),
    kind="set",
    phrasings=7,
    sample=_sample,
    canonical=_canonical,
    ask=_ask,
    solve=_solve,
    check=_check,
    audit=_audit,
)
