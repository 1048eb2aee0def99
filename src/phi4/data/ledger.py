"""The ledger: at every step, every record is accounted for, or the run stops.

Each input of a step ends with exactly one status (kept, dropped for a reason, failed with an error, pending).
Each output names parents that lie among the kept inputs, and each kept input has an output, so splitting one
record into many and joining many into one both balance. A step that declares no output is a filter: its kept
inputs go on as themselves. A step file is written when the step closes, balanced and whole, or not at all.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from phi4.data.tables import footer, read_table, write_table
from phi4.errors import LedgerError

STATUSES = ("", "kept", "dropped", "failed", "pending")
_KEPT, _DROPPED, _FAILED, _PENDING = 1, 2, 3, 4
_STEP_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_SCHEMA = pa.schema(
    [
        pa.field("role", pa.string(), nullable=False),  # "input" or "output"
        pa.field("id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # of an input; "" for outputs
        pa.field("reason", pa.string(), nullable=False),  # code of a drop, an error or a delay: counted
        pa.field("detail", pa.string(), nullable=False),  # for people: values, thresholds, the other record
        pa.field("parents", pa.list_(pa.string()), nullable=False),  # of an output
    ]
)


class Step:
    """One step being accounted for; made by `Ledger.step`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._position: dict[str, int] = {}
        self._status = bytearray()
        self._notes: dict[int, tuple[str, str]] = {}  # position -> (reason, detail), where there is one
        self._outputs: dict[str, tuple[str, ...]] = {}

    def input(self, ids: Iterable[str]) -> None:
        """Declare what enters the step. An id enters once."""
        incoming = list(ids)
        fresh = dict(zip(incoming, range(len(self._status), len(self._status) + len(incoming)), strict=True))
        if len(fresh) != len(incoming) or not self._position.keys().isdisjoint(fresh):
            times = Counter((*self._position, *incoming))
            repeated = next(id for id in incoming if times[id] > 1)
            raise LedgerError(
                f"step {self.name}: record {repeated} enters twice", "record ids must be unique"
            )
        self._position.update(fresh)
        self._status.extend(bytes(len(incoming)))

    def keep(self, id: str, detail: str = "") -> None:
        """This input goes on, as itself or as the parent of an output."""
        self._settle(id, _KEPT, "", detail)

    def keep_all(self, ids: Iterable[str]) -> None:
        """Keep many inputs."""
        for id in ids:
            self._settle(id, _KEPT, "", "")

    def drop(self, id: str, reason: str, detail: str = "") -> None:
        """This input ends here because of a decision; `reason` is a short code that is counted."""
        if not reason:
            raise LedgerError(f"step {self.name}: record {id} is dropped without a reason")
        self._settle(id, _DROPPED, reason, detail)

    def fail(self, id: str, error: str | BaseException, detail: str = "") -> None:
        """This input ends here because something went wrong; an exception is counted under its type."""
        if isinstance(error, BaseException):
            error, detail = type(error).__name__, detail or str(error)
        self._settle(id, _FAILED, error or "error", detail)

    def pend(self, id: str, reason: str, detail: str = "") -> None:
        """This input is neither kept nor given up: its work is to be done by a later run."""
        self._settle(id, _PENDING, reason, detail)

    def output(self, id: str, parents: Sequence[str]) -> None:
        """Declare a record made by this step out of kept inputs."""
        if id in self._outputs:
            raise LedgerError(f"step {self.name}: output {id} is made twice")
        if not parents:
            raise LedgerError(
                f"step {self.name}: output {id} has no parent", "every output comes from an input"
            )
        self._outputs[id] = tuple(parents)

    def balance(self) -> None:
        """Raise LedgerError unless every input is settled and outputs and kept inputs fit each other."""
        missing = self._status.find(0)
        if missing >= 0:
            id = next(id for id, number in self._position.items() if number == missing)
            raise LedgerError(
                f"step {self.name}: {self._status.count(0)} of {len(self._status)} records have no status,"
                f" the first is {id}",
                "a record has disappeared; this is an error in the step, nothing was written",
            )
        if not self._outputs:
            return
        used: set[str] = set()
        for id, parents in self._outputs.items():
            for parent in parents:
                number = self._position.get(parent)
                if number is None or self._status[number] != _KEPT:
                    found = "not an input" if number is None else STATUSES[self._status[number]]
                    raise LedgerError(
                        f"step {self.name}: parent {parent} of output {id} is {found}, not a kept input"
                    )
            used.update(parents)
        if len(used) != self._status.count(_KEPT):
            childless = [i for i, n in self._position.items() if self._status[n] == _KEPT and i not in used]
            raise LedgerError(
                f"step {self.name}: {len(childless)} kept records have no output,"
                f" the first is {childless[0]}",
                "a record has disappeared; this is an error in the step, nothing was written",
            )

    def continued(self) -> set[str]:
        """The ids that leave the step: its outputs, or for a filter its kept inputs."""
        if self._outputs:
            return set(self._outputs)
        return {id for id, number in self._position.items() if self._status[number] == _KEPT}

    def entered(self) -> set[str]:
        """The ids that were declared as inputs."""
        return set(self._position)

    def columns(self) -> dict[str, list[Any]]:
        """The rows of the step's file: inputs in the order they entered, then outputs."""
        notes = [self._notes.get(number, ("", "")) for number in range(len(self._status))]
        n_inputs, n_outputs = len(notes), len(self._outputs)
        empty = [""] * n_outputs
        return {
            "role": ["input"] * n_inputs + ["output"] * n_outputs,
            "id": [*self._position, *self._outputs],
            "status": [STATUSES[status] for status in self._status] + empty,
            "reason": [reason for reason, _ in notes] + empty,
            "detail": [detail for _, detail in notes] + empty,
            "parents": [[]] * n_inputs + [list(parents) for parents in self._outputs.values()],
        }

    def _settle(self, id: str, status: int, reason: str, detail: str) -> None:
        number = self._position.get(id)
        if number is None:
            raise LedgerError(
                f"step {self.name}: record {id} never entered, and cannot be {STATUSES[status]}"
            )
        if self._status[number]:
            raise LedgerError(
                f"step {self.name}: record {id} is already {STATUSES[self._status[number]]},"
                f" and cannot also be {STATUSES[status]}"
            )
        self._status[number] = status
        if reason or detail:
            self._notes[number] = (reason, _storable(detail))


@dataclass(frozen=True)
class StepFile:
    """A closed step on disk."""

    name: str
    order: int
    path: Path

    def rows(self) -> pa.Table:
        """All rows, see the schema on top of this file."""
        return read_table(self.path)


@dataclass(frozen=True)
class Ledger:
    """The accounts of one run: a folder with one parquet file per closed step."""

    folder: Path

    @staticmethod
    def open(folder: Path) -> "Ledger":
        """Open or begin the ledger in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        return Ledger(folder)

    @contextmanager
    def step(self, name: str, after: Sequence[str] = ()) -> Iterator[Step]:
        """Account for one step; on leaving the block it must balance, and its file is written atomically.

        With `after`, the inputs must be exactly what left those earlier steps: nothing is lost in between.
        An exception in the block passes through and nothing is written, so the step can be run again.
        Running a step again replaces its file. Raises LedgerError when the accounts do not balance.
        """
        if not _STEP_NAME.fullmatch(name):
            raise LedgerError(f"{name!r} is no name for a step", "use lower-case letters, digits, . _ and -")
        step = Step(name)
        yield step
        step.balance()
        if after:
            self._check_handover(step, after)
        known = {file.name: file.order for file in steps(self.folder)}
        order = known.get(name, max(known.values(), default=0) + 1)
        write_table(
            self.folder / f"{name}.parquet",
            _SCHEMA,
            [step.columns()],
            {"phi4.step": name, "phi4.order": str(order), "phi4.after": " ".join(after)},
        )

    def leaving(self, name: str) -> set[str]:
        """The ids that left a closed step: its outputs, or its kept inputs if it only filtered."""
        path = self.folder / f"{name}.parquet"
        if not path.exists():
            raise LedgerError(f"step {name} is not in the ledger {self.folder}")
        table = read_table(path, ["role", "id", "status"])
        outputs = table.filter(pc.equal(table["role"], "output"))
        chosen = outputs if outputs.num_rows else table.filter(pc.equal(table["status"], "kept"))
        return set(chosen["id"].to_pylist())

    def _check_handover(self, step: Step, after: Sequence[str]) -> None:
        expected: set[str] = set()
        for name in after:
            expected |= self.leaving(name)
        entered = step.entered()
        for ids, what in ((expected - entered, "never arrived"), (entered - expected, "came from nowhere")):
            if ids:
                raise LedgerError(
                    f"step {step.name}: {len(ids)} records {what} after {', '.join(after)},"
                    f" the first is {min(ids)}",
                    "a record has disappeared between two steps; nothing was written",
                )


def steps(folder: Path) -> list[StepFile]:
    """The closed steps of a ledger folder, in the order in which they were first closed."""
    found = []
    for path in folder.glob("*.parquet"):
        marks = footer(path)
        found.append(StepFile(marks["phi4.step"], int(marks["phi4.order"]), path))
    return sorted(found, key=lambda file: (file.order, file.name))


def funnel(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What happened to how many, per step: the content of a run's funnel.json."""
    return {"steps": [_counts(file) for file in steps(folder)]}


def _counts(file: StepFile) -> dict[str, Any]:
    table = read_table(file.path, ["role", "status", "reason"])
    counts: dict[tuple[str, str, str], int] = {}
    for row in table.group_by(["role", "status", "reason"]).aggregate([([], "count_all")]).to_pylist():
        counts[row["role"], row["status"], row["reason"]] = row["count_all"]

    def reasons(status: str) -> dict[str, int]:
        found = {reason: n for (_, state, reason), n in counts.items() if state == status}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    kept = sum(reasons("kept").values())
    outputs = sum(n for (role, _, _), n in counts.items() if role == "output")
    return {
        "step": file.name,
        "inputs": sum(n for (role, _, _), n in counts.items() if role == "input"),
        "kept": kept,
        "dropped": reasons("dropped"),
        "failed": reasons("failed"),
        "pending": sum(reasons("pending").values()),
        "outputs": outputs or kept,
    }


def _storable(text: str) -> str:
    """Details may quote file names and broken documents; a lone surrogate has no place in UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
