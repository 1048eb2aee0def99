"""The report's charts. Each takes typed values and a width in pixels and returns one <svg> element."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.typing import HashableList

from phi4.report.contents import Ablation, Evaluation, FunnelStep, MixtureRow, Point, Recall, TrainingStage
from phi4.report.style import INK, MUTED, NARROW, PALE, RULE, bare, colour, drawing, label, to_svg
from phi4.report.words import amount, percent, title

_BINS = 240  # points drawn over all stages of a panel
_LANGUAGE_STAGES = ("pretrain", "midtrain", "sft")  # DPO's loss is another quantity, on an axis of its own


@dataclass(frozen=True, slots=True)
class Dot:
    """A rate with its interval."""

    value: float
    low: float
    high: float
    colour: str


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled row of a dot-and-interval chart; `ticks` are baselines, `bar` a mean."""

    label: str
    dots: tuple[Dot, ...]
    ticks: tuple[float, ...] = ()
    bar: float | None = None


def scores_chart(evaluations: Sequence[Evaluation], order: Sequence[str], width: int) -> str:
    """Accuracy per family (in `order`) and stage with 95 % intervals; baselines as short grey ticks."""
    by_stage = [(e.stage, {score.name: score for score in e.families}) for e in evaluations]
    rows = []
    for name in order:
        found = [(stage, scores[name]) for stage, scores in by_stage if name in scores]
        dots = tuple(Dot(s.accuracy, s.low, s.high, colour(stage)) for stage, s in found)
        last = found[-1][1]
        ticks = tuple(b for b in (last.chance, last.neighbour) if b is not None)
        rows.append(Row(title(name) if last.trained else f"{title(name)} †", dots, ticks))
    return _dots(rows, width, "scores")


def recall_chart(recall: Sequence[Recall], width: int) -> str:
    """Key-value recall per context length, one dot per stage."""
    rows = []
    for length in sorted({r.length for r in recall}):
        found = [r for r in recall if r.length == length and r.n > 0]
        dots = tuple(Dot(r.correct / r.n, r.low, r.high, colour(r.stage)) for r in found)
        rows.append(Row(f"{length:,} tokens", dots))
    return _dots(rows, width, "recall")


def ablation_chart(ablation: Ablation, width: int) -> str:
    """One bar per arm (mean of its seeds) with a dot and interval per seed."""
    rows = []
    for arm in dict.fromkeys(r.arm for r in ablation.results):
        found = [r for r in ablation.results if r.arm == arm]
        mean = sum(r.accuracy for r in found) / len(found)
        dots = tuple(Dot(r.accuracy, r.low, r.high, INK) for r in found)
        rows.append(Row(arm, dots, bar=mean))
    return _dots(rows, width, f"ablation-{ablation.name}")


def _dots(rows: Sequence[Row], width: int, salt: str) -> str:
    above = width <= NARROW  # on a phone labels stand above their row, not beside it
    pitch = 8  # pixels between the dots of one row
    tallest = max(len(row.dots) for row in rows)
    row_height = pitch * tallest + (36 if above else 12)
    with drawing(width, 30 + len(rows) * row_height, salt) as figure:
        axes = figure.subplots()
        step = pitch / row_height
        sink = 11 / row_height if above else 0.0
        for place, row in enumerate(rows):
            if place:
                axes.axhline(place - 0.5, color=RULE, lw=1)
            if row.bar is not None:
                axes.barh(place + sink, row.bar, height=step * (tallest + 0.8), color=PALE, linewidth=0)
            for tick in row.ticks:
                reach = step * tallest / 3
                axes.plot([tick, tick], [place + sink - reach, place + sink + reach], color=MUTED, lw=1.6)
            if above:
                axes.text(0, place - 0.5 + 13 / row_height, label(row.label), va="center", color=INK)
            for i, dot in enumerate(row.dots):
                y = place + sink + (i - (len(row.dots) - 1) / 2) * step
                axes.plot([dot.low, dot.high], [y, y], color=dot.colour, lw=1.8)
                axes.plot([dot.value], [y], "o", color=dot.colour, ms=6, mew=0)
        axes.set(xlim=(-0.012, 1.012), ylim=(len(rows) - 0.5, -0.5))
        axes.set_yticks([] if above else range(len(rows)), [] if above else [label(r.label) for r in rows])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
        bare(axes, grid="x")
        return to_svg(figure)


def loss_chart(training: Sequence[TrainingStage], width: int) -> str:
    """Loss (log scale) and held-out bits per byte over tokens, hairlines between stages; DPO apart."""
    language = [stage for stage in training if stage.name in _LANGUAGE_STAGES]
    preference = [stage for stage in training if stage.name not in _LANGUAGE_STAGES]
    bits = any(p.heldout_bpb is not None for stage in training for p in stage.points)
    panels = [name for name, there in (("loss", language), ("bits", bits), ("dpo", preference)) if there]
    beside = width > NARROW and "dpo" in panels and len(panels) > 1
    shape: list[HashableList[str]] = [[name] for name in panels]
    if beside:
        shape = [[name, "dpo"] for name in panels if name != "dpo"]
    ratios = [3.4, 1.0] if beside else [1.0]
    heights = [1.9 if row[0] == "loss" else 1.0 for row in shape]
    with drawing(width, round(130 * sum(heights)), "loss") as figure:
        found = figure.subplot_mosaic(shape, width_ratios=ratios, height_ratios=heights)
        if "loss" in found:
            _curves(found["loss"], language, lambda p: p.loss)
            _log_scale(found["loss"], [p.loss for s in language for p in s.points if p.loss])
            _name(found["loss"], "Training loss, nats per token (log scale)")
        if "bits" in found:
            _curves(found["bits"], language, lambda p: p.heldout_bpb, dots=True)
            _name(found["bits"], "Held-out text, bits per byte")
            found["bits"].set_ylim(bottom=0)
        if "dpo" in found:
            _curves(found["dpo"], preference, lambda p: p.loss)
            _name(found["dpo"], "DPO loss")
            found["dpo"].set_ylim(bottom=0)
            found["dpo"].xaxis.set_major_locator(MaxNLocator(3))
        for axes in found.values():
            axes.set_xlabel("tokens")
        if "loss" in found and "bits" in found:
            found["loss"].set_xlabel("")
            found["bits"].sharex(found["loss"])
            found["loss"].tick_params(labelbottom=False)
        return to_svg(figure)


def throughput_chart(training: Sequence[TrainingStage], width: int) -> str:
    """Tokens per second, and the share of the machine's measured matmul speed they use, over tokens."""
    shape: list[HashableList[str]] = [["tok_s", "mfu"]] if width > NARROW else [["tok_s"], ["mfu"]]
    with drawing(width, 170 * len(shape), "throughput") as figure:
        found = figure.subplot_mosaic(shape)
        _curves(found["tok_s"], training, lambda p: p.tok_s)
        _name(found["tok_s"], "Tokens per second")
        found["tok_s"].yaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
        _curves(found["mfu"], training, lambda p: p.mfu)
        _name(found["mfu"], "Model FLOP utilisation")
        found["mfu"].yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
        for axes in found.values():
            axes.set_ylim(bottom=0)
            axes.set_xlabel("tokens")
        return to_svg(figure)


def funnel_chart(steps: Sequence[FunnelStep], width: int) -> str:
    """Records into each step: the kept part solid, the rest pale, with both counts written out."""
    with drawing(width, 12 + 44 * len(steps), "funnel") as figure:
        axes = figure.subplots()
        most = max(1, *(step.inputs for step in steps))
        for place, step in enumerate(steps):
            axes.barh(place + 0.14, step.inputs, height=0.3, color=PALE, linewidth=0)
            axes.barh(place + 0.14, step.kept, height=0.3, color=colour("midtrain"), linewidth=0)
            share = percent(step.kept / step.inputs, 1) if step.inputs else ""
            note = f"{step.kept:,} of {step.inputs:,}" + (f"  ·  {share}" if share else "")
            axes.text(0, place - 0.27, label(title(step.step)), va="center", color=INK)
            axes.text(most, place - 0.27, note, va="center", ha="right", color=MUTED)
        axes.set(xlim=(0, most), ylim=(len(steps) - 0.5, -0.5))
        axes.set_axis_off()
        return to_svg(figure)


def mixture_chart(rows: Sequence[MixtureRow], width: int) -> str:
    """What share of each stage's tokens a source gives: one column of bars per stage."""
    stages = list(dict.fromkeys(row.stage for row in rows))
    total = dict.fromkeys((row.source for row in rows), 0)
    for row in rows:
        total[row.source] += row.tokens
    sources = sorted(total, key=lambda source: -total[source])
    share = {(row.stage, row.source): row.fraction for row in rows}
    read = {stage: [source for source in sources if share.get((stage, source))] for stage in stages}
    beside = width > NARROW  # on a phone the stages stand below each other, each with its own sources
    lengths = [len(sources)] if beside else [len(read[stage]) + 1 for stage in stages]
    columns = len(stages) if beside else 1
    height = sum(34 + 26 * length for length in lengths)
    with drawing(width, height, "mixture") as figure:
        grid = figure.subplots(
            len(lengths), columns, squeeze=False, sharey=beside, gridspec_kw={"height_ratios": lengths}
        )
        for axes, stage in zip(grid.flat, stages, strict=True):
            _share_column(axes, stage, sources if beside else read[stage], share)
        return to_svg(figure)


def _share_column(
    axes: Axes, stage: str, sources: Sequence[str], share: dict[tuple[str, str], float]
) -> None:
    most = max(share.values())
    for place, source in enumerate(sources):
        fraction = share.get((stage, source), 0.0)
        axes.barh(place, fraction, height=0.5, color=colour(stage), linewidth=0)
        note = percent(fraction) if fraction else "–"
        axes.text(fraction + 0.03 * most, place, note, va="center", color=MUTED)
    axes.set_title(title(stage), loc="left", fontsize=12, color=INK)
    axes.set_yticks(range(len(sources)), [label(source) for source in sources])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set(xlim=(0, most * 1.35), ylim=(len(sources) - 0.5, -0.5), xticks=[])
    bare(axes)


def _curves(
    axes: Axes,
    training: Sequence[TrainingStage],
    value: Callable[[Point], float | None],
    *,
    dots: bool = False,
) -> None:
    """One curve per stage, each starting at the token count where the one before ended."""
    total = sum(max(p.tokens for p in stage.points) for stage in training) or 1.0
    start = 0.0
    for stage in training:
        length = max(p.tokens for p in stage.points)
        if start:
            axes.axvline(start, color=PALE, lw=1)
        known = [(start + p.tokens, y) for p in stage.points if (y := value(p)) is not None]
        xs, ys = binned([x for x, _ in known], [y for _, y in known], max(12, round(_BINS * length / total)))
        axes.plot(xs, ys, color=colour(stage.name), lw=1.6, marker="o" if dots else "", ms=4, mew=0)
        start += length
    axes.set_xlim(0, total)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: amount(tokens)))
    bare(axes, grid="y")


def binned(xs: Sequence[float], ys: Sequence[float], bins: int) -> tuple[list[float], list[float]]:
    """At most `bins` points: the mean of each run of neighbours, first and last x kept in range."""
    if len(xs) <= bins:
        return list(xs), list(ys)
    edges = [round(i * len(xs) / bins) for i in range(bins + 1)]
    cuts = list(pairwise(edges))
    return (
        [sum(xs[a:b]) / (b - a) for a, b in cuts],
        [sum(ys[a:b]) / (b - a) for a, b in cuts],
    )


def _log_scale(axes: Axes, values: Iterable[float]) -> None:
    """A log axis labelled in plain numbers: 1, 2 or 5 times a power of ten."""
    found = [v for v in values if v > 0]
    if not found or max(found) / min(found) < 3:
        return
    axes.set_yscale("log")
    ladder = [m * 10.0**e for e in range(-6, 6) for m in (1, 2, 5)]
    low, high = bisect_right(ladder, min(found)) - 1, bisect_right(ladder, max(found))
    axes.yaxis.set_major_locator(FixedLocator(ladder[max(low, 0) : high + 1]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _name(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=12, color=INK)
