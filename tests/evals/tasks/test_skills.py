"""The frozen set: held-out, distinct, in index order, the same for everyone."""

import pytest

from phi4.errors import DataError
from phi4.evals.tasks.skills import answer_line_end, question_stub, skill_scorer, skill_task
from phi4.skills.family import Problem
from phi4.skills.split import held_out
from tests.evals.fakes import SUMS, document


def test_items_are_distinct_held_out_problems_in_index_order() -> None:
    task = skill_task(SUMS, 60, document, percent=20)
    keys = [item.problem_key for item in task.items]
    assert len(set(keys)) == len(keys) == 60
    assert all(held_out(key, 20) for key in keys)
    indices = [item.index for item in task.items]
    assert indices == sorted(indices)
    # by brute force: nothing was skipped
    wanted: dict[str, int] = {}
    for index in range(indices[-1] + 1):
        key = SUMS.problem(index).problem_key
        if held_out(key, 20):
            wanted.setdefault(key, index)
    assert list(wanted.items()) == list(zip(keys, indices, strict=True))


def test_a_larger_set_extends_a_smaller_one() -> None:
    assert skill_task(SUMS, 50, document).items[:20] == skill_task(SUMS, 20, document).items


def test_a_set_that_skips_shares_no_problem_with_the_one_it_skips() -> None:
    first, second = skill_task(SUMS, 30, document), skill_task(SUMS, 30, document, skip=30)
    assert first.items + second.items == skill_task(SUMS, 60, document).items
    with pytest.raises(DataError, match="no more than 1000000"):
        skill_task(SUMS, 1, document, skip=1_000_000)


def test_shots_are_never_held_out() -> None:
    task = skill_task(SUMS, 5, document, shots=3)
    documents = {document(p): p for p in (SUMS.problem(i) for i in range(50))}
    assert len(task.shots) == 3
    assert not any(held_out(documents[shot].problem_key) for shot in task.shots)


def test_stub_opens_the_document_and_stops_before_the_solution() -> None:
    problem = SUMS.problem(3)
    assert question_stub(problem, document) + problem.solution == document(problem)
    with pytest.raises(ValueError, match="does not contain the solution"):
        question_stub(problem, lambda p: p.question)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("Answer: 4\nmore", 10),
        ("2+2=4\nAnswer: 4\nAnswer: 5\n", 16),
        ("Answer: 4", None),
        ("Answer: \nx", None),
        ("the Answer: 4\n", None),
    ],
)
def test_answer_line_end(text: str, end: int | None) -> None:
    assert answer_line_end(text) == end


def test_scorer_wants_an_answer_line_and_an_end() -> None:
    score = skill_scorer(SUMS)
    assert score("12", "so\nAnswer: 12", "stop").correct
    assert score("12", "so\nAnswer: 12.0", "stop").correct
    assert not score("12", "so\nAnswer: 13", "stop").correct
    late = score("12", "so\nAnswer: 12", "length")
    assert (late.parsed, late.correct, late.format_ok) == ("12", False, False)
    assert not score("12", "so 12", "stop").format_ok


def test_problem_fields_reach_the_item() -> None:
    item = skill_task(SUMS, 1, document).items[0]
    problem: Problem = SUMS.problem(item.index)
    assert (item.question, item.reference, item.solution) == (
        problem.question,
        problem.answer,
        problem.solution,
    )
