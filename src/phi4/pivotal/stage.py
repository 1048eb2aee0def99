"""Pivotal token search over many questions, on disk: resumable question by question, sampled side by side.

Folder: `rollouts.jsonl` (the transcript), `questions/ID.json` (one marker per finished question),
`pairs.jsonl`, `pairs.parquet` and `summary.json`, written last.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from phi4.data.record import write_records
from phi4.errors import DataError
from phi4.grading.sequential import PivotalTest
from phi4.pivotal.pairs import Decode, Pair, candidate, confirm, record, row
from phi4.pivotal.rollouts import (
    Desk,
    Need,
    Oracle,
    Question,
    Rollouts,
    Sampling,
    Solution,
    Spent,
    Transcript,
)
from phi4.pivotal.search import Rule, Search, Trace, pivots, together
from phi4.run.files import atomic_write, read_json, write_json
from phi4.run.folder import fingerprint
from phi4.text.generation import Server

Status = Literal["searched", "too hard", "too easy", "no solution"]


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """What is searched, and how sure a finding must be."""

    sampling: Sampling
    test: Rule = field(default_factory=PivotalTest)
    confirmation: Rule | None = field(default_factory=lambda: PivotalTest(two_sided=False))
    keep: tuple[float, float] = (0.2, 0.8)  # questions whose success share lies outside teach nothing here
    filter_rollouts: int = 32
    solutions: int = 2  # per question: a right one, then a wrong one, and so on alternating
    min_seen: int = 2  # times a token must have been sampled to become the other half of a pair


@dataclass(frozen=True, slots=True)
class SpanTest:
    """One test of the search: tokens i .. j-1 of solution number `solution`."""

    solution: int
    i: int
    j: int
    verdict: str
    difference: float
    n: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Everything one question gave."""

    question: str
    status: Status
    p_success: float
    tests: tuple[SpanTest, ...] = ()
    candidates: int = 0  # pairs put to the confirmation
    pairs: tuple[Pair, ...] = ()  # those that passed
    rollouts: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage found (`findings`, in the order of the questions) and what this process paid for it."""

    findings: tuple[Finding, ...]
    spent: Spent
    seconds: float

    @property
    def pairs(self) -> list[Pair]:
        """All confirmed pairs."""
        return [pair for finding in self.findings for pair in finding.pairs]


def investigate(rollouts: Rollouts, config: SearchConfig) -> Search[Finding]:
    """Filter, search and confirm one question."""
    question = rollouts.question
    n = config.filter_rollouts
    yield [Need((), n)]
    share = rollouts.successes((), n) / n
    if not config.keep[0] <= share <= config.keep[1]:
        return _finding(rollouts, "too hard" if share < config.keep[0] else "too easy", share)
    solutions = [question.solution] if question.solution else _solutions(rollouts, n, config.solutions)
    if not solutions:
        return _finding(rollouts, "no solution", share)
    traces = [Trace(config.test) for _ in solutions]
    searches = [pivots(rollouts, *each) for each in zip(solutions, traces, strict=True)]
    attempts: dict[tuple[int, ...], Search[Pair | None]] = {}
    for solution, found in zip(solutions, (yield from together(searches)), strict=True):
        for pivot in found:
            prefix = solution.tokens[: pivot.index]
            chosen = candidate(rollouts, solution, pivot, config.min_seen)
            # one attempt per prefix: a second pair of tokens there would be a second chance to be lucky
            if chosen is not None and prefix not in attempts:
                attempts[prefix] = confirm(rollouts, solution, pivot, chosen, config.confirmation)
    confirmed = yield from together(list(attempts.values()))
    tests = tuple(
        SpanTest(number, i, j, c.verdict, c.difference, c.n)
        for number, trace in enumerate(traces)
        for (i, j), c in trace.tests.items()
    )
    pairs = tuple(pair for pair in confirmed if pair is not None)
    return _finding(rollouts, "searched", share, tests, len(attempts), pairs)


def search(
    questions: Sequence[Question],
    oracle: Oracle,
    server: Server,
    config: SearchConfig,
    folder: Path | None,
    *,
    in_flight: int = 32,
    wanted: int | None = None,
    finished: Callable[[Finding], None] = lambda finding: None,
) -> Outcome:
    """Investigate questions, `in_flight` at a time, until all are done or `wanted` pairs are confirmed.

    The findings returned are those of the shortest run of first questions that holds `wanted` pairs, so
    they do not depend on `in_flight`. With a folder, finished questions are skipped and rollouts of
    unfinished ones re-read; without one nothing is kept. `finished` is called for every question, skipped
    ones too. Raises DataError when two questions share an id or a prompt.
    """
    _check_distinct(questions)
    started, spent, key = time.monotonic(), Spent(), fingerprint(config)
    findings: dict[int, Finding] = {}
    active: dict[str, _Active] = {}
    ready: list[str] = []  # questions that can go on
    waiting = iter(enumerate(questions))
    with (
        Transcript(folder / "rollouts.jsonl" if folder else None) as transcript,
        Desk(server, transcript, spent) as desk,
    ):
        while _enough(findings, wanted) is None:
            while len(active) < in_flight and (entry := next(waiting, None)) is not None:
                number, question = entry
                if known := _read_finding(_marker(folder, question), key):
                    findings[number] = known
                    finished(known)
                    continue
                rollouts = Rollouts(question, oracle, config.sampling)
                active[question.id] = _Active(number, rollouts, investigate(rollouts, config))
                ready.append(question.id)
            if not ready:
                met = desk.wait()
                if met is None:
                    break
                ready.append(met.question.id)
            one = active[ready.pop()]
            finding = _advance(one, desk)
            if finding is not None:
                del active[finding.question]
                if marker := _marker(folder, one.rollouts.question):
                    write_json(marker, {"key": key, **dataclasses.asdict(finding)})
                findings[one.number] = finding
                finished(finding)
    last = _enough(findings, wanted)
    ordered = [findings[number] for number in range(len(questions) if last is None else last + 1)]
    return Outcome(tuple(ordered), spent, time.monotonic() - started)


def write_outcome(
    outcome: Outcome,
    questions: Sequence[Question],
    config: SearchConfig,
    folder: Path,
    decode: Decode,
    tokenizer: str,
) -> dict[str, Any]:
    """Write pairs.jsonl, pairs.parquet and, last, summary.json; returns the summary."""
    by_id = {question.id: question for question in questions}
    rows = [row(pair, by_id[pair.question], decode) for pair in outcome.pairs]
    lines = [json.dumps(r, ensure_ascii=False) + "\n" for r in rows]
    atomic_write(folder / "pairs.jsonl", "".join(lines))
    key, model = fingerprint(config), config.sampling.model
    records = [
        record(pair, by_id[pair.question], index, tokenizer, key, model)
        for finding in outcome.findings
        for index, pair in enumerate(finding.pairs)
    ]
    write_records(folder / "pairs.parquet", records)
    summary = summarise(outcome)
    write_json(folder / "summary.json", summary)
    return summary


def summarise(outcome: Outcome) -> dict[str, Any]:
    """Counts of a stage. `undecided` are the candidates that fresh rollouts did not confirm."""
    findings = outcome.findings
    candidates = sum(finding.candidates for finding in findings)
    confirmed = sum(len(finding.pairs) for finding in findings)
    return {
        "questions": len(findings),
        "searched": sum(finding.status == "searched" for finding in findings),
        "too_easy": sum(finding.status == "too easy" for finding in findings),
        "too_hard": sum(finding.status == "too hard" for finding in findings),
        "tests": sum(len(finding.tests) for finding in findings),
        "rollouts": sum(finding.rollouts for finding in findings),
        "tokens": sum(finding.tokens for finding in findings),
        "candidates": candidates,
        "confirmed": confirmed,
        "undecided": candidates - confirmed,
        "seconds": round(outcome.seconds, 3),
        "sampled_now": outcome.spent.sampled,
        "read_from_transcript": outcome.spent.read,
    }


@dataclass(slots=True)
class _Active:
    number: int
    rollouts: Rollouts
    search: Search[Finding]
    needs: list[Need] = field(default_factory=list)


def _advance(active: _Active, desk: Desk) -> Finding | None:
    """Run one question as far as its rollouts reach and ask for more; the finding if it reached its end."""
    rollouts = active.rollouts
    try:
        while not any(rollouts.missing(need) for need in active.needs):
            active.needs = next(active.search)
            for need in active.needs:
                desk.ask(rollouts, need)
        return None
    except StopIteration as end:
        finding: Finding = end.value
        return finding


def _solutions(rollouts: Rollouts, n: int, wanted: int) -> list[Solution]:
    """Distinct finished completions among the first n rollouts, right and wrong ones alternating."""
    by_verdict: dict[bool, list[Solution]] = {True: [], False: []}
    seen = set()
    for sample, right in rollouts.complete[:n]:
        if sample.stop_id is not None and sample.tokens not in seen:
            seen.add(sample.tokens)
            by_verdict[right].append(Solution(sample.tokens, (*sample.logprobs, 0.0)))
    chosen: list[Solution] = []
    for k in range(n):
        chosen += [found[k] for found in by_verdict.values() if k < len(found)]
    return chosen[:wanted]


def _finding(
    rollouts: Rollouts,
    status: Status,
    share: float,
    tests: tuple[SpanTest, ...] = (),
    candidates: int = 0,
    pairs: tuple[Pair, ...] = (),
) -> Finding:
    return Finding(
        rollouts.question.id, status, share, tests, candidates, pairs, rollouts.total, rollouts.tokens
    )


def _enough(findings: dict[int, Finding], wanted: int | None) -> int | None:
    """The first question at which the finished questions from the start hold `wanted` pairs."""
    if wanted is None:
        return None
    pairs = 0
    for number in range(len(findings)):
        if number not in findings:
            return None
        pairs += len(findings[number].pairs)
        if pairs >= wanted:
            return number
    return None


def _marker(folder: Path | None, question: Question) -> Path | None:
    return folder / "questions" / f"{question.id}.json" if folder else None


def _read_finding(marker: Path | None, key: str) -> Finding | None:
    """A finished question's finding; None when there is none, or another configuration made it."""
    if marker is None or not marker.exists():
        return None
    value = read_json(marker)
    if value.pop("key", None) != key:
        return None
    value["tests"] = tuple(SpanTest(**test) for test in value["tests"])
    value["pairs"] = tuple(Pair(**{**pair, "solution": tuple(pair["solution"])}) for pair in value["pairs"])
    return Finding(**value)


def _check_distinct(questions: Sequence[Question]) -> None:
    for name, values in (("id", [q.id for q in questions]), ("prompt", [q.prompt for q in questions])):
        if len(set(values)) < len(values):
            raise DataError(
                f"two questions of a pivotal token search share one {name}", "drop duplicates first"
            )
