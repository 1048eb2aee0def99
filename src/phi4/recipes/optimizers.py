"""AdamW against Muon by time to equal held-out bits per byte, each at several peak rates.

A rate that suits one optimizer does not suit the other, so each is judged at its best rate; what counts is the
seconds it takes to reach the bits per byte that the weaker one ends with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from phi4.recipes.corpus import organic_sources
from phi4.recipes.job import Say, open_job, run_name
from phi4.recipes.make import make_data, make_stage
from phi4.recipes.recipe import Recipe
from phi4.run.folder import RunFolder
from phi4.run.metrics import read_metrics
from phi4.train.optim import OptimizerName

RATES: dict[OptimizerName, tuple[float, ...]] = {
    "adamw": (3e-3, 6e-3, 1.2e-2),
    "muon": (2.5e-3, 5e-3, 1e-2),
}


@dataclass(frozen=True)
class Curve:
    """One training run: held-out bits per byte over seconds of training."""

    optimizer: OptimizerName
    peak_lr: float
    seed: int
    points: tuple[tuple[float, float], ...]  # (seconds, bits per byte)

    @property
    def last(self) -> float:
        """Bits per byte at the end."""
        return self.points[-1][1]

    def seconds_to(self, bits: float) -> float | None:
        """Seconds until the curve is at `bits` or lower; None if it never is."""
        return next((seconds for seconds, found in self.points if found <= bits), None)


def race(recipe: Recipe, tokens: int, folder: Path, seeds: Sequence[int], say: Say) -> list[Curve]:
    """Pretrain on the same rows with every optimizer, rate and seed. A finished run is read back."""
    short = replace(
        recipe,
        pretrain=replace(recipe.pretrain, tokens=tokens),
        skills=replace(
            recipe.skills, problems=max(50, recipe.skills.problems * tokens // recipe.pretrain.tokens)
        ),
        sft=replace(recipe.sft, tokens=recipe.sft.rows * recipe.sft.context),
        midtrain=None,
        pivotal=None,
        dpo=None,
        evaluation=replace(recipe.evaluation, base_problems=0),
    )
    curves = []
    for optimizer, rates in RATES.items():
        for rate in rates:
            for seed in seeds:
                stage = replace(
                    short.pretrain, peak_lr=rate, optimizer=replace(short.pretrain.optimizer, name=optimizer)
                )
                named = replace(short, name=f"{recipe.name}-{optimizer}", seed=seed, pretrain=stage)
                say(f"\n{optimizer}, peak rate {rate:g}, seed {seed}")
                run = RunFolder(folder / run_name(named, organic_sources(named)))
                with run.lock():
                    job = open_job(named, run, say)
                    make_data(job)
                    make_stage(job, stage)
                rows = read_metrics(run.root / stage.name / "metrics.jsonl")
                points = tuple((r["seconds"], r["heldout_bpb"]) for r in rows if "heldout_bpb" in r)
                curves.append(Curve(optimizer, rate, seed, points))
    return curves


def race_table(curves: Sequence[Curve]) -> str:
    """The curves as Markdown, and the time to equal bits per byte, each optimizer at its best rate."""
    lines = [
        "| optimizer | peak rate | seed | seconds | held-out bits per byte |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {c.optimizer} | {c.peak_lr:g} | {c.seed} | {c.points[-1][0]:.0f} | {c.last:.4f} |" for c in curves
    ]
    lines.append("")
    for seed in sorted({curve.seed for curve in curves}):
        best = {
            name: min((c for c in curves if (c.optimizer, c.seed) == (name, seed)), key=lambda c: c.last)
            for name in RATES
        }
        slower, faster = sorted(best.values(), key=lambda c: -c.last)
        took = slower.seconds_to(slower.last)
        needed = faster.seconds_to(slower.last)
        assert took is not None
        assert needed is not None
        lines.append(
            f"- seed {seed}: {slower.last:.4f} bits per byte after {took:.0f} s with {slower.optimizer} "
            f"({slower.peak_lr:g}), after {needed:.0f} s with {faster.optimizer} ({faster.peak_lr:g}): "
            f"{took / needed:.1f} times sooner"
        )
    return "\n".join(lines)
