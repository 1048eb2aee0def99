"""`phi4 data`: how a training example came to be, why another was dropped, and how many went where."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from phi4.data.lineage import Event, Trace

HELP = "trace a training example, see why a record was dropped, show the funnel"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `trace ID`, `why-dropped ID` and `funnel`."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--run", metavar="DIR", type=Path, help="run folder (default: the newest in runs/)")
    verbs = parser.add_subparsers(dest="data_verb", metavar="VERB", required=True)
    tracing = verbs.add_parser("trace", parents=[shared], help="how a training example came to be")
    tracing.add_argument("id", help="record id, or its beginning")
    dropping = verbs.add_parser("why-dropped", parents=[shared], help="why a record does not train anything")
    dropping.add_argument("id", help="record id, or its beginning")
    verbs.add_parser("funnel", parents=[shared], help="how many records each step kept, dropped and failed")


def run(args: argparse.Namespace) -> int:
    """Print the answer; with `--json` (of the main command) one JSON object comes last."""
    import json
    from dataclasses import asdict

    from rich.console import Console

    from phi4.data.ledger import funnel
    from phi4.data.lineage import LEDGER, trace, why_dropped

    folder = args.run or _newest_run(Path("runs"))
    console = Console(highlight=False)
    answer: object
    if args.data_verb == "trace":
        found = trace(folder, args.id)
        _print_trace(found, console)
        answer = {"id": found.example.id, "lineage": found.to_json()}
    elif args.data_verb == "why-dropped":
        fate = why_dropped(folder, args.id)
        at = f" at step {fate.step}" if fate.step else ""
        because = f": {fate.reason}" if fate.reason else ""
        console.print(f"{fate.id} was {fate.status}{at}{because}", style=_STYLES[fate.status], markup=False)
        if fate.detail:
            console.print(f"  {fate.detail}", markup=False)
        console.print()
        _print_trace(fate.trace, console)
        answer = {key: value for key, value in asdict(fate).items() if key != "trace"}
    else:
        answer = funnel(_existing(folder / LEDGER))
        _print_funnel(answer["steps"], console)
    if getattr(args, "json", False):
        print(json.dumps(answer, ensure_ascii=False))
    return 0


_STYLES = {"kept": "green", "dropped": "yellow", "failed": "red", "pending": "cyan", "": "dim"}


def _newest_run(folder: Path) -> Path:
    from phi4.errors import UsageError

    marks = [path for path in folder.glob("*/run.json") if path.is_file()]
    if not marks:
        raise UsageError(f"no run in {folder}/", "make one (phi4 make tiny), or name one with --run DIR")
    return max(marks, key=lambda path: path.stat().st_mtime).parent


def _existing(ledger: Path) -> Path:
    from phi4.errors import DataError

    if not any(ledger.glob("*.parquet")):
        raise DataError(f"{ledger.parent} has no ledger", "choose a run folder that a recipe made: --run DIR")
    return ledger


def _print_trace(trace: "Trace", console: "Console") -> None:
    from rich.markup import escape
    from rich.panel import Panel
    from rich.text import Text
    from rich.tree import Tree

    from phi4.data.lineage import excerpt

    if trace.example.record is not None:
        title = escape(f"{trace.example.record.kind} {trace.example.id}")
        console.print(Panel(Text(excerpt(trace.example.record, 600)), title=title, title_align="left"))
    # an id that several came from is shown under the first of them
    child_of = {parent: link.id for link in reversed(trace.links) for parent in link.parents}
    branches: dict[str, Tree] = {}
    for link in trace.links:
        about = [f"[bold]{link.id}[/bold]"]
        record = link.record
        if record is not None:
            about.append(
                escape(f"from {record.source} ({record.licence}), made by {record.lineage.generator}")
            )
            problem = [part for part in (record.problem_key, record.template_id) if part]
            if problem:
                about.append(escape(f"problem {', wording '.join(problem)}"))
            if record.lineage.prompt:
                about.append(escape(f"prompt: {record.lineage.prompt[:200]}"))
            if "locator" in record.meta:
                about.append(escape(f"at {record.meta['locator']}"))
        label = "\n".join(about)
        branch = Tree(label) if link is trace.example else branches[child_of[link.id]].add(label)
        for event in link.events:
            branch.add(_event_line(event))
        branches[link.id] = branch
    console.print(branches[trace.example.id])


def _event_line(event: "Event") -> str:
    from rich.markup import escape

    if event.made:
        return escape(f"made by step {event.step} from {', '.join(event.parents)}")
    note = " ".join(part for part in (event.reason, f"({event.detail})" if event.detail else "") if part)
    style = _STYLES[event.status]
    return f"{escape(event.step)}: [{style}]{event.status}[/{style}]" + (f" {escape(note)}" if note else "")


def _print_funnel(steps: list[dict[str, object]], console: "Console") -> None:
    from rich.table import Table

    table = Table("step", box=None, header_style="bold")
    for title in ("in", "kept", "out", "pending"):
        table.add_column(title, justify="right")
    table.add_column("dropped and failed, by reason", overflow="fold")
    for step in steps:
        dropped, failed = step["dropped"], step["failed"]
        assert isinstance(dropped, dict)
        assert isinstance(failed, dict)
        reasons = [f"{reason} {count:,}" for reason, count in dropped.items()]
        reasons += [f"[red]failed: {error} {count:,}[/red]" for error, count in failed.items()]
        counts = [f"{step[key]:,}" for key in ("inputs", "kept", "outputs", "pending")]
        table.add_row(str(step["step"]), *counts, ", ".join(reasons))
    console.print(table)
