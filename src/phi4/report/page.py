"""The report page: one HTML file that needs nothing else, made from a run folder alone.

Everything that came out of data or a model is escaped by the template; on top of that the page carries a
policy that lets no script run but ours (by its hash) and nothing load from anywhere. The same folder gives
the same bytes: the page holds no clock and no path.
"""

import base64
import hashlib
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from statistics import mean, median

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from phi4.report import charts
from phi4.report.contents import (
    Ablation,
    Evaluation,
    Example,
    MixtureRow,
    PivotalPair,
    Run,
    Score,
    Setting,
    TrainingStage,
)
from phi4.report.read import read_run
from phi4.report.style import NARROW, STAGE_COLOURS, WIDE
from phi4.report.words import amount, bare_percent, duration, percent, points, title
from phi4.run.files import atomic_write

SOLID = 0.70  # a family counts as learned when the lower end of its 95 % interval reaches this
_SOLUTIONS_SHOWN = 6  # solutions with pivotal tokens


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawing at two widths; the page shows the one that fits."""

    wide: Markup
    narrow: Markup


@dataclass(frozen=True, slots=True)
class Speed:
    """A stage's throughput: its tokens, median tokens per second and median MFU."""

    stage: str
    tokens: float
    tok_s: float | None
    mfu: float | None


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a solution; `pair` is set on the token that decided."""

    text: str
    pair: PivotalPair | None


@dataclass(frozen=True, slots=True)
class PivotalSolution:
    """A solution cut at its pivotal tokens."""

    pairs: tuple[PivotalPair, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """Mean accuracy of an ablation's arm, and its distance from the first arm."""

    arm: str
    seeds: int
    accuracy: float
    difference: float


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder, finished or not, and return its path.

    Raises RunError when the folder is not a run folder or the disk is full.
    """
    path = run_folder / "report.html"
    atomic_write(path, render_page(read_run(run_folder)))
    return path


def render_page(run: Run) -> str:
    """The whole page as text. The same `run` gives the same bytes."""
    environment = Environment(
        loader=PackageLoader("phi4.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in (amount, bare_percent, duration, percent, points, title, stage_class, answer_lines):
        environment.filters[name.__name__] = name
    script = _part("page.js")
    final = run.evaluations[-1] if run.evaluations else None
    return environment.get_template("page.html.jinja").render(
        run=run,
        style=Markup(_part("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        charts=_charts(run, final),
        final=final,
        solid=SOLID,
        families=family_order(run.evaluations),
        score=_score_of,
        solved=run.solved,
        missed=run.missed,
        examples=_by_question(run.examples),
        speeds=[_speed(stage) for stage in run.training],
        total_tokens=sum(stage.points[-1].tokens for stage in run.training),
        total_seconds=sum(timing.seconds for timing in run.timings),
        loss_ends=[(stage.name, *_ends(stage)) for stage in run.training],
        bits=[p.heldout_bpb for stage in run.training for p in stage.points if p.heldout_bpb is not None],
        mixture=_by_source(run.mixture),
        mixture_stages=list(dict.fromkeys(row.stage for row in run.mixture)),
        solutions=pivotal_solutions(run.pairs)[:_SOLUTIONS_SHOWN],
        arms=[(ablation, _arms(ablation)) for ablation in run.ablations],
        command=command(run),
    )


def family_order(evaluations: tuple[Evaluation, ...]) -> list[str]:
    """Families as the page lists them: trained before transfer, the best of the last stage first."""
    if not evaluations:
        return []
    last = sorted(evaluations[-1].families, key=lambda s: (not s.trained, -s.accuracy, s.name))
    earlier = [s.name for evaluation in evaluations for s in evaluation.families]
    return list(dict.fromkeys([*(s.name for s in last), *earlier]))


def pivotal_solutions(pairs: tuple[PivotalPair, ...]) -> list[PivotalSolution]:
    """Pairs gathered by the solution they stand in, each solution cut at its pivotal tokens."""

    def solution(pair: PivotalPair) -> tuple[str, tuple[str, ...]]:
        return pair.question_id, pair.solution_tokens

    first = {solution(pair): place for place, pair in reversed(list(enumerate(pairs)))}
    ordered = sorted(pairs, key=lambda pair: (first[solution(pair)], pair.pivotal_index))
    found = []
    for (_, tokens), group in groupby(ordered, key=solution):
        at = {pair.pivotal_index: pair for pair in group if 0 <= pair.pivotal_index < len(tokens)}
        if not at:
            continue
        pieces, start = [], 0
        for place, pair in at.items():
            pieces += [Piece("".join(tokens[start:place]), None), Piece(tokens[place], pair)]
            start = place + 1
        pieces.append(Piece("".join(tokens[start:]), None))
        found.append(PivotalSolution(tuple(at.values()), tuple(pieces)))
    return found


def command(run: Run) -> str:
    """The command line that makes this run again, with every value that was set by hand."""
    changed = [s for s in run.settings if s.source.startswith("--set")]
    return " ".join(["phi4", "make", shlex.quote(run.name), *(f"--set {_assignment(s)}" for s in changed)])


def answer_lines(text: str) -> list[tuple[str, bool]]:
    """Lines of a solution; True marks the answer line."""
    return [(line, line.startswith("Answer:")) for line in text.strip("\n").split("\n")]


def stage_class(stage: str) -> str:
    """CSS class that colours a stage."""
    return f"stage-{stage}" if stage in STAGE_COLOURS else "stage-other"


def _assignment(setting: Setting) -> str:
    value = json.loads(setting.value) if setting.value.startswith('"') else setting.value
    return shlex.quote(f"{setting.path}={value}")


def _part(name: str) -> str:
    return resources.files("phi4.report").joinpath(name).read_text(encoding="utf-8")


def _chart(draw: Callable[[int], str]) -> Chart:
    return Chart(Markup(draw(WIDE)), Markup(draw(NARROW)))


def _charts(run: Run, final: Evaluation | None) -> dict[str, Chart]:
    found = {}
    order = family_order(run.evaluations)
    if order:
        found["scores"] = _chart(lambda width: charts.scores_chart(run.evaluations, order, width))
    if any(recall.n for recall in run.recall):
        found["recall"] = _chart(lambda width: charts.recall_chart(run.recall, width))
    if run.training:
        found["loss"] = _chart(lambda width: charts.loss_chart(run.training, width))
        found["throughput"] = _chart(lambda width: charts.throughput_chart(run.training, width))
    if run.funnel:
        found["funnel"] = _chart(lambda width: charts.funnel_chart(run.funnel, width))
    if run.mixture:
        found["mixture"] = _chart(lambda width: charts.mixture_chart(run.mixture, width))
    for ablation in run.ablations:
        found[f"ablation {ablation.name}"] = _chart(
            lambda width, ablation=ablation: charts.ablation_chart(ablation, width)  # type: ignore[misc]
        )
    return found


def _score_of(evaluation: Evaluation, family: str) -> Score | None:
    return next((score for score in evaluation.families if score.name == family), None)


def _by_question(examples: tuple[Example, ...]) -> list[list[Example]]:
    groups: dict[tuple[str, str], list[Example]] = {}
    for example in examples:
        groups.setdefault((example.family, example.question), []).append(example)
    return list(groups.values())


def _speed(stage: TrainingStage) -> Speed:
    tok_s = [p.tok_s for p in stage.points if p.tok_s is not None]
    mfu = [p.mfu for p in stage.points if p.mfu is not None]
    return Speed(
        stage.name,
        max(p.tokens for p in stage.points),
        median(tok_s) if tok_s else None,
        median(mfu) if mfu else None,
    )


def _ends(stage: TrainingStage) -> tuple[float | None, float | None]:
    """The first loss, and the mean loss over the last twentieth of a stage."""
    losses = [p.loss for p in stage.points if p.loss is not None]
    if not losses:
        return None, None
    return losses[0], mean(losses[-max(1, len(losses) // 20) :])


def _by_source(rows: tuple[MixtureRow, ...]) -> list[tuple[str, str, dict[str, MixtureRow]]]:
    """Per source: its name, licence, and its row in each stage."""
    table: dict[tuple[str, str], dict[str, MixtureRow]] = {}
    for row in rows:
        table.setdefault((row.source, row.licence), {})[row.stage] = row
    return [(source, licence, stages) for (source, licence), stages in table.items()]


def _arms(ablation: Ablation) -> list[ArmSummary]:
    means = {
        arm: mean(r.accuracy for r in ablation.results if r.arm == arm)
        for arm in dict.fromkeys(r.arm for r in ablation.results)
    }
    reference = next(iter(means.values()))
    return [
        ArmSummary(arm, sum(r.arm == arm for r in ablation.results), value, value - reference)
        for arm, value in means.items()
    ]
