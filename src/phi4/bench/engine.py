"""phi4's engine beside llama.cpp and transformers: one run, in alternation, medians, each figure beside its ceiling.

Every program runs in a process of its own and answers the same questions. A round asks each program each question
once, so a machine whose speed drifts slows all of them alike; what is printed are medians over the rounds.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from phi4.bench.shapes import write_checkpoint, write_q4_0
from phi4.device import read_bandwidth
from phi4.errors import UsageError
from phi4.model.config import ModelConfig, Quantization
from phi4.model.cost import kv_bytes_per_token, matmul_parameters, weight_bytes
from phi4.model.presets import PHI_4, PHI_4_MINI

SHAPES = {"phi-4-mini": PHI_4_MINI, "phi-4": PHI_4}
GROUP = {
    "phi-4-mini": 128,
    "phi-4": 128,
}  # calibrated, they are closer to the original than Q4_0: bench quantize
HEAD_BITS = {"phi-4-mini": 4, "phi-4": 8}
OURS, PLAIN, LLAMA, TRANSFORMERS = "phi4", "phi4 plain", "llama.cpp", "transformers"
_DEPTH, _STEPS = 64, 12
_FOR_TRANSFORMERS = ("prefill 512", "decode, batch 1", "decode, batch 8")  # what the targets name: it is slow

# What must be reached, as ratios to a program's figure: (question, ours, theirs, ratio).
TARGETS = {
    "phi-4-mini": (
        ("decode, batch 1", OURS, LLAMA, 1.0),
        ("prefill 512", OURS, LLAMA, 2.0),
        ("decode, batch 8", OURS, LLAMA, 2.5),
        ("decode, batch 1", PLAIN, LLAMA, 0.85),
        ("prefill 512", PLAIN, LLAMA, 1.5),
        ("decode, batch 8", PLAIN, LLAMA, 1.7),
        ("decode, batch 1", OURS, TRANSFORMERS, 3.0),
        ("decode, batch 8", OURS, TRANSFORMERS, 3.0),
        ("decode, batch 1", PLAIN, TRANSFORMERS, 2.0),
        ("decode, batch 8", PLAIN, TRANSFORMERS, 2.0),
    ),
    "phi-4": (("decode, batch 1", OURS, LLAMA, 0.95), ("prefill 512", OURS, LLAMA, 1.8)),
}


@dataclass(frozen=True)
class Question:
    """Something every program is asked."""

    name: str
    ask: dict[str, Any]
    unit: str
    value: Callable[[dict[str, Any]], float]  # of an answer
    once: bool = False  # takes minutes: the first round only


def _rate(tokens: int) -> Callable[[dict[str, Any]], float]:
    return lambda answer: tokens / answer["seconds"]


def _step_rate(batch: int) -> Callable[[dict[str, Any]], float]:
    return lambda answer: batch / statistics.median(answer["seconds"])


def questions(batches: Sequence[int], prompts: Sequence[int]) -> list[Question]:
    """Prefill, decode, and time to a first token behind a cached prompt."""
    found = [
        Question(f"prefill {n:,}", {"do": "prefill", "tokens": n}, "tok/s", _rate(n), once=n > 2048)
        for n in prompts
    ]
    for batch in batches:
        ask = {"do": "decode", "batch": batch, "steps": _STEPS, "depth": _DEPTH}
        found.append(Question(f"decode, batch {batch}", ask, "tok/s", _step_rate(batch)))
    ask = {"do": "first_token", "tokens": 512}
    found.append(Question("first token, 496 of 512 cached", ask, "ms", lambda a: 1000 * a["seconds"]))
    return found


class Program:
    """A peer's process."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environment},
        )

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """One answer. Raises UsageError with what the program said when it failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended"}
        if "error" in answer:
            raise UsageError(f"{self.name} cannot {question['do']}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


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

    shape: str
    ceilings: dict[str, float]  # question -> the most this machine could do
    bandwidth: float  # bytes per second, measured in the same run
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # question -> program -> values
    beside: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # the same beside transformers
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


Start = tuple[
    str, list[str], dict[str, Any], dict[str, str]
]  # name, command, the question that loads, environment


def measure(plan: Plan, shape: str, say: Callable[[str], None] = print) -> Measured:
    """All rounds of one shape: the 4-bit programs in alternation, then ours beside transformers in 16 bits."""
    four_bits, beside = _starts(plan, shape, say)
    bandwidth = read_bandwidth()
    quantized = replace(SHAPES[shape], quantization=Quantization(4, GROUP[shape]))
    measured = Measured(shape, _ceilings(quantized, bandwidth, plan), bandwidth)
    asked = questions(plan.batches, plan.prompts)
    _alternate(measured, four_bits, asked, plan.rounds, measured.values, plan.requests, say)
    if len(beside) > 1:
        asked = [question for question in asked if question.name in _FOR_TRANSFORMERS]
        _alternate(measured, beside, asked, min(plan.rounds, 2), measured.beside, 0, say)
    return measured


def _starts(plan: Plan, shape: str, say: Callable[[str], None]) -> tuple[list[Start], list[Start]]:
    """The programs of the two comparisons; all of them at once would not fit in memory. Writes what is missing."""
    config = SHAPES[shape]

    def written(name: str, write: Callable[[Path], None]) -> str:
        path = plan.folder / name
        if not (path / "config.json").exists() and not path.is_file():
            say(f"writing {path}")
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
        return str(path)

    quantized = replace(config, quantization=Quantization(4, GROUP[shape]))
    folder = written(f"{shape}-int4-g{GROUP[shape]}", lambda path: write_checkpoint(path, quantized))
    load = {"do": "load", "path": folder, "context": plan.context, "sequences": max(plan.batches)}
    load |= {"threads": plan.threads}
    own = [sys.executable, "-m", "phi4.bench.own_peer"]
    mine = {**load, "head_bits": HEAD_BITS[shape]}
    ours: list[Start] = [(OURS, own, mine, {})]
    if shape == "phi-4-mini":
        ours.append((PLAIN, own, {**mine, "kernels": "plain"}, {}))
    four_bits, beside = list(ours), list(ours)
    if plan.peer:
        file = written(f"{shape}-q4_0.gguf", lambda path: write_q4_0(path, config))
        script = str(Path(__file__).with_name("llama_cpp_peer.py"))
        four_bits.append((LLAMA, [plan.peer, script], {**load, "path": file}, {}))
    if shape == "phi-4-mini":
        plain = written(f"{shape}-bf16", lambda path: write_checkpoint(path, config))
        command = [sys.executable, "-m", "phi4.bench.transformers_peer"]
        beside.append((TRANSFORMERS, command, {**load, "path": plain}, {}))
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
        for name, command, load, environment in starts:
            program = Program(name, command, environment)
            programs.append(program)
            measured.info[name] = program.ask({"do": "info"})
            if name == LLAMA:
                say(f"llama.cpp: {measured.info[name]['system']}")
                check_build(measured.info[name]["system"], _cpu_flags())
            answer = program.ask(load)
            measured.loads[name] = answer["seconds"]
            measured.info[name] |= {key: value for key, value in answer.items() if key != "seconds"}
            say(f"{name} loaded in {answer['seconds']:.1f} s")
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


def table(measured: Measured) -> str:
    """The figures side by side, then the targets."""
    names = [OURS, *(name for name in (PLAIN, LLAMA, TRANSFORMERS) if name in measured.loads)]
    lines = [f"{measured.shape}, random weights; {measured.bandwidth / 1e9:.1f} GB/s read from memory", ""]
    lines.append("| | " + " | ".join(names) + " | ceiling | share of it |")
    lines.append("|---|" + "---|" * (len(names) + 2))
    for question in measured.values:
        medians = [measured.median(question, name) for name in names]
        cells = ["" if value is None else f"{value:.1f}" for value in medians]
        ceiling = measured.ceilings.get(question)
        limit = (
            ["", ""]
            if ceiling is None or medians[0] is None
            else [f"{ceiling:.0f}", f"{medians[0] / ceiling:.0%}"]
        )
        unit = "ms" if question.startswith("first token") else "tok/s"
        lines.append(f"| {question}, {unit} | " + " | ".join([*cells, *limit]) + " |")
    for title, values, scale in (
        ("load, s", measured.loads, 1.0),
        ("peak memory, GB", measured.memory, 1e-9),
    ):
        lines.append(f"| {title} | " + " | ".join(f"{values[name] * scale:.1f}" for name in names) + " | | |")
    if measured.grown:
        before, after = measured.grown["before"], measured.grown["after"]
        lines += [
            "",
            f"memory of phi4 after many requests: {before / 1e9:.3f} GB, after ten times as many {after / 1e9:.3f} GB",
        ]
    lines += ["", "| target | ratio | wanted |", "|---|---|---|"]
    for question, ours, theirs, wanted in TARGETS[measured.shape]:
        ratio = measured.ratio(question, ours, theirs)
        if ratio is not None:
            mark = "" if ratio >= wanted else " (missed)"
            lines.append(f"| {question}: {ours} / {theirs} | {ratio:.2f}{mark} | {wanted} |")
    return "\n".join(lines)


def picture(measured: Sequence[Measured], path: Path) -> None:
    """Bars of every question, the programs beside each other, relative to the largest."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(measured), figsize=(7 * len(measured), 4.5), squeeze=False)
    colours = {OURS: "#1b6ca8", PLAIN: "#7fb3d5", LLAMA: "#c0792a", TRANSFORMERS: "#9a9a9a"}
    for axis, one in zip(axes[0], measured, strict=True):
        names = [name for name in colours if name in one.loads]
        asked = [question for question in one.values if not question.startswith("first token")]
        height = 0.8 / len(names)
        for place, name in enumerate(names):
            values = [one.median(question, name) or 0.0 for question in asked]
            spots = [row + place * height for row in range(len(asked))]
            bars = axis.barh(spots, values, height, label=name, color=colours[name])
            axis.bar_label(bars, [f"{value:.0f}" if value else "" for value in values], padding=2, fontsize=7)
        axis.set_yticks([row + 0.4 - height / 2 for row in range(len(asked))], asked)
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.set_xlabel("tokens per second")
        axis.set_title(f"{one.shape}, 4 bits (transformers: 16)", loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.14), ncol=4, frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def check_build(system: str, cpu_flags: str) -> None:
    """Raises UsageError when the peer was built without instructions this CPU has: its figures would flatter ours."""
    if "avx512_vnni" in cpu_flags and "AVX512_VNNI = 1" not in system:
        raise UsageError(
            "llama.cpp was built without AVX512-VNNI, which this CPU has: no ratios are printed",
            "build it natively: CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python",
        )


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def _ceilings(config: ModelConfig, bandwidth: float, plan: Plan) -> dict[str, float]:
    """The most tokens per second that memory (decoding) and int8 arithmetic (reading prompts) allow."""
    head = config.vocab_size * config.hidden_size
    matrices = 1 if config.tie_word_embeddings else 2  # of which the embedding is not read
    rounded = head * 9 // 16 if config.tie_word_embeddings else head
    read = weight_bytes(config) - 2 * head * matrices + rounded
    kv = _DEPTH * kv_bytes_per_token(config)
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
