"""Key-value recall at a given length: one pair among as many as the context holds.

It measures what midtraining is for and nothing else: whether a token hundreds of positions back can
still be found. The question is worded as the family `lookup` words it, so no new wording is measured.
"""

import hashlib
import random
from collections.abc import Sequence
from typing import Any

from phi4.errors import DataError
from phi4.evals.runner import EvalResult
from phi4.evals.task import Item, Task
from phi4.evals.tasks.skills import DocumentForm, answer_line_end, question_stub, skill_scorer
from phi4.skills.family import Problem
from phi4.skills.lookup import KEYS, LOOKUP, recall_document, recall_question, recall_solution
from phi4.text.tokenizer import Tokenizer

SET_NAME = "recall-v1"
_SPARE = 24  # tokens kept for the chat frame and for a solution in the model's own words


def recall_task(length: int, n: int, tokenizer: Tokenizer, document: DocumentForm) -> Task:
    """`n` questions whose document, question and solution together just fit `length` tokens.

    `document` prints a problem as the training text does. Raises DataError for a length that cannot hold
    one pair.
    """
    return Task(
        name=SET_NAME,
        family=f"recall-{length}",
        level=str(length),
        items=tuple(_item(length, index, tokenizer, document) for index in range(n)),
        scorer=skill_scorer(LOOKUP),
        answer_end=answer_line_end,
    )


def recall_rows(result: EvalResult, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Rows of evals/recall.json: one per length."""
    rows = []
    for task in tasks:
        tally = result.families[task.family].tally
        rows.append(
            {
                "stage": result.stage,
                "length": int(task.level),
                "n": tally.n,
                "correct": tally.correct,
                "low": tally.low,
                "high": tally.high,
            }
        )
    return rows


def _item(length: int, index: int, tokenizer: Tokenizer, document: DocumentForm) -> Item:
    """The most pairs that fit; tokens grow with pairs, so halving finds them."""
    least, most = 0, len(KEYS)
    while least < most:
        pairs = (least + most + 1) // 2
        if len(tokenizer.encode(document(_problem(length, index, pairs)))) + _SPARE <= length:
            least = pairs
        else:
            most = pairs - 1
    if least == 0:
        raise DataError(f"a length of {length} tokens cannot hold one key-value pair and its question")
    problem = _problem(length, index, least)
    return Item(
        task=SET_NAME,
        family=f"recall-{length}",
        index=index,
        problem_key=problem.problem_key,
        question=problem.question,
        stub=question_stub(problem, document),
        reference=problem.answer,
        solution=problem.solution,
    )


def _problem(length: int, index: int, pairs: int) -> Problem:
    text, key, value = recall_document(random.Random(f"{SET_NAME}/{length}/{index}"), pairs)
    question = f"{text} {recall_question(key)}"
    *steps, _ = recall_solution(key, value).split("\n")
    return Problem(
        family=LOOKUP.name,
        level=len(LOOKUP.levels),
        index=index,
        params=(key, value),
        problem_key=hashlib.blake2b(question.encode(), digest_size=8).hexdigest(),
        template_id=f"{LOOKUP.name}/0",
        question=question,
        steps=tuple(steps),
        answer=str(value),
    )
