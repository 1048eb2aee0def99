"""Contract 4: kill -9 in the middle of every stage, resume, and end with the same weights, bit for bit."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from phi4.run.files import read_json
from tests.recipes.small import child

TRAINED = ("pretrain", "midtrain", "sft", "dpo")


def _half_trained(stage: str) -> Callable[[Path], bool]:
    return lambda run: any((run / stage).glob("checkpoint-*/state.json"))


HALF_DONE: dict[str, Callable[[Path], bool]] = {
    "data": lambda run: (run / "ledger" / "minhash.parquet").exists(),
    "pivotal": lambda run: (run / "pivotal" / "rollouts.jsonl").exists(),
    **{stage: _half_trained(stage) for stage in TRAINED},
}


def _kill_in(stage: str, runs: Path) -> None:
    process = child(runs)
    deadline = time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            for run in runs.glob("small-*"):
                if (run / stage / "done.json").exists():
                    pytest.fail(f"{stage} was over before it could be killed")
                if HALF_DONE[stage](run):
                    return
            assert process.poll() is None, f"the run ended before {stage}"
            time.sleep(0.001)
        pytest.fail(f"{stage} never began")
    finally:
        process.kill()
        process.wait()


def test_killed_in_every_stage_and_resumed(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert child(whole).wait(180) == 0
    for stage in ("data", "pretrain", "midtrain", "sft", "pivotal", "dpo"):
        _kill_in(stage, broken)
    assert child(broken).wait(180) == 0
    (first,), (second,) = whole.glob("small-*"), broken.glob("small-*")
    for stage in (*TRAINED, "."):
        weights = Path(stage) / "model" / "model.safetensors"
        assert (first / weights).read_bytes() == (second / weights).read_bytes(), stage
        if stage in TRAINED:
            scores = [read_json(run / "evals" / f"{stage}.json") for run in (first, second)]
            assert scores[0]["overall"] == scores[1]["overall"]
    for name in ("problems", "chat", "worksheets"):
        records = Path("data") / "records" / f"{name}.parquet"
        assert (first / records).read_bytes() == (second / records).read_bytes()
    rows = [(run / "pretrain" / "metrics.jsonl").read_text().splitlines() for run in (first, second)]
    assert len(rows[0]) == len(rows[1])
