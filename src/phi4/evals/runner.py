"""Ask a model everything in one batch, judge the responses, keep every one of them.

The item file is the result; the scores are a summary of it that can be computed again at any time,
without a model (see `rescore`).
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from phi4.errors import DataError
from phi4.evals.baselines import Baselines
from phi4.evals.task import Item, Mode, Task, prompt_ids
from phi4.grading.intervals import wilson
from phi4.run.files import atomic_write, write_json
from phi4.text.generation import Completion, Finish, Request, Sampler, SamplingParams
from phi4.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """One line of an item file: the question, the whole response and the verdict."""

    task: str
    family: str
    index: int
    problem_key: str
    question: str
    reference: str
    response: str
    parsed: str | None
    correct: bool
    format_ok: bool
    tokens: int
    finish: Finish


@dataclass(frozen=True, slots=True)
class Tally:
    """Successes out of n with their 95 % Wilson interval."""

    n: int
    correct: int
    accuracy: float
    low: float
    high: float
    format_failures: int


@dataclass(frozen=True, slots=True)
class FamilyScore:
    """The tally of one family beside what needs no skill, and whether the family was trained on."""

    tally: Tally
    baselines: Baselines | None
    trained: bool


@dataclass(frozen=True)
class EvalResult:
    """Scores of one stage, and the item records they summarise."""

    stage: str
    mode: Mode
    level: str
    families: dict[str, FamilyScore]
    overall: Tally  # families that were trained on (all, if none was)
    transfer: Tally | None  # families held out of training whole
    seconds: float
    items: tuple[ItemRecord, ...]

    @property
    def n(self) -> int:
        """Items of the largest family."""
        return max((score.tally.n for score in self.families.values()), default=0)


def evaluate(
    tasks: Sequence[Task],
    sampler: Sampler,
    tokenizer: Tokenizer,
    mode: Mode,
    *,
    stage: str,
    context: int,
    max_tokens: int | None = None,
    known: Mapping[str, Baselines] | None = None,
    untrained: frozenset[str] = frozenset(),
) -> EvalResult:
    """Ask every item once, greedily, in one `sampler.generate` call, and score the responses.

    context: longest prompt plus response in tokens. max_tokens: longest response; None allows twice the
    tokens of the item's own worked solution plus 16, so that a model that rambles costs little.
    known: baselines by family name. untrained: families that were held out of training whole.
    Raises DataError if a prompt leaves no room to answer.
    """
    started = time.perf_counter()
    asked = [(task, item) for task in tasks for item in task.items]
    requests = [_request(task, item, tokenizer, mode, context, max_tokens) for task, item in asked]
    completions = sampler.generate(requests)
    records = tuple(
        _record(task, item, completion, tokenizer, mode)
        for (task, item), completion in zip(asked, completions, strict=True)
    )
    levels = sorted({task.level for task in tasks})
    result = summarise(
        records, stage=stage, mode=mode, level="+".join(levels), known=known or {}, untrained=untrained
    )
    return replace(result, seconds=time.perf_counter() - started)


def summarise(
    records: Sequence[ItemRecord],
    *,
    stage: str,
    mode: Mode,
    level: str,
    known: Mapping[str, Baselines],
    untrained: frozenset[str] = frozenset(),
) -> EvalResult:
    """Scores of item records, families in the order in which they first appear."""
    by_family: dict[str, list[ItemRecord]] = {}
    for record in records:
        by_family.setdefault(record.family, []).append(record)
    families = {
        name: FamilyScore(tally(rows), known.get(name), name not in untrained)
        for name, rows in by_family.items()
    }
    seen = [record for record in records if record.family not in untrained]
    unseen = [record for record in records if record.family in untrained]
    return EvalResult(
        stage=stage,
        mode=mode,
        level=level,
        families=families,
        overall=tally(seen or records),
        transfer=tally(unseen) if unseen else None,
        seconds=0.0,
        items=tuple(records),
    )


def tally(records: Sequence[ItemRecord]) -> Tally:
    """Count verdicts; the interval of no item at all is [0, 1]."""
    n, correct = len(records), sum(record.correct for record in records)
    interval = wilson(correct, n)
    return Tally(
        n=n,
        correct=correct,
        accuracy=correct / n if n else 0.0,
        low=interval.low,
        high=interval.high,
        format_failures=sum(not record.format_ok for record in records),
    )


def read_items(path: Path) -> list[ItemRecord]:
    """Read an item file. Raises DataError naming the line that is not an item record."""
    try:
        # Not splitlines: a response may contain U+2028 and its kin, which JSON leaves as they are.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read item file {path}: {error}") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(ItemRecord(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path}:{number} is not an item record", "give a STAGE.items.jsonl of an evaluation"
            ) from error
    return records


def write_result(result: EvalResult, folder: Path) -> Path:
    """Write STAGE.items.jsonl, then STAGE.json, into `folder`; returns the path of the scores."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(record), ensure_ascii=False) for record in result.items]
    atomic_write(folder / f"{result.stage}.items.jsonl", "".join(line + "\n" for line in lines))
    path = folder / f"{result.stage}.json"
    write_json(path, result_json(result))
    return path


def result_json(result: EvalResult) -> dict[str, Any]:
    """The scores as they stand in STAGE.json."""
    families = {}
    for name, score in result.families.items():
        families[name] = {
            **asdict(score.tally),
            "chance": score.baselines.chance if score.baselines else None,
            "neighbour": score.baselines.neighbour if score.baselines else None,
            "trained": score.trained,
        }
    return {
        "stage": result.stage,
        "mode": result.mode,
        "level": result.level,
        "n": result.n,
        "families": families,
        "overall": asdict(result.overall),
        "transfer": asdict(result.transfer) if result.transfer else None,
        "seconds": round(result.seconds, 3),
    }


def _request(
    task: Task, item: Item, tokenizer: Tokenizer, mode: Mode, context: int, max_tokens: int | None
) -> Request:
    budget = max_tokens or 2 * len(tokenizer.encode(item.solution)) + 16
    ids = prompt_ids(task, item, tokenizer, mode, room=context - budget)
    if len(ids) >= context:
        raise DataError(
            f"{item.family} {item.index}: a prompt of {len(ids)} tokens does not fit a context of {context}",
            "evaluate a model with a longer context or leave this family out",
        )
    room = min(budget, context - len(ids))
    return Request(ids, SamplingParams(max_tokens=room, temperature=0.0, stop_ids=tokenizer.stop_ids))


def _record(task: Task, item: Item, completion: Completion, tokenizer: Tokenizer, mode: Mode) -> ItemRecord:
    response, finish = tokenizer.decode(completion.ids), completion.finish
    if mode == "few-shot":
        end = task.answer_end(response)
        if end is not None:  # what a base model writes after its answer line is another document
            response, finish = response[:end], "stop"
    score = task.scorer(item.reference, response, finish)
    return ItemRecord(
        task=item.task,
        family=item.family,
        index=item.index,
        problem_key=item.problem_key,
        question=item.question,
        reference=item.reference,
        response=response,
        parsed=score.parsed,
        correct=score.correct,
        format_ok=score.format_ok,
        tokens=len(completion.ids),
        finish=finish,
    )
