"""Reads a run folder into typed values. Stages that have not run are simply absent.

A file that is there but cannot be read does not stop the report: it is named in `Run.unreadable`, which the
page prints.
"""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phi4.errors import RunError
from phi4.report.contents import (
    STAGES,
    Ablation,
    AblationResult,
    Evaluation,
    Example,
    FunnelStep,
    LineageStep,
    Machine,
    MixtureRow,
    PivotalPair,
    PivotalSummary,
    Point,
    Recall,
    Run,
    Sample,
    Score,
    Setting,
    Timing,
    TrainingStage,
)
from phi4.report.fields import (
    Fields,
    RunFiles,
    clean,
    count,
    fields,
    moment,
    number,
    rate,
    reasons,
    rows_of,
    text,
)

_TIMED = ("data", "tokenizer", "pretrain", "midtrain", "sft", "pivotal", "dpo", "evals", "model")
_MAX_HEADER = 64 << 20  # bytes of a safetensors header worth reading


def read_run(folder: Path) -> Run:
    """Everything in `folder` that the report shows. RunError when it is not a run folder at all."""
    if not (folder / "run.json").is_file():
        raise RunError(f"{folder} is not a run folder: it has no run.json", "make one with `phi4 make pico`")
    files = RunFiles(folder)
    head = files.object("run.json")
    if not head:
        raise RunError(
            f"{folder / 'run.json'} cannot be read", "start the run anew with `phi4 make ... --fresh`"
        )
    recipe = fields(head.get("recipe"))
    evaluations = _evaluations(files)
    return Run(
        name=text(head, "name") or folder.name,
        fingerprint=text(head, "fingerprint"),
        created=moment(head.get("created")),
        version=text(head, "phi4_version"),
        machine=_machine(fields(head.get("machine"))),
        parameters=_parameters(files),
        settings=_settings(recipe, fields(head.get("provenance"))),
        unfinished=tuple(s for s in STAGES if recipe.get(s) and not (folder / s / "done.json").is_file()),
        timings=_timings(files, evaluations),
        training=_training(files),
        evaluations=evaluations,
        recall=tuple(_recall(row) for row in files.rows("evals/recall.json")),
        examples=tuple(_example(row) for row in files.rows("examples.json")),
        solved=tuple(_example(row) for row in files.rows("solved.json")),
        missed=_missed(files, evaluations),
        funnel=tuple(_funnel_step(row) for row in rows_of(files.object("data/funnel.json").get("steps"))),
        mixture=tuple(_mixture_row(row) for row in files.rows("data/mixture.json")),
        samples=tuple(_sample(row) for row in files.rows("data/samples.json")),
        pivotal=_pivotal_summary(files.object("pivotal/summary.json")),
        pairs=tuple(_pair(row) for row in files.lines("pivotal/pairs.jsonl")),
        ablations=_ablations(files),
        unreadable=tuple(files.unreadable),
    )


def _machine(row: Fields) -> Machine | None:
    if not row:
        return None
    speeds = fields(row.get("matmul_gflops"))
    return Machine(
        cpu=text(row, "cpu"),
        cores=count(row, "cores") or None,
        memory_gb=number(row, "memory_gb"),
        dtype=text(row, "dtype"),
        matmul_gflops=tuple((clean(k), v) for k in sorted(speeds) if (v := number(speeds, k)) is not None),
        torch=text(row, "torch_version"),
    )


def _parameters(files: RunFiles) -> int | None:
    """Number of weights stored in the finished model, or in the latest stage that has weights.

    Reads only the safetensors header (8-byte length, then JSON with a shape per tensor).
    """
    for place in ("model", *reversed(STAGES)):
        path = files.folder / place / "model.safetensors"
        if not path.is_file():
            continue
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = fields(json.loads(file.read(min(length, _MAX_HEADER))))
            return sum(math.prod(fields(v)["shape"]) for k, v in header.items() if k != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, struct.error, RecursionError):
            files.unreadable.append(f"{place}/model.safetensors")
    return None


def _settings(recipe: Fields, provenance: Fields) -> tuple[Setting, ...]:
    return tuple(
        Setting(clean(path), clean(json.dumps(value, ensure_ascii=False)), text(provenance, path) or "recipe")
        for path, value in _flatten(recipe)
    )


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by their path, named as `--set` and the provenance name them."""
    parts: dict[str, Any] = {}
    if isinstance(value, dict):
        parts = value
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        names = [str(fields(item).get("name", "")) for item in value]
        unique = [bool(name) and names.count(name) == 1 and "." not in name for name in names]
        parts = {name if unique[i] else str(i): value[i] for i, name in enumerate(names)}
    if parts:
        for key, inner in parts.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, value


def _timings(files: RunFiles, evaluations: tuple[Evaluation, ...]) -> tuple[Timing, ...]:
    found = {Path(name).parent.name: files.object(name) for name in files.names("*/done.json")}
    seconds = {stage: s for stage, done in found.items() if (s := number(done, "seconds")) is not None}
    spent = [e.seconds for e in evaluations if e.seconds is not None]
    if spent:
        seconds.setdefault("evals", sum(spent))
    order = [s for s in _TIMED if s in seconds] + sorted(set(seconds) - set(_TIMED))
    return tuple(Timing(clean(stage), seconds[stage]) for stage in order)


def _training(files: RunFiles) -> tuple[TrainingStage, ...]:
    stages = (TrainingStage(s, tuple(_points(files.lines(f"{s}/metrics.jsonl")))) for s in STAGES)
    return tuple(stage for stage in stages if stage.points)


def _points(rows: Iterator[Fields]) -> Iterator[Point]:
    for row in rows:
        tokens = number(row, "tokens")
        if tokens is not None:
            yield Point(
                tokens,
                number(row, "loss"),
                number(row, "tok_s"),
                number(row, "mfu"),
                number(row, "heldout_bpb"),
            )


def _evaluations(files: RunFiles) -> tuple[Evaluation, ...]:
    found = []
    for name in files.names("evals/*.json"):
        row = files.json(name)
        if not isinstance(row, dict) or not isinstance(row.get("families"), dict):
            continue  # recall.json and whatever else lives there
        scores = [_score(k, fields(v)) for k, v in row["families"].items()]
        stage = text(row, "stage") or Path(name).stem
        kept = tuple(s for s in scores if s is not None)
        found.append(
            Evaluation(
                stage=stage,
                mode=text(row, "mode"),
                level=text(row, "level"),
                families=kept,
                overall=_score("overall", fields(row.get("overall"))),
                transfer=_score("transfer", fields(row.get("transfer"))),
                seconds=number(row, "seconds"),
            )
        )
    known = {stage: place for place, stage in enumerate(STAGES)}
    return tuple(sorted(found, key=lambda e: (known.get(e.stage, len(known)), e.stage)))


def _score(name: str, row: Fields) -> Score | None:
    accuracy, n = number(row, "accuracy"), count(row, "n")
    if accuracy is None or n <= 0:
        return None
    low, high = number(row, "low"), number(row, "high")
    failures = number(row, "format_failures")
    return Score(
        name=clean(name),
        n=n,
        correct=count(row, "correct"),
        accuracy=accuracy,
        low=accuracy if low is None else low,
        high=accuracy if high is None else high,
        chance=number(row, "chance"),
        neighbour=number(row, "neighbour"),
        format_failures=None if failures is None else failures / n,
        trained=row.get("trained") is not False,
    )


def _missed(files: RunFiles, evaluations: tuple[Evaluation, ...]) -> Example | None:
    """The first item that the last evaluated stage got wrong."""
    stage = evaluations[-1].stage if evaluations else ""
    if not stage or stage != Path(stage).name:
        return None
    items = (_example({**row, "stage": stage}) for row in files.lines(f"evals/{stage}.items.jsonl"))
    return next((item for item in items if not item.correct), None)


def _example(row: Fields) -> Example:
    return Example(
        text(row, "stage"),
        text(row, "family"),
        text(row, "question"),
        text(row, "reference"),
        text(row, "response"),
        row.get("correct") is True,
    )


def _recall(row: Fields) -> Recall:
    return Recall(
        text(row, "stage"),
        count(row, "length"),
        count(row, "n"),
        count(row, "correct"),
        rate(row, "low"),
        rate(row, "high"),
    )


def _funnel_step(row: Fields) -> FunnelStep:
    return FunnelStep(
        text(row, "step"),
        count(row, "inputs"),
        count(row, "kept"),
        reasons(row.get("dropped")),
        reasons(row.get("failed")),
        count(row, "pending"),
        count(row, "outputs"),
    )


def _mixture_row(row: Fields) -> MixtureRow:
    return MixtureRow(
        text(row, "stage"),
        text(row, "source"),
        text(row, "licence"),
        rate(row, "fraction"),
        count(row, "unique_tokens"),
        number(row, "epochs") or 0.0,
        count(row, "tokens"),
    )


def _sample(row: Fields) -> Sample:
    lineage = tuple(
        LineageStep(*(text(step, key) for key in ("id", "step", "source", "licence", "generator")))
        for step in rows_of(row.get("lineage"))
    )
    return Sample(text(row, "record"), text(row, "title"), text(row, "text"), lineage)


def _pivotal_summary(row: Fields) -> PivotalSummary | None:
    if not row:
        return None
    return PivotalSummary(
        questions=count(row, "questions"),
        searched=count(row, "searched"),
        rollouts=count(row, "rollouts"),
        candidates=count(row, "candidates"),
        confirmed=count(row, "confirmed"),
        undecided=count(row, "undecided"),
        seconds=number(row, "seconds"),
    )


def _pair(row: Fields) -> PivotalPair:
    tokens = row.get("solution_text_tokens")
    return PivotalPair(
        question_id=text(row, "question_id"),
        family=text(row, "family"),
        question=text(row, "question"),
        accepted_text=text(row, "accepted_text"),
        rejected_text=text(row, "rejected_text"),
        p_prefix=rate(row, "p_prefix"),
        p_accepted=rate(row, "p_accepted"),
        p_rejected=rate(row, "p_rejected"),
        n_accepted=count(row, "n_accepted"),
        n_rejected=count(row, "n_rejected"),
        solution_tokens=tuple(clean(str(t)) for t in tokens) if isinstance(tokens, list) else (),
        pivotal_index=count(row, "pivotal_index"),
    )


def _ablations(files: RunFiles) -> tuple[Ablation, ...]:
    found = []
    for name in files.names("ablations/*.json"):
        results = tuple(
            AblationResult(text(row, "arm"), text(row, "seed"), accuracy, rate(row, "low"), rate(row, "high"))
            for row in files.rows(name)
            if (accuracy := number(row, "accuracy")) is not None
        )
        if results:
            found.append(Ablation(clean(Path(name).stem), results))
    return tuple(found)
