"""Code tracing: the question's own text is run by Python, and every state of the working is compared."""

import contextlib
import io
import re

import pytest

from phi4.skills.code_tracing import CODE_TRACING, source
from tests.skills.family_checks import check_family


def test_the_family():
    check_family(
        CODE_TRACING,
        swap=lambda p: (tuple({"x": "y", "y": "x"}.get(name, name) for name in p[0]), *p[1:]),
        mean_tokens=200,
        max_tokens=256,
    )


@pytest.mark.parametrize("level", [1, 2, 3])
def test_the_printed_number_is_the_answer(level):
    for index in range(120):
        problem = CODE_TRACING.problem(index, level, phrasing=0)
        code = re.sub(r"^\d+: ", "", problem.question.partition("\n")[2], flags=re.MULTILINE)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "program", "exec"), {})
        assert printed.getvalue().strip() == problem.answer, problem


def test_the_working_follows_the_run():
    """The states written in the working are the states a line-by-line run of Python goes through."""
    for index in range(150):
        problem = CODE_TRACING.problem(index, 1 + index % 3)
        scope: dict[str, int] = {}
        wanted, *lines, end = problem.steps
        listing = source(problem.params).split("\n")
        for line in lines:
            number, statement = re.fullmatch(r"(\d+): (?:i=\d: )?(.*)", line).groups()
            if assigned := re.fullmatch(r"(\w+)=(\d+)", statement):
                scope[assigned[1]] = int(assigned[2])
                assert listing[int(number) - 1] == statement.replace("=", " = "), problem
                continue
            assert statement.startswith(listing[int(number) - 1].strip()), problem
            if statement.startswith("if "):
                condition = statement[3:].partition(":")[0]
                assert ("yes" in statement) is eval(condition, {}, scope), problem
                continue
            text, working = statement.split(": ")
            *known, sum_text, state = working.split(", ")
            for name, value in (item.split("=") for item in known):
                assert scope[name] == int(value), problem
            exec(text, {}, scope)
            name, value = state.split("=")
            assert scope[name] == int(value) == eval(sum_text), problem
            assert 0 <= int(value) <= 99
        assert end == f"{wanted}={problem.answer}"
        assert wanted == f"Find {problem.params[0][problem.params[2]]}"


def test_up_to_the_standard_level_every_name_is_assigned_once():
    for index in range(200):
        program = CODE_TRACING.problem(index, 1 + index % 2).params[1]
        targets = [statement[4][1] if statement[0] == "if" else statement[1] for statement in program]
        assert targets == list(range(len(program)))


def test_standard_programs_have_four_to_six_statements_and_often_branch():
    sizes, branches = [], 0
    for index in range(300):
        program = CODE_TRACING.problem(index).params[1]
        sizes.append(len(program))
        branches += any(statement[0] == "if" for statement in program)
    assert set(sizes) == {5, 6}
    assert 0.4 < branches / 300 < 0.8


def test_hard_programs_loop():
    assert all("for i in range(" in source(CODE_TRACING.problem(i, 3).params) for i in range(50))


def test_params_cannot_smuggle_code_into_the_check():
    hostile = (("x", "__import__('os')"), (("set", 0, 1), ("set", 1, 2)), 0)
    assert not CODE_TRACING.check(hostile, "1")
