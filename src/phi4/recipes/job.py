"""A recipe being carried out: its run folder, its machine, and the keys that say which stages are still valid."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from phi4 import __version__
from phi4.data.organic.sources import OrganicSource
from phi4.device import Machine, measure
from phi4.evals.task import Task
from phi4.recipes.corpus import evaluation_tasks, organic_sources
from phi4.recipes.recipe import Recipe
from phi4.run.config import to_json
from phi4.run.folder import RunFolder, fingerprint

# Raise a number when a change of the code changes what the stage makes: old results then count as stale.
VERSIONS = {"data": 3, "tokenizer": 1, "shards": 1, "train": 3, "pivotal": 1, "evals": 2}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A recipe being carried out: where, on what, and with which stage keys."""

    recipe: Recipe
    run: RunFolder
    machine: Machine
    organic: tuple[OrganicSource, ...]
    keys: dict[str, str]
    say: Say

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The evaluation items; made when first asked for, so that a finished run opens at once."""
        return evaluation_tasks(self.recipe)


def run_name(recipe: Recipe, organic: Sequence[OrganicSource]) -> str:
    """NAME-FINGERPRINT: the recipe's values and every text it reads, but not how many workers read them."""
    print_ = fingerprint([replace(recipe, workers=0, minutes=0), [source.fingerprint for source in organic]])
    return f"{recipe.name}-{print_[:8]}"


def open_job(
    recipe: Recipe,
    run: RunFolder,
    say: Say,
    organic: Sequence[OrganicSource] | None = None,
    provenance: dict[str, str] | None = None,
) -> Job:
    """Everything the stages of a run need: its machine (measured once), evaluation items and stage keys."""
    sources = tuple(organic_sources(recipe) if organic is None else organic)
    machine = _open(run, recipe, provenance or {})
    return Job(recipe, run, machine, sources, stage_keys(recipe, sources), say)


def stage_keys(recipe: Recipe, organic: Sequence[OrganicSource]) -> dict[str, str]:
    """The key of every stage, each built on those before it."""
    keys: dict[str, str] = {}
    corpus = [recipe.name, recipe.skills, recipe.organic.max_bytes, recipe.smalltalk, recipe.seed]
    long = recipe.midtrain.context if recipe.midtrain else 0
    keys["data"] = fingerprint([VERSIONS["data"], corpus, long, [source.fingerprint for source in organic]])
    used = [[share.source for share in stage.mixture] for stage in recipe.stages]
    keys["tokenizer"] = fingerprint([VERSIONS["tokenizer"], keys["data"], recipe.vocab_size, used])
    mixtures = [[stage.mixture, stage.tokens, stage.context] for stage in recipe.stages]
    keys["shards"] = fingerprint([VERSIONS["shards"], keys["tokenizer"], mixtures, recipe.seed])
    before = keys["shards"]
    for stage in recipe.stages:
        start = [recipe.model, recipe.induction, recipe.seed]
        before = fingerprint([VERSIONS["train"], before, stage, start, recipe.dtype])
        keys[stage.name] = before
    keys["pivotal"] = fingerprint([VERSIONS["pivotal"], before, recipe.pivotal])
    keys["dpo"] = fingerprint([VERSIONS["train"], keys["pivotal"], recipe.dpo])
    return keys


def last_stage(recipe: Recipe) -> str:
    """The stage whose weights are the result."""
    return "dpo" if recipe.dpo is not None and recipe.pivotal is not None else recipe.stages[-1].name


def _open(run: RunFolder, recipe: Recipe, provenance: dict[str, str]) -> Machine:
    """run.json, written once: the machine is measured when a run begins and its choices hold to the end."""
    if (run.root / "run.json").exists():
        return Machine(**run.read_run()["machine"])
    machine = measure(recipe.dtype)
    run.write_run(
        {
            "name": recipe.name,
            "fingerprint": run.root.name.rpartition("-")[2],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "recipe": to_json(recipe),
            "provenance": provenance,
            "machine": machine.to_json(),
            "phi4_version": __version__,
        }
    )
    return machine
