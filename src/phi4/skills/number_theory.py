"""Divisibility: greatest common divisors, least common multiples, remainders and prime factors."""

import math
import random

from phi4.skills.columns import div_lines
from phi4.skills.family import Family, Params, Solution

_ASKS = {
    "gcd": (
        "What is the greatest common divisor of {a} and {b}?",
        "Find gcd({a}, {b}).",
        "Compute the gcd of {a} and {b}.",
        "Which is the largest number that divides both {a} and {b}?",
        "Ribbons of {a} cm and {b} cm are cut into equal pieces. How long can the pieces be at most, in cm?",
        "What is the largest common factor of {a} and {b}?",
    ),
    "lcm": (
        "What is the least common multiple of {a} and {b}?",
        "Find lcm({a}, {b}).",
        "Compute the lcm of {a} and {b}.",
        "Which is the smallest number that both {a} and {b} divide?",
        "One bus leaves every {a} minutes, another every {b}. After how many minutes do both leave together?",
        "What is the smallest common multiple of {a} and {b}?",
    ),
    "remainder": (
        "What is the remainder when {a} is divided by {b}?",
        "Find {a} mod {b}.",
        "Compute the remainder of {a} / {b}.",
        "Which number remains when {b} is taken from {a} as often as possible?",
        "{a} eggs go into boxes of {b}. How many eggs are left over?",
        "What does {a} leave when divided by {b}?",
    ),
    "factors": (
        "What are the prime factors of {a}?",
        "Find the prime factorisation of {a}.",
        "Compute the prime factors of {a}, with repeats.",
        "Which primes, multiplied together, give {a}?",
        "Split {a} into prime factors.",
        "Write {a} as a product of primes.",
    ),
}
_KINDS = ("gcd", "gcd", "gcd", "gcd", "remainder", "remainder", "remainder", "remainder", "lcm", "factors")


def _euclid_steps(a: int, b: int) -> int:
    steps = 0
    while b:
        a, b = b, a % b
        steps += 1
    return steps


def _prime_factors(n: int) -> list[int]:
    """Prime factors in rising order, by trial division."""
    factors, divisor = [], 2
    while n > 1:
        while n % divisor == 0:
            factors.append(divisor)
            n //= divisor
        divisor += 1
    return factors


def _sample(rng: random.Random, level: int) -> Params:
    """("gcd" or "lcm", a, b) with a > b, ("remainder", a, b) with b from 5 to 9, or ("factors", n)."""
    kind = rng.choice(("gcd", "remainder") if level == 1 else _KINDS)
    bound = {1: 40, 2: 100, 3: 200}[level]
    if kind == "remainder":
        return kind, rng.randrange(10**level, 10 ** (level + 1)), rng.randrange(5, 10)
    while True:
        if kind == "gcd":
            divisor = rng.randrange(2, 16)
            a, b = (divisor * rng.randrange(1, bound // divisor + 1) for _ in range(2))
            if b < a < bound and math.gcd(a, b) == divisor and _euclid_steps(a, b) in (2, 3, 4):
                return kind, a, b
        elif kind == "lcm":
            a, b = rng.randrange(4, 31), rng.randrange(3, 31)
            if b < a and math.lcm(a, b) <= 2 * bound and math.lcm(a, b) <= 8 * a:
                return kind, a, b
        else:
            n = rng.randrange(12, 2 * bound)
            if len(factors := _prime_factors(n)) >= 3 and factors[-1] <= 13:
                return kind, n


def _canonical(params: Params) -> Params:
    kind, *numbers = params
    return (kind, *sorted(numbers)) if kind in ("gcd", "lcm") else params


def _ask(params: Params, phrasing: int, rng: random.Random) -> str:
    kind, a, *rest = params
    b = rest[0] if rest else ""
    if kind in ("gcd", "lcm") and rng.random() < 0.5:
        a, b = b, a
    return _ASKS[kind][phrasing].format(a=a, b=b)


def _solve(params: Params, rng: random.Random) -> Solution:
    kind, a, *rest = params
    if kind == "remainder":
        (b,) = rest
        return Solution((*div_lines(a, b), f"remainder {a % b}"), str(a % b))
    lines = []
    if kind == "gcd":
        (b,) = rest
        while b:
            times = a // b
            lines.append(f"{a}, {b}: {times}*{b}={times * b}, {a}-{times * b}={a % b}")
            a, b = b, a % b
        lines.append(f"nothing left, so the gcd is {a}")
        return Solution(tuple(lines), str(a))
    if kind == "lcm":
        (b,) = rest
        lines.append(f"multiples of {a}, divided by {b}")
        multiple = a
        while multiple % b:
            lines.append(f"{multiple} leaves {multiple % b}")
            multiple += a
        lines.append(f"{multiple} leaves 0")
        return Solution(tuple(lines), str(multiple))
    factors = _prime_factors(a)
    for factor in factors[:-1]:
        lines.append(f"{a}/{factor}={a // factor}")
        a //= factor
    lines.append(f"{a} is prime")
    return Solution(tuple(lines), ", ".join(map(str, factors)))


def _check(params: Params, answer: str) -> bool:
    """Straight from the definitions, by search: common divisors, common multiples, primality, repetition."""
    kind, a, *rest = params
    parts = answer.split(",")
    if not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        return False
    numbers = [int(part) for part in parts]
    if kind == "factors":
        primes = all(n > 1 and all(n % d for d in range(2, math.isqrt(min(n, a)) + 1)) for n in numbers)
        return primes and math.prod(numbers) == a
    if len(numbers) != 1:
        return False
    (b,), given = rest, numbers[0]
    if kind == "gcd":
        return given == max(d for d in range(1, b + 1) if a % d == 0 and b % d == 0)
    if kind == "lcm":
        return given == next(multiple for multiple in range(b, a * b + 1, b) if multiple % a == 0)
    return bool(given == a - max(range(0, a + 1, b)))


NUMBER_THEORY = Family(
    name="number_theory",
    title="Divisors, multiples, remainders, prime factors",
    levels=("gcd and remainders of 2 digits", "gcd, lcm, remainders of 3 digits, prime factors", "larger"),
    kind="set",
    phrasings=len(_ASKS["gcd"]),
    sample=_sample,
    canonical=_canonical,
    ask=_ask,
    solve=_solve,
    check=_check,
)
