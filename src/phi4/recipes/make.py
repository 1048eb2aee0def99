"""The main job: carry out a recipe, stage by stage, in a run folder that can be stopped and resumed anywhere.

Reads from top to bottom as the system does. A stage's key is the hash of its configuration, the keys it
builds on and its version here; a finished stage is skipped, a half-finished one goes on where it was.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from phi4 import __version__
from phi4.data.organic.sources import OrganicSource
from phi4.data.pack import PackedSet, open_packed, pack
from phi4.data.record import TokenPair, read_records
from phi4.data.synthetic.problems import Draw, training_problems
from phi4.data.synthetic.textbook import problem_document
from phi4.device import Machine, measure
from phi4.engine.engine import Engine
from phi4.errors import RunError
from phi4.evals.baselines import Baselines, baselines
from phi4.evals.runner import EvalResult, evaluate, write_result
from phi4.evals.task import Mode, Task
from phi4.evals.tasks.recall import recall_rows, recall_task
from phi4.grading.sequential import PivotalTest
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer
from phi4.pivotal.rollouts import Question, Sampling
from phi4.pivotal.stage import SearchConfig, search, write_outcome
from phi4.recipes.card import write_card
from phi4.recipes.corpus import (
    build_corpus,
    build_tokenizer,
    evaluation_tasks,
    heldout_documents,
    organic_sources,
    pack_stages,
    read_corpus,
)
from phi4.recipes.recipe import Recipe, Stage
from phi4.report.page import write_report
from phi4.run.config import to_json
from phi4.run.files import read_json, write_json
from phi4.run.folder import RunFolder, fingerprint
from phi4.run.progress import Progress, duration
from phi4.skills.catalog import family
from phi4.skills.family import Problem
from phi4.text.chat import Conversation, Message, render
from phi4.text.tokenizer import Tokenizer
from phi4.train.checkpoint import clear_checkpoints
from phi4.train.loader import PackedLoader
from phi4.train.objectives import dpo_loss, language_model_loss
from phi4.train.pairs import PairLoader, reference_margins
from phi4.train.schedule import Schedule
from phi4.train.trainer import LoopConfig, bits_per_byte, train
from phi4.weights.folder import load_model, save_model

# Raise a number when a change of the code changes what the stage makes: old results then count as stale.
VERSIONS = {"data": 1, "tokenizer": 1, "shards": 1, "train": 1, "pivotal": 1, "evals": 1}
PIVOTAL_START = 20_000_000  # first problem index asked in pivotal search: never a training page
_EXAMPLE = 7  # which held-out problem is shown after every stage

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A recipe being carried out: where, on what, and with which stage keys."""

    recipe: Recipe
    run: RunFolder
    machine: Machine
    organic: tuple[OrganicSource, ...]
    keys: dict[str, str]
    say: Say

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The evaluation items; made when first asked for, so that a finished run opens at once."""
        return evaluation_tasks(self.recipe)


def run_name(recipe: Recipe, organic: Sequence[OrganicSource]) -> str:
    """NAME-FINGERPRINT: the recipe's values and every text it reads, but not how many workers read them."""
    print_ = fingerprint([replace(recipe, workers=0, minutes=0), [source.fingerprint for source in organic]])
    return f"{recipe.name}-{print_[:8]}"


def make(
    recipe: Recipe, runs: Path, provenance: dict[str, str], say: Say, *, fresh: bool = False
) -> RunFolder:
    """Carry out `recipe` below `runs` and return its folder; everything finished is kept, whatever happens."""
    organic = tuple(organic_sources(recipe))
    for source in organic:
        for warning in source.warnings():
            say(f"warning: {warning}")
    run = RunFolder(runs / run_name(recipe, organic))
    with run.lock():
        if fresh:
            for entry in sorted(run.root.iterdir()):
                if entry.is_dir():
                    run.reset(entry.name)
            (run.root / "run.json").unlink(missing_ok=True)
        job = open_job(recipe, run, say, organic, provenance)
        make_data(job)
        for stage in recipe.stages:
            make_stage(job, stage)
        if recipe.dpo is not None and recipe.pivotal is not None:
            make_pivotal(job)
            make_dpo(job)
        make_model(job)
    return run


def open_job(
    recipe: Recipe,
    run: RunFolder,
    say: Say,
    organic: Sequence[OrganicSource] | None = None,
    provenance: dict[str, str] | None = None,
) -> Job:
    """Everything the stages of a run need: its machine (measured once), evaluation items and stage keys."""
    sources = tuple(organic_sources(recipe) if organic is None else organic)
    machine = _open(run, recipe, provenance or {})
    return Job(recipe, run, machine, sources, stage_keys(recipe, sources), say)


def stage_keys(recipe: Recipe, organic: Sequence[OrganicSource]) -> dict[str, str]:
    """The key of every stage, each built on those before it."""
    keys: dict[str, str] = {}
    corpus = [recipe.name, recipe.skills, recipe.organic.max_bytes, recipe.smalltalk, recipe.seed]
    long = recipe.midtrain.context if recipe.midtrain else 0
    keys["data"] = fingerprint([VERSIONS["data"], corpus, long, [source.fingerprint for source in organic]])
    used = [[share.source for share in stage.mixture] for stage in recipe.stages]
    keys["tokenizer"] = fingerprint([VERSIONS["tokenizer"], keys["data"], recipe.vocab_size, used])
    mixtures = [[stage.mixture, stage.tokens, stage.context] for stage in recipe.stages]
    keys["shards"] = fingerprint([VERSIONS["shards"], keys["tokenizer"], mixtures, recipe.seed])
    before = keys["shards"]
    for stage in recipe.stages:
        before = fingerprint([VERSIONS["train"], before, stage, recipe.model, recipe.seed, recipe.dtype])
        keys[stage.name] = before
    keys["pivotal"] = fingerprint([VERSIONS["pivotal"], before, recipe.pivotal])
    keys["dpo"] = fingerprint([VERSIONS["train"], keys["pivotal"], recipe.dpo])
    return keys


def make_data(job: Job) -> None:
    """Sources and problems -> curated records -> tokenizer -> packed rows for every stage."""
    recipe, run, started = job.recipe, job.run, time.perf_counter()
    if not run.done("data", job.keys["shards"]):
        run.begin("data", job.keys["shards"])
        job.say("data: writing, verifying and curating")
        corpus = build_corpus(recipe, run, job.organic, job.tasks)
        sources = read_corpus(run)
        tokenizer = build_tokenizer(recipe, sources)
        tokenizer.save(run.stage("tokenizer"))
        pack_stages(recipe, run, sources, tokenizer)
        known = {task.family: baselines(task, family(task.family)) for task in job.tasks}
        write_json(
            run.root / "data" / "baselines.json", {n: [b.chance, b.neighbour] for n, b in known.items()}
        )
        run.mark_done("data", job.keys["shards"], corpus, time.perf_counter() - started)
    summary = run.summary("data")
    counts = ", ".join(f"{n:,} {name}" for name, n in summary["records"].items())
    job.say(f"data: {counts} records  ({duration(run.seconds('data'))})")


def make_stage(job: Job, stage: Stage) -> None:
    """Train one stage on text, save it as a model folder, measure it, show what it can do."""
    recipe, run, key = job.recipe, job.run, job.keys[stage.name]
    folder = run.root / stage.name
    if not run.done(stage.name, key):
        run.begin(stage.name, key)
        tokenizer = Tokenizer.load(run.root / "tokenizer")
        data = open_packed(run.root / "data" / "shards" / stage.name)
        model = _starting_point(job, stage, tokenizer)
        rope = Rope(model.config, stage.context)
        watch = _heldout_watch(job, tokenizer, rope, stage)
        summary = train(
            folder,
            model,
            PackedLoader(data, stage.rows, recipe.seed, job.machine.micro_rows(stage.rows)),
            language_model_loss,
            LoopConfig(
                stage.steps, _schedule(stage), stage.optimizer, checkpoint_every=stage.checkpoint_every
            ),
            job.machine,
            rope,
            label=stage.name,
            tokens_per_step=stage.rows * stage.context,
            data_fingerprint=data.fingerprint,
            watch=watch,
            watch_every=max(1, stage.steps // 12),
        )
        save_model(folder / "model", model, tokenizer)
        clear_checkpoints(folder)
        run.mark_done(stage.name, key, summary, summary["seconds"])
    if stage.name == "midtrain":
        before = recipe.stages[recipe.stages.index(stage) - 1]
        measure_recall(job, before.name, stage.context)
        measure_recall(job, stage.name, stage.context)
    if stage.name == "sft":
        measure_stage(job, stage.name, "chat")
    elif recipe.evaluation.base_problems:
        measure_stage(job, stage.name, "few-shot")


def make_pivotal(job: Job) -> None:
    """Search the SFT model's own solutions for the tokens that decided them, and confirm the pairs."""
    settings, run, key = job.recipe.pivotal, job.run, job.keys["pivotal"]
    assert settings is not None
    if not run.done("pivotal", key):
        started = time.perf_counter()
        folder = run.begin("pivotal", key)
        model_folder = run.root / "sft" / "model"
        tokenizer = Tokenizer.load(model_folder)
        problems = pivotal_problems(job)
        questions = [pivotal_question(p, tokenizer) for p in problems.values()]
        engine = engine_of(job, "sft", slots=512)
        config = SearchConfig(
            Sampling(
                settings.max_tokens,
                tokenizer.stop_ids,
                temperature=settings.temperature,
                seed=job.recipe.seed,
                model=job.keys["sft"],
            ),
            test=PivotalTest(max_rollouts=settings.rollouts),
            confirmation=PivotalTest(max_rollouts=settings.rollouts, two_sided=False),
        )
        with Progress("pivotal", len(questions), "questions") as progress:
            outcome = search(
                questions,
                pivotal_oracle(problems, tokenizer),
                engine,
                config,
                folder,
                in_flight=settings.in_flight,
                finished=lambda finding: progress.advance(1),
            )
        summary = write_outcome(outcome, questions, config, folder, tokenizer.decode, tokenizer.fingerprint)
        run.mark_done("pivotal", key, summary, time.perf_counter() - started)
    s = run.summary("pivotal")
    job.say(
        f"pivotal: {s['confirmed']} pairs confirmed of {s['candidates']} candidates in {s['searched']} questions, "
        f"{s['rollouts']:,} rollouts  ({duration(run.seconds('pivotal'))})"
    )


def make_dpo(job: Job) -> None:
    """Prefer the accepted over the rejected token of every confirmed pair. Without pairs the SFT model stands."""
    run, key = job.run, job.keys["dpo"]
    if not run.done("dpo", key):
        run.begin("dpo", key)
        model = load_model(run.root / "sft" / "model")
        tokenizer = Tokenizer.load(run.root / "sft" / "model")
        records = list(read_records(run.root / "pivotal" / "pairs.parquet"))
        pairs = [r.content for r in records if isinstance(r.content, TokenPair)]
        summary: dict[str, Any] = {"pairs": len(pairs), "seconds": 0.0}
        if pairs:
            summary |= train_dpo(job, run.root / "dpo", model, pairs, seed=job.recipe.seed)
        save_model(run.root / "dpo" / "model", model, tokenizer)
        clear_checkpoints(run.root / "dpo")
        run.mark_done("dpo", key, summary, summary["seconds"])
    measure_stage(job, "dpo", "chat")


def train_dpo(
    job: Job, folder: Path, model: Transformer, pairs: Sequence[TokenPair], *, seed: int
) -> dict[str, Any]:
    """The DPO stage itself, on any pairs."""
    settings = job.recipe.dpo
    assert settings is not None
    rope = Rope(model.config, max(len(p.prefix) + max(len(p.accepted), len(p.rejected)) for p in pairs))
    reference_P = reference_margins(model, pairs, rope, job.machine.compute_dtype)
    loader = PairLoader(pairs, reference_P, settings.pairs_per_step, seed)
    steps = max(1, settings.epochs * len(pairs) // loader.per_step)
    tokens = sum(2 * len(pair.prefix) + len(pair.accepted) + len(pair.rejected) for pair in pairs)
    return train(
        folder,
        model,
        loader,
        dpo_loss(settings.beta),
        LoopConfig(
            steps,
            Schedule(settings.peak_lr, 0.1),
            settings.optimizer,
            log_every=1,
            checkpoint_every=settings.checkpoint_every,
        ),
        job.machine,
        rope,
        label="dpo",
        tokens_per_step=max(1, tokens * loader.per_step // len(pairs)),
        data_fingerprint=fingerprint([to_json(pair) for pair in pairs]),
    )


def make_model(job: Job) -> None:
    """Publish the last stage as the run's model, with its card, and write the report."""
    run, last = job.run, last_stage(job.recipe)
    if not run.done("model", job.keys[last]):
        folder = run.begin("model", job.keys[last])
        model = load_model(run.root / last / "model")
        save_model(folder, model, Tokenizer.load(run.root / last / "model"))
        write_card(job.recipe, run, folder, last)
        write_report(run.root)
        run.mark_done("model", job.keys[last], {"stage": last}, 0.0)


def last_stage(recipe: Recipe) -> str:
    """The stage whose weights are the result."""
    return "dpo" if recipe.dpo is not None and recipe.pivotal is not None else recipe.stages[-1].name


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
        tasks = [replace(task, items=task.items[:n]) for task in job.tasks]
        job.say(f"{stage}: asking {sum(len(task.items) for task in tasks):,} unseen problems")
        result = evaluate(
            tasks,
            engine,
            engine.tokenizer,
            mode,
            stage=stage,
            context=engine.context,
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


def pivotal_problems(job: Job) -> dict[str, Problem]:
    """Problems to search, by id: training side, never a page, spread over the families that are taught most."""
    settings, skills = job.recipe.pivotal, job.recipe.skills
    assert settings is not None
    families = [name for name, _ in skills.weights] or skills.families
    each = -(-settings.questions // len(families))
    found: dict[str, Problem] = {}
    for name in families:
        draw = Draw(name, PIVOTAL_START, PIVOTAL_START + 4 * each, (0.0, 0.5, 0.5), skills.held_out_percent)
        for _, problem in zip(range(each), training_problems(draw), strict=False):
            found[f"{name}-{problem.level}-{problem.index}"] = problem
    return found


def pivotal_question(problem: Problem, tokenizer: Tokenizer) -> Question:
    """A problem as the chat asks it."""
    conversation = Conversation((Message("user", problem.question),))
    return Question(
        id=f"{problem.family}-{problem.level}-{problem.index}",
        family=problem.family,
        text=problem.question,
        prompt=tuple(render(conversation, tokenizer, generation=True).ids),
        problem_key=problem.problem_key,
    )


def pivotal_oracle(
    problems: dict[str, Problem], tokenizer: Tokenizer
) -> Callable[[Question, tuple[int, ...]], bool]:
    """Is a completion right? Judged by the family's own scorer, on the completion alone."""

    def oracle(question: Question, ids: tuple[int, ...]) -> bool:
        problem = problems[question.id]
        return family(problem.family).score(problem.answer, tokenizer.decode(ids))

    return oracle


def _open(run: RunFolder, recipe: Recipe, provenance: dict[str, str]) -> Machine:
    """run.json, written once: the machine is measured when a run begins and its choices hold to the end."""
    if (run.root / "run.json").exists():
        return Machine(**run.read_run()["machine"])
    machine = measure(recipe.dtype)
    run.write_run(
        {
            "name": recipe.name,
            "fingerprint": run.root.name.rpartition("-")[2],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "recipe": to_json(recipe),
            "provenance": provenance,
            "machine": machine.to_json(),
            "phi4_version": __version__,
        }
    )
    return machine


def _starting_point(job: Job, stage: Stage, tokenizer: Tokenizer) -> Transformer:
    """The model of the stage before, or fresh weights; with this stage's RoPE base and context."""
    recipe = job.recipe
    number = recipe.stages.index(stage)
    context = max(earlier.context for earlier in recipe.stages[: number + 1])
    if number:
        model = load_model(job.run.root / recipe.stages[number - 1].name / "model")
    else:
        if tokenizer.vocab_size != recipe.model.vocab_size:
            raise RunError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the model {recipe.model.vocab_size}",
                "there is too little text for that vocabulary: lower vocab_size and model.vocab_size",
            )
        model = Transformer(recipe.model)
        model.init_weights(recipe.seed)
    model.config = replace(
        model.config,
        rope_theta=stage.rope_theta,
        max_position_embeddings=context,
        original_max_position_embeddings=context,
    )
    return model


def _heldout_watch(
    job: Job, tokenizer: Tokenizer, rope: Rope, stage: Stage
) -> Callable[[Transformer], dict[str, float]] | None:
    """Held-out bits per byte for stages that learn whole pages."""
    if stage.name == "sft":
        return None
    documents, size = heldout_documents(job.recipe, tokenizer)
    packed: PackedSet = pack(
        documents, job.run.root / stage.name / "heldout", stage.context, tokenizer.vocab_size
    )
    loader = PackedLoader(packed, packed.rows, seed=0, micro_rows=16)
    batches = loader(0)
    return lambda model: {"heldout_bpb": bits_per_byte(model, batches, size, rope, job.machine.compute_dtype)}


def _schedule(stage: Stage) -> Schedule:
    return Schedule(stage.peak_lr, stage.warmup, stage.final_lr)


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
