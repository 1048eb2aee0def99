"""Many questions on disk: batching changes nothing, a kill costs nothing that was sampled."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from phi4.data.record import TokenPair, read_records
from phi4.errors import DataError, RunError
from phi4.pivotal.controls import full_response_pairs, random_token_pairs
from phi4.pivotal.stage import Outcome, SearchConfig, search, write_outcome
from phi4.text.generation import Deliver, Request

from .fakes import RIGHT, WRONG, Killed, TableServer, decode, ended_right, questions, sampling

LENGTH = 4
ASKED = questions(7)
CONFIG = SearchConfig(sampling=sampling(LENGTH))


def value(question: int, path: tuple[int, ...]) -> float:
    """Questions 0..4: the token at place `question % 4` decides; 5 always fails, 6 always succeeds."""
    if question >= 5:
        return float(question == 6)
    return 0.85 if path[question % LENGTH] < 20 else 0.15


def sampler(**changes: object) -> TableServer:
    return TableServer(LENGTH, value, **changes)  # type: ignore[arg-type]


def outputs(folder: Path, outcome: Outcome) -> dict[str, bytes]:
    write_outcome(outcome, ASKED, CONFIG, folder, decode, "tok")
    names = ["pairs.jsonl", "pairs.parquet", *(f"questions/{q.id}.json" for q in ASKED)]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], TableServer, Outcome, Path]:
    """One uninterrupted run, three questions in flight."""
    folder, table = tmp_path_factory.mktemp("plain"), sampler()
    outcome = search(ASKED, ended_right, table, CONFIG, folder, in_flight=3)
    return outputs(folder, outcome), table, outcome, folder


def test_finds_the_deciding_tokens(plain: tuple[dict[str, bytes], TableServer, Outcome, Path]) -> None:
    _, _, outcome, folder = plain
    assert [f.status for f in outcome.findings] == ["searched"] * 5 + ["too hard", "too easy"]
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == len(outcome.pairs) >= 5
    decided = 0
    for row in rows:
        place = int(row["question_id"][1:]) % LENGTH
        if row["pivotal_index"] != place:  # the last token, RIGHT or WRONG, decides as well
            assert {row["accepted_text"], row["rejected_text"]} == {"R", "W"}
            continue
        decided += 1
        assert (row["accepted_text"], row["rejected_text"]) == (f"a{place}", f"b{place}")
        assert row["p_accepted"] - row["p_rejected"] > 0.3
        assert row["solution_text_tokens"][-1] == "<end>"
        assert "".join(row["solution_text_tokens"]).startswith(row["prefix_text"])
    assert decided >= 5
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["confirmed"] == len(rows)
    assert (summary["questions"], summary["searched"]) == (7, 5)
    assert summary["rollouts"] == outcome.spent.sampled


def test_records(plain: tuple[dict[str, bytes], TableServer, Outcome, Path]) -> None:
    _, _, outcome, folder = plain
    records = list(read_records(folder / "pairs.parquet"))
    assert len({record.id for record in records}) == len(records) == len(outcome.pairs)
    for record, pair in zip(records, outcome.pairs, strict=True):
        assert isinstance(record.content, TokenPair)
        assert record.content.prefix == (100 + int(pair.question[1:]), *pair.prefix)
        assert (record.content.accepted, record.content.rejected) == ((pair.accepted,), (pair.rejected,))
        assert record.parents == (pair.question,)


@pytest.mark.parametrize(("in_flight", "late"), [(1, False), (16, False), (3, True), (16, True)])
def test_number_in_flight_and_order_of_answers_change_nothing(
    plain: tuple[dict[str, bytes], TableServer, Outcome, Path], tmp_path: Path, in_flight: int, late: bool
) -> None:
    table = sampler(late=late)
    outcome = search(ASKED, ended_right, table, CONFIG, tmp_path, in_flight=in_flight)
    assert outputs(tmp_path, outcome) == plain[0]
    assert sorted(table.calls) == sorted(plain[1].calls)


@pytest.mark.parametrize("die_at", [1, 9, 30])
def test_resume_after_a_kill_pays_nothing_twice(
    plain: tuple[dict[str, bytes], TableServer, Outcome, Path], tmp_path: Path, die_at: int
) -> None:
    first, second = sampler(die_at=die_at), sampler()
    with pytest.raises(Killed):
        search(ASKED, ended_right, first, CONFIG, tmp_path, in_flight=3)
    transcript = tmp_path / "rollouts.jsonl"
    whole = transcript.read_bytes()
    assert whole.count(b"\n") == len(first.calls) > 0
    torn = whole[: len(whole) - 9]  # the last line half written
    transcript.write_bytes(torn)
    outcome = search(ASKED, ended_right, second, CONFIG, tmp_path, in_flight=5)
    assert outputs(tmp_path, outcome) == plain[0]
    again = set(first.calls) & set(second.calls)
    assert len(again) == 1  # the one whose line was torn
    assert set(first.calls) | set(second.calls) == set(plain[1].calls)
    assert len(second.calls) == len(set(second.calls))


def test_what_is_open_when_it_stops_is_given_up() -> None:
    table = sampler(silent=True, die_at=5)
    with pytest.raises(Killed):
        search(ASKED, ended_right, table, CONFIG, None)
    assert len(table.aborted) == 5


def test_a_failure_of_the_server_ends_the_search() -> None:
    class Failing(TableServer):
        def submit(self, request: Request, deliver: Deliver, *, deltas: bool = True) -> object:
            deliver(RuntimeError("broken"))
            return request

    with pytest.raises(RuntimeError, match="broken"):
        search(ASKED, ended_right, Failing(LENGTH, value), CONFIG, None)


def test_a_finished_folder_is_read_not_sampled(
    plain: tuple[dict[str, bytes], TableServer, Outcome, Path],
) -> None:
    silent = sampler(die_at=0)
    outcome = search(ASKED, ended_right, silent, CONFIG, plain[3])
    assert outcome.findings == plain[2].findings
    for marker in (plain[3] / "questions").glob("*.json"):
        marker.unlink()  # without markers, the transcript alone gives the same
    outcome = search(ASKED, ended_right, silent, CONFIG, plain[3])
    assert outcome.findings == plain[2].findings
    assert outcome.spent.sampled == 0


def test_another_model_or_seed_samples_anew(
    plain: tuple[dict[str, bytes], TableServer, Outcome, Path],
) -> None:
    for changed in ({"model": "other"}, {"seed": 1}):
        config = replace(CONFIG, sampling=replace(CONFIG.sampling, **changed))
        with pytest.raises(Killed):
            search(ASKED, ended_right, sampler(die_at=0), config, plain[3])


def test_wanted_pairs_do_not_depend_on_the_number_in_flight() -> None:
    ends = []
    for in_flight in (1, 2, 7):
        outcome = search(ASKED, ended_right, sampler(), CONFIG, None, in_flight=in_flight, wanted=4)
        assert len(outcome.pairs) >= 4 > len(outcome.pairs) - len(outcome.findings[-1].pairs)
        ends.append(outcome.findings)
    assert ends[0] == ends[1] == ends[2]


def test_damaged_transcripts_and_double_questions(tmp_path: Path) -> None:
    (tmp_path / "rollouts.jsonl").write_text('{"prompt": "x"}\n')
    with pytest.raises(RunError, match="line 1: damaged transcript"):
        search(ASKED, ended_right, sampler(), CONFIG, tmp_path)
    with pytest.raises(DataError, match="share one id"):
        search([ASKED[0], ASKED[0]], ended_right, sampler(), CONFIG, None)
    with pytest.raises(DataError, match="share one prompt"):
        search([ASKED[0], replace(ASKED[0], id="x")], ended_right, sampler(), CONFIG, None)


def test_no_pair_survives_when_all_tokens_are_equal() -> None:
    """Rollouts end right by a coin: the only true difference is the last token, R against W."""
    coin = TableServer(LENGTH, lambda question, path: 0.5)
    outcome = search(questions(40), ended_right, coin, CONFIG, None, in_flight=40)
    assert sum(f.status == "searched" for f in outcome.findings) == 40
    assert all({pair.accepted, pair.rejected} == {RIGHT, WRONG} for pair in outcome.pairs)


def test_control_arms(plain: tuple[dict[str, bytes], TableServer, Outcome, Path], tmp_path: Path) -> None:
    _, _, outcome, folder = plain
    pairs = outcome.pairs
    arms = [
        random_token_pairs(pairs, ASKED, ended_right, sampler(), CONFIG, tmp_path, "tok") for _ in range(2)
    ]
    silent = sampler(die_at=0)
    arms.append(random_token_pairs(pairs, ASKED, ended_right, silent, CONFIG, tmp_path, "tok"))
    assert arms[0] == arms[1] == arms[2]
    assert len(arms[0]) == len(pairs)
    flips = 0
    for record, pair in zip(arms[0], pairs, strict=True):
        assert isinstance(record.content, TokenPair)
        assert record.content.prefix[1:] == pair.solution[: record.meta["index"]]
        assert record.meta["index"] != pair.index
        assert record.content.accepted != record.content.rejected
        flips += record.content.accepted > record.content.rejected
    assert 0 < flips < len(pairs)

    full = full_response_pairs(pairs, ASKED, ended_right, CONFIG, folder, "tok")
    assert len(full) == len(pairs)
    assert len({record.id for record in full}) == len(full)
    for record in full:
        assert isinstance(record.content, TokenPair)
        assert len(record.content.prefix) == 1
        assert (record.content.accepted[-2], record.content.rejected[-2]) == (RIGHT, WRONG)
    with pytest.raises(RunError, match="no rollouts in the transcript"):
        full_response_pairs(pairs, ASKED, ended_right, CONFIG, tmp_path / "empty", "tok")
