"""What every family of problems must satisfy, whoever wrote it: one call per family.

check_family(ADDITION, swap=lambda p: (p[1], p[0]))
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from phi4.grading.answers import final_answer
from phi4.skills.family import LEVELS, STANDARD, Family, Params, Problem

# As the real pre-tokenizer splits: words with the space before them, digits, symbols, spaces, line ends.
_TOKEN = re.compile(r" ?[A-Za-z]+|\d|\n| ?[^\w\s]| ")


def count_tokens(text: str) -> int:
    """A crude count of tokens: each word with its preceding space, each digit, each symbol, each line end."""
    return len(_TOKEN.findall(text))


def problem_tokens(problem: Problem) -> int:
    """Tokens of question and solution together."""
    return count_tokens(problem.question) + count_tokens("\n" + problem.solution)


@dataclass(frozen=True)
class FamilyFigures:
    """What was measured about a family at the standard level."""

    distinct_keys: int  # among the first 2,500 problems
    mean_tokens: float
    max_tokens: int
    top_answer: str
    top_share: float
    per_second: float


def perturbed(answer: str) -> str:
    """A wrong answer of the same form: the last digit changed, or the first letter, or T/F flipped."""
    for position in range(len(answer) - 1, -1, -1):
        if answer[position].isdigit():
            changed = str((int(answer[position]) + 1) % 10)
            return answer[:position] + changed + answer[position + 1 :]
    swapped = {"T": "F", "F": "T", "t": "f", "f": "t"}
    for position in range(len(answer) - 1, -1, -1):
        if answer[position] in swapped:
            return answer[:position] + swapped[answer[position]] + answer[position + 1 :]
    return "zq" + answer


def figures(family: Family, level: int = STANDARD, n: int = 2_500) -> FamilyFigures:
    """Keys, tokens, answer shares and speed over the first `n` problems of a level."""
    start = time.perf_counter()
    problems = [family.problem(index, level) for index in range(n)]
    seconds = time.perf_counter() - start
    lengths = [problem_tokens(problem) for problem in problems]
    answers = Counter(problem.answer for problem in problems[:2_000])
    top, count = answers.most_common(1)[0]
    return FamilyFigures(
        distinct_keys=len({problem.problem_key for problem in problems}),
        mean_tokens=sum(lengths) / n,
        max_tokens=max(lengths),
        top_answer=top,
        top_share=count / min(n, 2_000),
        per_second=n / seconds,
    )


def check_family(
    family: Family,
    *,
    swap: Callable[[Params], Params | None] | None = None,
    wrong: Callable[[Problem], str] | None = None,
    min_keys: int = 1_500,
    max_share: float = 0.10,
    max_tokens: int = 200,
    mean_tokens: float = 110.0,
    levels: Sequence[int] = (1, 2, 3),
) -> FamilyFigures:
    """Assert what holds for every family; returns the figures at the standard level and prints them.

    swap: another writing of the same problem's parameters (None where this one has none): same key expected.
    wrong: a wrong answer for a problem, where changing its last digit or letter is not surely wrong.
    """
    assert len(LEVELS) == len(family.levels) == 3
    assert family.phrasings >= 6, f"{family.name}: only {family.phrasings} phrasings"
    for level in levels:
        for index in range(150):
            _check_problem(family, family.problem(index, level), wrong or (lambda p: perturbed(p.answer)))
    _check_phrasings(family)
    if swap is not None:
        pairs = [(p.params, swap(p.params)) for p in (family.problem(i) for i in range(300))]
        swapped = [(before, after) for before, after in pairs if after is not None]
        assert any(before != after for before, after in swapped), f"{family.name}: swap is idle"
        for before, after in swapped:
            assert after is not None
            assert family.key(before) == family.key(after), f"{family.name}: {before}, {after}"
    measured = figures(family)
    print(f"\n{family.name}: {measured}")
    assert measured.max_tokens <= max_tokens, f"{family.name}: {measured.max_tokens} tokens"
    assert measured.mean_tokens <= mean_tokens, f"{family.name}: {measured.mean_tokens:.1f} tokens on average"
    assert measured.top_share <= max_share, f"{family.name}: {measured.top_answer!r} {measured.top_share:.1%}"
    assert measured.distinct_keys >= min_keys, f"{family.name}: {measured.distinct_keys} distinct keys"
    return measured


def _check_problem(family: Family, problem: Problem, wrong: Callable[[Problem], str]) -> None:
    where = f"{family.name} {problem.level}/{problem.index}: {problem.question}\n{problem.solution}"
    again = family.problem(problem.index, problem.level)
    assert again == problem, f"not deterministic: {where}"
    assert problem.question.strip() == problem.question, where
    assert problem.question, where
    assert problem.steps, where
    assert all(line.strip() == line and line and "\n" not in line for line in problem.steps), where
    assert "Answer:" not in problem.question + "".join(problem.steps), where
    assert family.check(problem.params, problem.answer), f"its own answer is refused: {where}"
    bad = wrong(problem)
    assert bad != problem.answer, where
    assert not family.check(problem.params, bad), f"wrong answer {bad!r} is accepted: {where}"
    assert not family.check(problem.params, "nothing"), f"'nothing' is accepted: {where}"
    assert final_answer(problem.solution) == problem.answer, where
    assert family.score(problem.answer, problem.solution), where
    assert not family.score(problem.answer, f"Answer: {bad}"), where
    assert not family.score(problem.answer, "\n".join(problem.steps)), f"no answer line, yet right: {where}"


def _check_phrasings(family: Family) -> None:
    """Every wording is used, worded differently, and never changes the problem or its key."""
    first = [family.problem(0, phrasing=wording) for wording in range(family.phrasings)]
    assert len({problem.question for problem in first}) == family.phrasings, f"{family.name}: same words"
    assert len({problem.problem_key for problem in first}) == 1
    assert [problem.template_id for problem in first] == [
        f"{family.name}/{w}" for w in range(family.phrasings)
    ]
    drawn = {family.problem(index).template_id for index in range(400)}
    assert len(drawn) == family.phrasings, f"{family.name}: some wordings are never drawn"
