"""What a finished run came to, read back from its folder: the last thing `phi4 make` prints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi4.recipes.job import last_stage
from phi4.recipes.recipe import Recipe
from phi4.run.files import read_json
from phi4.run.folder import RunFolder


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
    return Summary(
        scores,
        tuple(read_json(run.root / "solved.json")),
        seconds,
        run.root / "model",
        run.root / "report.html",
    )
