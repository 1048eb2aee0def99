"""The programs that are timed side by side, each in a process of its own: how they start, and what they are asked."""

import json
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from phi4.errors import UsageError

OURS, PLAIN, LLAMA, TRANSFORMERS = "phi4", "phi4 plain", "llama.cpp", "transformers"
DEPTH, _STEPS = 64, 12
# What a CPU can do, and what llama.cpp says of itself when it was built for that.
_INSTRUCTIONS = {"avx512_vnni": "AVX512_VNNI = 1", "amx_int8": "AMX_INT8 = 1"}


@dataclass(frozen=True)
class Start:
    """A program to start, and the question that makes it load its model."""

    name: str
    command: list[str]
    load: dict[str, Any]


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
        ask = {"do": "decode", "batch": batch, "steps": _STEPS, "depth": DEPTH}
        found.append(Question(f"decode, batch {batch}", ask, "tok/s", _step_rate(batch)))
    ask = {"do": "first_token", "tokens": 512}
    found.append(Question("first token, 496 of 512 cached", ask, "ms", lambda a: 1000 * a["seconds"]))
    return found


class Program:
    """A peer's process."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
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


def check_build(system: str, cpu_flags: str) -> None:
    """Raises UsageError when the peer was built without instructions this CPU has: its figures would flatter ours."""
    known = cpu_flags.split()
    for flag, built in _INSTRUCTIONS.items():
        if flag in known and built not in system:
            raise UsageError(
                f"llama.cpp was built without {flag}, which this CPU has: no ratios are printed",
                "build it natively: make bench-engine does",
            )
