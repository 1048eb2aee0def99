"""Syllogisms: what follows from "every A is a B", "no B is a C" and "x is an A".

The reader lists every kind that x must be, or every kind that x cannot be. The working follows the chain
upwards one statement at a time; for "cannot" it then takes each exclusion and walks the chain below it.

The nouns are not part of the problem; which statements are given, and in which order, is its key.
"""

import random
from collections.abc import Sequence

from phi4.skills.family import Family, Params, Solution
from phi4.skills.names import PEOPLE

# Half plain, half invented; all with the article "a" and a regular plural.
NOUNS = (
    "baker", "singer", "runner", "reader", "farmer", "miner", "writer", "dancer", "climber", "skater",
    "wug", "blick", "fep", "mib", "tove", "lorp", "gom", "vak", "plim", "rask",
)  # fmt: skip

# level: links above x, chance of a link below x, exclusions, chance of each further kind under an exclusion
_SHAPES = {1: ((1, 2), 0.0, (1, 1), 0.4), 2: ((2, 3), 0.5, (1, 1), 0.7), 3: ((3, 4), 1.0, (2, 2), 0.5)}


def _sample(rng: random.Random, level: int) -> Params:
    (fewest, most), below, (few_no, most_no), under = _SHAPES[level]
    links = rng.randint(fewest, most)
    statements = [("all", kind, kind + 1) for kind in range(links)]
    new = links + 1
    if rng.random() < below:
        statements.append(("all", new, 0))
        new += 1
    for upper in rng.sample(range(links + 1), rng.randint(few_no, most_no)):
        statements.append(("no", upper, new) if rng.random() < 0.5 else ("no", new, upper))
        while rng.random() < under and len(statements) < links + 4:
            statements.append(("all", new + 1, new))
            new += 1
        new += 1
    rng.shuffle(statements)
    # Kinds are numbered as they are read, so the same statements are the same parameters.
    number: dict[int, int] = {}
    for _, left, right in statements:
        number.setdefault(left, len(number))
        number.setdefault(right, len(number))
    read = tuple((form, number[left], number[right]) for form, left, right in statements)
    nouns = tuple(rng.sample(NOUNS, len(number)))
    return nouns, rng.choice(PEOPLE), read, number[0], rng.choice(("must", "cannot"))


def _canonical(params: Params) -> Params:
    _, _, statements, start, question = params
    return statements, start, question


def _statement(form: str, left: str, right: str, plural: bool) -> str:
    if plural:
        return f"{'All' if form == 'all' else 'No'} {left}s are {right}s."
    return f"{'Every' if form == 'all' else 'No'} {left} is a {right}."


def _ask(params: Params, phrasing: int, rng: random.Random) -> str:
    nouns, person, statements, start, question = params
    must = question == "must"
    told = " ".join(
        _statement(form, nouns[left], nouns[right], phrasing % 2 == 1) for form, left, right in statements
    )
    fact = f"{person} is a {nouns[start]}."
    return (
        f"{told} {fact} List every kind that {person} {'must' if must else 'cannot'} be.",
        f"{told} {fact} What {'must' if must else 'can'} {person} {'be' if must else 'not be'}? List all.",
        f"{fact} {told} What is {person} {'for sure' if must else 'surely not'}? Name every kind.",
        f"{fact} {told} Name all groups to which {person} {'must' if must else 'cannot'} belong.",
        f"It is known: {told} Also, {fact} Which kinds {'follow' if must else 'are ruled out'} for {person}?",
        f"{told} If {person} is a {nouns[start]}, which groups "
        f"{'is' if must else 'can'} {person} {'in' if must else 'not be in'}?",
    )[phrasing]


def _solve(params: Params, rng: random.Random) -> Solution:
    nouns, person, statements, start, question = params
    above = {left: right for form, left, right in statements if form == "all"}
    under = {right: left for form, left, right in statements if form == "all"}
    excluded: dict[int, int] = {}
    for form, left, right in statements:
        if form == "no":
            excluded[left], excluded[right] = right, left
    kinds = [start]
    lines = [f"{person} is a {nouns[start]}"]
    while kinds[-1] in above:
        lines.append(f"Every {nouns[kinds[-1]]} is a {nouns[above[kinds[-1]]]}")
        kinds.append(above[kinds[-1]])
    lines.append(f"Every {nouns[kinds[-1]]} is: nothing more")
    if question == "must":
        return Solution(tuple(lines), ", ".join(nouns[kind] for kind in kinds))
    out: list[int] = []
    for kind in kinds:
        if kind not in excluded:
            lines.append(f"No {nouns[kind]} is: nothing")
            continue
        out.append(excluded[kind])
        lines.append(f"No {nouns[kind]} is a {nouns[out[-1]]}")
        while out[-1] in under:
            lines.append(f"A {nouns[under[out[-1]]]} is a {nouns[out[-1]]}, so not {nouns[under[out[-1]]]}")
            out.append(under[out[-1]])
    return Solution(tuple(lines), ", ".join(nouns[kind] for kind in out))


def _check(params: Params, answer: str) -> bool:
    """By truth table over all ways of belonging to the kinds, one bit of a big integer for each way."""
    nouns, _, statements, start, question = params
    ways = 1 << len(nouns)
    full = (1 << ways) - 1
    # Column i of a truth table: blocks of 2^i zeros and ones in turn.
    member = [full // ((1 << (1 << kind)) + 1) << (1 << kind) for kind in range(len(nouns))]
    possible = member[start]
    for form, left, right in statements:
        if form == "all":
            possible &= ~member[left] | member[right]
        else:
            possible &= ~(member[left] & member[right])
    expected = {
        noun
        for noun, column in zip(nouns, member, strict=True)
        if not possible & (full & ~column if question == "must" else column)
    }
    given = [part.strip() for part in answer.split(",")]
    return possible != 0 and len(given) == len(expected) and set(given) == expected


def _audit(params: Params, lines: Sequence[str]) -> bool:
    """Every line must be a statement of the question, or say rightly that there is none to go on with."""
    nouns, person, statements, start, _ = params
    every = {(nouns[left], nouns[right]) for form, left, right in statements if form == "all"}
    no = {(nouns[left], nouns[right]) for form, left, right in statements if form == "no"}
    no |= {(right, left) for left, right in no}
    first, *rest = lines
    for line in rest:
        words = line.replace(",", "").replace(":", "").split()
        match words:
            case ["Every", left, "is", "a", right]:
                true = (left, right) in every
            case ["Every", left, "is", "nothing", "more"]:
                true = left in nouns and all(left != below for below, _ in every)
            case ["No", left, "is", "a", right]:
                true = (left, right) in no
            case ["No", left, "is", "nothing"]:
                true = left in nouns and all(left != one for one, _ in no)
            case ["A", left, "is", "a", right, "so", "not", same]:
                true = (left, right) in every and same == left
            case _:
                true = False
        if not true:
            return False
    return first == f"{person} is a {nouns[start]}"


SYLLOGISMS = Family(
    name="syllogisms",
    title="Syllogisms",
    levels=("2-4 statements", "4-7 statements", "6-8 statements"),
    kind="set",
    phrasings=6,
    sample=_sample,
    canonical=_canonical,
    ask=_ask,
    solve=_solve,
    check=_check,
    audit=_audit,
)
