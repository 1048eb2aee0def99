"""Written arithmetic: every equation on the page is true, and the lines alone give the result."""

import re

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from phi4.skills.columns import add_lines, difference_lines, div_lines, mul_lines, sub_lines, sum_lines

NUMBERS = st.integers(0, 99_999)
DIGITS = st.integers(1, 9)
_EQUATION = re.compile(r"\d[\d+*-]*(?:=-?[\d+*-]+)+")


def assert_true_equations(lines: list[str]) -> None:
    """Each `left=right` (or chain of them) on the page holds, evaluated by sympy."""
    found = 0
    for line in lines:
        if line.startswith("so ") and "/" in line:
            continue  # quotients state whole parts; their tests check them against divmod
        for chain in _EQUATION.findall(line):
            sides = [re.sub(r"\b0+(?=\d)", "", side) for side in chain.split("=")]
            values = {int(sympy.sympify(side)) for side in sides}
            assert len(values) == 1, f"{chain} in {line!r}"
            found += 1
    assert found


def test_addition_looks_as_a_person_writes_it() -> None:
    assert add_lines(347, 86) == [
        "347+086",
        "ones 7+6=13 carry 1 write 3",
        "tens 4+8+1=13 carry 1 write 33",
        "hundreds 3+0+1=4 write 433",
        "so 347+86=433",
    ]


def test_subtraction_borrows_across_zeros() -> None:
    assert sub_lines(1003, 347) == [
        "1003-0347",
        "ones 3-7=-4 borrow 1 write 6",
        "tens 0-4-1=-5 borrow 1 write 56",
        "hundreds 0-3-1=-4 borrow 1 write 656",
        "thousands 1-0-1=0 write 0656",
        "so 1003-347=656",
    ]


def test_multiplication_and_division_forms() -> None:
    assert mul_lines(47, 6) == [
        "47*6",
        "ones 7*6=42 carry 4 write 2",
        "tens 4*6+4=24+4=28 write 282",
        "so 47*6=282",
    ]
    assert div_lines(94, 7) == [
        "94/7",
        "tens 9: 1*7=7 9-7=2 write 1",
        "ones 24: 3*7=21 24-21=3 write 13",
        "so 94/7=13 remainder 3",
    ]
    assert div_lines(91, 7)[-1] == "so 91/7=13"


@given(NUMBERS, NUMBERS)
def test_sums_and_differences(a: int, b: int) -> None:
    assert add_lines(a, b)[-1] == f"so {a}+{b}={a + b}"
    large, small = max(a, b), min(a, b)
    assert sub_lines(large, small)[-1] == f"so {large}-{small}={large - small}"
    assert sum_lines(a, b)[-1].endswith(f"{a}+{b}={a + b}")
    assert difference_lines(large, small)[-1].endswith(f"{large}-{small}={large - small}")


@given(NUMBERS, DIGITS)
def test_products_and_quotients(a: int, digit: int) -> None:
    assert mul_lines(a, digit)[-1] == f"so {a}*{digit}={a * digit}"
    quotient, remainder = divmod(a, digit)
    expected = f"so {a}/{digit}={quotient}" + (f" remainder {remainder}" if remainder else "")
    assert div_lines(a, digit)[-1] == expected


@pytest.mark.parametrize(("a", "b"), [(347, 586), (9999, 1), (1000, 999), (5, 8), (0, 0), (70_204, 9_808)])
def test_every_equation_on_the_page_is_true(a: int, b: int) -> None:
    assert_true_equations(add_lines(a, b))
    assert_true_equations(sub_lines(max(a, b), min(a, b)))
    assert_true_equations(mul_lines(a, 7))
    assert_true_equations(div_lines(a, 7))


def test_small_sums_take_one_line() -> None:
    assert sum_lines(47, 38) == ["47+38=85"]
    assert difference_lines(85, 38) == ["85-38=47"]
    assert len(sum_lines(100, 3)) == len(add_lines(100, 3)) > 1


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="0 <= b <= a"):
        sub_lines(3, 5)
    with pytest.raises(ValueError, match="one digit"):
        mul_lines(3, 10)
    with pytest.raises(ValueError, match="one digit"):
        div_lines(3, 0)
