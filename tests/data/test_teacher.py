"""The noisy teacher makes the mistakes it says it makes, and the verifier catches what can be caught."""

from collections import Counter

import pytest

from phi4.data.synthetic.problems import Draw, training_problems, write_pages
from phi4.data.synthetic.teacher import Noise, teach
from phi4.data.synthetic.verify import verify
from phi4.skills.catalog import FAMILIES, family
from phi4.skills.family import Family
from phi4.skills.split import held_out

LEVELS = (0.3, 0.5, 0.2)
# The share of slipped steps that verification must catch, at least. Below 1: a unit that changes its size, a date
# that is copied wrong, a first number that is wrong from the start say nothing false by themselves.
CAUGHT = {
    "addition": 1.0, "subtraction": 1.0, "multiplication": 1.0, "division": 1.0, "equations": 1.0, "sets": 1.0,
    "ordering": 1.0, "code_tracing": 1.0, "lookup": 1.0, "syllogisms": 0.97, "two_step": 0.9, "three_step": 0.9,
    "percentages": 0.85, "propositions": 0.8, "clock": 0.6, "dates": 0.5, "units": 0.5, "number_theory": 0.5,
    "sequences": 0.4, "fractions": 0.15,
}  # fmt: skip
NOISE = Noise(slipped_step=0.15, wrong_answer=0.10, answer_first=0.15, truncated=0.10, duplicated=0.15)


@pytest.mark.parametrize("skill", FAMILIES, ids=lambda f: f.name)
def test_nothing_right_is_refused(skill: Family) -> None:
    for problem in training_problems(Draw(skill.name, 0, 300, LEVELS, 10)):
        assert verify(skill, problem, problem.solution) == "", problem.solution


@pytest.mark.parametrize("skill", FAMILIES, ids=lambda f: f.name)
def test_what_can_be_caught_is_caught(skill: Family) -> None:
    problems = training_problems(Draw(skill.name, 0, 400, LEVELS, 10))
    for taught in teach(problems, NOISE, seed=1):
        reason = verify(skill, taught.problem, taught.text)
        if taught.fault in ("wrong_answer", "answer_first", "truncated"):
            assert reason, (taught.fault, taught.text)
        if taught.fault in ("", "duplicated"):
            assert not reason, taught.text


@pytest.mark.parametrize(("name", "least"), CAUGHT.items())
def test_slipped_steps_are_caught(name: str, least: float) -> None:
    problems = training_problems(Draw(name, 0, 300, LEVELS, 10))
    slips = list(teach(problems, Noise(slipped_step=1.0), seed=2))
    caught = sum(bool(verify(family(name), t.problem, t.text)) for t in slips)
    assert all(t.text != t.problem.solution for t in slips)
    assert caught / len(slips) >= least


def test_faults_come_at_the_stated_rates() -> None:
    problems = list(training_problems(Draw("clock", 0, 5000, LEVELS, 10)))
    counts = Counter(t.fault for t in teach(iter(problems), NOISE, seed=3))
    assert counts["duplicated"] % 2 == 0  # every duplicate stands twice
    n = len(problems)
    for fault, rate in (
        ("slipped_step", 0.15),
        ("wrong_answer", 0.10),
        ("answer_first", 0.15),
        ("truncated", 0.1),
    ):
        assert abs(counts[fault] - n * rate) < 4 * (n * rate * (1 - rate)) ** 0.5
    assert abs(counts["duplicated"] / 2 - n * 0.15) < 4 * (n * 0.15 * 0.85) ** 0.5


def test_rates_must_be_shares() -> None:
    with pytest.raises(ValueError, match="add up"):
        Noise(slipped_step=0.7, truncated=0.4)


def test_no_page_shows_a_held_out_problem_and_the_mask_starts_at_the_solution() -> None:
    for skill in FAMILIES:
        for page in write_pages(Draw(skill.name, 0, 60, LEVELS, 10)):
            assert not held_out(page.problem_key)
            assert page.text[page.start :].startswith(page.solution)


def test_answers_only_and_one_template() -> None:
    pages = write_pages(Draw("two_step", 0, 40, LEVELS, 10, one_template=True, answers_only=True))
    assert {page.template_id for page in pages} == {"two_step/0"}
    assert all(page.solution.startswith("Answer: ") and "\n" not in page.solution for page in pages)
