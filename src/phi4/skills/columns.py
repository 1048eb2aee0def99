"""Written arithmetic as lines of text: column addition, subtraction, multiplication and division.

Every family that needs a number longer than two digits writes it with these lines, so a small model learns
one algorithm once. The form follows from what a few attention layers can look up:

- the first line copies the operands, padded to equal width, so that a digit's place is its position;
- every line names its column, works on single digits and writes the carry even when it is 0;
- `write` repeats the result so far with the new digit in front: the result grows by copying one line up,
  and the last line is a copy, not a search through the columns;
- the last line states the fact (`so 347+586=933`), which later steps and the answer copy.
"""

PLACES = ("ones", "tens", "hundreds", "thousands", "ten-thousands", "hundred-thousands", "millions")
DIRECT = 100  # numbers below this are added and subtracted in one line without columns


def add_lines(a: int, b: int) -> list[str]:
    """Column addition of two non-negative integers, from the ones, with written carries."""
    width = max(len(str(a)), len(str(b)))
    top, bottom = str(a).zfill(width), str(b).zfill(width)
    lines = [f"{top}+{bottom}"]
    carry, written = 0, ""
    for place in range(width):
        x, y = int(top[-1 - place]), int(bottom[-1 - place])
        total = x + y + carry
        terms = f"{x}+{y}" if place == 0 else f"{x}+{y}+{carry}"
        if place == width - 1:
            written = f"{total}{written}"
            lines.append(f"{PLACES[place]} {terms}={total} write {written}")
        else:
            carry = total // 10
            written = f"{total % 10}{written}"
            lines.append(f"{PLACES[place]} {terms}={total} carry {carry} write {written}")
    lines.append(f"so {a}+{b}={int(written)}")
    return lines


def sub_lines(a: int, b: int) -> list[str]:
    """Column subtraction of b from a (0 <= b <= a), from the ones.

    A column that comes out negative borrows 1 from the next one and writes ten more: -4 writes 6.
    """
    if not 0 <= b <= a:
        raise ValueError(f"column subtraction needs 0 <= b <= a, got {a}-{b}")
    width = len(str(a))
    top, bottom = str(a), str(b).zfill(width)
    lines = [f"{top}-{bottom}"]
    borrow, written = 0, ""
    for place in range(width):
        x, y = int(top[-1 - place]), int(bottom[-1 - place])
        difference = x - y - borrow
        terms = f"{x}-{y}" if place == 0 else f"{x}-{y}-{borrow}"
        borrow = int(difference < 0)
        written = f"{difference + 10 * borrow}{written}"
        note = "" if place == width - 1 else f" borrow {borrow}"
        lines.append(f"{PLACES[place]} {terms}={difference}{note} write {written}")
    lines.append(f"so {a}-{b}={int(written)}")
    return lines


def mul_lines(a: int, digit: int) -> list[str]:
    """Column multiplication of a non-negative integer by one digit (1..9), from the ones, with carries."""
    if not 1 <= digit <= 9:
        raise ValueError(f"column multiplication needs one digit from 1 to 9, got {digit}")
    top = str(a)
    lines = [f"{top}*{digit}"]
    carry, written = 0, ""
    for place in range(len(top)):
        x = int(top[-1 - place])
        total = x * digit + carry
        terms = f"{x}*{digit}={total}" if place == 0 else f"{x}*{digit}+{carry}={x * digit}+{carry}={total}"
        if place == len(top) - 1:
            written = f"{total}{written}"
            lines.append(f"{PLACES[place]} {terms} write {written}")
        else:
            carry = total // 10
            written = f"{total % 10}{written}"
            lines.append(f"{PLACES[place]} {terms} carry {carry} write {written}")
    lines.append(f"so {a}*{digit}={int(written)}")
    return lines


def div_lines(a: int, digit: int) -> list[str]:
    """Long division of a non-negative integer by one digit (1..9), from the left.

    Each line takes what was left, brings down the next digit, finds how often the divisor fits and what
    is left now. The last line is `so 938/7=134`, or `so 940/7=134 remainder 2`.
    """
    if not 1 <= digit <= 9:
        raise ValueError(f"long division needs one digit from 1 to 9, got {digit}")
    top = str(a)
    lines = [f"{top}/{digit}"]
    left, written = 0, ""
    for position, x in enumerate(top):
        part = 10 * left + int(x)
        times = part // digit
        left = part - times * digit
        written += str(times)
        place = PLACES[len(top) - 1 - position]
        product = times * digit
        lines.append(f"{place} {part}: {times}*{digit}={product} {part}-{product}={left} write {written}")
    remainder = f" remainder {left}" if left else ""
    lines.append(f"so {a}/{digit}={int(written)}{remainder}")
    return lines


def sum_lines(a: int, b: int) -> list[str]:
    """One line `47+38=85` when both numbers are below 100, column addition otherwise."""
    return [f"{a}+{b}={a + b}"] if max(a, b) < DIRECT else add_lines(a, b)


def difference_lines(a: int, b: int) -> list[str]:
    """One line `85-38=47` when both numbers are below 100, column subtraction otherwise (0 <= b <= a)."""
    return [f"{a}-{b}={a - b}"] if max(a, b) < DIRECT else sub_lines(a, b)
