"""A run folder as a finished `pico` leaves it, made up: 18 families, four stages, every file."""

import json
import math
import random
import struct
from pathlib import Path
from typing import Any

STAGES = ("pretrain", "midtrain", "sft", "dpo")

# family: accuracy after each stage, chance, nearest training neighbour
FAMILIES: dict[str, tuple[tuple[float, float, float, float], float, float]] = {
    "addition": ((0.71, 0.74, 0.97, 0.985), 0.0, 0.01),
    "subtraction": ((0.64, 0.66, 0.94, 0.96), 0.0, 0.02),
    "multiplication": ((0.58, 0.63, 0.93, 0.95), 0.0, 0.03),
    "fractions": ((0.31, 0.35, 0.81, 0.84), 0.01, 0.04),
    "percentages": ((0.44, 0.5, 0.88, 0.9), 0.02, 0.06),
    "units": ((0.52, 0.55, 0.91, 0.91), 0.03, 0.08),
    "equations": ((0.49, 0.56, 0.92, 0.94), 0.04, 0.09),
    "sequences": ((0.57, 0.58, 0.86, 0.89), 0.02, 0.11),
    "number_theory": ((0.22, 0.24, 0.66, 0.71), 0.05, 0.1),
    "sets": ((0.47, 0.51, 0.9, 0.93), 0.01, 0.02),
    "ordering": ((0.62, 0.7, 0.95, 0.955), 0.01, 0.03),
    "dates": ((0.28, 0.3, 0.72, 0.75), 0.02, 0.07),
    "two_step_problems": ((0.41, 0.46, 0.87, 0.9), 0.02, 0.05),
    "three_step_problems": ((0.24, 0.29, 0.74, 0.78), 0.01, 0.04),
    "propositional_logic": ((0.38, 0.42, 0.83, 0.86), 0.125, 0.21),
    "syllogisms": ((0.44, 0.46, 0.9, 0.92), 0.2, 0.24),
    "code_tracing": ((0.36, 0.44, 0.85, 0.89), 0.02, 0.04),
    "averages": ((0.04, 0.05, 0.31, 0.33), 0.01, 0.03),
}
UNTRAINED = {"averages"}
N = 200

_ADDITION = """Add the ones: 8+7=15, write 5, carry 1.
Add the tens: 6+9+1=16, write 6, carry 1.
Add the hundreds: 4+3+1=8, write 8.
so 468+397=865
Answer: 865"""
_TRACE = """line 1: x = 4
line 2: y = x + 3 = 4 + 3 = 7
line 3: x = x * 2 = 4 * 2 = 8
line 4: y = y - x = 7 - 8 = -1
line 5: print(x + y): 8 + -1 = 7
Answer: 7"""
_WORDS = """Mina has 3 boxes of 24 pencils: 24*3.
4*3=12, write 2, carry 1.
2*3=6, plus 1 is 7, write 7.
so 24*3=72
She gives away 18: 72-18=54
Answer: 54"""
_EQUATION = """5x+7=52
Take 7 from both sides: 5x=45
Divide both sides by 5: x=9
Check: 5*9=45, 45+7=52
Answer: 9"""
_FRACTION = """The denominators are 4 and 6; both go into 12.
3/4=9/12
1/6=2/12
9+2=11
so 3/4+1/6=11/12
Answer: 11/12"""

PROBLEMS = {
    "addition": ("What is 468 + 397?", "865", _ADDITION),
    "code_tracing": (
        "What does this program print?\nx = 4\ny = x + 3\nx = x * 2\ny = y - x\nprint(x + y)",
        "7",
        _TRACE,
    ),
    "two_step_problems": (
        "Mina has 3 boxes with 24 pencils each. She gives 18 pencils away. How many has she left?",
        "54",
        _WORDS,
    ),
    "equations": ("Solve for x: 5x + 7 = 52", "9", _EQUATION),
    "fractions": ("Work out 3/4 + 1/6 in lowest terms.", "11/12", _FRACTION),
}


def write_fake_run(root: Path, stages: tuple[str, ...] = STAGES) -> Path:
    """Write runs/pico-… under `root`, finished up to the last of `stages`; returns the folder."""
    folder = root / "pico-3fa94c1be2078d56"
    rng = random.Random(7)
    finished = stages == STAGES
    write_json(folder / "run.json", _head())
    _data(folder)
    for stage in stages:
        _stage(folder, stage, rng)
        _evaluation(folder, stage, rng)
    write_json(folder / "examples.json", [_example(stage) for stage in stages])
    if "midtrain" in stages:
        write_json(folder / "evals/recall.json", _recall())
    if finished:
        _pivotal(folder)
        _ablations(folder)
        write_json(folder / "model/done.json", {"stage": "model", "key": "k", "seconds": 2.1, "summary": {}})
        _weights(folder / "model/model.safetensors")
    return folder


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def wilson(correct: int, n: int) -> tuple[float, float]:
    z, p = 1.96, correct / n
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


def _head() -> dict[str, Any]:
    recipe = {
        "name": "pico",
        "seed": 1,
        "data": {"families": list(FAMILIES), "level": 2, "problems_per_family": 4000, "template_cap": 900},
        "tokenizer": {"vocab_size": 2048},
        "model": {
            "layers": 4,
            "width": 160,
            "query_heads": 5,
            "kv_heads": 1,
            "context": 256,
            "rope_theta": 10000.0,
        },
        "pretrain": {"tokens": 6_000_000, "batch_tokens": 4096, "lr": 0.004, "optimizer": "muon"},
        "midtrain": {"tokens": 800_000, "batch_tokens": 4096, "lr": 0.0004, "context": 1024},
        "sft": {"tokens": 1_000_000, "batch_tokens": 4096, "lr": 0.001, "chat_share": 0.03},
        "pivotal": {"questions": 300, "p_gap": 0.2, "alpha": 0.05, "max_rollouts": 256},
        "dpo": {"beta": 0.1, "lr": 0.0002, "pairs_per_batch": 32},
        "evals": {"n": N, "level": "standard"},
    }
    provenance = {
        f"{section}.{key}": "recipe pico"
        for section, values in recipe.items()
        if isinstance(values, dict)
        for key in values
    }
    provenance |= {"name": "recipe pico", "seed": "recipe pico", "pretrain.lr": "--set"}
    return {
        "name": "pico",
        "fingerprint": "3fa94c1be2078d56",
        "created": "2026-03-14T09:26:53+00:00",
        "recipe": recipe,
        "provenance": provenance,
        "machine": {
            "cpu": "Example CPU with AMX, 2.1 GHz",
            "cores": 2,
            "memory_gb": 16.0,
            "dtype": "bf16",
            "matmul_gflops": {"bf16": 612.0, "fp32": 98.0},
            "torch_version": "2.13.0",
        },
        "phi4_version": "0.1.0",
    }


def _stage(folder: Path, stage: str, rng: random.Random) -> None:
    shape = {  # tokens, steps, loss from, loss to, tokens/s, MFU
        "pretrain": (6_000_000, 1465, 7.62, 0.34, 20_400, 0.41),
        "midtrain": (800_000, 195, 0.52, 0.31, 19_100, 0.44),
        "sft": (1_000_000, 244, 0.29, 0.16, 20_300, 0.4),
        "dpo": (240_000, 96, 0.693, 0.42, 9_100, 0.27),
    }
    total, steps, first, last, speed, mfu = shape[stage]
    rows = []
    for step in range(1, steps + 1):
        decay = math.exp(-6 * step / steps) * 0.35 + math.exp(-60 * step / steps) * 0.65
        loss = (last + (first - last) * decay) * (1 + 0.05 * rng.gauss(0, 1))
        tokens = total * step // steps
        row: dict[str, Any] = {
            "step": step,
            "tokens": tokens,
            "loss": round(loss, 4),
            "lr": 0.004,
            "grad_norm": round(0.4 + rng.random(), 3),
            "tok_s": round(speed * (1 + 0.03 * rng.gauss(0, 1))),
            "mfu": round(mfu * (1 + 0.03 * rng.gauss(0, 1)), 4),
            "seconds": round(tokens / speed, 3),
        }
        if stage != "dpo" and (step % (steps // (12 if stage == "pretrain" else 4)) == 0 or step == steps):
            row["heldout_bpb"] = round((last + (first - last) * decay) * 0.52 + 0.55, 4)
        rows.append(row)
    write_lines(folder / stage / "metrics.jsonl", rows)
    done = {"stage": stage, "key": "k", "seconds": round(total / speed, 1), "summary": {"steps": steps}}
    write_json(folder / stage / "done.json", done)


def _evaluation(folder: Path, stage: str, rng: random.Random) -> None:
    place = STAGES.index(stage)
    families, items = {}, []
    totals = {True: [0, 0], False: [0, 0]}  # of trained and of transfer families: right, asked
    for name, (accuracies, chance, neighbour) in FAMILIES.items():
        correct = sum(rng.random() < accuracies[place] for _ in range(N))
        low, high = wilson(correct, N)
        totals[name not in UNTRAINED][0] += correct
        totals[name not in UNTRAINED][1] += N
        failures = round(N * (0.11, 0.08, 0.01, 0.005)[place])
        families[name] = {
            "n": N,
            "correct": correct,
            "accuracy": correct / N,
            "low": low,
            "high": high,
            "chance": chance,
            "neighbour": neighbour,
            "format_failures": failures,
            "trained": name not in UNTRAINED,
        }
        items += [_item(stage, name, index, index % 11 != 3) for index in range(12)]
    overall, transfer = (_tally(*totals[trained]) for trained in (True, False))
    report = {"stage": stage, "mode": "chat" if place > 1 else "few-shot", "level": "standard", "n": N}
    write_json(
        folder / f"evals/{stage}.json",
        {**report, "families": families, "overall": overall, "transfer": transfer, "seconds": 18.4},
    )
    write_lines(folder / f"evals/{stage}.items.jsonl", items)
    first = {item["family"]: item for item in reversed(items) if item["correct"]}
    write_json(folder / "solved.json", list(first.values())[:3])


def _tally(correct: int, n: int) -> dict[str, Any]:
    low, high = wilson(correct, n)
    return {"n": n, "correct": correct, "accuracy": correct / n, "low": low, "high": high}


def _item(stage: str, family: str, index: int, correct: bool) -> dict[str, Any]:
    question, answer, solution = PROBLEMS.get(
        family, (f"A {family.replace('_', ' ')} problem, number {index}.", "12", "7+5=12\nAnswer: 12")
    )
    response = solution if correct else solution.rsplit(" ", 1)[0] + " 13"
    return {
        "task": family,
        "family": family,
        "index": index,
        "problem_key": f"{index:016x}",
        "question": question,
        "reference": answer,
        "response": response,
        "parsed": answer if correct else "13",
        "correct": correct,
        "format_ok": True,
        "tokens": len(response) // 3,
    }


def _example(stage: str) -> dict[str, Any]:
    question, answer, solution = PROBLEMS["two_step_problems"]
    wrong = {
        "pretrain": "Mina has 3 boxes of 24 pencils: 24*3.\n4*3=12, write 2, carry 1.\n2*3=6, write 6.\n"
        "so 24*3=62\nAnswer: 62",
        "midtrain": "Mina has 3 boxes of 24 pencils: 24*3.\n4*3=12, write 2, carry 1.\n"
        "2*3=6, plus 1 is 7, write 7.\nso 24*3=72\nAnswer: 72",
    }
    response = wrong.get(stage, solution)
    return {
        "stage": stage,
        "family": "two_step_problems",
        "question": question,
        "reference": answer,
        "response": response,
        "correct": stage not in wrong,
    }


def _recall() -> list[dict[str, Any]]:
    rows = []
    for stage, rates in (("pretrain", (0.9, 0.31, 0.06)), ("midtrain", (0.97, 0.94, 0.88))):
        for length, rate in zip((256, 512, 1024), rates, strict=True):
            low, high = wilson(round(100 * rate), 100)
            rows.append(
                {
                    "stage": stage,
                    "length": length,
                    "n": 100,
                    "correct": round(100 * rate),
                    "low": low,
                    "high": high,
                }
            )
    return rows


def _data(folder: Path) -> None:
    steps = [
        ("procedural", 72_000, {"held_out_key": 7_214, "template_cap": 3_107}, 61_679),
        ("organic", 4_312, {"too_short": 611, "no_licence": 40, "mostly_symbols": 218}, 3_443),
        ("exact_duplicates", 65_122, {"same_content": 402}, 64_720),
        ("near_duplicates", 64_720, {"minhash_above_0.8": 1_233}, 63_487),
        ("verification", 63_487, {"answer_wrong": 0, "step_wrong": 0}, 63_487),
        ("decontamination", 63_487, {"13_gram_of_held_out": 96, "problem_key_held_out": 0}, 63_391),
    ]
    funnel = [
        {
            "step": step,
            "inputs": inputs,
            "kept": kept,
            "dropped": dropped,
            "failed": {},
            "pending": 0,
            "outputs": kept,
        }
        for step, inputs, dropped, kept in steps
    ]
    write_json(folder / "data/funnel.json", {"steps": funnel})
    sources = {
        "worked problems": ("MIT", (0.62, 0.3, 0.97)),
        "textbook": ("CC0-1.0", (0.14, 0.12, 0.0)),
        "pydoc topics": ("PSF-2.0", (0.1, 0.1, 0.0)),
        "standard library": ("PSF-2.0", (0.14, 0.14, 0.0)),
        "long documents": ("MIT", (0.0, 0.34, 0.0)),
        "greetings and identity": ("MIT", (0.0, 0.0, 0.03)),
    }
    totals = {"pretrain": 6_000_000, "midtrain": 800_000, "sft": 1_000_000}
    mixture = [
        {
            "stage": stage,
            "source": source,
            "licence": licence,
            "fraction": fractions[i],
            "unique_tokens": round(totals[stage] * fractions[i] / 2.4),
            "epochs": 2.4,
            "tokens": round(totals[stage] * fractions[i]),
        }
        for i, stage in enumerate(totals)
        for source, (licence, fractions) in sources.items()
        if fractions[i]
    ]
    write_json(folder / "data/mixture.json", mixture)
    samples = []
    for i, (family, (question, _, solution)) in enumerate(PROBLEMS.items()):
        ids = [f"{(i + 1) * 7919 + k:016x}" for k in range(3)]
        names = (
            ("generate", f"skills/{family}", family),
            ("verify", "", "independent check"),
            ("render", "", "document/3"),
        )
        lineage = [
            {
                "id": ids[k],
                "step": names[k][0],
                "source": names[k][1],
                "licence": "MIT",
                "generator": names[k][2],
            }
            for k in range(3)
        ]
        samples.append(
            {
                "record": ids[2],
                "title": f"{family.replace('_', ' ')}: a worked problem",
                "text": f"{question}\n{solution}",
                "lineage": lineage,
            }
        )
    write_json(folder / "data/samples.json", samples)
    for stage, seconds in (("data", 33.2), ("tokenizer", 8.7)):
        write_json(
            folder / stage / "done.json", {"stage": stage, "key": "k", "seconds": seconds, "summary": {}}
        )


def _pivotal(folder: Path) -> None:
    summary = {
        "questions": 300,
        "searched": 264,
        "rollouts": 41_880,
        "candidates": 231,
        "confirmed": 148,
        "undecided": 37,
    }
    write_json(folder / "pivotal/summary.json", {**summary, "seconds": 41.0})
    write_json(folder / "pivotal/done.json", {"stage": "pivotal", "key": "k", "seconds": 41.0, "summary": {}})
    rows = []
    for family, pivot, accepted, rejected, probabilities in (
        ("two_step_problems", "7.", "7", "6", (0.61, 0.93, 0.08)),
        ("two_step_problems", "54\n", "5", "6", (0.88, 0.99, 0.02)),
        ("fractions", "12.", "1", "2", (0.55, 0.9, 0.31)),
        ("code_tracing", "-1\n", "-", "1", (0.47, 0.86, 0.05)),
    ):
        question, _, solution = PROBLEMS[family]
        place = solution.index(pivot)
        end = place + len(accepted)
        tokens = [*_pieces(solution[:place]), solution[place:end], *_pieces(solution[end:])]
        rows.append(
            {
                "question_id": f"{family}-17",
                "family": family,
                "question": question,
                "prefix_text": solution[:place],
                "accepted_text": accepted,
                "rejected_text": rejected,
                "p_prefix": probabilities[0],
                "p_accepted": probabilities[1],
                "p_rejected": probabilities[2],
                "n_accepted": 64,
                "n_rejected": 64,
                "solution_text_tokens": tokens,
                "pivotal_index": len(_pieces(solution[:place])),
            }
        )
    write_lines(folder / "pivotal/pairs.jsonl", rows)


def _pieces(text: str) -> list[str]:
    """Cut text the way a tokenizer might: every character that is not a letter alone, words whole."""
    pieces: list[str] = []
    for char in text:
        if pieces and char.isalpha() and (pieces[-1][-1].isalpha() or pieces[-1] == " "):
            pieces[-1] += char
        else:
            pieces.append(char)
    return pieces


def _ablations(folder: Path) -> None:
    arms = {
        "A noisy teacher, curated and verified": (0.86, 0.852),
        "B noisy teacher, raw": (0.724, 0.741),
        "C answers without steps": (0.208, 0.221),
        "D one template per family": (0.633, 0.601),
        "E organic text only": (0.019, 0.022),
    }
    rows = []
    for arm, rates in arms.items():
        for seed, rate in enumerate(rates, start=1):
            low, high = wilson(round(rate * 3400), 3400)
            rows.append({"arm": arm, "seed": seed, "accuracy": rate, "low": low, "high": high})
    write_json(folder / "ablations/pico.json", rows)


def _weights(path: Path) -> None:
    """A safetensors file of the right shapes, all zeros (sparse on disk)."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    shapes = {"model.embed_tokens.weight": [2048, 160]}
    for layer in range(4):
        shapes |= {
            f"model.layers.{layer}.self_attn.qkv_proj.weight": [224, 160],
            f"model.layers.{layer}.self_attn.o_proj.weight": [160, 160],
            f"model.layers.{layer}.mlp.gate_up_proj.weight": [1024, 160],
            f"model.layers.{layer}.mlp.down_proj.weight": [160, 512],
        }
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}  # type: ignore[assignment]
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
