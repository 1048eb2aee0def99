"""Is a worked solution right? Checked from what is written, by routes the writer did not take.

The family's own check judges the answer; every numeric equation of the working is evaluated, every written column
is marked, and a family with lines of its own audits them; the form must be working first, one answer line last.
What passes may still be wrong (a copied number that is wrong but used consistently): the ablation counts how often.
"""

import re
from fractions import Fraction

from phi4.grading.answers import MARKER
from phi4.skills.audit import columns_follow
from phi4.skills.family import Family, Problem

# a chain such as 7+5=12 or 3*4+2=12+2=14, of plain numbers only ("93/5=18 remainder 3" and "5% of 280=14" say more)
_SIDE = r"-?\d+(?:[-+*/]\d+)*"
_CHAIN = re.compile(rf"(?<![\w.,/%+*=:-])(?<!of ){_SIDE}(?:={_SIDE})+(?![\w.,/%+*=-]| remainder)")
_TERM = re.compile(r"([-+]?)(\d+(?:[*/]\d+)*)")


def verify(family: Family, problem: Problem, text: str) -> str:
    """Why `text` is not a right solution of `problem`; empty when nothing is wrong with it."""
    working, marker, answer = text.rpartition(f"{MARKER} ")
    if not marker or not answer.strip():
        return "no-answer"
    if "\n" in answer.strip() or MARKER in working:
        return "answer-first"
    if not working.strip():
        return "no-working"
    try:
        if not family.check(problem.params, answer.strip()):
            return "wrong-answer"
    except (ValueError, ArithmeticError, KeyError, IndexError):
        return "wrong-answer"
    for chain in _CHAIN.findall(working):
        values = {_value(side) for side in chain.split("=")}
        if len(values) > 1:
            return "wrong-step"
    lines = working.strip().split("\n")
    if not columns_follow(problem.question, lines):
        return "wrong-step"
    try:
        sound = family.audit is None or family.audit(problem.params, lines)
    except (ValueError, ArithmeticError, LookupError, SyntaxError, TypeError):  # a line that cannot be read
        sound = False
    return "" if sound else "wrong-step"


def _value(expression: str) -> Fraction | None:
    """A sum of products of integers, exactly; None for a division by zero."""
    total = Fraction(0)
    for sign, product in _TERM.findall(expression):
        factors = re.split(r"([*/])", product)
        value = Fraction(int(factors[0]))
        for operator, factor in zip(factors[1::2], factors[2::2], strict=True):
            if operator == "/" and int(factor) == 0:
                return None
            value = value * int(factor) if operator == "*" else value / int(factor)
        total += -value if sign == "-" else value
    return total
