"""Which problems may be trained on: decided by the hash of the problem's key, before it is put into words.

Every other wording, ordering or level of a held-out problem shares its key, so it is held out too.
Nothing has to be stored: anyone who can compute a key knows the side it is on.
"""

import hashlib
from collections.abc import Iterator

from phi4.errors import DataError
from phi4.skills.family import STANDARD, Family, Problem

HELD_OUT_PERCENT = 10
_PERSON = b"phi4-split"  # separates this hash from every other use of the same key


def held_out(problem_key: str, percent: int = HELD_OUT_PERCENT) -> bool:
    """Is this problem reserved for evaluation? `percent` (0..100) of all keys are; the answer never changes.

    Raising `percent` only adds problems to the held-out side.
    """
    digest = hashlib.blake2b(problem_key.encode(), digest_size=8, person=_PERSON).digest()
    return int.from_bytes(digest, "big") % 100 < percent


def distinct_problems(
    family: Family,
    *,
    held: bool,
    level: int = STANDARD,
    percent: int = HELD_OUT_PERCENT,
    patience: int = 20_000,
) -> Iterator[Problem]:
    """Problems of one side of the split in the order of their index, each key once.

    Ends when `patience` indices in a row brought no new problem: the level is exhausted.
    Raises DataError when a side has no problem at all.
    """
    seen: set[str] = set()
    index = last = 0
    while index - last <= patience:
        problem = family.problem(index, level)
        if held_out(problem.problem_key, percent) == held and problem.problem_key not in seen:
            seen.add(problem.problem_key)
            last = index
            yield problem
        index += 1
    if not seen:
        side = "held-out" if held else "training"
        raise DataError(
            f"family {family.name} has no {side} problem at level {level} (held out: {percent} %)",
            "give the family more distinct problems or change the held-out share",
        )
