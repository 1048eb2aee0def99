"""Ages: three people whose ages hang on one another, and a question about all of them.

Held out of training whole, to see what carries over: it puts together sums, groups and comparisons, which
other families train one by one, in the words those families use.
"""

import random

from phi4.skills.family import Family, Params, Solution
from phi4.skills.names import PEOPLE
from phi4.skills.small_sums import minus, plus
from phi4.skills.structures import fewer, groups, more

_OLDEST = {1: 20, 2: 60, 3: 90}  # level: no one is older than this


def _step(age: int, relation: str, value: int) -> int:
    return {"older": age + value, "younger": age - value, "times": age * value}[relation]


def _sample(rng: random.Random, level: int) -> Params:
    oldest = _OLDEST[level]
    while True:
        first = rng.randint(3, oldest // 2)
        ages, relations = [first], []
        for _ in range(2):
            relation = rng.choice(("older", "younger", "times"))
            value = rng.randint(2, 5 if relation == "times" else oldest // 3)
            relations.append((relation, value))
            ages.append(_step(ages[-1], relation, value))
        if all(2 <= age <= oldest for age in ages) and len(set(ages)) == 3 and sum(ages) <= 99:
            break
        # A chain that leaves the range is drawn again as a whole, so all kinds of chains stay equally likely.
    question = rng.choice(("gap", "sum", "later", "later"))
    later = rng.randint(2, 99 - ages[-1] if level == 3 else 20) if question == "later" else 0
    return tuple(rng.sample(PEOPLE, 3)), first, tuple(relations), question, later


def _canonical(params: Params) -> Params:
    _, first, relations, question, later = params
    return first, relations, question, later


def _relation(name: str, relation: tuple[str, int], other: str) -> str:
    kind, value = relation
    if kind == "times":
        return f"{name} is {value} times as old as {other}."
    return f"{name} is {value} years {kind} than {other}."


def _ask(params: Params, phrasing: int, rng: random.Random) -> str:
    (a, b, c), first, relations, question, later = params
    facts = [f"{a} is {first} years old.", _relation(b, relations[0], a), _relation(c, relations[1], b)]
    if phrasing % 3 == 1:
        facts = facts[1:] + facts[:1]
    elif phrasing % 3 == 2:
        facts.reverse()
    told = " ".join(facts)
    late = phrasing >= 3
    if question == "gap":
        ends = ("How much older is the oldest than the youngest?", "By how many years do the oldest and "
                "the youngest of them differ?")  # fmt: skip
    elif question == "sum":
        ends = ("How old are they together?", f"What is the sum of the ages of {a}, {b} and {c}?")
    else:
        ends = (f"How old will {c} be in {later} years?", f"What is the age of {c} {later} years from now?")
    return f"{told} {ends[late]}"


def _worked(age: int, relation: str, value: int) -> str:
    if relation == "older":
        return more(age, value)
    return fewer(age, value) if relation == "younger" else groups(value, age)


def _solve(params: Params, rng: random.Random) -> Solution:
    names, first, relations, question, later = params
    ages = [first]
    lines = [f"{names[0]}: {first}"]
    for name, (relation, value) in zip(names[1:], relations, strict=True):
        lines.append(f"{name}: {_worked(ages[-1], relation, value)}")
        ages.append(_step(ages[-1], relation, value))
    if question == "later":
        return Solution((*lines, more(ages[-1], later)), str(ages[-1] + later))
    if question == "sum":
        both = ages[0] + ages[1]
        lines += [f"both: {plus(ages[0], ages[1])}", more(both, ages[2])]
        return Solution(tuple(lines), str(sum(ages)))
    ranked = sorted(zip(ages, names, strict=True), reverse=True)
    lines.append("Order: " + " > ".join(f"{name} {age}" for age, name in ranked))
    lines.append(minus(ranked[0][0], ranked[-1][0]))
    return Solution(tuple(lines), str(ranked[0][0] - ranked[-1][0]))


def _fits(age: int, relation: str, value: int, known: int) -> bool:
    """Does an age agree with what is said about it and the known one?"""
    if relation == "times":
        return age % value == 0 and age // value == known
    return age - known == value if relation == "older" else known - age == value


def _check(params: Params, answer: str) -> bool:
    """By search: every age from 1 to 99 is tried against what is said about it."""
    _, first, relations, question, later = params
    ages = [first]
    for relation, value in relations:
        known = ages[-1]
        ages.append(next(age for age in range(1, 100) if _fits(age, relation, value, known)))
    expected = {"gap": max(ages) - min(ages), "sum": sum(ages), "later": ages[-1] + later}[question]
    return answer.strip() == str(expected)


AGES = Family(
    name="ages",
    title="Ages of three people",
    levels=("ages up to 20", "ages up to 60", "ages up to 90"),
    kind="integer",
    phrasings=6,
    sample=_sample,
    canonical=_canonical,
    ask=_ask,
    solve=_solve,
    check=_check,
)
