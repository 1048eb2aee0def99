"""Pairing goes by problem, not by position; the figures are those worked out by hand."""

from dataclasses import replace

import pytest

from phi4.errors import DataError
from phi4.evals.compare import compare
from phi4.evals.runner import ItemRecord

BASE = ItemRecord("skills-v1", "sums", 0, "k", "q", "1", "r", "1", True, True, 3, "stop")


def records(family: str, verdicts: str) -> list[ItemRecord]:
    return [
        replace(BASE, family=family, index=i, problem_key=f"{family}{i}", correct=verdict == "1")
        for i, verdict in enumerate(verdicts)
    ]


def test_by_hand() -> None:
    before = records("sums", "1100000000") + records("signs", "1111")
    after = records("sums", "1011111110") + records("signs", "1111")
    result = compare(before, list(reversed(after)))
    sums = result.families["sums"]
    assert (sums.n, sums.gained, sums.lost, sums.difference) == (10, 7, 1, pytest.approx(0.6))
    # exact McNemar: 2 * (C(8,0) + C(8,1)) / 2^8
    assert sums.p_value == pytest.approx(2 * 9 / 256)
    assert sums.interval.low < 0.6 < sums.interval.high
    assert result.families["signs"].p_value == 1.0
    assert (result.overall.n, result.overall.difference) == (14, pytest.approx(6 / 14))
    assert list(result.families) == ["sums", "signs"]


def test_only_shared_items_count() -> None:
    result = compare(records("sums", "0000"), records("sums", "111111"))
    assert (result.overall.n, result.overall.gained, result.unpaired) == (4, 4, 2)


def test_nothing_shared_or_ambiguous() -> None:
    with pytest.raises(DataError, match="share no item"):
        compare(records("sums", "1"), records("signs", "1"))
    with pytest.raises(DataError, match="twice"):
        compare(records("sums", "1") * 2, records("sums", "1"))
