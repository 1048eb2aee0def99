"""The main job: carry out a recipe, stage by stage, in a run folder that can be stopped and resumed anywhere.

Reads from top to bottom as the system does. A stage's key is the hash of its configuration, the keys it
builds on and its version here; a finished stage is skipped, a half-finished one goes on where it was.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from phi4.data.pack import PackedSet, open_packed, pack
from phi4.errors import RunError
from phi4.evals.baselines import baselines
from phi4.model.config import ModelConfig
from phi4.model.induction import prime_induction
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer
from phi4.recipes.card import write_card
from phi4.recipes.corpus import build_corpus, organic_sources, read_corpus
from phi4.recipes.job import Job, Say, last_stage, open_job, run_name
from phi4.recipes.measure import measure_recall, measure_stage, solved
from phi4.recipes.preferences import make_dpo, make_pivotal
from phi4.recipes.recipe import Recipe, Stage
from phi4.recipes.shards import build_tokenizer, heldout_documents, pack_stages
from phi4.report.page import write_report
from phi4.run.files import write_json
from phi4.run.folder import RunFolder
from phi4.run.progress import duration
from phi4.skills.catalog import family
from phi4.text.tokenizer import Tokenizer
from phi4.train.checkpoint import clear_checkpoints
from phi4.train.loader import PackedLoader
from phi4.train.objectives import language_model_loss
from phi4.train.schedule import Schedule
from phi4.train.trainer import LoopConfig, bits_per_byte, train
from phi4.weights.folder import load_model, save_model


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


def make_model(job: Job) -> None:
    """Publish the last stage as the run's model, with its card, and write the report."""
    run, last = job.run, last_stage(job.recipe)
    if not run.done("model", job.keys[last]):
        folder = run.begin("model", job.keys[last])
        model = load_model(run.root / last / "model")
        save_model(folder, model, Tokenizer.load(run.root / last / "model"))
        write_card(job.recipe, run, folder, last)
        write_json(run.root / "solved.json", solved(run, last))
        write_report(run.root)
        run.mark_done("model", job.keys[last], {"stage": last}, 0.0)


def _starting_point(job: Job, stage: Stage, tokenizer: Tokenizer) -> Transformer:
    """The model of the stage before, or fresh weights; with this stage's RoPE base and context."""
    recipe = job.recipe
    number = recipe.stages.index(stage)
    context = max(earlier.context for earlier in recipe.stages[: number + 1])
    if number:
        model = load_model(job.run.root / recipe.stages[number - 1].name / "model")
        model.config = _for_stage(model.config, stage, context)
    else:
        if tokenizer.vocab_size != recipe.model.vocab_size:
            raise RunError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the model {recipe.model.vocab_size}",
                "there is too little text for that vocabulary: lower vocab_size and model.vocab_size",
            )
        model = Transformer(_for_stage(recipe.model, stage, context))
        model.init_weights(recipe.seed)
        if recipe.induction:
            if recipe.model.num_hidden_layers < 2:
                raise RunError(
                    "induction heads need two layers, the model has one", "use --set induction=false"
                )
            prime_induction(model, recipe.seed)
    return model


def _for_stage(config: ModelConfig, stage: Stage, context: int) -> ModelConfig:
    return replace(
        config,
        rope_theta=stage.rope_theta,
        max_position_embeddings=context,
        original_max_position_embeddings=context,
    )


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
