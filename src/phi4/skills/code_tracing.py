"""Code tracing: a short Python program, and the value it prints.

The lines of the program are numbered. The working names the line it does, copies it, says what the names in it stand
for, puts the numbers in, and ends with the new state of the variable (`3: x += 5: x=7, 7+5, x=12`). So the next
line is found by its number, and the current value of a name always stands right behind its latest `x=`. The name
that is asked for is written first (`Find x`), so that the last line (`Find x=12`) need not go back to the
question. Up to the standard level every name is assigned once; in hard programs names change and loops run.
Every single operation has an operand below ten.
"""

import random
import re
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from phi4.skills.family import Family, Params, Solution

# Statements are nested tuples of numbers and words, never code, so `check` can only run programs of ours:
#   ("set", var, number)  ("let", var, left, op, right)  ("aug", var, op, operand)
#   ("if", var, relation, number, then, otherwise or None)  ("for", number, body)
# An operand is ("var", index) or ("num", value).
Statement = tuple[Any, ...]
Operand = tuple[str, int]

VARIABLES = ("x", "y", "z", "a", "b", "c", "k", "n", "m", "t")
_OPERATIONS = ("+", "-", "*")
_LARGEST = 99
_RELATIONS = (">", "<")


def _apply(left: int, op: str, right: int) -> int:
    return left + right if op == "+" else left - right if op == "-" else left * right


def _easy(left: int, op: str, right: int) -> bool:
    """Can the operation be done in one step: an operand below ten, and a result from 0 to 99?"""
    if op == "*":
        return min(left, right) >= 2 and max(left, right) <= 10
    return (right < 10 or (op == "+" and left < 10)) and 0 <= _apply(left, op, right) <= _LARGEST


def _holds(left: int, relation: str, right: int) -> bool:
    return left > right if relation == ">" else left < right


def _value(operand: Operand, state: list[int]) -> int:
    kind, number = operand
    return state[number] if kind == "var" else number


def _draw_update(rng: random.Random, state: list[int], target: int | None = None) -> Statement:
    """An assignment whose operation is easy in this state: `x += 5`, `y = x * 3`, `x -= y`.

    A target beyond the state is a new name, which cannot be updated in place.
    """
    while True:
        op = rng.choice(_OPERATIONS)
        var = rng.randrange(len(state)) if target is None else target
        left = ("var", rng.randrange(len(state)))
        right = ("var", rng.randrange(len(state))) if rng.random() < 0.4 else ("num", rng.randint(2, 9))
        augmented = var < len(state) and rng.random() < 0.5
        base = state[var] if augmented else _value(left, state)
        if right == (left if not augmented else ("var", var)) or not _easy(base, op, _value(right, state)):
            continue
        return ("aug", var, op, right) if augmented else ("let", var, left, op, right)


def _run(statement: Statement, state: list[int]) -> None:
    """Do an update in place."""
    if statement[0] == "aug":
        _, var, op, right = statement
        state[var] = _apply(state[var], op, _value(right, state))
    else:
        _, var, left, op, right = statement
        state[var : var + 1] = [_apply(_value(left, state), op, _value(right, state))]


def _sample(rng: random.Random, level: int) -> Params:
    variables = rng.choice((2, 2, 3)) if level == 2 else 2
    state = [rng.randint(2, 12) for _ in range(variables)]
    program: list[Statement] = [("set", var, value) for var, value in enumerate(state)]
    updates = {1: 2, 2: rng.randint(2, 3) if variables == 3 else rng.randint(3, 4), 3: 3}[level]
    fresh = level < 3  # every name is assigned once
    branch = rng.randrange(updates) if level > 1 and rng.random() < 0.6 else -1
    loop = rng.choice([place for place in range(updates) if place != branch]) if level == 3 else -1
    for place in range(updates):
        if place == branch:
            program.append(_branch(rng, state, fresh))
        elif place == loop:
            program.append(_loop(rng, state, 3 if branch < 0 else 2))
        else:
            target = len(state) if fresh else None
            update = _draw_update(rng, state, target)
            while update == program[-1]:
                update = _draw_update(rng, state, target)
            program.append(update)
            _run(update, state)
    # Ask for a variable that the program changes, mostly the one it changes last.
    changed = [_changes(statement) for statement in program[variables:]]
    asked = changed[-1] if rng.random() < 0.7 else rng.choice(changed)
    return tuple(rng.sample(VARIABLES, len(state))), tuple(program), asked


def _changes(statement: Statement) -> int:
    """The variable that an update or a block changes."""
    inner = {"if": 4, "for": 2}.get(statement[0])
    return int(statement[1] if inner is None else statement[inner][1])


def _branch(rng: random.Random, state: list[int], fresh: bool) -> Statement:
    """An if; with `fresh` it has an else, and both sides give the same new name its value by an easy operation."""
    var = rng.randrange(len(state))
    relation = rng.choice(_RELATIONS)
    bound = max(2, state[var] + rng.choice((-6, -4, -3, -2, -1, 1, 2, 3, 4, 6)))
    changed = len(state) if fresh else rng.randrange(len(state))
    then = _draw_update(rng, state, changed)
    otherwise = _draw_update(rng, state, changed) if fresh else None
    while otherwise == then:
        otherwise = _draw_update(rng, state, changed)
    taken = then if _holds(state[var], relation, bound) else otherwise
    if taken is not None:
        _run(taken, state)
    return "if", var, relation, bound, then, otherwise


def _loop(rng: random.Random, state: list[int], most: int) -> Statement:
    """Two rounds or up to `most` of one update that stays easy in every round."""
    while True:
        rounds = rng.randint(2, most)
        trial = list(state)
        body = _draw_update(rng, trial)
        if body[0] != "aug":  # an assignment would do the same in every round
            continue
        done = 0
        while done < rounds and _easy(trial[body[1]], body[2], _value(body[3], trial)):
            _run(body, trial)
            done += 1
        if done == rounds:
            state[:] = trial
            return "for", rounds, body


def _canonical(params: Params) -> Params:
    _, program, asked = params
    return program, asked


def _operand(operand: Operand, names: tuple[str, ...]) -> str:
    kind, number = operand
    return names[number] if kind == "var" else str(number)


def _line(statement: Statement, names: tuple[str, ...]) -> str:
    """The source of an assignment, or the head line of a block."""
    match statement:
        case ("set", var, value):
            return f"{names[var]} = {value}"
        case ("let", var, left, op, right):
            return f"{names[var]} = {_operand(left, names)} {op} {_operand(right, names)}"
        case ("aug", var, op, right):
            return f"{names[var]} {op}= {_operand(right, names)}"
        case ("if", var, relation, bound, _, _):
            return f"if {names[var]} {relation} {bound}:"
        case _:
            return f"for i in range({statement[1]}):"


def source(params: Params) -> str:
    """The program as Python source, without the line that prints."""
    names, program, _ = params
    lines: list[str] = []
    for statement in program:
        lines.append(_line(statement, names))
        if statement[0] == "if":
            lines.append("    " + _line(statement[4], names))
            if statement[5] is not None:
                lines += ["else:", "    " + _line(statement[5], names)]
        elif statement[0] == "for":
            lines.append("    " + _line(statement[2], names))
    return "\n".join(lines)


def _ask(params: Params, phrasing: int, rng: random.Random) -> str:
    names, _, asked = params
    lines, name = source(params).split("\n"), names[asked]
    code = "\n".join(f"{number}: {line}" for number, line in enumerate(lines, 1))
    return (
        f"What does this program print?\n{code}\n{len(lines) + 1}: print({name})",
        f"Trace the code. What is {name} at the end?\n{code}",
        f"{code}\nWhat is the value of {name} after these lines?",
        f"Run this Python code by hand and give the final value of {name}.\n{code}",
        f"Here is a program:\n{code}\n{len(lines) + 1}: print({name})\nWhich number is printed?",
        f"Find the last value of {name}.\n{code}",
    )[phrasing]


def _traced(statement: Statement, state: list[int], names: tuple[str, ...]) -> str:
    """Run an update and write it: statement, numbers put in, new state of the variable."""
    left: Operand = ("var", statement[1]) if statement[0] == "aug" else statement[2]
    op, right = statement[-2:]
    used = [names[number] + f"={state[number]}, " for kind, number in (left, right) if kind == "var"]
    numbers = f"{_value(left, state)}{op}{_value(right, state)}"
    _run(statement, state)
    name = names[statement[1]]
    return f"{_line(statement, names)}: {''.join(used)}{numbers}, {name}={state[statement[1]]}"


def _trace(program: tuple[Statement, ...], state: list[int], names: tuple[str, ...]) -> Iterator[str]:
    number = 1  # of the line in the listing
    for statement in program:
        if statement[0] == "set":
            yield f"{number}: {names[statement[1]]}={statement[2]}"
            number += 1
        elif statement[0] in ("let", "aug"):
            yield f"{number}: {_traced(statement, state, names)}"
            number += 1
        elif statement[0] == "if":
            _, var, relation, bound, then, otherwise = statement
            holds = _holds(state[var], relation, bound)
            verdict = "yes" if holds else "no"
            known = f"{names[var]}={state[var]}"
            yield f"{number}: {_line(statement, names)} {known}, {state[var]}{relation}{bound} {verdict}"
            if holds:
                yield f"{number + 1}: {_traced(then, state, names)}"
            elif otherwise is not None:
                yield f"{number + 3}: {_traced(otherwise, state, names)}"
            number += 2 if otherwise is None else 4
        elif statement[0] == "for":
            for turn in range(statement[1]):
                yield f"{number + 1}: i={turn}: {_traced(statement[2], state, names)}"
            number += 2


def _solve(params: Params, rng: random.Random) -> Solution:
    names, program, asked = params
    state = [statement[2] for statement in program if statement[0] == "set"]
    wanted = f"Find {names[asked]}"
    lines = list(_trace(program, state, names))
    return Solution((wanted, *lines, f"{wanted}={state[asked]}"), str(state[asked]))


def _check(params: Params, answer: str) -> bool:
    """By running the program; its text is rebuilt from numbers and fixed words, with no builtin but range."""
    names, _, asked = params
    if not set(names) <= set(VARIABLES):
        return False
    scope: dict[str, Any] = {"__builtins__": {"range": range}}
    exec(source(params), scope)
    return str(scope[names[asked]]) == answer.strip()


def _audit(params: Params, lines: Sequence[str]) -> bool:
    """Python runs the program under its tracer; every line of the working must tell one step of that run."""
    names, _, asked = params
    listing = source(params).split("\n")
    run = _run_traced(params)
    steps = [
        (number, before, after) for number, before, after in run if not listing[number - 1].startswith("for")
    ]
    first, *told, last = lines
    wanted = f"Find {names[asked]}"
    return (
        first == wanted
        and len(told) == len(steps)
        and all(_tells(line, listing, *step) for line, step in zip(told, steps, strict=True))
        and last == f"{wanted}={steps[-1][2][names[asked]]}"
    )


def _run_traced(params: Params) -> list[tuple[int, dict[str, int], dict[str, int]]]:
    """Every line that Python executes: its number, and all names before and after it."""
    if not set(params[0]) <= set(VARIABLES):
        raise ValueError(f"not names of ours: {params[0]}")
    scope: dict[str, Any] = {"__builtins__": {"range": range}}
    seen: list[tuple[int, dict[str, int]]] = []

    def names_now() -> dict[str, int]:
        return {name: value for name, value in scope.items() if name != "__builtins__"}

    def watch(frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_globals is scope and event == "line":
            seen.append((frame.f_lineno, names_now()))
        return watch

    outer = sys.gettrace()
    sys.settrace(watch)
    try:
        exec(compile(source(params), "program", "exec"), scope)
    finally:
        sys.settrace(outer)
    states = [state for _, state in seen[1:]] + [names_now()]
    return [(number, before, after) for (number, before), after in zip(seen, states, strict=True)]


def _tells(line: str, listing: list[str], number: int, before: dict[str, int], after: dict[str, int]) -> bool:
    """Does a line of the working say what this line of the program did?"""
    code = listing[number - 1].strip()
    in_loop = listing[number - 2].startswith("for")
    prefix = f"{number}: i={before['i']}: " if in_loop else f"{number}: "
    if not line.startswith(prefix):
        return False
    said = line.removeprefix(prefix)
    if " " not in said:  # a first value
        return said == code.replace(" ", "") and said in _facts(after)
    opener = f"{code} " if code.startswith("if") else f"{code}: "
    if not said.startswith(opener):
        return False
    *known, result = said.removeprefix(opener).split(", ")
    if code.startswith("if"):
        holds = "yes" if eval(code[3:-1], {}, before) else "no"
        return set(known) <= _facts(before) and result == f"{_put_in(code[3:-1], before)} {holds}"
    *known, numbers = known
    target = code.split(" ")[0]
    right = numbers == _put_in(_expression(code), before) and result == f"{target}={after[target]}"
    return right and set(known) <= _facts(before)


def _put_in(expression: str, state: dict[str, int]) -> str:
    """`y * 2` with the numbers put in: `4*2`."""
    return re.sub(r"[a-z]", lambda name: str(state[name[0]]), expression).replace(" ", "")


def _facts(state: dict[str, int]) -> set[str]:
    return {f"{name}={value}" for name, value in state.items()}


def _expression(code: str) -> str:
    """What an assignment computes: `y * 2` of `x = y * 2`, `x + 3` of `x += 3`."""
    target, operator, value = code.split(" ", 2)
    return value if operator == "=" else f"{target} {operator[0]} {value}"


CODE_TRACING = Family(
    name="code_tracing",
    title="Tracing code",
    levels=(
        "4 assignments",
        "5-6 statements, some with if and else",
        "5 statements, names that change, a short loop",
    ),
    kind="integer",
    phrasings=6,
    sample=_sample,
    canonical=_canonical,
    ask=_ask,
    solve=_solve,
    check=_check,
    audit=_audit,
)
