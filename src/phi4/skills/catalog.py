"""All families of problems, in the order in which they are taught and reported."""

from phi4.errors import UsageError
from phi4.skills.ages import AGES
from phi4.skills.algebra import EQUATIONS
from phi4.skills.arithmetic import ADDITION, DIVISION, MULTIPLICATION, SUBTRACTION
from phi4.skills.calendar_time import CLOCK, DATES
from phi4.skills.code_tracing import CODE_TRACING
from phi4.skills.family import Family
from phi4.skills.fractions import FRACTIONS, PERCENTAGES
from phi4.skills.lookup import LOOKUP
from phi4.skills.number_theory import NUMBER_THEORY
from phi4.skills.ordering import ORDERING
from phi4.skills.propositions import PROPOSITIONS
from phi4.skills.sequences import SEQUENCES
from phi4.skills.sets import SETS
from phi4.skills.statistics import AVERAGES
from phi4.skills.syllogisms import SYLLOGISMS
from phi4.skills.units import UNITS
from phi4.skills.word_problems import THREE_STEP, TWO_STEP

FAMILIES: tuple[Family, ...] = (
    ADDITION,
    SUBTRACTION,
    MULTIPLICATION,
    DIVISION,
    FRACTIONS,
    PERCENTAGES,
    UNITS,
    EQUATIONS,
    SEQUENCES,
    NUMBER_THEORY,
    SETS,
    ORDERING,
    DATES,
    CLOCK,
    TWO_STEP,
    THREE_STEP,
    PROPOSITIONS,
    SYLLOGISMS,
    CODE_TRACING,
    LOOKUP,
    AVERAGES,
    AGES,
)


def family(name: str) -> Family:
    """The family of that name. Raises UsageError that lists the names there are."""
    for candidate in FAMILIES:
        if candidate.name == name:
            return candidate
    raise UsageError(f"unknown family {name}", "known: " + ", ".join(f.name for f in FAMILIES))
