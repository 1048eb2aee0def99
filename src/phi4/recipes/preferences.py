"""Pivotal tokens and DPO: search the SFT model's own solutions, confirm the pairs, train on them."""

import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from phi4.data.record import TokenPair, read_records
from phi4.data.synthetic.problems import Draw, training_problems
from phi4.grading.sequential import PivotalTest
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer
from phi4.pivotal.rollouts import Question, Sampling
from phi4.pivotal.stage import SearchConfig, search, write_outcome
from phi4.recipes.job import Job
from phi4.recipes.measure import engine_of, measure_stage
from phi4.run.config import to_json
from phi4.run.folder import fingerprint
from phi4.run.progress import Progress, duration
from phi4.skills.catalog import family
from phi4.skills.family import Problem
from phi4.text.chat import Conversation, Message, render
from phi4.text.tokenizer import Tokenizer
from phi4.train.checkpoint import clear_checkpoints
from phi4.train.objectives import dpo_loss
from phi4.train.pairs import PairLoader, reference_margins
from phi4.train.schedule import Schedule
from phi4.train.trainer import LoopConfig, train
from phi4.weights.folder import load_model, save_model

PIVOTAL_START = 20_000_000  # first problem index asked in pivotal search: never a training page


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


def pivotal_problems(job: Job) -> dict[str, Problem]:
    """Problems to search, by id: training side, never a page, each asked once, over the families taught most."""
    settings, skills = job.recipe.pivotal, job.recipe.skills
    assert settings is not None
    families = [name for name, _ in skills.weights] or skills.families
    each = -(-settings.questions // len(families))
    found: dict[str, Problem] = {}
    for name in families:
        draw = Draw(name, PIVOTAL_START, PIVOTAL_START + 4 * each, (0.0, 0.5, 0.5), skills.held_out_percent)
        once = {problem.question: problem for problem in training_problems(draw)}  # small families repeat
        for problem in islice(once.values(), each):
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
