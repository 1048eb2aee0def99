"""Problems as pages: how a problem and its worked solution are printed for a reader.

Form 0 is the one that few-shot evaluation uses. All forms contain the solution as it stands, so that a
question's opening can be cut off anywhere before it.
"""

from phi4.skills.family import Problem

_FORMS = (
    "Problem: {question}\nSolution:\n{solution}",
    "Q: {question}\nA: {solution}",
    "## Exercise\n\n{question}\n\n## Worked solution\n\n{solution}",
    "{question}\n\n{solution}",
)


def problem_document(problem: Problem, form: int = 0) -> str:
    """The page of one problem; `form` counts round the available forms."""
    return _FORMS[form % len(_FORMS)].format(question=problem.question, solution=problem.solution)
