"""Scores of a stage on the frozen held-out problems, key-value recall, and what the scores look like in words."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

from phi4.data.synthetic.textbook import problem_document
from phi4.data.synthetic.verify import verify
from phi4.engine.engine import Engine
from phi4.evals.baselines import Baselines
from phi4.evals.runner import EvalResult, evaluate, write_result
from phi4.evals.task import Mode
from phi4.evals.tasks.recall import recall_rows, recall_task
from phi4.recipes.job import VERSIONS, Job
from phi4.run.files import read_json, write_json
from phi4.run.folder import RunFolder, fingerprint
from phi4.skills.catalog import family
from phi4.text.tokenizer import Tokenizer
from phi4.weights.folder import load_model

_EXAMPLE = 7  # which held-out problem is shown after every stage


def measure_stage(job: Job, stage: str, mode: Mode) -> EvalResult | None:
    """Score a stage on the frozen held-out problems, keep every item, and show one of them solved."""
    folder, key = (
        job.run.root / "evals",
        fingerprint([VERSIONS["evals"], job.keys[stage], job.recipe.evaluation]),
    )
    keys_path = folder / "keys.json"
    keys = read_json(keys_path) if keys_path.exists() else {}
    result = None
    if keys.get(stage) != key:
        folder.mkdir(exist_ok=True)
        engine = engine_of(job, stage)
        stored = read_json(job.run.root / "data" / "baselines.json")
        n = job.recipe.evaluation.base_problems if mode == "few-shot" else None
        # Base models are asked in one context, so that a longer one does not change how many examples they see.
        context = min(engine.context, job.recipe.pretrain.context) if mode == "few-shot" else engine.context
        tasks = [replace(task, items=task.items[:n]) for task in job.tasks]
        job.say(f"{stage}: asking {sum(len(task.items) for task in tasks):,} unseen problems")
        result = evaluate(
            tasks,
            engine,
            engine.tokenizer,
            mode,
            stage=stage,
            context=context,
            known={name: Baselines(*values) for name, values in stored.items()},
            untrained=frozenset(job.recipe.skills.transfer),
        )
        write_result(result, folder)
        _write_example(job, stage, result)
        write_json(keys_path, {**keys, stage: key})
    _show(job, stage)
    return result


def measure_recall(job: Job, stage: str, length: int) -> None:
    """Key-value recall of a stage at the midtraining context and at a quarter of it."""
    path = job.run.root / "evals" / "recall.json"
    known = read_json(path) if path.exists() else []
    if any(row["stage"] == stage and row.get("key") == job.keys[stage] for row in known):
        return
    path.parent.mkdir(exist_ok=True)
    tokenizer = Tokenizer.load(job.run.root / stage / "model")
    n = job.recipe.evaluation.recall_problems
    tasks = [recall_task(size, n, tokenizer, problem_document) for size in (length // 4, length)]
    engine = engine_of(job, stage, context=length + 64, slots=32)
    result = evaluate(tasks, engine, tokenizer, "few-shot", stage=stage, context=engine.context)
    rows = [{**row, "key": job.keys[stage]} for row in recall_rows(result, tasks)]
    write_json(path, [row for row in known if row["stage"] != stage] + rows)
    for row in rows:
        job.say(
            f"{stage}: finds the value of a key in {row['length']} tokens {row['correct']}/{row['n']} times"
        )


def engine_of(job: Job, stage: str, *, context: int = 0, slots: int = 256) -> Engine:
    """An engine on a stage's model. A `context` beyond what the model was trained for is allowed here:
    measuring what happens there is the point of the recall evaluation."""
    folder = job.run.root / stage / "model"
    model = load_model(folder)
    if context > model.config.max_position_embeddings:
        model.config = replace(model.config, max_position_embeddings=context)
    return Engine(
        model, Tokenizer.load(folder), dtype=job.machine.compute_dtype, slots=slots, context=context
    )


def _write_example(job: Job, stage: str, result: EvalResult) -> None:
    path = job.run.root / "examples.json"
    known = read_json(path) if path.exists() else []
    families = job.recipe.skills.families
    name = "two_step" if "two_step" in families else families[0]
    items = [item for item in result.items if item.family == name]
    item = items[_EXAMPLE % len(items)]
    row = {
        "stage": stage,
        "family": item.family,
        "question": item.question,
        "reference": item.reference,
        "response": item.response,
        "correct": item.correct,
    }
    write_json(path, [old for old in known if old["stage"] != stage] + [row])


def _show(job: Job, stage: str) -> None:
    scores = read_json(job.run.root / "evals" / f"{stage}.json")
    overall = scores["overall"]
    job.say(
        f"{stage}: {overall['accuracy']:.1%} of {overall['n']:,} unseen problems right "
        f"[{overall['low']:.1%}, {overall['high']:.1%}], {scores['mode']}"
    )
    for row in read_json(job.run.root / "examples.json"):
        if row["stage"] == stage:
            mark = "right" if row["correct"] else f"wrong, it is {row['reference']}"
            lines = "\n".join("    " + line for line in row["response"].strip().split("\n"))
            job.say(f"  an unseen problem: {row['question']}\n{lines}\n    ({mark})")


def solved(run: RunFolder, stage: str) -> list[dict[str, Any]]:
    """The first answer that is right in every step of each of the three families the model does best in."""
    first: dict[str, dict[str, Any]] = {}
    right: Counter[str] = Counter()
    with open(run.root / "evals" / f"{stage}.items.jsonl", encoding="utf-8") as lines:
        for line in lines:
            item = json.loads(line)
            right[item["family"]] += item["correct"]
            if item["correct"] and item["family"] not in first and _sound(item):
                first[item["family"]] = item
    return sorted(first.values(), key=lambda item: -right[item["family"]])[:3]


def _sound(item: dict[str, Any]) -> bool:
    """A right answer can come out of wrong steps; only working that the verifier accepts is shown as solved."""
    skill = family(item["family"])
    return verify(skill, skill.problem(item["index"]), item["response"].strip()) == ""
