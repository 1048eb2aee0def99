"""The structures of word problems: which numbers, which steps, and the formula that checks them.

The lines are the same for every structure and every story: a start, then one change per line in plain words
with its sum written out (`13 more: 24+13=24+10+3=34+3=37`).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from phi4.skills.small_sums import minus, plus, shared, times


@dataclass(frozen=True)
class Structure:
    """A way to combine numbers: how to draw them, the working, and the formula as another route."""

    draw: Callable[[random.Random, int], tuple[int, ...]]  # (rng, largest number) -> a, b, c, ...
    work: Callable[..., tuple[str, ...]]  # the lines of the working
    formula: Callable[..., int]
    same: tuple[tuple[int, int], ...] = ()  # pairs of positions that may change places


def start(a: int) -> str:
    """The line that names the number a story starts with."""
    return f"Start: {a}"


def more(total: int, b: int) -> str:
    """The line that adds b."""
    return f"{b} more: {plus(total, b)}"


def fewer(total: int, b: int) -> str:
    """The line that takes b away."""
    return f"{b} fewer: {minus(total, b)}"


def groups(a: int, b: int) -> str:
    """The line for a groups of b."""
    return f"{a} groups of {b}: {times(a, b)}"


def _share(total: int, parts: int) -> str:
    return f"shared by {parts}: {shared(total, parts)}"


def _changes(rng: random.Random, top: int, signs: str) -> tuple[int, ...]:
    """A start and one change per sign, so that every total stays from 1 to `top`."""
    while True:
        total = rng.randint(top // 5, top * 3 // 4)
        numbers = [total]
        for sign in signs:
            if sign == "+" and top - total >= 3:
                numbers.append(rng.randint(3, min(top - total, top // 2)))
                total += numbers[-1]
            elif sign == "-" and total >= 4:
                numbers.append(rng.randint(3, min(total - 1, top // 2)))
                total -= numbers[-1]
        if len(numbers) == len(signs) + 1:
            return tuple(numbers)


def _table(rng: random.Random, top: int) -> tuple[int, int]:
    """Two numbers of the times tables with a product of at most `top`."""
    a = rng.randint(2, 9)
    return a, rng.randint(2, max(2, min(12, top // a)))


def _quotient(rng: random.Random, top: int) -> tuple[int, int]:
    """A multiple and its divisor, from the times tables."""
    a, b = _table(rng, top)
    return a * b, a


def _product_then(rng: random.Random, top: int, signs: str) -> tuple[int, ...]:
    """Factors a, b and then numbers added to or taken from the product; totals stay from 1 to `top`."""
    while True:
        a, b = _table(rng, top)
        total, numbers = a * b, [a, b]
        for sign in signs:
            room = top - total if sign == "+" else total - 1
            if room >= 3:
                numbers.append(rng.randint(3, min(room, top // 2)))
                total += numbers[-1] if sign == "+" else -numbers[-1]
        if len(numbers) == len(signs) + 2:
            return tuple(numbers)


def _sum_of(rng: random.Random, total: int) -> tuple[int, int]:
    """Two numbers of at least 2 that make `total`."""
    a = rng.randint(2, total - 2)
    return a, total - a


def _sum_times(rng: random.Random, top: int) -> tuple[int, ...]:
    total, c = rng.randint(4, 12), rng.randint(2, 9)
    while total * c > top:
        total, c = rng.randint(4, 12), rng.randint(2, 9)
    return *_sum_of(rng, total), c


def _sum_times_less(rng: random.Random, top: int) -> tuple[int, ...]:
    a, b, c = _sum_times(rng, top)
    return a, b, c, rng.randint(3, (a + b) * c - 1)


def _sum_shared(rng: random.Random, top: int) -> tuple[int, ...]:
    total, c = _quotient(rng, top)
    return *_sum_of(rng, total), c


def _difference_shared(rng: random.Random, top: int) -> tuple[int, ...]:
    total, c = _quotient(rng, top * 3 // 4)
    b = rng.randint(3, top - total)
    return total + b, b, c


def _sum_less_shared(rng: random.Random, top: int) -> tuple[int, ...]:
    total, c, parts = _difference_shared(rng, top)
    return *_sum_of(rng, total), c, parts


def _more_than_first(rng: random.Random, top: int) -> tuple[int, ...]:
    a = rng.randint(4, (top - 3) // 2)
    return a, rng.randint(2, top - 2 * a)


def _times_first(rng: random.Random, top: int) -> tuple[int, ...]:
    b = rng.randint(2, 9)
    return rng.randint(2, min(top // (b + 1), 12)), b


def _start_less_product(rng: random.Random, top: int) -> tuple[int, ...]:
    b, c = _table(rng, top * 3 // 4)
    return rng.randint(b * c + 1, top), b, c


def _start_less_product_less(rng: random.Random, top: int) -> tuple[int, ...]:
    b, c = _table(rng, top * 2 // 3)
    d = rng.randint(3, top - b * c - 1)
    return rng.randint(b * c + d + 1, top), b, c, d


def _two_products(rng: random.Random, top: int) -> tuple[int, ...]:
    a, b = _table(rng, top * 3 // 5)
    c, d = _table(rng, top - a * b)
    while a * b + c * d > top:
        c, d = _table(rng, top - a * b)
    return a, b, c, d


def _product_shared_more(rng: random.Random, top: int) -> tuple[int, ...]:
    while True:
        a, b = _table(rng, min(top, 60))
        parts = [c for c in range(2, 10) if a * b % c == 0 and c not in (a, b) and a * b // c <= 12]
        if parts:
            c = rng.choice(parts)
            return a, b, c, rng.randint(3, top - a * b // c)


TWO_STEP_STRUCTURES: dict[str, Structure] = {
    "a+b-c": Structure(
        lambda rng, top: _changes(rng, top, "+-"),
        lambda a, b, c: (start(a), more(a, b), fewer(a + b, c)),
        lambda a, b, c: a + b - c,
        ((0, 1),),
    ),
    "a-b+c": Structure(
        lambda rng, top: _changes(rng, top, "-+"),
        lambda a, b, c: (start(a), fewer(a, b), more(a - b, c)),
        lambda a, b, c: a - b + c,
    ),
    "a-b-c": Structure(
        lambda rng, top: _changes(rng, top, "--"),
        lambda a, b, c: (start(a), fewer(a, b), fewer(a - b, c)),
        lambda a, b, c: a - b - c,
        ((1, 2),),
    ),
    "a+b+c": Structure(
        lambda rng, top: _changes(rng, top, "++"),
        lambda a, b, c: (start(a), more(a, b), more(a + b, c)),
        lambda a, b, c: a + b + c,
        ((0, 1), (1, 2), (0, 1)),
    ),
    "a*b+c": Structure(
        lambda rng, top: _product_then(rng, top, "+"),
        lambda a, b, c: (groups(a, b), more(a * b, c)),
        lambda a, b, c: a * b + c,
        ((0, 1),),
    ),
    "a*b-c": Structure(
        lambda rng, top: _product_then(rng, top, "-"),
        lambda a, b, c: (groups(a, b), fewer(a * b, c)),
        lambda a, b, c: a * b - c,
        ((0, 1),),
    ),
    "(a+b)*c": Structure(
        _sum_times,
        lambda a, b, c: (start(a), more(a, b), groups(c, a + b)),
        lambda a, b, c: (a + b) * c,
        ((0, 1),),
    ),
    "(a+b)/c": Structure(
        _sum_shared,
        lambda a, b, c: (start(a), more(a, b), _share(a + b, c)),
        lambda a, b, c: (a + b) // c,
        ((0, 1),),
    ),
    "(a-b)/c": Structure(
        _difference_shared,
        lambda a, b, c: (start(a), fewer(a, b), _share(a - b, c)),
        lambda a, b, c: (a - b) // c,
    ),
    "a+(a+b)": Structure(
        _more_than_first,
        lambda a, b: (start(a), more(a, b), f"both: {plus(a, a + b)}"),
        lambda a, b: 2 * a + b,
    ),
    "a+a*b": Structure(
        _times_first,
        lambda a, b: (start(a), groups(b, a), f"both: {plus(a, a * b)}"),
        lambda a, b: a * (b + 1),
    ),
    "a-b*c": Structure(
        _start_less_product,
        lambda a, b, c: (groups(b, c), start(a), fewer(a, b * c)),
        lambda a, b, c: a - b * c,
        ((1, 2),),
    ),
}

THREE_STEP_STRUCTURES: dict[str, Structure] = {
    "a+b-c+d": Structure(
        lambda rng, top: _changes(rng, top, "+-+"),
        lambda a, b, c, d: (start(a), more(a, b), fewer(a + b, c), more(a + b - c, d)),
        lambda a, b, c, d: a + b - c + d,
        ((0, 1),),
    ),
    "a-b-c-d": Structure(
        lambda rng, top: _changes(rng, top, "---"),
        lambda a, b, c, d: (start(a), fewer(a, b), fewer(a - b, c), fewer(a - b - c, d)),
        lambda a, b, c, d: a - b - c - d,
        ((1, 2), (2, 3), (1, 2)),
    ),
    "a*b+c*d": Structure(
        _two_products,
        lambda a, b, c, d: (groups(a, b), groups(c, d), f"both: {plus(a * b, c * d)}"),
        lambda a, b, c, d: a * b + c * d,
        ((0, 1), (2, 3)),
    ),
    "a*b+c-d": Structure(
        lambda rng, top: _product_then(rng, top, "+-"),
        lambda a, b, c, d: (groups(a, b), more(a * b, c), fewer(a * b + c, d)),
        lambda a, b, c, d: a * b + c - d,
        ((0, 1),),
    ),
    "(a+b)*c-d": Structure(
        _sum_times_less,
        lambda a, b, c, d: (start(a), more(a, b), groups(c, a + b), fewer((a + b) * c, d)),
        lambda a, b, c, d: (a + b) * c - d,
        ((0, 1),),
    ),
    "(a+b-c)/d": Structure(
        _sum_less_shared,
        lambda a, b, c, d: (start(a), more(a, b), fewer(a + b, c), _share(a + b - c, d)),
        lambda a, b, c, d: (a + b - c) // d,
        ((0, 1),),
    ),
    "a*b/c+d": Structure(
        _product_shared_more,
        lambda a, b, c, d: (groups(a, b), _share(a * b, c), more(a * b // c, d)),
        lambda a, b, c, d: a * b // c + d,
        ((0, 1),),
    ),
    "a-b*c-d": Structure(
        _start_less_product_less,
        lambda a, b, c, d: (groups(b, c), start(a), fewer(a, b * c), fewer(a - b * c, d)),
        lambda a, b, c, d: a - b * c - d,
        ((1, 2),),
    ),
}
