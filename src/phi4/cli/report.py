"""`phi4 report RUN`: (re)write a run's report.html and say where it is."""

import argparse
import json
import webbrowser
from pathlib import Path

from phi4.errors import RunError, UsageError

HELP = "Draw what happened in a run as one HTML file."
RUNS = Path("runs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `phi4 report`."""
    parser.add_argument(
        "run_folder", metavar="RUN", help="a run folder, or the start of its name under runs/"
    )
    parser.add_argument("--open", action="store_true", help="show the report in the web browser")


def run(arguments: argparse.Namespace) -> int:
    """Write the report; prints its path (with --json as an object)."""
    from phi4.report.page import write_report  # matplotlib takes its time: only when used

    path = write_report(find_run(arguments.run_folder)).resolve()
    if getattr(arguments, "json", False):
        print(json.dumps({"report": str(path)}))
    else:
        print(f"report: {path}")
    if arguments.open and not webbrowser.open(path.as_uri()):
        raise UsageError("no web browser could be started", f"open {path} yourself")
    return 0


def find_run(name: str, runs: Path = RUNS) -> Path:
    """The run folder `name` means: a path, a recipe's newest run in `runs`, or the start of a folder's name.

    Raises RunError when there is none.
    """
    from phi4.run.folder import find_runs

    if Path(name).is_dir():
        return Path(name)
    made = [run.root for run in find_runs(runs, name)]
    named = [run.root for run in find_runs(runs) if name and run.root.name.startswith(name)]
    if not made + named:
        known = ", ".join(sorted(run.root.name for run in find_runs(runs)))
        raise RunError(f"no run {name}", f"there are: {known}" if known else "make one with `phi4 make tiny`")
    return (made + named)[0]
