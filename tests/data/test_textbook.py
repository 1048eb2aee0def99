"""The textbook is what the model learns its first English from, so its arithmetic has to be right.

Every expression of the form `a+b=c`, in prose or in a worked example, is evaluated with exact fractions.
"""

import re
from fractions import Fraction
from pathlib import Path

import pytest

import phi4.data

FOLDER = Path(phi4.data.__file__).parent / "organic" / "textbook"
CHAPTERS = sorted(FOLDER.glob("[0-9][0-9]-*.md"))
WRONG_ON_PURPOSE = {"96/4=23", "398+507=805", "347*6=2084"}  # shown so that the reader catches them

_EXPRESSION = re.compile(
    r"(?<![\w.+*/(-])[-(]*\d[\d+*/().=-]*=[\d+*/().=-]*\d\)*(?: remainder \d+)?(?!\d|\.\d|%|[a-z])"
)
_TOKEN = re.compile(r"\d+(?:\.\d+)?|[-+*/()]")


def expressions(text: str) -> list[str]:
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [found.group().rstrip(".") for found in _EXPRESSION.finditer(prose)]


def value(side: str) -> Fraction:
    """Exact value of an expression of numbers, brackets and the four operations."""
    parts = [f"Fraction('{t}')" if t[0].isdigit() else t for t in _TOKEN.findall(side)]
    assert "".join(_TOKEN.findall(side)) == side
    return Fraction(eval("".join(parts), {"__builtins__": {}, "Fraction": Fraction}))


def holds(expression: str) -> bool:
    body, _, remainder = expression.partition(" remainder ")
    sides = body.split("=")
    if remainder:
        dividend, divisor = (int(n) for n in sides[0].split("/"))
        return divmod(dividend, divisor) == (int(sides[1]), int(remainder))
    return len({value(side) for side in sides}) == 1


def test_the_checker_sees_mistakes() -> None:
    assert expressions("so 3*4+5=12+5=18. And 17/5=3 remainder 2, (2+4)/2=3, x+2=5, -4+1=-3.") == [
        "3*4+5=12+5=18", "17/5=3 remainder 2", "(2+4)/2=3", "-4+1=-3",
    ]  # fmt: skip
    assert not holds("3*4+5=12+5=18")
    assert not holds("17/5=2 remainder 7")
    assert holds("(3+4+8+9+50)/5=74/5=14.8")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_calculation_is_right(path: Path) -> None:
    wrong = {e for e in expressions(path.read_text(encoding="utf-8")) if not holds(e)}
    assert wrong <= WRONG_ON_PURPOSE


def test_the_traced_programs_print_their_answers(capsys: pytest.CaptureFixture[str]) -> None:
    text = next(path for path in CHAPTERS if "program" in path.stem).read_text(encoding="utf-8")
    examples = re.findall(r"```\n(.*?)```.*?\nAnswer: (.*?)\n", text, flags=re.DOTALL)
    assert len(examples) == 4
    for program, answer in examples:
        exec(program, {})
        assert capsys.readouterr().out.strip() == answer


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_form(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.isascii()  # one spelling of every sign: the vocabulary is small
    assert text.startswith("# ")
    assert text.count("\n## ") >= 5
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert text.rstrip().split("\n## ")[-1].startswith("Recap\n")


def test_size_and_licence() -> None:
    assert 80_000 <= sum(path.stat().st_size for path in CHAPTERS) <= 110_000
    assert "CC0 1.0" in (FOLDER / "LICENSE.md").read_text(encoding="utf-8")
