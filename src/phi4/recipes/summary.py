"""What a finished run came to, read back from its folder: the last thing `phi4 make` prints."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi4.data.synthetic.verify import verify
from phi4.recipes.make import last_stage
from phi4.recipes.recipe import Recipe
from phi4.run.files import read_json
from phi4.run.folder import RunFolder
from phi4.skills.catalog import family


@dataclass(frozen=True)
class Summary:
    """Scores by stage, three unseen problems of three families, and where things are."""

    stages: tuple[tuple[str, dict[str, Any]], ...]  # (stage, evals/STAGE.json)
    solved: tuple[dict[str, Any], ...]  # item records
    seconds: float
    model: Path
    report: Path


def summarise(recipe: Recipe, run: RunFolder) -> Summary:
    """Read the folder of a finished run."""
    names = [stage.name for stage in recipe.stages]
    last = last_stage(recipe)
    if last not in names:
        names.append(last)
    scores = tuple((name, read_json(run.root / "evals" / f"{name}.json")) for name in names)
    timed = list(run.root.glob("*/done.json"))
    seconds = sum(run.seconds(path.parent.name) for path in timed)
    seconds += sum(score["seconds"] for _, score in scores)
    return Summary(scores, tuple(_solved(run, last)), seconds, run.root / "model", run.root / "report.html")


def _solved(run: RunFolder, stage: str) -> list[dict[str, Any]]:
    """The first answer that is right in every step of each of the three families the model does best in."""
    first: dict[str, dict[str, Any]] = {}
    right: Counter[str] = Counter()
    with open(run.root / "evals" / f"{stage}.items.jsonl", encoding="utf-8") as lines:
        for line in lines:
            item = json.loads(line)
            right[item["family"]] += item["correct"]
            if item["correct"] and item["family"] not in first and _sound(item):
                first[item["family"]] = item
    return sorted(first.values(), key=lambda item: -right[item["family"]])[:3]


def _sound(item: dict[str, Any]) -> bool:
    """A right answer can come out of wrong steps; only working that the verifier accepts is shown as solved."""
    skill = family(item["family"])
    return verify(skill, skill.problem(item["index"]), item["response"].strip()) == ""
