"""Ordering: people compared in pairs, and the one order that fits.

Every clue compares two neighbours of the order, so the clues fix it. The working first writes all clues the
same way round, climbs from the first name to the top, then walks down: each step looks up one clue.

The names are not part of the problem; the order in which the clues come and which way round they are said is:
that is what a reader has to undo. It is the problem's key.
"""

import random
from collections.abc import Sequence

from phi4.skills.family import Family, Params, Solution
from phi4.skills.names import PEOPLE

_ORDINALS = ("", "second ", "third ")
# (more than, less than, the most, the least) of one quality; the last two also head the full list.
_QUALITIES = (
    ("is taller than", "is shorter than", "tallest", "shortest"),
    ("is older than", "is younger than", "oldest", "youngest"),
    ("is faster than", "is slower than", "fastest", "slowest"),
    ("is heavier than", "is lighter than", "heaviest", "lightest"),
    ("is stronger than", "is weaker than", "strongest", "weakest"),
    ("is richer than", "is poorer than", "richest", "poorest"),
)


def _sample(rng: random.Random, level: int) -> Params:
    n = {1: 3, 2: 5 if rng.random() < 0.85 else 4, 3: 6}[level]
    names = tuple(rng.sample(PEOPLE, n))  # from the top down
    places = rng.sample(range(n - 1), n - 1)
    clues = tuple((place, rng.random() < 0.5) for place in places)  # (upper one's place, said backwards)
    if rng.random() < 0.25:
        question = ("all", rng.random() < 0.5, 0)
    else:
        question = ("rank", rng.random() < 0.5, rng.randint(1, min(3, n - 1)))
    return names, clues, question


def _canonical(params: Params) -> Params:
    _, clues, question = params
    return clues, question


def _ask(params: Params, phrasing: int, rng: random.Random) -> str:
    names, clues, (kind, from_bottom, rank) = params
    more, less, most, least = _QUALITIES[phrasing % len(_QUALITIES)]
    sentences = " ".join(
        f"{names[place + 1]} {less} {names[place]}."
        if backwards
        else f"{names[place]} {more} {names[place + 1]}."
        for place, backwards in clues
    )
    top, bottom = (least, most) if from_bottom else (most, least)
    late = phrasing >= len(_QUALITIES)  # the second set of wordings
    if kind == "all":
        if late:
            return f"{sentences} Put them in order, {top} first."
        return f"{sentences} List them from {top} to {bottom}."
    if late:
        return f"{len(names)} people are compared. {sentences} Name the {_ORDINALS[rank - 1]}{top} one."
    return f"{sentences} Who is the {_ORDINALS[rank - 1]}{top}?"


def _solve(params: Params, rng: random.Random) -> Solution:
    names, clues, (kind, from_bottom, rank) = params
    pairs = [(names[place], names[place + 1]) for place, _ in clues]
    above = {low: high for high, low in pairs}
    below = dict(pairs)
    lines = ["Clues: " + ", ".join(f"{high} > {low}" for high, low in pairs)]
    person = pairs[0][0]
    while person in above:
        lines.append(f"Above {person}: {above[person]}")
        person = above[person]
    lines.append(f"Above {person}: nobody")
    order = [person]
    while order[-1] in below:
        order.append(below[order[-1]])
    lines.append("Order: " + " > ".join(order))
    wanted = order[::-1] if from_bottom else order
    if from_bottom:
        lines.append("Reversed: " + " < ".join(wanted))
    if kind == "all":
        return Solution(tuple(lines), ", ".join(wanted))
    counted = ", ".join(f"{place} {name}" for place, name in enumerate(wanted[:rank], start=1))
    return Solution((*lines, f"Count: {counted}"), wanted[rank - 1])


def _check(params: Params, answer: str) -> bool:
    """By transitive closure: whoever has k people above them stands at place k + 1."""
    names, clues, (kind, from_bottom, rank) = params
    over: dict[str, set[str]] = {name: set() for name in names}
    for place, _ in clues:
        over[names[place + 1]].add(names[place])
    for _ in names:
        for name in names:
            for higher in tuple(over[name]):
                over[name] |= over[higher]
    ranked = {len(higher): name for name, higher in over.items()}
    if len(ranked) != len(names):
        return False  # the clues would not fix the order
    order = [ranked[place] for place in range(len(names))]
    if from_bottom:
        order.reverse()
    given = [part.strip() for part in answer.split(",")]
    return given == (order if kind == "all" else [order[rank - 1]])


def _audit(params: Params, lines: Sequence[str]) -> bool:
    """Every comparison, every neighbour and every place that is named must be so in the one true order."""
    names, clues, (_, from_bottom, _) = params
    place = {name: rank for rank, name in enumerate(names)}
    for line in lines:
        label, _, said = line.partition(": ")
        if label == "Clues":
            true = said == ", ".join(f"{names[rank]} > {names[rank + 1]}" for rank, _ in clues)
        elif label == "Order":
            true = said.split(" > ") == list(names)
        elif label == "Reversed":
            true = said.split(" < ") == list(reversed(names))
        elif label == "Count":
            best = reversed(names) if from_bottom else names
            ranked = [f"{rank} {name}" for rank, name in enumerate(best, start=1)]
            true = said.split(", ") == ranked[: said.count(",") + 1]
        else:
            rank = place[label.removeprefix("Above ")]
            true = said == (names[rank - 1] if rank else "nobody")
        if not true:
            return False
    return True


ORDERING = Family(
    name="ordering",
    title="Ordering people",
    levels=("3 people", "4-5 people", "6 people"),
    kind="list",
    phrasings=2 * len(_QUALITIES),
    sample=_sample,
    canonical=_canonical,
    ask=_ask,
    solve=_solve,
    check=_check,
    audit=_audit,
)
