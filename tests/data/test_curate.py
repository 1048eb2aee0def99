"""The whole flow: everybody is accounted for, planted faults end where they should, order does not matter."""

import random
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from phi4.data.curate import STEPS, Curation, curate
from phi4.data.decontaminate import EvaluationIndex
from phi4.data.dedup import Quotas
from phi4.data.ledger import Ledger, funnel
from phi4.data.record import Record, Text, TokenPair, content_hash, plain_text, root_record
from phi4.data.signals import measure, read_signals
from phi4.errors import LedgerError
from tests.data.helpers import LINEAGE, problem, prose, vocabulary, written

WORDS = vocabulary(4000, random.Random(2))
ITEM = "A tram leaves the old harbour at 8 and stops at 14 places for 3 minutes each. When is it at the last?"


def planted() -> dict[str, list[Record]]:
    """Records by the reason they should end with; "" for those that should be kept."""
    rng = random.Random(4)
    pages = [prose(120, rng, WORDS) for _ in range(30)]
    pair = root_record(
        "pairs",
        "1",
        TokenPair("tok", (1, 2), (3,), (4,)),
        kind="preference",
        skill="any",
        licence="MIT",
        lineage=LINEAGE,
    )
    copy = written("copy", pages[0].upper())
    near = written("near", pages[1].replace(pages[1].split()[60], "changed", 1))
    pairs = [(written("page0", pages[0]), copy), (written("page1", pages[1]), near)]
    (first, again), (one, other) = (sorted(both, key=lambda record: record.id) for both in pairs)
    return {
        "": [
            *(written(f"page{i}", page) for i, page in enumerate(pages) if i > 1),
            first,
            one,
            *(problem(f"{i}", f"{i}+5=?", f"{i}+5={i + 5}", f"key{i}", f"t/{i % 3}") for i in range(60)),
            pair,
        ],
        "words-low": [written("short", "too short"), written("empty", "")],
        "duplicate": [again],
        "near-duplicate": [other],
        "contaminated-13-gram": [written("leak", f"{prose(80, rng, WORDS)} {ITEM} {prose(80, rng, WORDS)}")],
        "contaminated-problem-key": [problem("held", "70+5=?", "70+5=75", "key-held", "t/0")],
    }


def curated(records: list[Record], folder: Path) -> tuple[list[Record], dict[str, str]]:
    """Kept records, and the reason of each one dropped, by id."""
    index = EvaluationIndex.build([("tram/1", ITEM)], ["key-held"])
    found = curate(records, Ledger.open(folder), index, signals_path=folder.parent / "signals.parquet")
    reasons = {}
    for step in STEPS:
        for row in pq.read_table(folder / f"{step}.parquet").to_pylist():
            if row["status"] == "dropped":
                reasons[row["id"]] = row["reason"]
    return list(found.records), reasons


def test_planted_faults_end_where_they_should(tmp_path: Path) -> None:
    by_reason = planted()
    records = [record for group in by_reason.values() for record in group]
    kept, reasons = curated(records, tmp_path / "ledger")
    expected = {record.id: reason for reason, group in by_reason.items() for record in group if reason}
    assert reasons == expected
    assert kept == by_reason[""]  # in the order they came
    steps = funnel(tmp_path / "ledger")["steps"]
    assert [step["step"] for step in steps] == list(STEPS)
    assert steps[0]["inputs"] == len(records)
    for before, after in pairwise(steps):
        assert after["inputs"] == before["outputs"] == before["kept"]


def test_order_decides_nothing_and_equal_input_gives_equal_files(tmp_path: Path) -> None:
    records = [record for group in planted().values() for record in group]
    for name in ("a", "b"):
        curated(records, tmp_path / name / "ledger")
    for step in STEPS:
        first, second = ((tmp_path / name / "ledger" / f"{step}.parquet").read_bytes() for name in "ab")
        assert first == second
    kept, reasons = curated(records, tmp_path / "c" / "ledger")
    random.Random(1).shuffle(records)
    shuffled, shuffled_reasons = curated(records, tmp_path / "d" / "ledger")
    assert {record.id for record in kept} == {record.id for record in shuffled}
    assert reasons == shuffled_reasons
    assert (tmp_path / "c/signals.parquet").read_bytes() == (tmp_path / "d/signals.parquet").read_bytes()


def test_signals_are_stored_for_written_text_by_content(tmp_path: Path) -> None:
    page = prose(50, random.Random(1), WORDS)
    curated([written("a", page), written("b", page), problem("c", "1+1=?", "2", "k")], tmp_path / "ledger")
    assert read_signals(tmp_path / "signals.parquet") == {content_hash(written("z", page)): measure(page)}


def test_partial_overlap_is_kept_and_written_down(tmp_path: Path) -> None:
    half = " ".join(ITEM.split()[:11])
    record = written(
        "half", f"{prose(60, random.Random(3), WORDS)} {half} {prose(60, random.Random(4), WORDS)}"
    )
    found = curate([record], Ledger.open(tmp_path), EvaluationIndex.build([("tram/1", ITEM)]))
    assert found.records == (record,)
    assert found.partial[record.id].item == "tram/1"
    (row,) = pq.read_table(tmp_path / "decontaminate.parquet").to_pylist()
    assert row["status"] == "kept"
    assert row["detail"].startswith("partial: 0.")


def test_a_text_that_cannot_be_measured_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sometimes(text: str) -> object:
        if "poison" in text:
            raise ValueError("cannot be measured")
        return measure(text)

    monkeypatch.setattr("phi4.data.curate.measure", sometimes)
    good = written("good", prose(50, random.Random(1), WORDS))
    bad = written("bad", "poison " + prose(50, random.Random(2), WORDS))
    found = curate([bad, good], Ledger.open(tmp_path), EvaluationIndex.build([]))
    assert found.records == (good,)
    assert funnel(tmp_path)["steps"][0]["failed"] == {"ValueError": 1}


def test_two_records_with_one_id_stop_the_run(tmp_path: Path) -> None:
    twice = [written("same", "some text"), written("same", "other text")]
    with pytest.raises(LedgerError, match="enters twice"):
        curate(twice, Ledger.open(tmp_path), EvaluationIndex.build([]))


def test_a_record_lost_before_curation_stops_the_run(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path)
    records = [written(f"{i}", f"text {i}") for i in range(3)]
    with ledger.step("collect") as step:
        step.input(record.id for record in records)
        step.keep_all(record.id for record in records)
    with pytest.raises(LedgerError, match="never arrived after collect"):
        curate(records[:2], ledger, EvaluationIndex.build([]), after=["collect"])


def test_a_prefix_keeps_two_sets_apart(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path)
    for prefix in ("pretrain-", "sft-"):
        curate([written("a", "text")], ledger, EvaluationIndex.build([]), prefix=prefix)
    assert len(funnel(tmp_path)["steps"]) == 2 * len(STEPS)


def test_nothing_in_nothing_out(tmp_path: Path) -> None:
    assert curate([], Ledger.open(tmp_path), EvaluationIndex.build([])).records == ()


def test_twenty_thousand_records_are_quick(tmp_path: Path) -> None:
    rng = random.Random(6)
    problems = [
        problem(
            f"{i}",
            f"{rng.choice(WORDS)} has {i} coins and finds {i % 7} more. How many coins are there now?",
            " ".join(f"{rng.randrange(99)}+{rng.randrange(9)}" for _ in range(30)),
            f"k{i}",
            f"t/{i % 6}",
        )
        for i in range(20_000)
    ]
    pages = [written(f"p{i}", prose(150, rng, WORDS)) for i in range(500)]
    records = [*problems, *pages]
    index = EvaluationIndex.build([("tram/1", ITEM)], ["none"])
    began = time.process_time()
    found = curate(records, Ledger.open(tmp_path), index, Curation(quotas=Quotas(template_share=0.3)))
    assert time.process_time() - began < 8  # measured 1.3 s on one idle core
    assert Counter(isinstance(record.content, Text) for record in found.records)[False] == 20_000
    assert plain_text(found.records[0]) == plain_text(records[0])
