"""phi4's engine beside llama.cpp and transformers: one run, in alternation, medians, each figure beside its ceiling.

Every program runs in a process of its own and answers the same questions. A round asks each program each question
once, so a machine whose speed drifts slows all of them alike; what is printed are medians over the rounds.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phi4.bench.programs import (
    DEPTH,
    LLAMA,
    OURS,
    PLAIN,
    TRANSFORMERS,
    Program,
    Question,
    Start,
    check_build,
    questions,
)
from phi4.bench.subjects import REAL, Subject, divergence, expected, subject
from phi4.device import read_bandwidth
from phi4.model.cost import kv_bytes_per_token, matmul_parameters, weight_bytes

_FOR_TRANSFORMERS = ("prefill 512", "decode, batch 1", "decode, batch 8")  # what the targets name: it is slow


@dataclass(frozen=True)
class Plan:
    """What to run."""

    peer: str  # a Python that has llama-cpp-python built for this CPU; "" leaves llama.cpp out
    folder: Path  # for the checkpoints: about 5 GB for phi-4-mini, 16 GB for phi-4, and 8 GB for transformers
    rounds: int = 3
    threads: int = 2
    context: int = 4160
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    prompts: tuple[int, ...] = (512, 4096)
    requests: int = 1000  # after which memory must not have grown


@dataclass
class Measured:
    """All the answers of one shape."""

    subject: str
    ceilings: dict[str, float]  # question -> the most this machine could do
    bandwidth: float  # bytes per second, measured in the same run
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # question -> program -> values
    beside: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # the same beside transformers
    divergence: dict[str, float] = field(default_factory=dict)  # program -> KL to the model as it is, nats
    loads: dict[str, float] = field(default_factory=dict)  # seconds
    memory: dict[str, float] = field(default_factory=dict)  # peak bytes
    info: dict[str, Any] = field(default_factory=dict)
    grown: dict[str, int] = field(default_factory=dict)  # bytes in memory before and after many requests

    def median(self, question: str, program: str) -> float | None:
        """The median over the rounds."""
        values = self.beside if program == TRANSFORMERS else self.values
        found = values.get(question, {}).get(program)
        return statistics.median(found) if found else None

    def ratio(self, question: str, ours: str, theirs: str) -> float | None:
        """The median of the rounds' ratios: what was measured side by side is compared."""
        values = self.beside if theirs == TRANSFORMERS else self.values
        first, second = (values.get(question, {}).get(name, []) for name in (ours, theirs))
        if not first or not second:
            return None
        return statistics.median(a / b for a, b in zip(first, second, strict=True))


def measure(plan: Plan, name: str, say: Callable[[str], None] = print) -> Measured:
    """All rounds of one subject: the 4-bit programs in alternation, then ours beside transformers in 16 bits."""
    what = subject(name, plan.folder, peer=bool(plan.peer), say=say)
    four_bits, beside = _starts(plan, what)
    bandwidth = read_bandwidth()
    measured = Measured(what.about, _ceilings(what, bandwidth, plan), bandwidth)
    asked = questions(plan.batches, plan.prompts)
    requests = plan.requests if name == "phi-4-mini" else 0
    _alternate(measured, four_bits, asked, plan.rounds, measured.values, requests, say)
    if what.bf16:
        asked = [question for question in asked if question.name in _FOR_TRANSFORMERS]
        _alternate(measured, beside, asked, min(plan.rounds, 2), measured.beside, 0, say)
    return measured


def _starts(plan: Plan, what: Subject) -> tuple[list[Start], list[Start]]:
    """The programs of the two comparisons; all of them at once would not fit in memory."""
    load = {"do": "load", "context": plan.context, "sequences": max(plan.batches), "threads": plan.threads}
    own = [sys.executable, "-m", "phi4.bench.own_peer"]
    mine = {**load, "path": what.ours, "head_bits": what.head_bits}
    ours = [Start(OURS, own, mine)]
    if what.name != "phi-4":  # without a compiler the larger one is a matter of minutes
        ours.append(Start(PLAIN, own, {**mine, "kernels": "plain"}))
    four_bits, beside = list(ours), list(ours)
    if what.q4_0:
        script = str(Path(__file__).with_name("llama_cpp_peer.py"))
        four_bits.append(Start(LLAMA, [plan.peer, script], {**load, "path": what.q4_0}))
    if what.bf16:
        command = [sys.executable, "-m", "phi4.bench.transformers_peer"]
        beside.append(Start(TRANSFORMERS, command, {**load, "path": what.bf16}))
    return four_bits, beside


def _alternate(
    measured: Measured,
    starts: Sequence[Start],
    asked: Sequence[Question],
    rounds: int,
    values: dict[str, dict[str, list[float]]],
    requests: int,
    say: Callable[[str], None],
) -> None:
    """Start the programs, ask each of them each question once a round, and end them."""
    programs: list[Program] = []
    try:
        for start in starts:
            program = Program(start.name, start.command)
            programs.append(program)
            about = program.ask({"do": "info"})
            if start.name == LLAMA:
                say(f"llama.cpp: {about['system']}")
                check_build(about["system"], _cpu_flags())
            answer = program.ask(start.load)
            seconds = measured.loads[start.name] = answer.pop("seconds")
            measured.info[start.name] = about | answer
            say(f"{start.name} loaded in {seconds:.1f} s")
        if REAL in measured.subject:
            measured.divergence = _divergences(programs)
            say(", ".join(f"{name} KL {kl:.4f}" for name, kl in measured.divergence.items()))
        for number in range(rounds):
            for question in asked:
                if number and question.once:
                    continue
                found = values.setdefault(question.name, {})
                for program in programs:
                    found.setdefault(program.name, []).append(question.value(program.ask(dict(question.ask))))
                line = ", ".join(f"{name} {every[-1]:.1f}" for name, every in found.items())
                say(f"round {number + 1} of {rounds}, {question.name}: {line}")
            measured.bandwidth = max(measured.bandwidth, read_bandwidth())
        for program in programs:
            measured.memory[program.name] = program.ask({"do": "memory"})["bytes"]
        if requests:
            say(f"{requests:,} requests")
            measured.grown = programs[0].ask({"do": "many", "requests": requests})
    finally:
        for program in programs:
            program.close()


def _divergences(programs: Sequence[Program]) -> dict[str, float]:
    """How far each program's predictions are from those of the real model as it is."""
    found: dict[str, list[float]] = {program.name: [] for program in programs}
    for ids, wanted_TV in expected():
        for program in programs:
            answer = program.ask({"do": "logits", "ids": ids})
            path = Path(answer["path"])
            logits = np.fromfile(path, dtype=np.float32).reshape(len(ids), answer["columns"])
            path.unlink()
            found[program.name].append(divergence(wanted_TV, torch.from_numpy(logits)))
    return {name: statistics.mean(every) for name, every in found.items()}


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def _ceilings(what: Subject, bandwidth: float, plan: Plan) -> dict[str, float]:
    """The most tokens per second that memory (decoding) and int8 arithmetic (reading prompts) allow."""
    config = what.config
    head = config.vocab_size * config.hidden_size
    outside = head * (
        1 if config.tie_word_embeddings else 2
    )  # in 16 bits: the embedding, of which little is read
    rounded = head * 9 // 16 if what.head_bits == 4 else head  # with its scales
    read = weight_bytes(config) - 2 * outside + rounded
    kv = DEPTH * kv_bytes_per_token(config)
    arithmetic = int8_rate()
    found = {}
    for batch in plan.batches:
        memory = batch * bandwidth / (read + batch * kv)
        found[f"decode, batch {batch}"] = min(memory, arithmetic / (2 * matmul_parameters(config)))
    for tokens in plan.prompts:
        found[f"prefill {tokens:,}"] = arithmetic / (2 * (matmul_parameters(config) - head))
    return found


def int8_rate() -> float:
    """Operations per second of PyTorch's int8 product of 512 rows: a measured stand-in for the chip's peak."""
    first, second = (torch.ones((n, 4096), dtype=torch.int8) for n in (512, 4096))
    best = float("inf")
    for _ in range(20):
        begun = time.perf_counter()
        torch._int_mm(first, second.T)
        best = min(best, time.perf_counter() - begun)
    return 2 * 512 * 4096 * 4096 / best
