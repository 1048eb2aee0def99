"""A skill is a family of problems: deterministic, index-addressable, worded, solved, checked, scored.

A problem is addressed by (family, level, index) and nothing else, so a data set never has to be stored
to be known. `problem_key` names the mathematical problem, not its wording: splits, duplicates and
contamination of procedural data are decided on it.
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from phi4.grading.answers import AnswerKind, equal, final_answer

LEVELS = ("easy", "standard", "hard")
STANDARD = 2  # the frozen level of every reported score

Params = tuple[Any, ...]  # JSON-able numbers, strings and nested tuples


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem in words, with its worked solution and the lineage of how it was asked."""

    family: str
    level: int  # 1..3, see LEVELS
    index: int
    params: Params
    problem_key: str
    template_id: str
    question: str
    steps: tuple[str, ...]  # worked solution, each line follows from what is on the page before it
    answer: str

    @property
    def solution(self) -> str:
        """The worked solution as a reader sees it, ending in the answer line that scorers read."""
        return "\n".join((*self.steps, f"Answer: {self.answer}"))


@dataclass(frozen=True, slots=True)
class Solution:
    """What `solve` returns: lines of working and the final answer."""

    steps: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Family:
    """A family of problems as five plain functions.

    sample(rng, level)          -> params of one problem
    canonical(params)           -> what makes two problems the same (order-free, name-free)
    ask(params, phrasing, rng)  -> the question in wording number `phrasing` (0 .. phrasings-1)
    solve(params, rng)          -> the worked solution and the answer
    check(params, answer)       -> is this answer right, by another route than `solve` took

    A family whose lines are more than plain equations and written columns may add a sixth:

    audit(params, lines)        -> is every line of the working true, judged from what it says
    """

    name: str
    title: str
    levels: tuple[str, str, str]  # one phrase per level, printed with scores
    kind: AnswerKind
    phrasings: int
    sample: Callable[[random.Random, int], Params]
    canonical: Callable[[Params], Params]
    ask: Callable[[Params, int, random.Random], str]
    solve: Callable[[Params, random.Random], Solution]
    check: Callable[[Params, str], bool]
    audit: Callable[[Params, Sequence[str]], bool] | None = None

    def problem(self, index: int, level: int = STANDARD, phrasing: int | None = None) -> Problem:
        """Problem number `index` of a level; the same arguments give the same problem, always.

        `phrasing` fixes the wording (for one-template ablations); otherwise it is drawn from the index.
        """
        rng = random.Random(f"{self.name}/{level}/{index}")
        params = self.sample(rng, level)
        drawn = rng.randrange(self.phrasings)
        wording = drawn if phrasing is None else phrasing
        question = self.ask(params, wording, rng)
        solution = self.solve(params, rng)
        return Problem(
            family=self.name,
            level=level,
            index=index,
            params=params,
            problem_key=self.key(params),
            template_id=f"{self.name}/{wording}",
            question=question,
            steps=solution.steps,
            answer=solution.answer,
        )

    def __getitem__(self, index: int) -> Problem:
        """Problem number `index` at the standard level."""
        return self.problem(index)

    def key(self, params: Params) -> str:
        """Stable name of the mathematical problem: hash of the family and the canonical parameters."""
        text = json.dumps([self.name, self.canonical(params)], separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def score(self, answer: str, response: str) -> bool:
        """Does the response's final answer equal `answer`? A response without an answer line is wrong."""
        given = final_answer(response)
        return given is not None and equal(answer, given, self.kind)
