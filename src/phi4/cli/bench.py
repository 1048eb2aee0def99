"""`phi4 bench NAME`: every number the README claims is printed by one of these."""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

HELP = "measure what the README claims"
QUESTIONS = 100  # planted solutions per cell
PROBLEMS = 100  # held-out problems per skill
QUICK = 6  # of either


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "name",
        choices=["pivotal", "quantize", "engine", "gpu"],
        help="pivotal: errors and power of pivotal token search; quantize: what each precision costs a model; "
        "engine: speed beside llama.cpp and transformers; gpu: the 14B shape on a GPU",
    )
    parser.add_argument("model", nargs="?", help="quantize: which model (default: the last one)")
    parser.add_argument("--quick", action="store_true", help="a few seconds, wide error bars")
    parser.add_argument(
        "--peer",
        default="",
        metavar="PYTHON",
        help="engine: a Python whose llama-cpp-python is built for this CPU",
    )
    parser.add_argument(
        "--on",
        action="append",
        choices=["phi-4-mini", "smollm2", "phi-4"],  # as in phi4.bench.subjects
        help="engine: phi-4-mini's or phi-4's shape with random weights, smollm2's real ones, or several "
        "(default: phi-4-mini and smollm2)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="engine: alternations (default 3)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/bench"),
        metavar="DIR",
        help="engine: checkpoints, figures, picture",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of what is drawn at random (default 0)")


def run(args: argparse.Namespace) -> int:
    """Run the benchmark and print its table."""
    started = time.monotonic()
    bench = {"pivotal": _pivotal, "quantize": _quantize, "engine": _engine, "gpu": _gpu}[args.name]
    about, rows = bench(args)
    seconds = time.monotonic() - started
    print(f"\n{about}, seed {args.seed}, {seconds:.1f} s")
    if args.json:
        print(
            json.dumps({"bench": args.name, "seed": args.seed, "seconds": round(seconds, 3), "cells": rows})
        )
    return 0


def _pivotal(args: argparse.Namespace) -> tuple[str, list[dict[str, object]]]:
    from phi4.bench import pivotal

    questions = QUICK if args.quick else QUESTIONS
    cells = pivotal.run(questions, args.seed)
    print(pivotal.table(cells))
    rows = [
        dataclasses.asdict(cell)
        | {"false_positive_rate": cell.false_positive_rate, "false_discovery_rate": cell.false_discovery_rate}
        for cell in cells
    ]
    return f"{questions} planted solutions per line", rows


def _quantize(args: argparse.Namespace) -> tuple[str, list[dict[str, object]]]:
    from phi4.bench import quantize
    from phi4.cli.models import read_card, resolve

    path = resolve(args.model)
    card = read_card(path)
    problems = QUICK if args.quick else PROBLEMS
    rows = quantize.run(
        path, card.skills, problems, args.seed, lambda line: print(line, file=sys.stderr, flush=True)
    )
    print(quantize.table(rows))
    tokens = next(row.agreement.tokens for row in rows if row.agreement)
    about = f"{card.name}: {tokens:,} held-out tokens, {rows[0].tally.n:,} held-out problems"
    return about, [dataclasses.asdict(row) for row in rows]


def _engine(args: argparse.Namespace) -> tuple[str, list[dict[str, object]]]:
    from phi4.bench import engine, engine_report
    from phi4.run.files import write_json

    plan = engine.Plan(args.peer, args.out, 1 if args.quick else args.rounds)
    if args.quick:
        plan = dataclasses.replace(plan, batches=(1, 8), prompts=(512,), requests=0)
    say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    found = []
    for name in args.on or ["phi-4-mini", "smollm2"]:
        found.append(engine.measure(plan, name, say))
        print(engine_report.table(found[-1]) + "\n")
        rows = [dataclasses.asdict(one) for one in found]
        write_json(args.out / "engine.json", rows)
        engine_report.picture(found, args.out / "engine.svg")
    return f"{plan.rounds} rounds, {args.out}/engine.json and engine.svg", rows


def _gpu(args: argparse.Namespace) -> tuple[str, list[dict[str, object]]]:
    from phi4.bench import gpu

    return "random weights in the shape of phi-4", [dataclasses.asdict(row) for row in gpu.run()]
