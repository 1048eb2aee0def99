"""Two evaluations of the same items, item by item: what changed, and could it be chance?

Pairing removes the luck of the draw of items, so much smaller differences show than two intervals side
by side would admit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from phi4.errors import DataError
from phi4.evals.runner import ItemRecord
from phi4.grading.intervals import PairedComparison, compare_paired

ItemKey = tuple[str, str, str, str]  # set, family, problem, reference


@dataclass(frozen=True)
class Comparison:
    """Per family and over all items; `unpaired` items stand in one evaluation only and are left out."""

    families: dict[str, PairedComparison]
    overall: PairedComparison
    unpaired: int


def compare(before: Sequence[ItemRecord], after: Sequence[ItemRecord]) -> Comparison:
    """Compare two item files on the items they share (same set, family, problem and reference).

    Raises DataError when they share none, or when an item stands twice in one of them.
    """
    first, second = _by_item(before), _by_item(after)
    shared = [item for item in first if item in second]
    if not shared:
        raise DataError(
            "the two evaluations share no item", "compare evaluations of the same set, level and families"
        )
    by_family: dict[str, list[ItemKey]] = {}
    for item in shared:
        by_family.setdefault(first[item].family, []).append(item)
    return Comparison(
        families={name: _paired(items, first, second) for name, items in by_family.items()},
        overall=_paired(shared, first, second),
        unpaired=len(first) + len(second) - 2 * len(shared),
    )


def _by_item(records: Sequence[ItemRecord]) -> dict[ItemKey, ItemRecord]:
    found = {(r.task, r.family, r.problem_key, r.reference): r for r in records}
    if len(found) != len(records):
        raise DataError("an evaluation holds an item twice; its items cannot be paired")
    return found


def _paired(
    items: Sequence[ItemKey],
    first: dict[ItemKey, ItemRecord],
    second: dict[ItemKey, ItemRecord],
) -> PairedComparison:
    return compare_paired([first[i].correct for i in items], [second[i].correct for i in items])
