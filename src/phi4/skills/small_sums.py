"""Sums below a hundred, written on one line in steps that each touch one digit.

A two-digit number is added or taken away tens first, then ones: `27+38=27+30+8=57+8=65`. A reader never
has to carry unseen, and the line reads the way people do it in their heads. Every sum inside a story uses it.
"""


def plus(a: int, b: int) -> str:
    """The line for a+b (non-negative): direct when one of them is a single digit or whole tens."""
    if a < 10 <= b:
        return f"{a}+{b}={plus(b, a)}"
    tens, ones = b - b % 10, b % 10
    if tens == 0 or ones == 0:
        return f"{a}+{b}={a + b}"
    return f"{a}+{b}={a}+{tens}+{ones}={a + tens}+{ones}={a + b}"


def minus(a: int, b: int) -> str:
    """The line for a-b (0 <= b <= a): direct when b is a single digit or whole tens."""
    tens, ones = b - b % 10, b % 10
    if tens == 0 or ones == 0:
        return f"{a}-{b}={a - b}"
    return f"{a}-{b}={a}-{tens}-{ones}={a - tens}-{ones}={a - b}"


def times(a: int, b: int) -> str:
    """The line for a*b, meant for numbers of the times tables."""
    return f"{a}*{b}={a * b}"


def shared(a: int, b: int) -> str:
    """The line for a/b where b divides a, meant for numbers of the times tables."""
    if b == 0 or a % b:
        raise ValueError(f"{a} cannot be shared evenly by {b}")
    return f"{a}/{b}={a // b}"


def quotient(a: int, b: int) -> str:
    """The line for a/b where b divides a: beyond the times tables the round tens are taken out first."""
    tens = a // b // 10 * 10 * b
    if a // b <= 10 or a == tens:
        return shared(a, b)
    return f"{a}/{b}={tens}/{b}+{a - tens}/{b}={tens // b}+{(a - tens) // b}={a // b}"
