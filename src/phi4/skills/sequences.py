"""Number sequences: which two terms come next.

Every rule is read off the steps between neighbours, so every solution starts the same way: write the steps,
say what they do, take two more.
"""

import random
from itertools import pairwise

from phi4.skills.family import Family, Params, Solution

_ASKS = (
    "What are the next two numbers: {t}?",
    "Continue the sequence {t} with two more numbers.",
    "Find the next two terms of {t}.",
    "Which two numbers follow {t}?",
    "A sequence begins {t}. Give the next two terms.",
    "{t}, ?, ? - which numbers are missing?",
    "Write the two numbers that come after {t}.",
)
_RULES = ("constant", "constant", "alternating", "alternating", "growing", "growing", "multiplying")


def _sample(rng: random.Random, level: int) -> Params:
    """(rule, shown terms): steps are constant, alternate between two, grow evenly, or multiply."""
    rule = "constant" if level == 1 else rng.choice(_RULES)
    low, most, limit = {1: (2, 10, 60), 2: (2, 12, 150), 3: (5, 40, 900)}[level]
    while True:
        start = rng.randrange(1, {1: 20, 2: 80, 3: 300}[level])
        first = rng.randrange(low, most + 1) * (1 if rng.random() < 0.7 else -1)
        if rule == "constant":
            steps = [first] * 5
        elif rule == "alternating":
            second = rng.randrange(low, most + 1) * (1 if rng.random() < 0.5 else -1)
            if second == first:
                continue
            steps = [first, second] * 3
        elif rule == "growing":
            change = rng.randrange(1, 7)
            steps = [abs(first) + change * position for position in range(5)]
        else:
            ratio = rng.choice((2, 2, 2, 3))
            smallest = rng.randrange(1, 7)
            steps = [smallest * ratio**position for position in range(5)]
        terms = [start]
        for step in steps:
            terms.append(terms[-1] + step)
        if min(terms) >= 0 and max(terms) <= (400 if rule == "multiplying" and level == 2 else limit):
            return rule, tuple(terms[:-2])


def _solve(params: Params, rng: random.Random) -> Solution:
    rule, terms = params
    steps = [after - before for before, after in pairwise(terms)]
    shown = [f"{after}-{before}={after - before}" for before, after in pairwise(terms)]
    change, ratio = steps[1] - steps[0], steps[1] // steps[0]
    said = {
        "constant": f"steps all {steps[0]}",
        "alternating": f"steps repeat {steps[0]}, {steps[1]}",
        "growing": f"steps grow by {change}",
        "multiplying": f"steps times {ratio}",
    }
    lines, found = [", ".join(shown), said[rule]], [terms[-1]]
    for _ in range(2):
        working = ""
        if rule == "growing":
            working = f"{steps[-1]}+{change}={steps[-1] + change}, "
            steps.append(steps[-1] + change)
        elif rule == "multiplying":
            working = f"{steps[-1]}*{ratio}={steps[-1] * ratio}, "
            steps.append(steps[-1] * ratio)
        else:
            steps.append(steps[-2] if rule == "alternating" else steps[-1])
        before, step = found[-1], steps[-1]
        lines.append(f"{working}{before}{'+' if step >= 0 else '-'}{abs(step)}={before + step}")
        found.append(before + step)
    return Solution(tuple(lines), f"{found[1]}, {found[2]}")


def _check(params: Params, answer: str) -> bool:
    """The longer sequence must obey the rule's defining identity at every place, without naming any step."""
    rule, shown = params
    parts = answer.split(",")
    if len(parts) != 2 or not all(part.strip().lstrip("-").isdecimal() for part in parts):
        return False
    t = (*shown, *map(int, parts))
    last = len(t) - 1
    if rule == "constant":  # each term is the mean of its neighbours
        return all(2 * t[i] == t[i - 1] + t[i + 1] for i in range(1, last))
    if rule == "alternating":  # every other term moves by the same amount
        return all(t[i + 2] - t[i] == t[2] - t[0] for i in range(last - 1))
    if rule == "growing":  # third differences vanish
        return all(t[i + 3] - 3 * t[i + 2] + 3 * t[i + 1] - t[i] == 0 for i in range(last - 2))
    # multiplying: neighbouring steps are in one proportion
    first, second = t[1] - t[0], t[2] - t[1]
    return all((t[i + 2] - t[i + 1]) * first == (t[i + 1] - t[i]) * second for i in range(last - 1))


SEQUENCES = Family(
    name="sequences",
    title="Sequences",
    levels=("constant steps", "constant, alternating, growing and multiplying steps", "larger numbers"),
    kind="list",
    phrasings=len(_ASKS),
    sample=_sample,
    canonical=lambda params: params[1],
    ask=lambda params, phrasing, rng: _ASKS[phrasing].format(t=", ".join(map(str, params[1]))),
    solve=_solve,
    check=_check,
)
