"""`phi4 ablate WHAT`: train variants side by side and compare them item by item."""

import argparse
import json
from pathlib import Path

from phi4.errors import UsageError

HELP = (
    "Compare variants of a recipe: its data (`phi4 ablate pico`), its preference pairs (`phi4 ablate dpo`) or its "
    "optimizer (`phi4 ablate optimizer`)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `phi4 ablate`."""
    parser.add_argument(
        "what", help="a recipe's name (its data, five arms), dpo (its preference pairs) or optimizer"
    )
    parser.add_argument(
        "--recipe", default="pico", help="the recipe `ablate dpo` and `ablate optimizer` start from"
    )
    parser.add_argument("--seeds", type=int, default=2, help="how many seeds each arm is trained with")
    parser.add_argument("--pairs", type=int, default=300, help="confirmed pairs `ablate dpo` searches for")
    parser.add_argument(
        "--tokens", type=int, default=1_200_000, help="tokens of each run of `ablate optimizer`"
    )
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where run folders go")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="append the table to this Markdown file")


def run(args: argparse.Namespace) -> int:
    """Train every arm, print the table, and put it into the report of the recipe's newest run."""
    from dataclasses import asdict

    from phi4.recipes.ablations import ablate_data, ablate_dpo, table, write_ablation
    from phi4.recipes.catalog import recipe as find
    from phi4.recipes.optimizers import race, race_table
    from phi4.report.page import write_report
    from phi4.run.config import apply_overrides
    from phi4.run.folder import find_runs

    if min(args.seeds, args.pairs, args.tokens) < 1:
        raise UsageError("--seeds, --pairs and --tokens must be at least 1")
    name = args.recipe if args.what in ("dpo", "optimizer") else args.what
    recipe, _ = apply_overrides(find(name), args.set)
    runs = find_runs(args.out, recipe.name)

    def say(line: str) -> None:
        print(line, flush=True)

    def show(text: str) -> None:
        print(f"\n{text}")
        if args.log is not None:
            with open(args.log, "a", encoding="utf-8") as log:
                log.write(f"\n{text}\n")

    if args.what == "optimizer":
        curves = race(recipe, args.tokens, args.out / "ablations", range(args.seeds), say)
        show(race_table(curves))
        if args.json:
            print(json.dumps([asdict(curve) for curve in curves]))
        return 0
    if args.what == "dpo":
        if not runs:
            raise UsageError(f"there is no run of {name} in {args.out}/", f"run `phi4 make {name}` first")
        result = ablate_dpo(recipe, runs[0], range(args.seeds), args.pairs, say)
    else:
        result = ablate_data(recipe, args.out / "ablations", range(args.seeds), say)
    show(table(result))
    for newest in runs[:1]:
        write_ablation(result, newest.root)
        print(f"report: {write_report(newest.root)}")
    if args.json:
        print(json.dumps(asdict(result)))
    return 0
