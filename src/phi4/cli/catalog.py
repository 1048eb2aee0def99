"""`phi4 models`: the models there are, what is on disk, and what fits this machine. Works offline."""

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phi4.model.config import ModelConfig
    from phi4.weights.catalog import Entry

HELP = (
    "List the models that have a short name and those made here: size, context, licence, on disk, what fits."
)

# How weights may be kept: (bits, group size) of the matrices inside the layers; embedding and head stay 16 bit.
PRECISIONS: dict[str, tuple[int, int] | None] = {"bf16": None, "int8": (8, 0), "int4": (4, 32)}
_SHARE = 0.8  # of the memory: the rest is for the cache of the conversation and for everybody else


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
    weight_bytes: dict[str, int]  # by precision
    fits: str  # the largest precision that fits this machine; empty: none


def _row(name: str, config: "ModelConfig", licence: str, note: str, path: Path | None) -> Row:
    from phi4.model.cost import parameters
    from phi4.weights.catalog import size_on_disk

    return Row(
        name,
        parameters(config),
        config.max_position_embeddings,
        licence,
        note,
        str(path or ""),
        size_on_disk(path) if path else 0,
        weight_bytes(config),
        fitting(config, memory_bytes()),
    )


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    memory = memory_bytes()
    rows = [*_made(Path("runs")), *_published()]
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("model", no_wrap=True)
    for title in ("size", "context", "/".join(PRECISIONS)):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("fits as", no_wrap=True)
    table.add_column("on disk", justify="right", no_wrap=True)
    table.add_column("licence")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.parameters / 1e9:.1f} B" if row.parameters >= 1e9 else f"{row.parameters / 1e6:.1f} M",
            f"{row.context:,}",
            "/".join(_short(size) for size in row.weight_bytes.values()),
            row.fits or "nothing",
            _size(row.on_disk_bytes) if row.on_disk_bytes else "",
            row.licence + ("*" if "research" in row.note else ""),
        )
    Console().print(table)
    print(
        "* only for research, not for commercial use\n"
        f"GB of weights by precision (int8, int4: the layers' matrices); {_size(memory)} of memory here.\n"
        "`phi4 pull NAME` fetches a model, `phi4 chat NAME` talks to it, `phi4 show NAME` tells more."
    )
    if args.json:
        print(json.dumps({"memory_bytes": memory, "models": [asdict(row) for row in rows]}))
    return 0


def _published() -> Iterator[Row]:
    from phi4.weights.catalog import CATALOG, on_disk

    for entry in CATALOG:
        yield _row(entry.name, entry.config, entry.licence, entry.note, on_disk(entry))


def _made(runs: Path) -> Iterator[Row]:
    """The newest finished run of each recipe."""
    from phi4.run.folder import find_runs
    from phi4.weights.folder import read_config

    seen: set[str] = set()
    for run in find_runs(runs):
        folder, name = run.root / "model", str(run.read_run().get("name", run.root.name))
        if name not in seen and (folder / "config.json").is_file():
            seen.add(name)
            yield _row(name, read_config(folder), "made here", "", folder)


def memory_bytes() -> int:
    """What this process may use: the machine's memory, or its container's limit."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            machine = min(machine, int(Path(path).read_text()))
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return machine


def weight_bytes(config: "ModelConfig") -> dict[str, int]:
    """Bytes of a network's weights in each precision, scales included; as they are for one that is quantised."""
    from dataclasses import replace

    from phi4.model import cost
    from phi4.model.config import Quantization

    if config.quantization is not None:
        return {config.quantization.name: cost.weight_bytes(config)}
    kinds = {name: Quantization(*kind) if kind else None for name, kind in PRECISIONS.items()}
    return {name: cost.weight_bytes(replace(config, quantization=kind)) for name, kind in kinds.items()}


def fitting(config: "ModelConfig", memory: int) -> str:
    """The largest precision whose weights take at most four fifths of the memory; empty when none does."""
    return next((name for name, size in weight_bytes(config).items() if fits(size, memory)), "")


def fits(size: int, memory: int) -> bool:
    """Do weights of `size` bytes leave a fifth of the memory to everything else?"""
    return size <= _SHARE * memory


def recommend(entry: "Entry", memory: int) -> str:
    """What to run on a machine with this much memory: this model, it quantised, or a smaller one. One sentence."""
    from phi4.weights.catalog import CATALOG

    precision = fitting(entry.config, memory)
    if precision == "bf16":
        return "it fits this machine as it is"
    thinks = "reasoning" in entry.name
    smaller = [e for e in CATALOG if e.parameters < entry.parameters and not e.for_research_only]
    best = max(
        (e for e in smaller if fitting(e.config, memory)),
        key=lambda e: (e.parameters, ("reasoning" in e.name) == thinks),
        default=None,
    )
    instead = ""
    if best is not None:
        other = fitting(best.config, memory)
        instead = f"; {best.name} fits as {other} ({_size(weight_bytes(best.config)[other])})"
    return (
        f"it fits this machine as {precision}" if precision else "it is too large for this machine"
    ) + instead


def costs(entry: "Entry") -> str:
    """What a published model takes, in lines: licence, disk, memory, and what is recommended here. Works offline."""
    memory = memory_bytes()
    sizes = ", ".join(f"{name} {_size(size)}" for name, size in weight_bytes(entry.config).items())
    return (
        f"{entry.name}: {entry.parameters / 1e9:.1f} billion parameters, "
        f"{entry.config.max_position_embeddings:,} tokens of context, {_licence(entry)}\n"
        f"  to fetch     {_size(2 * entry.parameters)} from {entry.repo}\n"
        f"  disk, memory {sizes}; {_size(memory)} of memory here\n"
        f"  recommended  {recommend(entry, memory)}"
    )


def _licence(entry: "Entry") -> str:
    return f"{entry.licence} licence" + (f": {entry.note}" if entry.for_research_only else "")


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _short(size: float) -> str:
    return f"{size / 1e9:.1f}" if size >= 5e7 else f"{size / 1e9:.2g}"
