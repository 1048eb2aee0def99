"""`phi4 models`: the models there are, what is on disk, and what fits this machine. Works offline."""

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

HELP = (
    "List the models that have a short name and those made here: size, context, licence, on disk, what fits."
)

PRECISIONS = {"bf16": 2.0, "int8": 1.0625, "int4": 0.5625}  # bytes per weight, scales included


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`phi4 models` takes nothing."""


@dataclass(frozen=True)
class Row:
    """A model in the list."""

    name: str
    parameters: int
    context: int
    licence: str
    note: str
    path: str  # empty: not on this machine
    on_disk_bytes: int


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    memory = memory_bytes()
    rows = [*_made(Path("runs")), *_published()]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    for title in ("weights", "context"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("fits as", no_wrap=True)
    table.add_column("on disk", justify="right", no_wrap=True)
    table.add_column("licence")
    for row in rows:
        disk = row.on_disk_bytes
        table.add_row(
            row.name,
            f"{row.parameters / 1e9:.1f} B" if row.parameters >= 1e9 else f"{row.parameters / 1e6:.1f} M",
            f"{row.context:,}",
            fitting(row.parameters, memory) or "too large",
            f"{disk / 1e9:.1f} GB" if disk >= 1e8 else f"{disk / 1e6:.0f} MB" if disk else "",
            f"{row.licence}: {row.note}" if "research" in row.note else row.licence,
        )
    Console().print(table)
    print(
        f"\n{memory / 2**30:.0f} GiB of memory here. `phi4 pull NAME` fetches a model, `phi4 chat NAME` talks to it."
    )
    if args.json:
        listed = [{**asdict(row), "fits": fitting(row.parameters, memory)} for row in rows]
        print(json.dumps({"memory_bytes": memory, "models": listed}))
    return 0


def _published() -> Iterator[Row]:
    from phi4.weights.catalog import CATALOG, on_disk, size_on_disk

    for entry in CATALOG:
        path = on_disk(entry)
        yield Row(
            entry.name,
            entry.parameters,
            entry.config.max_position_embeddings,
            entry.licence,
            entry.note,
            str(path or ""),
            size_on_disk(path) if path else 0,
        )


def _made(runs: Path) -> Iterator[Row]:
    """The newest finished run of each recipe."""
    from phi4.model.cost import parameters
    from phi4.run.folder import find_runs
    from phi4.weights.catalog import size_on_disk
    from phi4.weights.folder import read_config

    seen: set[str] = set()
    for run in find_runs(runs):
        folder, name = run.root / "model", str(run.read_run().get("name", run.root.name))
        if name in seen or not (folder / "config.json").is_file():
            continue
        seen.add(name)
        config = read_config(folder)
        context, size = config.max_position_embeddings, size_on_disk(folder)
        yield Row(name, parameters(config), context, "made here", "", str(folder), size)


def memory_bytes() -> int:
    """What this process may use: the machine's memory, or its container's limit."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            machine = min(machine, int(Path(path).read_text()))
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return machine


def fitting(parameters: int, memory: int) -> str:
    """The largest precision whose weights take at most four fifths of the memory; empty when none does."""
    return next((name for name, size in PRECISIONS.items() if parameters * size <= 0.8 * memory), "")
