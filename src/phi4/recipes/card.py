"""The model card: what the model is, what it was made of, what it scores, and under which licences."""

import json
from pathlib import Path
from typing import Any

from phi4 import __version__
from phi4.model.cost import parameters
from phi4.recipes.recipe import Recipe
from phi4.run.files import atomic_write, read_json
from phi4.run.folder import RunFolder
from phi4.skills.catalog import family


def write_card(recipe: Recipe, run: RunFolder, folder: Path, stage: str) -> None:
    """Write README.md (for people and hubs) and phi4.json (for `phi4 chat`) into a model folder."""
    scores: dict[str, Any] = read_json(run.root / "evals" / f"{stage}.json")
    mixture: list[dict[str, Any]] = read_json(run.root / "data" / "mixture.json")
    fingerprint = run.read_run()["fingerprint"]
    rows = "\n".join(
        f"| {family(name).title} | {family(name).levels[1]} | {s['accuracy']:.1%} "
        f"[{s['low']:.1%}, {s['high']:.1%}] | {s['chance']:.1%} | {s['neighbour']:.1%} "
        f"| {'yes' if s['trained'] else 'no'} |"
        for name, s in scores["families"].items()
    )
    sources = "\n".join(
        f"| {row['stage']} | {row['source']} | {row['licence']} | {row['fraction']:.1%} | {row['epochs']:.2f} |"
        for row in mixture
    )
    atomic_write(
        folder / "README.md",
        f"""---
license: mit
library_name: transformers
tags: [phi3, reasoning, small]
---
# {recipe.name}

A reasoning model of {parameters(recipe.model):,} parameters, made by the recipe of the Phi-4 report with
phi4 {__version__} (recipe fingerprint `{fingerprint}`). It solves the kinds of problems listed below step by step
and knows nothing else. It is not affiliated with Microsoft and holds none of Microsoft's weights.

Context: {recipe.stages[-1].context if recipe.midtrain is None else recipe.midtrain.context:,} tokens.
Chat form: `<|im_start|>role<|im_sep|>content<|im_end|>`, without newlines.

## Scores

{scores["n"]} held-out problems per family, level "{scores["level"]}", greedy, open-ended answers, 95 % Wilson
intervals. Chance is the commonest training answer; neighbour is the answer of the most similar training question.

| family | level | accuracy | chance | neighbour | trained |
|---|---|---|---|---|---|
{rows}

## Data

| stage | source | licence | share | epochs |
|---|---|---|---|---|
{sources}

Text under PSF-2.0 is documentation and code of the Python standard library; the textbook is CC0-1.0.
""",
    )
    card = {
        "name": recipe.name,
        "recipe": fingerprint,
        "skills": list(recipe.skills.families),
        "scores": {name: score["accuracy"] for name, score in scores["families"].items()},
    }
    atomic_write(folder / "phi4.json", json.dumps(card, indent=2) + "\n")
