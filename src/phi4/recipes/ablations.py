"""What each part of the recipe is worth: variants trained side by side on equal tokens, steps and SFT.

Every arm is an ordinary run below its own folder, so an ablation resumes like any run, and every figure in its
table can be looked up in a run's report.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from phi4.data.record import TokenPair, read_records
from phi4.data.synthetic.teacher import Noise
from phi4.engine.engine import Engine
from phi4.errors import RunError, UsageError
from phi4.evals.compare import compare
from phi4.evals.runner import ItemRecord, evaluate, read_items, write_result
from phi4.grading.intervals import PairedComparison, compare_paired, wilson
from phi4.pivotal.controls import full_response_pairs, random_token_pairs
from phi4.pivotal.rollouts import Sampling
from phi4.pivotal.stage import SearchConfig, search, write_outcome
from phi4.recipes.job import Job, Say, open_job
from phi4.recipes.make import make
from phi4.recipes.preferences import pivotal_oracle, pivotal_problems, pivotal_question, train_dpo
from phi4.recipes.recipe import Recipe, Share
from phi4.run.config import to_json
from phi4.run.files import write_json
from phi4.run.folder import RunFolder, fingerprint
from phi4.run.progress import Progress
from phi4.text.tokenizer import Tokenizer
from phi4.train.checkpoint import clear_checkpoints
from phi4.weights.folder import load_model, save_model

NOISE = Noise(slipped_step=0.15, wrong_answer=0.10, answer_first=0.15, truncated=0.10, duplicated=0.15)


@dataclass(frozen=True)
class ArmResult:
    """One arm under one seed, on the trained families."""

    arm: str
    seed: int
    accuracy: float
    low: float
    high: float
    run: str


@dataclass(frozen=True)
class Ablation:
    """A finished ablation: results of all arms, and paired comparisons between the arms that were to be compared."""

    name: str
    results: tuple[ArmResult, ...]
    comparisons: tuple[tuple[str, PairedComparison], ...]  # ("A - B, seed 0", ...)
    notes: tuple[str, ...]


def data_arms(recipe: Recipe) -> dict[str, Recipe]:
    """The five arms of the data ablation, from one base: pretraining and SFT on half the recipe's tokens.

    SFT is the same clean set in every arm, so what differs is what was read before it.
    """
    base = replace(
        recipe,
        pretrain=replace(recipe.pretrain, tokens=recipe.pretrain.tokens // 2),
        sft=replace(recipe.sft, tokens=recipe.sft.tokens // 2),
        midtrain=None,
        pivotal=None,
        dpo=None,
        evaluation=replace(recipe.evaluation, base_problems=0),
    )
    noisy = replace(base.skills, noise=NOISE)
    texts = tuple(share for share in base.pretrain.mixture if share.source != "problems")
    rest = sum(share.fraction for share in texts)
    organic = tuple(Share(share.source, share.fraction / rest) for share in texts)
    return {
        "A noisy teacher, curated and verified": replace(base, skills=noisy),
        "B noisy teacher, raw": replace(base, skills=replace(noisy, verify=False, curate=False)),
        "C answers only": replace(base, skills=replace(base.skills, answers_only=True)),
        "D one template per family": replace(base, skills=replace(base.skills, one_template=True)),
        "E organic text only": replace(base, pretrain=replace(base.pretrain, mixture=organic)),
    }


def ablate_data(recipe: Recipe, folder: Path, seeds: Sequence[int], say: Say) -> Ablation:
    """Train and score every arm under every seed; A is compared with each other arm, item by item."""
    arms = data_arms(recipe)
    results: list[ArmResult] = []
    items: dict[tuple[str, int], list[ItemRecord]] = {}
    notes: list[str] = []
    for seed in seeds:
        for arm, variant in arms.items():
            say(f"\n{arm}, seed {seed}")
            named = replace(variant, name=f"{recipe.name}-{arm[0].lower()}{seed}", seed=seed)
            run = make(named, folder, {}, say)
            items[arm, seed] = _trained(read_items(run.root / "evals" / "sft.items.jsonl"), recipe)
            results.append(_result(arm, seed, items[arm, seed], run.root.name))
            if arm.startswith("A"):
                notes.append(f"seed {seed}: {_caught(run)}")
    first, *others = arms
    comparisons: list[tuple[str, PairedComparison]] = []
    for other in others:
        for seed in seeds:
            pair = compare(items[other, seed], items[first, seed]).overall
            comparisons.append((f"{first[0]} - {other[0]}, seed {seed}", pair))
        pooled = compare_paired(
            [item.correct for seed in seeds for item in items[other, seed]],
            [item.correct for seed in seeds for item in items[first, seed]],
        )
        comparisons.append((f"{first[0]} - {other[0]}, all seeds", pooled))
    return Ablation(recipe.name, tuple(results), tuple(comparisons), tuple(notes))


def ablate_dpo(recipe: Recipe, run: RunFolder, seeds: Sequence[int], wanted: int, say: Say) -> Ablation:
    """Pivotal pairs against no DPO, random-token pairs and whole responses: equal pairs, steps and rates."""
    if recipe.pivotal is None or recipe.dpo is None:
        raise UsageError(f"recipe {recipe.name} has no DPO to ablate")
    if not (run.root / "sft" / "done.json").exists():
        raise RunError(f"{run.root} has no finished SFT model", f"run `phi4 make {recipe.name}` first")
    folder = run.root / "ablations" / "dpo"
    folder.mkdir(parents=True, exist_ok=True)
    pool = replace(recipe, pivotal=replace(recipe.pivotal, questions=wanted * 20))
    job = open_job(pool, run, say)
    arms = _dpo_pairs(job, folder, wanted)
    sought = wanted
    while len(arms["pivotal tokens"]) >= sought and (short := wanted - _smallest(arms)) > 0:
        sought += short  # a pair without a control is in no arm: search on for another
        arms = _dpo_pairs(job, folder, sought)
    size = min(wanted, _smallest(arms))
    say(f"{size} pairs in each arm")
    base = _trained(read_items(run.root / "evals" / "sft.items.jsonl"), recipe)
    results = [_result("no DPO", seed, base, run.root.name) for seed in seeds]
    items: dict[str, list[ItemRecord]] = {"no DPO": base * len(seeds)}
    for arm, pairs in arms.items():
        for seed in seeds:
            key = fingerprint([recipe.dpo, *map(to_json, pairs[:size])])[:8]
            found = _dpo_arm(job, folder / f"{arm.replace(' ', '-')}-{seed}-{key}", pairs[:size], seed)
            items[arm] = items.get(arm, []) + found
            results.append(_result(arm, seed, found, run.root.name))
            say(f"{arm}, seed {seed}: {results[-1].accuracy:.2%}")
    first = "pivotal tokens"
    comparisons = tuple(
        (
            f"{first} - {other}, all seeds",
            compare_paired([i.correct for i in items[other]], [i.correct for i in items[first]]),
        )
        for other in items
        if other != first
    )
    note = f"{size} confirmed pairs in each arm, rate {recipe.dpo.peak_lr:g}, {recipe.dpo.epochs} epochs"
    return Ablation("dpo", tuple(results), comparisons, (note,))


def _smallest(arms: dict[str, list[TokenPair]]) -> int:
    return min(len(pairs) for pairs in arms.values())


def write_ablation(ablation: Ablation, folder: Path) -> Path:
    """Write ablations/NAME.json into a run folder, as the report reads it."""
    path = folder / "ablations" / f"{ablation.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"arm": r.arm, "seed": r.seed, "accuracy": r.accuracy, "low": r.low, "high": r.high}
        for r in ablation.results
    ]
    write_json(path, rows)
    return path


def table(ablation: Ablation) -> str:
    """The ablation as Markdown, for a terminal and for LOG.md."""
    lines = ["| arm | seed | accuracy | 95 % interval |", "|---|---|---|---|"]
    lines += [
        f"| {r.arm} | {r.seed} | {r.accuracy:.1%} | {r.low:.1%} - {r.high:.1%} |" for r in ablation.results
    ]
    lines += ["", "| comparison | difference | 95 % interval | p (McNemar) |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {c.difference:+.1%} | {c.interval.low:+.1%} to {c.interval.high:+.1%} | {c.p_value:.2g} |"
        for name, c in ablation.comparisons
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in ablation.notes)])


def _dpo_pairs(job: Job, folder: Path, wanted: int) -> dict[str, list[TokenPair]]:
    """Search until `wanted` pairs are confirmed, then build the control arms from the same questions."""
    settings = job.recipe.pivotal
    assert settings is not None
    model_folder = job.run.root / "sft" / "model"
    tokenizer = Tokenizer.load(model_folder)
    problems = pivotal_problems(job)
    questions = [pivotal_question(problem, tokenizer) for problem in problems.values()]
    oracle = pivotal_oracle(problems, tokenizer)
    engine = Engine(load_model(model_folder), tokenizer, dtype=job.machine.compute_dtype, slots=512)
    sampling = Sampling(
        settings.max_tokens, tokenizer.stop_ids, settings.temperature, seed=1, model=job.keys["sft"]
    )
    config = SearchConfig(sampling)
    with Progress("pivotal search", wanted, "pairs") as progress:
        outcome = search(
            questions,
            oracle,
            engine,
            config,
            folder,
            in_flight=settings.in_flight,
            wanted=wanted,
            finished=lambda finding: progress.advance(len(finding.pairs)),
        )
    write_outcome(outcome, questions, config, folder, tokenizer.decode, tokenizer.fingerprint)
    pairs = outcome.pairs
    pivotal = read_records(folder / "pairs.parquet")
    random = random_token_pairs(pairs, questions, oracle, engine, config, folder, tokenizer.fingerprint)
    whole = full_response_pairs(pairs, questions, oracle, config, folder, tokenizer.fingerprint)
    return {
        name: [r.content for r in records if isinstance(r.content, TokenPair)]
        for name, records in (
            ("pivotal tokens", pivotal),
            ("random tokens", random),
            ("full responses", whole),
        )
    }


def _dpo_arm(job: Job, folder: Path, pairs: list[TokenPair], seed: int) -> list[ItemRecord]:
    """Train one arm and score it; a finished arm is read back."""
    stored = folder / "dpo.items.jsonl"
    if not stored.exists():
        if not (folder / "model" / "config.json").exists():
            model = load_model(job.run.root / "sft" / "model")
            train_dpo(job, folder, model, pairs, seed=seed)
            save_model(folder / "model", model, Tokenizer.load(job.run.root / "sft" / "model"))
            clear_checkpoints(folder)
        tokenizer = Tokenizer.load(folder / "model")
        engine = Engine(load_model(folder / "model"), tokenizer, dtype=job.machine.compute_dtype)
        write_result(
            evaluate(job.tasks, engine, tokenizer, "chat", stage="dpo", context=engine.context), folder
        )
    return _trained(read_items(stored), job.recipe)


def _trained(items: Sequence[ItemRecord], recipe: Recipe) -> list[ItemRecord]:
    return [item for item in items if item.family not in recipe.skills.transfer]


def _result(arm: str, seed: int, items: Sequence[ItemRecord], run: str) -> ArmResult:
    right = sum(item.correct for item in items)
    interval = wilson(right, len(items))
    return ArmResult(arm, seed, right / len(items), interval.low, interval.high, run)


def _caught(run: RunFolder) -> str:
    """What the verifier refused of each planted fault, and of what was right."""
    faults: dict[str, dict[str, int]] = run.summary("data")["faults"]
    parts = [f"{name} {f['refused']:,} of {f['written']:,}" for name, f in sorted(faults.items())]
    return "the verifier refused " + ", ".join(parts)
