"""Curation: from what was collected to what is worth learning from, every record accounted for.

signals -> policy -> exact -> minhash -> decontaminate: each a step of the ledger, each a filter, so a record
goes through as itself or ends with a reason. Signals, policies and MinHash are for text that somebody wrote;
procedural records (those with a problem key) are judged as problems: quotas per problem and per template, and
the held-out keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phi4.data.decontaminate import EvaluationIndex, Finding, find_contamination
from phi4.data.dedup import Duplicate, MinHash, Quotas, exact_duplicates, near_duplicates, over_quota
from phi4.data.ledger import Ledger
from phi4.data.policy import CODE, DOCS, TEXTBOOK, Policy
from phi4.data.record import Record, TokenPair, content_hash, plain_text
from phi4.data.signals import Signals, measure, write_signals

STEPS = ("signals", "policy", "exact", "minhash", "decontaminate")


@dataclass(frozen=True)
class Curation:
    """Every choice of the flow. A kind of text without a policy is kept whatever its signals."""

    policies: Mapping[str, Policy] = field(
        default_factory=lambda: {"textbook": TEXTBOOK, "docs": DOCS, "code": CODE}
    )
    quotas: Quotas = field(default_factory=Quotas)
    minhash: MinHash = field(default_factory=MinHash)


@dataclass(frozen=True)
class Curated:
    """What was kept, in the order it came, and what is known about it."""

    records: tuple[Record, ...]
    signals: dict[str, Signals]  # by content hash, of every text that was measured
    partial: dict[str, Finding]  # by record id: kept, though a share of an evaluation item occurs in it


def curate(
    records: Sequence[Record],
    ledger: Ledger,
    index: EvaluationIndex,
    settings: Curation | None = None,
    *,
    after: Sequence[str] = (),
    prefix: str = "",
    signals_path: Path | None = None,
) -> Curated:
    """Run the whole flow. `after` names the ledger steps that made `records`; nothing may be lost in between.

    `prefix` goes before the step names, for a run that curates more than one set. `signals_path` is where the
    signals are stored. Raises LedgerError if a record is lost, or if two records have the same id.
    """
    settings = settings or Curation()
    names = [prefix + name for name in STEPS]
    measured, signals = _measure(records, ledger, names[0], after)
    if signals_path is not None:
        write_signals(signals_path, signals)
    chosen = _apply_policies(measured, signals, settings, ledger, names[1], names[0])
    distinct = _drop_exact(chosen, settings, ledger, names[2], names[1])
    apart = _drop_near(distinct, settings, ledger, names[3], names[2])
    clean, partial = _decontaminate(apart, index, ledger, names[4], names[3])
    return Curated(tuple(clean), signals, partial)


def _measure(
    records: Sequence[Record], ledger: Ledger, name: str, after: Sequence[str]
) -> tuple[list[Record], dict[str, Signals]]:
    kept: list[Record] = []
    signals: dict[str, Signals] = {}
    with ledger.step(name, after) as step:
        step.input(record.id for record in records)
        for record in records:
            if _is_written(record):
                key = content_hash(record)
                try:
                    if key not in signals:
                        signals[key] = measure(plain_text(record))
                except (ArithmeticError, MemoryError, ValueError) as error:
                    step.fail(record.id, error)
                    continue
            step.keep(record.id)
            kept.append(record)
    return kept, signals


def _apply_policies(
    records: Sequence[Record],
    signals: Mapping[str, Signals],
    settings: Curation,
    ledger: Ledger,
    name: str,
    after: str,
) -> list[Record]:
    reasons: dict[int, tuple[str, str]] = {}
    for number, record in enumerate(records):
        policy = settings.policies.get(record.kind)
        if policy is None or not _is_written(record):
            continue
        rejection = policy.decide(signals[content_hash(record)])
        if rejection is not None:
            reasons[number] = (rejection.reason, rejection.detail)
    return _filter(records, reasons, ledger, name, after)


def _drop_exact(
    records: Sequence[Record], settings: Curation, ledger: Ledger, name: str, after: str
) -> list[Record]:
    ids = [record.id for record in records]
    numbers = [number for number, record in enumerate(records) if not isinstance(record.content, TokenPair)]
    found = exact_duplicates([plain_text(records[i]) for i in numbers], [ids[i] for i in numbers])
    reasons = _reasons(found, numbers, ids, "duplicate")
    rest = [number for number in range(len(records)) if number not in reasons]
    for number, reason in over_quota([records[i] for i in rest], settings.quotas).items():
        reasons[rest[number]] = reason
    return _filter(records, reasons, ledger, name, after)


def _drop_near(
    records: Sequence[Record], settings: Curation, ledger: Ledger, name: str, after: str
) -> list[Record]:
    numbers = [number for number, record in enumerate(records) if _is_written(record)]
    ids = [record.id for record in records]
    texts = [plain_text(records[i]) for i in numbers]
    found = near_duplicates(texts, [ids[i] for i in numbers], settings.minhash)
    return _filter(records, _reasons(found, numbers, ids, "near-duplicate"), ledger, name, after)


def _decontaminate(
    records: Sequence[Record], index: EvaluationIndex, ledger: Ledger, name: str, after: str
) -> tuple[list[Record], dict[str, Finding]]:
    findings = find_contamination(records, index)
    reasons = {
        number: (f"contaminated-{finding.rule}", finding.detail)
        for number, finding in enumerate(findings)
        if finding.status == "contaminated"
    }
    partial = {
        record.id: finding
        for record, finding in zip(records, findings, strict=True)
        if finding.status == "partial"
    }
    notes = {id: finding.detail for id, finding in partial.items()}
    return _filter(records, reasons, ledger, name, after, notes), partial


def _filter(
    records: Sequence[Record],
    reasons: Mapping[int, tuple[str, str]],
    ledger: Ledger,
    name: str,
    after: str,
    notes: Mapping[str, str] | None = None,
) -> list[Record]:
    """One ledger step: drop the records whose numbers have a reason, keep the others with their notes."""
    notes = notes or {}
    kept: list[Record] = []
    with ledger.step(name, (after,)) as step:
        step.input(record.id for record in records)
        for number, record in enumerate(records):
            if number in reasons:
                step.drop(record.id, *reasons[number])
            else:
                step.keep(record.id, notes.get(record.id, ""))
                kept.append(record)
    return kept


def _reasons(
    found: Sequence[Duplicate], numbers: Sequence[int], ids: Sequence[str], reason: str
) -> dict[int, tuple[str, str]]:
    return {
        numbers[duplicate.index]: (reason, f"{duplicate.similarity:.2f} like {ids[numbers[duplicate.of]]}")
        for duplicate in found
    }


def _is_written(record: Record) -> bool:
    """Somebody wrote this text, so that its wording can be judged; problems are judged as problems."""
    return record.problem_key is None and not isinstance(record.content, TokenPair)
