"""`phi4 make RECIPE`: carry out a recipe from its first seed to a model that answers."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from phi4.recipes.recipe import Recipe
    from phi4.recipes.summary import Summary

HELP = "Make a model by a recipe. Stop it whenever you like; the same command goes on where it was."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `phi4 make`."""
    parser.add_argument("recipe", help="tiny (a minute) or pico (ten minutes)")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="also learn from .txt, .md and .py files")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where run folders go")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="forget what an earlier run with these values made"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and its cost only")


def run(args: argparse.Namespace) -> int:
    """Make the model and print what it came to."""
    from dataclasses import replace

    from rich.console import Console

    from phi4.recipes.catalog import recipe as find
    from phi4.recipes.corpus import with_documents
    from phi4.run.config import apply_overrides

    recipe = find(args.recipe)
    if args.docs is not None:
        recipe = with_documents(replace(recipe, organic=replace(recipe.organic, docs=args.docs)))
    recipe, provenance = apply_overrides(recipe, args.set)
    console = Console(highlight=False, soft_wrap=True)
    if args.dry_run:
        return _dry_run(recipe, provenance, console, as_json=args.json)
    from phi4.cli.models import remember
    from phi4.recipes.make import make
    from phi4.recipes.summary import summarise

    names = ", ".join(stage.name for stage in recipe.stages)
    if recipe.pivotal is not None and recipe.dpo is not None:
        names += ", pivotal tokens, dpo"
    console.print(
        f"{recipe.name}: about {recipe.minutes:g} min on two cores with bf16; {names}. "
        "Ctrl-C stops it, the same command resumes it."
    )
    folder = make(
        recipe,
        args.out,
        provenance,
        lambda line: console.print(line, markup=False),
        fresh=args.fresh,
    )
    summary = summarise(recipe, folder)
    remember(summary.model)
    _print_summary(recipe, summary, console)
    if args.json:
        print(json.dumps(_as_json(summary)))
    return 0


def _print_summary(recipe: "Recipe", summary: "Summary", console: "Console") -> None:
    from rich.table import Table

    table = Table(
        title=f"{recipe.name}: unseen problems right in %, by stage [95 % interval]",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("family", no_wrap=True)
    for stage, scores in summary.stages:
        table.add_column(f"{stage}\n{scores['mode']}", justify="right", no_wrap=True)
    table.add_column("chance", justify="right")
    table.add_column("neigh-\nbour", justify="right")
    for name, last in summary.stages[-1][1]["families"].items():
        cells = [_percent(scores["families"][name]) for _, scores in summary.stages]
        mark = "" if last["trained"] else " *"
        table.add_row(name + mark, *cells, f"{last['chance']:.0%}", f"{last['neighbour']:.0%}")
    table.add_section()
    table.add_row("all trained", *(_percent(scores["overall"]) for _, scores in summary.stages))
    console.print(table)
    if recipe.skills.transfer:
        console.print("* never trained on", markup=False)
    for item in summary.solved:
        console.print(f"\nAn unseen problem ({item['family']}):", style="bold")
        console.print(item["question"], markup=False)
        console.print("\n".join("  " + line for line in item["response"].strip().split("\n")), markup=False)
    minutes = summary.seconds / 60
    console.print(
        f"\nmade in {minutes:.1f} min   model {summary.model}   report {summary.report}", markup=False
    )
    console.print("talk to it: phi4 chat", markup=False)


def _percent(tally: dict[str, float]) -> str:
    return f"{100 * tally['accuracy']:.0f} [{100 * tally['low']:.0f},{100 * tally['high']:.0f}]"


def _as_json(summary: "Summary") -> dict[str, object]:
    return {
        "model": str(summary.model),
        "report": str(summary.report),
        "seconds": round(summary.seconds, 1),
        "stages": {stage: scores["overall"] for stage, scores in summary.stages},
    }


def _dry_run(recipe: "Recipe", provenance: dict[str, str], console: "Console", *, as_json: bool) -> int:
    """The resolved recipe with the origin of each value, and what it costs on this machine."""
    from phi4.device import measure
    from phi4.model.cost import parameters, training_bytes, training_flops_per_token
    from phi4.run.config import flatten, to_json

    for key, value in flatten(recipe).items():
        console.print(f"{key} = {value}  ({provenance[key]})", markup=False)
    machine = measure(recipe.dtype)
    tokens = {stage.name: stage.tokens for stage in recipe.stages}
    flops = sum(s.tokens * training_flops_per_token(recipe.model, s.context) for s in recipe.stages)
    memory = max(training_bytes(recipe.model, s.rows * s.context) for s in recipe.stages)
    cost = {
        "parameters": parameters(recipe.model),
        "tokens": tokens,
        "training_flops": flops,
        "memory_bytes": memory,
        "dtype": machine.dtype,
        "seconds_at_full_speed": round(flops / machine.peak_flops, 1),
        "minutes_expected": recipe.minutes,
    }
    console.print(
        f"\n{cost['parameters']:,} parameters; {sum(tokens.values()):,} training tokens; {flops:.3g} FLOPs = "
        f"{cost['seconds_at_full_speed']} s at this machine's {machine.matmul_gflops[machine.dtype]:,.0f} GFLOP/s "
        f"({machine.dtype} matmul; small models reach a part of it); about {memory / 1e6:,.0f} MB",
        markup=False,
    )
    if as_json:
        print(json.dumps({"recipe": to_json(recipe), "cost": cost}))
    return 0
