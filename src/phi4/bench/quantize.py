"""What each precision costs: bytes, divergence, perplexity and problems solved, side by side on one model.

Every variant is quantised, read back, compared layer by layer on held-out text, and asked the same held-out problems;
right and wrong are paired with the original's item by item.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from phi4.data.synthetic.textbook import problem_document
from phi4.engine.engine import Engine
from phi4.evals.runner import EvalResult, Tally, evaluate
from phi4.evals.task import Task
from phi4.evals.tasks.skills import skill_tasks
from phi4.grading.intervals import PairedComparison, compare_paired
from phi4.model.config import Quantization
from phi4.recipes.calibration import probe
from phi4.skills.catalog import FAMILIES, family
from phi4.weights.folder import load_model
from phi4.weights.layerwise import Agreement
from phi4.weights.quantize import METHODS, Method, Original, open_original, quantize_model

PRECISIONS = (
    Quantization(8),
    Quantization(4, 32),
    Quantization(4, 64),
    Quantization(4, 128),
    Quantization(4),
)


@dataclass(frozen=True)
class Row:
    """One variant; the first row is the original itself."""

    name: str
    method: Method | None
    bytes: int
    agreement: Agreement | None
    tally: Tally
    change: PairedComparison | None  # from the original


def run(model: Path, skills: Sequence[str], n: int, seed: int, say: Callable[[str], None]) -> list[Row]:
    """Measure the original (a model folder) and all variants on `n` held-out problems of each skill."""
    original = open_original(model)
    text = probe(original.tokenizer, original.config.original_context, skills, seed=seed)
    tasks = skill_tasks([family(name) for name in skills] or FAMILIES, n, problem_document)
    say(f"original: asking {sum(len(task.items) for task in tasks):,} problems")
    before = _solve(model, original, tasks)
    rows = [Row("as it is", None, original.bytes, None, before.overall, None)]
    for quantization in PRECISIONS:
        for method in METHODS:
            with tempfile.TemporaryDirectory() as folder:
                written = quantize_model(
                    Path(folder), original, quantization, method, text.calibration, text.held_out
                )
                after = _solve(Path(folder), original, tasks)
            change = compare_paired([i.correct for i in before.items], [i.correct for i in after.items])
            rows.append(
                Row(quantization.name, method, written.bytes, written.agreement, after.overall, change)
            )
            say(f"{quantization.name}, {method}: {after.overall.accuracy:.2%} right")
    return rows


def _solve(model: Path, original: Original, tasks: Sequence[Task]) -> EvalResult:
    engine = Engine(load_model(model), original.tokenizer, original.compute)
    return evaluate(tasks, engine, original.tokenizer, "chat", stage="quantize", context=engine.context)


def table(rows: Sequence[Row]) -> str:
    """The table of a run."""
    agreement = next(row.agreement for row in rows if row.agreement is not None)
    lines = [
        f"{'matrices':<22}{'method':<8}{'MB':>8}{'KL, nats':>11}{'perplexity':>12}{'same token':>12}"
        f"{'right':>8}  {'95 %':<16}{'change':>8}  {'95 %':<18}{'p':>6}"
    ]
    for row in rows:
        found, change = row.agreement, row.change
        perplexity = found.perplexities[1] if found else agreement.perplexities[0]
        line = f"{row.name:<22}{row.method or '':<8}{row.bytes / 1e6:>8.2f}"
        line += f"{found.divergence:>11.5f}" if found else " " * 11
        line += f"{perplexity:>12.4f}" + (f"{found.same:>12.2%}" if found else " " * 12)
        line += f"{row.tally.accuracy:>8.1%}  [{row.tally.low:.1%}, {row.tally.high:.1%}]"
        if change:
            low, high = change.interval.low, change.interval.high
            line += f"{change.difference:>+8.1%}  [{low:+.1%}, {high:+.1%}]{change.p_value:>8.2g}"
        lines.append(line)
    return "\n".join(lines)
