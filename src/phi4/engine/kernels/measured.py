"""Which operators are fastest on this machine: measured once, written down, and read from then on.

The speeds of PyTorch's operators differ between CPUs by factors, and none wins for every number of rows. So a large
model's first load multiplies one matrix in every way there is, and keeps the times in the user's cache, a JSON file
that people can read too. Small models take the defaults: they would gain less than the measurement costs.
"""

import hashlib
import itertools
import json
import math
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from phi4.engine.kernels import operators
from phi4.engine.kernels.build import cache_folder, cpu_flags
from phi4.engine.kernels.native import Library
from phi4.engine.kernels.operators import ANY, FEW, KINDS, ByRow, Operator, Plan, kinds_for
from phi4.errors import RunError
from phi4.model.config import Quantization
from phi4.model.linear import QuantizedLinear
from phi4.run.files import atomic_write

NATIVE = "native"
ROWS = (1, 2, 4, 8, 16, 64, 512)
_SIZE = 4096  # rows and columns of the matrix
_BEYOND_CACHE = 1 << 28  # bytes of weights that few rows go through: a model's are not in the cache either
_REPEATS = 5
_PRICE = 0.1  # of a byte per weight, as a share of speed: memory is spent only where it pays

_DEFAULTS: dict[int, tuple[tuple[float, Plan], ...]] = {  # by bits: (bytes per weight it needs, plan)
    4: ((1.5, ((1, "int4pack"), (ANY, "onednn"))), (0.5, ((ANY, "int4pack"),))),
    8: ((1.0, ((ANY, "onednn"),)),),
}


@dataclass(frozen=True)
class Times:
    """Milliseconds of each kind (and of the native kernels) for each number of rows."""

    rows: tuple[int, ...]
    milliseconds: dict[str, list[float]]

    def timed(self, kinds: Sequence[str]) -> list[str]:
        """Those of the kinds that work on this machine."""
        return [kind for kind in kinds if kind in self.milliseconds]

    def plan(self, kinds: Sequence[str], spare: float) -> Plan:
        """The fastest plan of at most two of `kinds`, all of them timed, that hold at most `spare` bytes per weight.

        Where not even one fits, the smallest.
        """
        sets = [pair for count in (1, 2) for pair in itertools.combinations(kinds, count)]
        affordable = [pair for pair in sets if _bytes(pair) <= spare] or [min(sets, key=_bytes)]
        return self._steps(min(affordable, key=lambda pair: self._cost(pair) + _PRICE * _bytes(pair)))

    def native_wins(self, kinds: Sequence[str], spare: float) -> bool:
        """Are the native kernels faster than the plan, over all numbers of rows?"""
        if NATIVE not in self.milliseconds:
            return False
        kinds = self.timed(kinds)
        if not kinds:
            return True
        return self._cost((NATIVE,)) <= self._cost({kind for _, kind in self.plan(kinds, spare)})

    def _cost(self, kinds: Sequence[str] | set[str]) -> float:
        """Mean logarithm of the times of the fastest of the kinds."""
        fastest = (min(self.milliseconds[kind][i] for kind in kinds) for i in range(len(self.rows)))
        return sum(map(math.log, fastest)) / len(self.rows)

    def _steps(self, kinds: Sequence[str]) -> Plan:
        best = [min(kinds, key=lambda kind: self.milliseconds[kind][i]) for i in range(len(self.rows))]
        ends = [(*pair, count) for pair, count in zip(itertools.pairwise(best), self.rows, strict=False)]
        return (*((count, kind) for kind, following, count in ends if kind != following), (ANY, best[-1]))


def default_plan(kinds: Sequence[str], bits: int, spare: float) -> Plan:
    """What is taken without measuring, of the given kinds."""
    for needed, plan in _DEFAULTS[bits]:
        if needed <= spare and all(kind in kinds for _, kind in plan):
            return plan
    last = "int4pack" if "int4pack" in kinds else "int8pack"
    return ((ANY, last),)


def times(library: Library | None, folder: Path | None = None) -> Times:
    """This machine's times with the present number of threads: read, or measured now (some 15 seconds) and written."""
    threads = torch.get_num_threads()
    # A record is of these operators: when they change, it is made anew.
    source = Path(operators.__file__).read_text(encoding="utf-8")
    parts = (torch.__version__, cpu_flags(), str(threads), library.name if library else "", source)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    path = (folder or cache_folder()) / f"operators-{key}.json"
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        return _checked(json.loads(path.read_text(encoding="utf-8")))
    print(
        "measuring once which operators are fastest on this machine (about 15 seconds) ...", file=sys.stderr
    )
    found = measure(library)
    about = {"torch": torch.__version__, "threads": threads, "native": library.name if library else None}
    table = {name: [round(ms, 4) for ms in every] for name, every in found.milliseconds.items()}
    size = f"{_SIZE} x {_SIZE}, int4 in groups of 128"
    with suppress(OSError, RunError):  # a cache that cannot be written costs the measurement again, no more
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = {**about, "matrix": size, "rows": list(found.rows), "milliseconds": table}
        atomic_write(path, json.dumps(raw, indent=2) + "\n")
    return found


def measure(
    library: Library | None, rows: Sequence[int] = ROWS, size: int = _SIZE, beyond: int = _BEYOND_CACHE
) -> Times:
    """Multiply a random matrix in every way there is; few rows go through `beyond` bytes of copies of it."""
    linear = QuantizedLinear(size, size, Quantization(4, 128))
    linear.weight_packed.random_(-(2**31), 2**31 - 1)
    linear.weight_scale = torch.full_like(linear.weight_scale, 0.01, dtype=torch.bfloat16)
    by_row = ByRow.of(linear)

    def made(name: str) -> Operator:  # anew, in memory of its own
        if name == NATIVE:
            assert library is not None
            return partial(library.linear, library.matrix(linear))
        return KINDS[name].make(linear, ByRow(by_row.value_OI.clone(), by_row.scale_O))

    copies: dict[str, list[Operator]] = {}
    for name in [*kinds_for(linear), *([NATIVE] if library else [])]:
        held = size**2 * (0.5 if name == NATIVE else KINDS[name].bytes)
        with suppress(RuntimeError):  # an operator that this PyTorch does not have for this CPU is no choice
            copies[name] = [made(name) for _ in range(math.ceil(beyond / held))]
            copies[name][0](torch.zeros(1, size))
    found: dict[str, list[list[float]]] = {name: [[] for _ in rows] for name in copies}
    for _ in range(_REPEATS):  # in turns: what disturbs the machine for a moment disturbs all of them
        for name, table in found.items():
            for count, every in zip(rows, table, strict=True):
                used = copies[name] if count <= FEW else copies[name][:1]
                every.append(_milliseconds(used, count, size))
    # Medians, not the best: an operator that is fast at times only (AMX on a shared core) is not the fastest.
    return Times(tuple(rows), {name: [median(every) for every in table] for name, table in found.items()})


@torch.inference_mode()
def _milliseconds(copies: Sequence[Operator], count: int, size: int) -> float:
    """One pass over all copies, per copy."""
    x_MI = torch.randn(count, size)
    copies[0](x_MI)  # chooses and allocates
    begun = time.perf_counter()
    for copy in copies:
        copy(x_MI)
    return 1000 * (time.perf_counter() - begun) / len(copies)


def _bytes(kinds: Sequence[str]) -> float:
    return sum(KINDS[kind].bytes for kind in kinds)


def _checked(raw: Any) -> Times:
    """Raises ValueError for a file that is not a table of positive times."""
    rows, table = raw["rows"], raw["milliseconds"]
    known = {*KINDS, NATIVE}
    found = {name: [float(ms) for ms in every] for name, every in table.items() if name in known}
    if rows != list(ROWS) or not any(name in KINDS for name in found):
        raise ValueError("not a table of times")
    if any(len(every) != len(rows) or not all(0 < ms < math.inf for ms in every) for every in found.values()):
        raise ValueError("not a table of times")
    return Times(tuple(rows), found)
