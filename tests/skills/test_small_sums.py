"""One-line sums: every equals sign in a line is true, and every step is small."""

import itertools

import pytest

from phi4.skills.small_sums import minus, plus, shared, times


def _sides(line: str) -> list[str]:
    return line.split("=")


@pytest.mark.parametrize(("write", "sign"), [(plus, "+"), (minus, "-")])
def test_every_side_of_the_line_has_the_same_value(write, sign):
    for a, b in itertools.product(range(100), repeat=2):
        if sign == "-" and b > a:
            continue
        sides = _sides(write(a, b))
        assert sides[0] == f"{a}{sign}{b}"
        values = {eval(side) for side in sides}
        assert values == {a + b if sign == "+" else a - b}
        assert sides[-1] == str(values.pop())


def test_the_last_step_never_carries_more_than_one_digit():
    for a, b in itertools.product(range(100), repeat=2):
        last_sum = _sides(plus(a, b))[-2]
        left, right = last_sum.split("+")
        assert min(int(left), int(right)) < 10 or int(right) % 10 == 0


def test_products_and_shares():
    assert times(6, 7) == "6*7=42"
    assert shared(42, 6) == "42/6=7"
    for parts in (0, 5):
        with pytest.raises(ValueError, match="evenly"):
            shared(42, parts)
