"""`phi4 bench NAME`: every number the README claims is printed by one of these."""

import argparse
import dataclasses
import json
import time

HELP = "measure what the README claims"
QUESTIONS = 100  # planted solutions per cell
QUICK_QUESTIONS = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", choices=["pivotal"], help="pivotal: errors and power of pivotal token search")
    parser.add_argument("--quick", action="store_true", help="a few seconds, wide error bars")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation (default 0)")


def run(args: argparse.Namespace) -> int:
    """Run the benchmark and print its table."""
    from phi4.bench import pivotal

    started = time.monotonic()
    questions = QUICK_QUESTIONS if args.quick else QUESTIONS
    cells = pivotal.run(questions, args.seed)
    seconds = time.monotonic() - started
    print(pivotal.table(cells))
    print(f"\n{questions} planted solutions per line, seed {args.seed}, {seconds:.1f} s")
    if args.json:
        rows = [
            dataclasses.asdict(cell)
            | {
                "false_positive_rate": cell.false_positive_rate,
                "false_discovery_rate": cell.false_discovery_rate,
            }
            for cell in cells
        ]
        print(
            json.dumps({"bench": "pivotal", "seed": args.seed, "seconds": round(seconds, 3), "cells": rows})
        )
    return 0
