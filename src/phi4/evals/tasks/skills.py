"""The set `skills-v1`: one task per family, held-out problems of one frozen level, open-ended answers."""

import re
from collections.abc import Callable, Iterable
from itertools import islice

from phi4.errors import DataError
from phi4.evals.task import Item, Score, Scorer, Task
from phi4.grading.answers import MARKER, equal, final_answer
from phi4.skills.family import LEVELS, STANDARD, Family, Problem
from phi4.skills.split import HELD_OUT_PERCENT, distinct_problems
from phi4.text.generation import Finish

SET_NAME = "skills-v1"
_ANSWER_LINE = re.compile(rf"^{re.escape(MARKER)}[^\n]*\S[^\n]*\n", re.MULTILINE)

DocumentForm = Callable[[Problem], str]  # a problem as the training text prints it


def skill_task(
    family: Family,
    n: int,
    document: DocumentForm,
    *,
    level: int = STANDARD,
    shots: int = 1,
    skip: int = 0,
    percent: int = HELD_OUT_PERCENT,
) -> Task:
    """`n` distinct held-out problems of a family after the first `skip` (fewer if the level has fewer).

    `document` prints a problem in the exact form of the training text; it opens the question for a base
    model and prints the shots, which come from the training side.
    """
    held = list(islice(distinct_problems(family, held=True, level=level, percent=percent), skip, skip + n))
    if not held:
        raise DataError(
            f"family {family.name} has no more than {skip} held-out problems at level {LEVELS[level - 1]}",
            "skip fewer or leave the family out",
        )
    known = islice(distinct_problems(family, held=False, level=level, percent=percent), shots)
    return Task(
        name=SET_NAME,
        family=family.name,
        level=LEVELS[level - 1],
        items=tuple(_item(problem, document) for problem in held),
        scorer=skill_scorer(family),
        answer_end=answer_line_end,
        shots=tuple(document(problem) for problem in known),
    )


def skill_tasks(
    families: Iterable[Family],
    n: int,
    document: DocumentForm,
    *,
    level: int = STANDARD,
    shots: int = 1,
    skip: int = 0,
    percent: int = HELD_OUT_PERCENT,
) -> list[Task]:
    """One task per family, see `skill_task`."""
    return [
        skill_task(f, n, document, level=level, shots=shots, skip=skip, percent=percent) for f in families
    ]


def skill_scorer(family: Family) -> Scorer:
    """Judge by the family's kind of answer; no answer line or no natural end is a format failure."""

    def score(reference: str, response: str, finish: Finish) -> Score:
        parsed = final_answer(response)
        format_ok = parsed is not None and finish == "stop"
        correct = parsed is not None and format_ok and equal(reference, parsed, family.kind)
        return Score(parsed=parsed, correct=correct, format_ok=format_ok)

    return score


def answer_line_end(text: str) -> int | None:
    """Where the first complete answer line ends; a base model may run on into a next problem."""
    found = _ANSWER_LINE.search(text)
    return found.end() if found else None


def question_stub(problem: Problem, document: DocumentForm) -> str:
    """The training document of a problem up to its solution.

    Raises ValueError if the form does not contain the worked solution as it stands.
    """
    text = document(problem)
    start = text.rfind(problem.solution)
    if start < 0:
        raise ValueError(f"the document form of {problem.template_id} does not contain the solution")
    return text[:start]


def _item(problem: Problem, document: DocumentForm) -> Item:
    return Item(
        task=SET_NAME,
        family=problem.family,
        index=problem.index,
        problem_key=problem.problem_key,
        question=problem.question,
        stub=question_stub(problem, document),
        reference=problem.answer,
        solution=problem.solution,
    )
