"""How a training example came to be, and why another one did not: read from a run's records and ledger.

An example is found by the beginning of its id. Its origins are followed through the parents that records and
ledger name, and every ledger step that one of them passed is told with its verdict.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from phi4.data.ledger import steps
from phi4.data.record import Record, plain_text, read_records
from phi4.data.tables import read_table
from phi4.errors import DataError, UsageError

LEDGER, RECORDS = "ledger", "data/records"
_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Event:
    """What one ledger step said about one id. `made` is true where the step made it, from `parents`."""

    step: str
    status: str
    reason: str
    detail: str
    made: bool
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """One id of a lineage: its events in the order of the steps, and its record if the run stores it."""

    id: str
    depth: int  # 0 for the example itself, 1 for its parents, and so on
    parents: tuple[str, ...]
    events: tuple[Event, ...]
    record: Record | None

    def to_json(self) -> dict[str, Any]:
        """The row of a lineage in samples.json."""
        record = self.record
        made = next((event.step for event in self.events if event.made), "")
        entered = self.events[0].step if self.events else ""
        return {
            "id": self.id,
            "step": record.lineage.step if record else made or entered,
            "source": record.source if record else next((e.detail for e in self.events if e.detail), ""),
            "licence": record.licence if record else "",
            "generator": record.lineage.generator if record else "",
        }


@dataclass(frozen=True, slots=True)
class Trace:
    """An example and all it came from, the example first, each id once."""

    links: tuple[Link, ...]

    @property
    def example(self) -> Link:
        """The id that was asked for."""
        return self.links[0]

    def to_json(self) -> list[dict[str, Any]]:
        """The `lineage` of a sample in samples.json."""
        return [link.to_json() for link in self.links]


def trace(run_folder: Path, prefix: str) -> Trace:
    """The lineage of the one id that begins with `prefix`.

    Raises UsageError when no id or more than one begins so, DataError when the run has no ledger.
    """
    example = _find(run_folder, prefix)
    links: list[Link] = []
    wanted, seen, depth = [example], {example}, 0
    while wanted:
        events = _events(run_folder, wanted)
        records = {record.id: record for record in _stored(run_folder, set(wanted))}
        following: list[str] = []
        for id in wanted:
            record = records.get(id)
            made = tuple(parent for event in events[id] for parent in event.parents)
            parents = record.parents if record and record.parents else made
            links.append(Link(id, depth, parents, tuple(events[id]), record))
            following += [parent for parent in dict.fromkeys(parents) if parent not in seen]
            seen.update(parents)
        wanted, depth = following, depth + 1
    return Trace(tuple(links))


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of an id: the last ledger step that it entered, and the verdict there."""

    id: str
    step: str
    status: str
    reason: str
    detail: str
    trace: Trace


def why_dropped(run_folder: Path, prefix: str) -> Fate:
    """The verdict that ended the one id that begins with `prefix` (or "kept", if none did)."""
    found = trace(run_folder, prefix)
    entered = [event for event in found.example.events if not event.made]
    if not entered:
        return Fate(found.example.id, "", "kept", "", "no step has looked at it since it was made", found)
    ending = next((event for event in entered if event.status != "kept"), entered[-1])
    return Fate(found.example.id, ending.step, ending.status, ending.reason, ending.detail, found)


def excerpt(record: Record, characters: int = 300) -> str:
    """The beginning of what a record says."""
    text = plain_text(record) or str(record.content)
    return text if len(text) <= characters else text[:characters].rstrip() + " …"


def _find(run_folder: Path, prefix: str) -> str:
    if not prefix:
        raise UsageError("no id given", "give an id or its beginning, as the report's samples show it")
    found: set[str] = set()
    for path in _id_files(run_folder):
        ids = read_table(path, ["id"])["id"]
        found.update(ids.filter(pc.starts_with(ids, prefix)).to_pylist())
    if len(found) == 1:
        return found.pop()
    if prefix in found:
        return prefix
    if not found:
        raise UsageError(f"no record of {run_folder} has an id that begins with {prefix!r}")
    shown = ", ".join(sorted(found)[:_MOST_SHOWN]) + (" …" if len(found) > _MOST_SHOWN else "")
    raise UsageError(f"{len(found)} ids begin with {prefix!r}: {shown}", "give more of the id")


def _id_files(run_folder: Path) -> list[Path]:
    ledger = sorted((run_folder / LEDGER).glob("*.parquet"))
    if not ledger:
        raise DataError(f"{run_folder} has no ledger", "choose a run folder that a recipe made: --run DIR")
    return ledger + sorted((run_folder / RECORDS).glob("*.parquet"))


def _events(run_folder: Path, ids: list[str]) -> dict[str, list[Event]]:
    """The events of each id, in the order of the steps; within a step what made it comes first."""
    found: dict[str, list[Event]] = {id: [] for id in ids}
    for file in steps(run_folder / LEDGER):
        table = file.rows()
        rows = table.filter(pc.field("id").isin(ids)).to_pylist()
        for row in sorted(rows, key=lambda row: row["role"], reverse=True):
            found[row["id"]].append(
                Event(
                    step=file.name,
                    status=row["status"],
                    reason=row["reason"],
                    detail=row["detail"],
                    made=row["role"] == "output",
                    parents=tuple(row["parents"]),
                )
            )
    return found


def _stored(run_folder: Path, ids: set[str]) -> Iterator[Record]:
    """The records among `ids` that the run stores, each once; files without any of them are not decoded."""
    missing = set(ids)
    for path in sorted((run_folder / RECORDS).glob("*.parquet")):
        if missing.isdisjoint(read_table(path, ["id"])["id"].to_pylist()):
            continue
        for record in read_records(path):
            if record.id in missing:
                missing.discard(record.id)
                yield record
