"""The four operations on whole numbers, worked in written columns with every carry on the page."""

import random
import re

from phi4.grading.answers import parse_number
from phi4.skills.columns import add_lines, div_lines, mul_lines, sub_lines
from phi4.skills.family import Family, Params, Solution
from phi4.skills.names import PEOPLE, THINGS

_ADD_ASKS = (
    "What is {a} + {b}?",
    "Add {a} and {b}.",
    "Calculate {a}+{b}.",
    "Find the sum of {a} and {b}.",
    "{name} has {a} {things} and gets {b} more. How many {things} is that?",
    "One box holds {a} {things}, another holds {b}. How many {things} are there in all?",
    "{name} counts {a} {things} on Monday and {b} on Tuesday. What is the total?",
    "Work out {a} plus {b}.",
)
_SUB_ASKS = (
    "What is {a} - {b}?",
    "Subtract {b} from {a}.",
    "Calculate {a}-{b}.",
    "Find the difference between {a} and {b}.",
    "{name} has {a} {things} and gives away {b}. How many {things} are left?",
    "A shop had {a} {things} and sold {b}. How many {things} remain?",
    "How much larger is {a} than {b}?",
    "Work out {a} minus {b}.",
)
_MUL_ASKS = (
    "What is {a} * {b}?",
    "Multiply {a} by {b}.",
    "Calculate {a}*{b}.",
    "Find the product of {a} and {b}.",
    "{name} fills {b} boxes with {a} {things} each. How many {things} is that?",
    "One crate holds {a} {things}. How many {things} are in {b} crates?",
    "What is {b} times {a}?",
    "Work out {b} * {a}.",
)
_DIV_ASKS = (
    "What is {a} / {b}, with remainder?",
    "Divide {a} by {b} and give the remainder if there is one.",
    "Calculate {a}/{b} with remainder.",
    "How many times does {b} go into {a}, and what remains?",
    "{name} shares {a} {things} equally among {b} friends. How many does each get, and what remains?",
    "Pack {a} {things} into boxes of {b}. How many full boxes, and what remains?",
    "Work out {a} divided by {b}, remainder included.",
)
_QUOTIENT = re.compile(r"(\d{1,12})(?: remainder (\d{1,3}))?")


def _digits(rng: random.Random, width: int) -> int:
    return rng.randrange(10 ** (width - 1), 10**width)


def _worded(asks: tuple[str, ...], params: Params, phrasing: int, rng: random.Random) -> str:
    a, b = params
    return asks[phrasing].format(a=a, b=b, name=rng.choice(PEOPLE), things=rng.choice(THINGS))


def _sample_pair(rng: random.Random, level: int) -> Params:
    """Two numbers: of 2 digits (easy), of 3 and 4 digits (standard), of 5 digits (hard)."""
    widths = {1: (2,), 2: (3, 3, 4), 3: (5,)}[level]
    return _digits(rng, rng.choice(widths)), _digits(rng, rng.choice(widths))


def _sample_ordered(rng: random.Random, level: int) -> Params:
    a, b = _sample_pair(rng, level)
    return max(a, b), min(a, b)


def _sample_by_digit(rng: random.Random, level: int) -> Params:
    """A number of 1-2, 2-3 or 4-5 digits and one digit from 2 to 9."""
    width = rng.choice({1: (1, 2, 2), 2: (2, 3, 3, 3), 3: (4, 5)}[level])
    return _digits(rng, width), rng.randrange(2, 10)


def _sample_division(rng: random.Random, level: int) -> Params:
    """A dividend of 2, 2-3 or 4-5 digits and a divisor from 2 to 9."""
    width = rng.choice({1: (2,), 2: (2, 3, 3, 3), 3: (4, 5)}[level])
    return _digits(rng, width), rng.randrange(2, 10)


def _solve_sum(params: Params, rng: random.Random) -> Solution:
    a, b = params
    return Solution(tuple(add_lines(a, b)), str(a + b))


def _solve_difference(params: Params, rng: random.Random) -> Solution:
    a, b = params
    return Solution(tuple(sub_lines(a, b)), str(a - b))


def _solve_product(params: Params, rng: random.Random) -> Solution:
    a, b = params
    return Solution(tuple(mul_lines(a, b)), str(a * b))


def _solve_quotient(params: Params, rng: random.Random) -> Solution:
    a, b = params
    quotient, remainder = divmod(a, b)
    answer = f"{quotient} remainder {remainder}" if remainder else str(quotient)
    return Solution(tuple(div_lines(a, b)), answer)


def _check_sum(params: Params, answer: str) -> bool:
    """Taking one number away from the sum must leave the other."""
    a, b = params
    given = parse_number(answer)
    return given is not None and given - b == a


def _check_difference(params: Params, answer: str) -> bool:
    """The difference and the smaller number must add up to the larger."""
    a, b = params
    given = parse_number(answer)
    return given is not None and given + b == a


def _check_product(params: Params, answer: str) -> bool:
    """The product divided by one factor must give the other."""
    a, b = params
    given = parse_number(answer)
    return given is not None and given / b == a


def _check_quotient(params: Params, answer: str) -> bool:
    """Quotient times divisor plus remainder gives the dividend back; the remainder is below the divisor."""
    a, b = params
    match = _QUOTIENT.fullmatch(answer.strip())
    if match is None:
        return False
    quotient, remainder = int(match[1]), int(match[2] or 0)
    return bool(quotient * b + remainder == a and remainder < b)


ADDITION = Family(
    name="addition",
    title="Addition with written carries",
    levels=("2 digits", "3 and 4 digits", "5 digits"),
    kind="integer",
    phrasings=len(_ADD_ASKS),
    sample=_sample_pair,
    canonical=lambda params: tuple(sorted(params)),
    ask=lambda params, phrasing, rng: _worded(_ADD_ASKS, params, phrasing, rng),
    solve=_solve_sum,
    check=_check_sum,
)
SUBTRACTION = Family(
    name="subtraction",
    title="Subtraction with written borrows",
    levels=("2 digits", "3 and 4 digits", "5 digits"),
    kind="integer",
    phrasings=len(_SUB_ASKS),
    sample=_sample_ordered,
    canonical=lambda params: params,
    ask=lambda params, phrasing, rng: _worded(_SUB_ASKS, params, phrasing, rng),
    solve=_solve_difference,
    check=_check_difference,
)
MULTIPLICATION = Family(
    name="multiplication",
    title="Multiplication by one digit",
    levels=("1 and 2 digits by one digit", "2 and 3 digits by one digit", "4 and 5 digits by one digit"),
    kind="integer",
    phrasings=len(_MUL_ASKS),
    sample=_sample_by_digit,
    canonical=lambda params: tuple(sorted(params)),
    ask=lambda params, phrasing, rng: _worded(_MUL_ASKS, params, phrasing, rng),
    solve=_solve_product,
    check=_check_product,
)
DIVISION = Family(
    name="division",
    title="Long division by one digit",
    levels=("2 digits by one digit", "2 and 3 digits by one digit", "4 and 5 digits by one digit"),
    kind="text",
    phrasings=len(_DIV_ASKS),
    sample=_sample_division,
    canonical=lambda params: params,
    ask=lambda params, phrasing, rng: _worded(_DIV_ASKS, params, phrasing, rng),
    solve=_solve_quotient,
    check=_check_quotient,
)
