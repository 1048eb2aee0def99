"""Problems put into words by a teacher: which are drawn, how each is written down, and whether it is right.

Only keys on the training side are ever put into words, so a held-out problem cannot reach a page in any
wording, and nothing has to be filtered out later.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from phi4.data.synthetic.teacher import Noise, as_written, teach
from phi4.data.synthetic.textbook import problem_document
from phi4.data.synthetic.verify import verify
from phi4.run.parallel import map_chunks
from phi4.skills.catalog import family
from phi4.skills.family import Problem
from phi4.skills.split import held_out


@dataclass(frozen=True)
class Draw:
    """Which problems of one family are written, by whom, and in what form."""

    family: str
    start: int
    stop: int
    levels: tuple[float, float, float]  # shares of easy, standard, hard
    held_out_percent: int
    noise: Noise = Noise()
    one_template: bool = False
    answers_only: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """One problem as written. `reason` says why verification would refuse it; `fault` what was planted."""

    locator: str  # level/index, and /1 for a second copy
    problem_key: str
    template_id: str
    level: int
    question: str
    solution: str
    text: str  # the page, question and solution together
    start: int  # first character of the solution in `text`
    fault: str
    reason: str


def draw_problems(draws: Sequence[Draw], workers: int) -> Iterator[tuple[Draw, list[Page]]]:
    """Write the pages of every draw, in order; the result does not depend on `workers`."""
    yield from zip(draws, map_chunks(write_pages, draws, workers), strict=True)


def write_pages(draw: Draw) -> list[Page]:
    """The pages of one draw."""
    skill = family(draw.family)
    pages = []
    last = ""
    for taught in teach(training_problems(draw), draw.noise, draw.seed):
        reason = verify(skill, taught.problem, taught.text)
        problem = as_written(taught)
        solution = f"Answer: {problem.answer}" if draw.answers_only else taught.text
        page = problem_document(problem, form=problem.index).replace(problem.solution, solution)
        locator = f"{problem.level}/{problem.index}"
        copy = "/1" if locator == last else ""
        last = locator
        pages.append(
            Page(
                locator + copy,
                problem.problem_key,
                problem.template_id,
                problem.level,
                problem.question,
                solution,
                page,
                max(0, page.rfind(solution)),
                taught.fault,
                reason,
            )
        )
    return pages


def training_problems(draw: Draw) -> Iterator[Problem]:
    """The problems of a draw whose keys are on the training side, levels mixed by their shares."""
    skill = family(draw.family)
    for index in range(draw.start, draw.stop):
        rng = random.Random(f"level/{draw.family}/{index}")
        level = rng.choices((1, 2, 3), draw.levels)[0]
        problem = skill.problem(index, level, phrasing=0 if draw.one_template else None)
        if not held_out(problem.problem_key, draw.held_out_percent):
            yield problem
