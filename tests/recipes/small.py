"""The whole recipe, every stage of it, at a size that runs in seconds; and a way to run it in a child process."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import phi4.recipes.preferences as preferences
from phi4.data.record import TokenPair, derived_record, write_records
from phi4.model.config import ModelConfig
from phi4.pivotal.rollouts import Question
from phi4.pivotal.stage import Outcome, SearchConfig
from phi4.recipes.make import make
from phi4.recipes.recipe import Dpo, Evaluation, Organic, Pivotal, Recipe, Share, Skills, Stage
from phi4.run.folder import RunFolder

PAGES = (Share("problems", 0.7), Share("sheets", 0.2), Share("textbook", 0.1))


def small(workers: int = 1) -> Recipe:
    """Two families, 40,000 parameters, all stages; learns next to nothing, but goes every way there is."""
    return Recipe(
        name="small",
        minutes=0.5,
        model=ModelConfig(
            vocab_size=400,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=64,
            max_position_embeddings=128,
            tie_word_embeddings=True,
        ),
        skills=Skills(families=("lookup", "clock"), transfer=("sets",), problems=300, conversations=100),
        organic=Organic(max_bytes=20_000),
        vocab_size=400,
        pretrain=Stage(
            "pretrain", tokens=80_000, context=128, rows=8, mixture=PAGES, peak_lr=1e-2, checkpoint_every=7
        ),
        midtrain=Stage(
            "midtrain",
            tokens=30_000,
            context=512,
            rows=1,
            mixture=(Share("problems", 0.7), Share("worksheets", 0.2), Share("recall", 0.1)),
            peak_lr=1e-3,
            rope_theta=40_000.0,
            checkpoint_every=7,
        ),
        sft=Stage(
            "sft",
            tokens=40_000,
            context=256,
            rows=2,
            mixture=(Share("chat", 0.9), Share("smalltalk", 0.1)),
            peak_lr=3e-3,
            rope_theta=40_000.0,
            checkpoint_every=7,
        ),
        pivotal=Pivotal(questions=16, max_tokens=24, in_flight=2),
        dpo=Dpo(epochs=40, pairs_per_step=1, checkpoint_every=5),
        evaluation=Evaluation(problems=6, recall_problems=4),
        dtype="float32",
        workers=workers,
    )


def run_small(runs: Path) -> RunFolder:
    """Carry it out, with two pairs planted where a model this small would never confirm one."""
    write_outcome = preferences.write_outcome

    def with_pairs(
        outcome: Outcome,
        questions: Sequence[Question],
        config: SearchConfig,
        folder: Path,
        decode: Callable[..., str],
        tokenizer: str,
    ) -> dict[str, Any]:
        summary = write_outcome(outcome, questions, config, folder, decode, tokenizer)
        pairs = [TokenPair(tokenizer, q.prompt, (40 + i,), (60 + i,)) for i, q in enumerate(questions[:2])]
        write_records(
            folder / "pairs.parquet",
            [
                derived_record(
                    "planted", "test", (str(i),), 0, pair, kind="preference", skill="clock", licence="MIT",
                    source="test", generator="test",
                )
                for i, pair in enumerate(pairs)
            ],
        )  # fmt: skip
        return summary

    preferences.write_outcome = with_pairs
    try:
        return make(small(), runs, {}, lambda line: print(line, flush=True))
    finally:
        preferences.write_outcome = write_outcome


def child(runs: Path) -> subprocess.Popen[bytes]:
    """The same in a process of its own, to be killed."""
    code = (
        "import torch; torch.set_num_threads(1); from pathlib import Path; "
        f"from tests.recipes.small import run_small; run_small(Path({str(runs)!r}))"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
