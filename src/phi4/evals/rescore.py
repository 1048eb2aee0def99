"""Judge stored responses again: after a scorer was corrected, or by another one. No model is needed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from phi4.errors import DataError
from phi4.evals.baselines import Baselines
from phi4.evals.runner import EvalResult, read_items, summarise
from phi4.evals.task import Mode, Scorer
from phi4.run.files import read_json

ITEMS = ".items.jsonl"


@dataclass(frozen=True)
class Rescored:
    """The new result, and how many verdicts differ from the stored ones."""

    result: EvalResult
    changed: int


def rescore(items_file: Path, scorer_of: Callable[[str], Scorer]) -> Rescored:
    """Score every stored response with the scorer that `scorer_of` names for its family.

    Mode, level, baselines and which families were trained on come from the STAGE.json beside the items,
    if there is one: they do not depend on the scorer. Raises DataError for a file without item records.
    """
    items = read_items(items_file)
    if not items:
        raise DataError(f"{items_file} holds no item")
    records = []
    for item in items:
        score = scorer_of(item.family)(item.reference, item.response, item.finish)
        records.append(replace(item, parsed=score.parsed, correct=score.correct, format_ok=score.format_ok))
    stage = items_file.name.removesuffix(ITEMS)
    mode, level, known, untrained, seconds = _beside(items_file.with_name(f"{stage}.json"))
    result = summarise(records, stage=stage, mode=mode, level=level, known=known, untrained=untrained)
    changed = sum(old != new for old, new in zip(items, records, strict=True))
    return Rescored(replace(result, seconds=seconds), changed)


def _beside(scores: Path) -> tuple[Mode, str, dict[str, Baselines], frozenset[str], float]:
    if not scores.exists():
        return "chat", "", {}, frozenset(), 0.0
    raw = read_json(scores)
    try:
        families = raw["families"]
        known = {
            name: Baselines(row["chance"], row["neighbour"])
            for name, row in families.items()
            if row["chance"] is not None
        }
        untrained = frozenset(name for name, row in families.items() if not row["trained"])
        return raw["mode"], raw["level"], known, untrained, raw["seconds"]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{scores} is not the scores of an evaluation", "move it away to rescore without it"
        ) from error
