"""A teacher that makes mistakes at stated rates: what verification is measured against.

Real synthetic data comes from a model that slips. Here the slips are planted, so it is known of every
problem whether it is right, and what a verifier lets through can be counted.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from phi4.grading.answers import MARKER
from phi4.skills.family import Problem

_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class Noise:
    """Share of problems with each fault. A problem has at most one, so the shares add up to at most 1."""

    slipped_step: float = (
        0.0  # one number (or word, where none stands) is wrong, the rest goes on as if it were right
    )
    wrong_answer: float = 0.0  # the working is right, the answer is not the one it reaches
    answer_first: float = 0.0  # the answer is stated before the working, as people often write
    truncated: float = 0.0  # the text breaks off in the middle of the working
    duplicated: float = 0.0  # the same page comes a second time

    def __post_init__(self) -> None:
        if min(self.rates()) < 0 or sum(self.rates()) > 1:
            raise ValueError("noise rates must not be negative and must not add up to more than 1")

    def rates(self) -> tuple[float, ...]:
        """The rates in the order of the fields."""
        return tuple(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True)
class TaughtProblem:
    """What the teacher wrote, and the fault that was planted in it (empty: none)."""

    text: str  # the solution as the teacher wrote it, in place of `problem.solution`
    problem: Problem
    fault: str


def teach(problems: Iterator[Problem], noise: Noise, seed: int) -> Iterator[TaughtProblem]:
    """Every problem once, some with a fault, some twice. The faults depend on seed and problem alone."""
    names = [f.name for f in fields(noise)]
    for problem in problems:
        rng = random.Random(f"teacher/{seed}/{problem.family}/{problem.level}/{problem.index}")
        fault = rng.choices([*names, ""], [*noise.rates(), max(0.0, 1 - sum(noise.rates()))])[0]
        text = _write(problem, fault, rng)
        yield TaughtProblem(text, problem, fault)
        if fault == "duplicated":
            yield TaughtProblem(text, problem, fault)


def _write(problem: Problem, fault: str, rng: random.Random) -> str:
    answer_line = f"{MARKER} {problem.answer}"
    if fault == "slipped_step":
        steps = "\n".join(problem.steps)
        return f"{_change_number(steps, rng)}\n{answer_line}"
    if fault == "wrong_answer":
        changed = _change_number(problem.answer, rng)
        if changed == problem.answer:  # an answer in words
            changed = " ".join(reversed(problem.answer.split())) + " not"
        return "\n".join((*problem.steps, f"{MARKER} {changed}"))
    if fault == "answer_first":
        return "\n".join((answer_line, *problem.steps))
    if fault == "truncated":
        whole = problem.solution
        return whole[
            : rng.randrange(len(whole) // 4, max(len(whole) // 4 + 1, len(whole) - len(answer_line)))
        ]
    return problem.solution


def _change_number(text: str, rng: random.Random) -> str:
    """One digit of one number becomes another digit; a text without numbers has one word changed."""
    found = list(_NUMBER.finditer(text))
    if not found:
        return _change_word(text, rng)
    match = rng.choice(found)
    at = rng.randrange(match.start(), match.end())
    digit = rng.choice([d for d in "0123456789" if d != text[at]])
    return text[:at] + digit + text[at + 1 :]


def _change_word(text: str, rng: random.Random) -> str:
    """One word becomes another word of the text; a text of one word stays as it is."""
    found = list(_WORD.finditer(text))
    match = rng.choice(found)
    others = sorted({word[0] for word in found} - {match[0]})
    return text[: match.start()] + rng.choice(others) + text[match.end() :] if others else text


def as_written(taught: TaughtProblem) -> Problem:
    """The problem with the teacher's text as its solution, so that pages print what the teacher wrote.

    The text is split where the teacher put the answer line; a text without one keeps only its steps.
    """
    steps, marker, answer = taught.text.rpartition(f"\n{MARKER} ")
    if not marker or "\n" in answer:
        return replace(taught.problem, steps=tuple(taught.text.split("\n")), answer="")
    return replace(taught.problem, steps=tuple(steps.split("\n")), answer=answer)
