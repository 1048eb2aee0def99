"""What `phi4 bench engine` prints and draws of its figures."""

from collections.abc import Sequence
from pathlib import Path

from phi4.bench.engine import Measured
from phi4.bench.programs import LLAMA, OURS, PLAIN, TRANSFORMERS

# What must be reached, as ratios to a program's figure: (question, ours, theirs, ratio).
TARGETS = {
    "phi-4-mini": (
        ("decode, batch 1", OURS, LLAMA, 1.0),
        ("prefill 512", OURS, LLAMA, 2.0),
        ("decode, batch 8", OURS, LLAMA, 2.5),
        ("decode, batch 1", PLAIN, LLAMA, 0.85),
        ("prefill 512", PLAIN, LLAMA, 1.5),
        ("decode, batch 8", PLAIN, LLAMA, 1.7),
        ("decode, batch 1", OURS, TRANSFORMERS, 3.0),
        ("decode, batch 8", OURS, TRANSFORMERS, 3.0),
        ("decode, batch 1", PLAIN, TRANSFORMERS, 2.0),
        ("decode, batch 8", PLAIN, TRANSFORMERS, 2.0),
    ),
    "phi-4": (("decode, batch 1", OURS, LLAMA, 0.95), ("prefill 512", OURS, LLAMA, 1.8)),
}


def table(measured: Measured) -> str:
    """The figures side by side, then the targets."""
    names = [OURS, *(name for name in (PLAIN, LLAMA, TRANSFORMERS) if name in measured.loads)]
    lines = [f"{measured.subject}; {measured.bandwidth / 1e9:.1f} GB/s read from memory", ""]
    lines.append("| | " + " | ".join(names) + " | ceiling | share of it |")
    lines.append("|---|" + "---|" * (len(names) + 2))
    for question in measured.values:
        medians = [measured.median(question, name) for name in names]
        cells = ["" if value is None else f"{value:.1f}" for value in medians]
        ceiling = measured.ceilings.get(question)
        limit = (
            ["", ""]
            if ceiling is None or medians[0] is None
            else [f"{ceiling:.0f}", f"{medians[0] / ceiling:.0%}"]
        )
        unit = "ms" if question.startswith("first token") else "tok/s"
        lines.append(f"| {question}, {unit} | " + " | ".join([*cells, *limit]) + " |")
    for title, values, scale in (
        ("load, s", measured.loads, 1.0),
        ("peak memory, GB", measured.memory, 1e-9),
    ):
        lines.append(f"| {title} | " + " | ".join(f"{values[name] * scale:.1f}" for name in names) + " | | |")
    if measured.divergence:
        cells = [f"{measured.divergence[name]:.4f}" for name in names]
        lines.append("| KL to the model as it is, nats | " + " | ".join(cells) + " | | |")
    if measured.grown:
        before, after = measured.grown["before"], measured.grown["after"]
        lines += [
            "",
            f"memory of phi4 after many requests: {before / 1e9:.3f} GB, after ten times as many {after / 1e9:.3f} GB",
        ]
    targets = TARGETS.get(measured.subject.split(",")[0], ())
    rows = []
    for question, ours, theirs, wanted in targets:
        ratio = measured.ratio(question, ours, theirs)
        if ratio is not None:
            mark = "" if ratio >= wanted else " (missed)"
            rows.append(f"| {question}: {ours} / {theirs} | {ratio:.2f}{mark} | {wanted} |")
    if rows:
        lines += ["", "| target | ratio | wanted |", "|---|---|---|", *rows]
    return "\n".join(lines)


def picture(measured: Sequence[Measured], path: Path) -> None:
    """Bars of every question, the programs beside each other, relative to the largest."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(measured), figsize=(7 * len(measured), 4.5), squeeze=False)
    colours = {OURS: "#1b6ca8", PLAIN: "#7fb3d5", LLAMA: "#c0792a", TRANSFORMERS: "#9a9a9a"}
    for axis, one in zip(axes[0], measured, strict=True):
        names = [name for name in colours if name in one.loads]
        asked = [question for question in one.values if not question.startswith("first token")]
        height = 0.8 / len(names)
        for place, name in enumerate(names):
            values = [one.median(question, name) or 0.0 for question in asked]
            spots = [row + place * height for row in range(len(asked))]
            bars = axis.barh(spots, values, height, label=name, color=colours[name])
            axis.bar_label(bars, [f"{value:.0f}" if value else "" for value in values], padding=2, fontsize=7)
        axis.set_yticks([row + 0.4 - height / 2 for row in range(len(asked))], asked)
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.set_xlabel("tokens per second")
        wide = " (transformers: 16)" if TRANSFORMERS in one.loads else ""
        axis.set_title(f"{one.subject}, 4 bits{wide}", loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.14), ncol=4, frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
