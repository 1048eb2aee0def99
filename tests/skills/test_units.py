"""Conversions against sympy's physical units and plain counting."""

import pytest
from sympy.physics import units as physical

from phi4.skills.family import Params, Problem
from phi4.skills.units import UNITS
from tests.skills.family_checks import check_family

PHYSICAL = {
    "m": physical.meter,
    "cm": physical.centimeter,
    "km": physical.kilometer,
    "kg": physical.kilogram,
    "g": physical.gram,
    "l": physical.liter,
    "ml": physical.milliliter,
    "h": physical.hour,
    "min": physical.minute,
    "s": physical.second,
    "days": physical.day,
    "weeks": 7 * physical.day,
    "feet": physical.foot,
    "inches": physical.inch,
}


def _swapped(params: Params) -> Params | None:
    kind, large, small, *numbers = params
    return (kind, large, small, *numbers[2:], *numbers[:2]) if kind == "sum" else None


def _wrong(problem: Problem) -> str:
    first, rest = problem.answer.split(" ", 1)
    return f"{int(first) + 1} {rest}"


def test_family() -> None:
    check_family(UNITS, swap=_swapped, wrong=_wrong)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_sympy_units_agree(level: int) -> None:
    compared = 0
    for index in range(100):
        problem = UNITS.problem(index, level)
        _, large, small, *numbers = problem.params
        if not {large, small} <= set(PHYSICAL):
            continue
        words = problem.answer.split()
        given = sum(int(n) * PHYSICAL[unit] for n, unit in zip(words[::2], words[1::2], strict=True))
        meant = sum(n * PHYSICAL[(large, small)[i % 2]] for i, n in enumerate(numbers))
        assert physical.convert_to(given - meant, [physical.meter, physical.gram, physical.second]) == 0
        compared += 1
    assert compared > 40


@pytest.mark.parametrize("answer", ["3 h 145 min", "325 min", "5 h 25 s", "5 h", "5 h 25", "25 min 5 h 1 s"])
def test_answers_in_other_units_or_not_carried_are_refused(answer: str) -> None:
    params = ("sum", "h", "min", 3, 40, 1, 45)
    assert UNITS.check(params, "5 h 25 min")
    assert not UNITS.check(params, answer)


def test_directions_are_different_problems() -> None:
    assert UNITS.key(("down", "h", "min", 3, 40)) != UNITS.key(("up", "h", "min", 3, 40))
