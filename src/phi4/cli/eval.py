"""`phi4 eval MODEL`: score a model on problems it has never seen, beside what needs no skill."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi4.cli.models import add_adapter_option, add_precision_option
from phi4.errors import UsageError

if TYPE_CHECKING:
    from phi4.evals.runner import EvalResult, FamilyScore, Tally
    from phi4.skills.family import Family

HELP = "Score a model on problems it has never seen, with intervals and baselines."
LEVELS = ("easy", "standard", "hard")  # as in phi4.skills.family, which would slow --help down
STAGE = "eval"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `phi4 eval`."""
    parser.add_argument("model", nargs="?", help="a recipe's name or a folder (default: the last model)")
    add_adapter_option(parser)
    add_precision_option(parser)
    parser.add_argument("--n", type=int, default=200, help="problems per family (default 200)")
    parser.add_argument(
        "--skip",
        type=int,
        default=0,
        help="leave out this many first: 200 gives problems no recipe was tuned on",
    )
    parser.add_argument("--families", help="comma-separated names (default: all)")
    parser.add_argument("--level", choices=LEVELS, default="standard", help="difficulty (default standard)")
    parser.add_argument(
        "--few-shot", action="store_true", help="ask as a training document goes on, for models without chat"
    )
    parser.add_argument("--shots", type=int, default=1, help="solved problems shown first with --few-shot")
    parser.add_argument("--rescore", type=Path, metavar="FILE", help="judge a stored STAGE.items.jsonl again")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write scores and every response here")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate or rescore; prints a table, and with --json one object as the last line."""
    from rich.console import Console

    console = Console(stderr=arguments.json)
    if arguments.rescore is not None:
        from phi4.evals.rescore import rescore
        from phi4.evals.tasks.skills import skill_scorer
        from phi4.skills.catalog import family

        again = rescore(arguments.rescore, lambda name: skill_scorer(family(name)))
        result, about = again.result, {"rescored": str(arguments.rescore), "changed": again.changed}
        title = f"{arguments.rescore}, rescored: {again.changed} verdicts changed"
    else:
        result, name = _evaluate(arguments)
        about = {"model": name}
        title = f"{name}: held-out problems, level {result.level}, {result.mode}"
    _print_table(console, result, title)
    if arguments.out is not None:
        from phi4.evals.runner import write_result

        console.print(f"every response: {write_result(result, arguments.out).with_suffix('.items.jsonl')}")
    if arguments.json:
        from phi4.evals.runner import result_json

        print(json.dumps({**about, **result_json(result)}))
    return 0


def _evaluate(arguments: argparse.Namespace) -> "tuple[EvalResult, str]":
    if arguments.n < 1 or min(arguments.shots, arguments.skip) < 0:
        raise UsageError("--n must be at least 1, --shots and --skip at least 0")
    families = _families(arguments.families)
    from phi4.cli.models import load
    from phi4.data.synthetic.textbook import problem_document
    from phi4.evals.baselines import baselines
    from phi4.evals.runner import evaluate
    from phi4.evals.tasks.skills import skill_tasks

    model = load(arguments.model, arguments.adapter, arguments.precision)
    level = LEVELS.index(arguments.level) + 1
    print(f"{len(families)} families, {arguments.n} problems each ...", file=sys.stderr, flush=True)
    tasks = skill_tasks(
        families, arguments.n, problem_document, level=level, shots=arguments.shots, skip=arguments.skip
    )
    known = {f.name: baselines(task, f) for task, f in zip(tasks, families, strict=True)}
    trained = model.card.skills
    result = evaluate(
        tasks,
        model.engine,
        model.tokenizer,
        "few-shot" if arguments.few_shot else "chat",
        stage=STAGE,
        context=model.context,
        known=known,
        untrained=frozenset(f.name for f in families if trained and f.name not in trained),
    )
    return result, model.name


def _families(names: str | None) -> "list[Family]":
    from phi4.skills.catalog import FAMILIES, family

    if names is None:
        return list(FAMILIES)
    chosen = [family(name.strip()) for name in names.split(",") if name.strip()]
    if not chosen:
        raise UsageError("--families names no family", "leave it out to take all of them")
    return list({f.name: f for f in chosen}.values())


def _print_table(console: Any, result: "EvalResult", title: str) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = (
        "interval: 95 % (Wilson). chance: the commonest answer. neighbour: the answer of the most similar "
        "training question. no answer: no answer line, or never ended."
    )
    for heading in ("family", "n", "right", "interval", "chance", "neighbour", "no answer"):
        table.add_column(heading, justify="left" if heading == "family" else "right")
    for name, score in result.families.items():
        table.add_row(*_row(name if score.trained else f"{name} (not trained on)", score.tally, score))
    table.add_section()
    table.add_row(*_row("all trained families" if result.transfer else "all", result.overall), style="bold")
    if result.transfer:
        table.add_row(*_row("all families not trained on", result.transfer))
    console.print(table)


def _row(name: str, tally: "Tally", score: "FamilyScore | None" = None) -> tuple[str, ...]:
    known = score.baselines if score else None
    return (
        name,
        str(tally.n),
        f"{tally.accuracy:.1%}",
        f"{100 * tally.low:.0f}-{100 * tally.high:.0f} %",
        f"{known.chance:.0%}" if known else "",
        f"{known.neighbour:.0%}" if known else "",
        f"{tally.format_failures / tally.n:.1%}" if tally.n else "",
    )
