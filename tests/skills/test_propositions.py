"""Truth values against sympy's logic, read from the written formulas."""

from sympy import Equivalent, Implies, symbols
from sympy.logic.boolalg import BooleanFunction

from phi4.skills.propositions import PROPOSITIONS, written
from tests.skills.family_checks import check_family

_SYMBOLS = dict(zip("pqrs", symbols("p q r s"), strict=True))


def _swap(params):
    values, formulas = params
    turned = [f if f[0] in ("not", "implies") or len(f) == 1 else (f[0], f[2], f[1]) for f in formulas]
    return values, (turned[2], turned[0], turned[1])


def _sympy(formula) -> BooleanFunction:
    if len(formula) == 1:
        return _SYMBOLS[formula[0]]
    parts = [_sympy(part) for part in formula[1:]]
    if formula[0] == "not":
        return ~parts[0]
    left, right = parts
    return {
        "and": left & right,
        "or": left | right,
        "implies": Implies(left, right),
        "iff": Equivalent(left, right),
    }[formula[0]]


def test_the_family():
    # Three truth values have eight answers, so one in eight is the floor; the rest is chance.
    check_family(PROPOSITIONS, swap=_swap, max_share=0.16, mean_tokens=140)


def test_answers_equal_sympy():
    for index in range(90):
        problem = PROPOSITIONS.problem(index, 1 + index % 3)
        values, formulas = problem.params
        at = dict(zip(_SYMBOLS.values(), values, strict=False))
        results = ["T" if _sympy(formula).subs(at) == True else "F" for formula in formulas]  # noqa: E712
        assert problem.answer == " ".join(results), problem


def test_the_written_formula_reads_back_as_itself():
    words = {"implies": "<="}  # on truth values, a <= b is "a implies b"; "iff" is equality
    for index in range(200):
        values, formulas = PROPOSITIONS.problem(index).params
        at = dict(zip("pqrs", values, strict=False))
        expected = PROPOSITIONS.problem(index).answer.split()
        for formula, mark in zip(formulas, expected, strict=True):
            text = " ".join(words.get(word, word) for word in _bracketed(written(formula)).split())
            assert eval(text, {"__builtins__": {}}, at) is (mark == "T"), text


def _bracketed(text: str) -> str:
    """`not q` in brackets: beside <= Python would negate the whole comparison."""
    for letter in "pqrs":
        text = text.replace(f"not {letter}", f"(not {letter})")
    return text


def test_each_fold_of_the_working_keeps_the_value():
    for index in range(200):
        problem = PROPOSITIONS.problem(index, 1 + index % 3)
        for line, mark in zip(problem.steps[1:], problem.answer.split(), strict=True):
            formula, *stages = line.split(": ")
            assert stages[-1] == mark, problem
            assert stages[0].count("(") == formula.count("(")
            lengths = [len(stage.split()) for stage in stages]
            assert lengths == sorted(set(lengths), reverse=True), problem  # each stage is shorter
