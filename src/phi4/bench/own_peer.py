"""phi4's engine as one of the programs that are timed: it answers the questions of llama_cpp_peer."""

import os
import resource
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from phi4.bench.llama_cpp_peer import peak_memory, serve
from phi4.engine.engine import Engine
from phi4.engine.kernels import BLOCK
from phi4.engine.kv_cache import Chunk, Step
from phi4.text.generation import Completion, Delta, Event, Request, SamplingParams
from phi4.text.tokenizer import Tokenizer
from phi4.text.train_tokenizer import train_tokenizer
from phi4.weights.folder import load_model


class AnyId(Tokenizer):
    """A tokenizer for networks whose tokens mean nothing: every id is one, and none ends the text."""

    def __init__(self) -> None:
        super().__init__(train_tokenizer(["a"], 300).spec)
        self.stop_ids = ()

    def unused(self, rows: int) -> list[int]:
        """None."""
        return []

    def token_bytes(self, id: int) -> bytes:
        """A space."""
        return b" "


class Peer:
    """One loaded model."""

    engine: Engine

    def info(self) -> dict[str, Any]:
        """Versions and kernels."""
        return {"version": f"torch {torch.__version__}", "threads": torch.get_num_threads()}

    def load(
        self,
        path: str,
        context: int,
        sequences: int,
        threads: int,
        kernels: str = "",
        head_bits: int = 0,
        cache: str = "bfloat16",
    ) -> dict[str, Any]:
        """Load a model folder; `kernels` "plain" leaves the compiled ones out."""
        torch.set_num_threads(threads)
        os.environ["PHI4_KERNELS"] = kernels
        begun = time.perf_counter()
        model = load_model(Path(path), None)
        tokenizer = AnyId()
        bytes_per_token = (
            2
            * model.config.num_hidden_layers
            * model.config.num_key_value_heads
            * (model.config.head_dim * 2)
        )
        self.engine = Engine(
            model,
            tokenizer,
            slots=sequences,
            context=context,
            cache_dtype=getattr(torch, cache),
            cache_bytes=(context + 64) * bytes_per_token,  # shared by all sequences
            head_bits=head_bits,
        )
        self._ask([self._prompt(8, 0)], 1)  # touches every weight
        return {"seconds": time.perf_counter() - begun, "kernels": self.engine.kernels.name}

    def prefill(self, tokens: int, start: int = 0) -> dict[str, Any]:
        """Seconds to read a prompt of `tokens` tokens behind `start` cached ones."""
        self.engine.forget()
        if start:
            self._ask([self._prompt(start + 1, 1)], 1)
        times = self._ask([self._prompt(start + tokens, 1)], 1)
        return {"seconds": times.first[0]}

    def decode(self, batch: int, steps: int, depth: int) -> dict[str, Any]:
        """Seconds of each of `steps` steps of `batch` sequences, each behind `depth` tokens."""
        self.engine.forget()
        times = self._ask([self._prompt(depth, 2 + i) for i in range(batch)], steps + 8)
        begun = max(times.first)
        together = [moment for moment in times.moments if moment > begun and moment <= min(times.last)]
        ends = sorted(together)[batch - 1 :: batch]
        return {"seconds": [after - before for before, after in pairwise(ends)][:steps]}

    def first_token(self, tokens: int) -> dict[str, Any]:
        """Seconds to the first token when all but the last 16 tokens of a prompt are cached."""
        self.engine.forget()
        prompt = self._prompt(tokens, 3)
        self._ask([prompt], 1)
        times = self._ask([(*prompt[:-16], *self._prompt(16, 9))], 1)
        return {"seconds": times.first[0]}

    def many(self, requests: int) -> dict[str, Any]:
        """Bytes in memory after a tenth of `requests` different requests, and after all of them."""
        sizes = []
        for part in (range(requests // 10), range(requests // 10, requests)):
            for first in range(part.start, part.stop, 50):
                self._ask([self._prompt(40, 1000 + n) for n in range(first, min(first + 50, part.stop))], 2)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            sizes.append(pages * resource.getpagesize())
        return {"before": sizes[0], "after": sizes[1]}

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> dict[str, Any]:
        """Logits behind every token of a text as the engine computes them, written to a file as float32."""
        self.engine.forget()  # the text is read into the first blocks of the cache
        count = len(ids)
        blocks_B, none = torch.arange(-(-count // BLOCK)), torch.zeros(0, dtype=torch.int32)
        step = Step(torch.arange(count), none.view(0, 0), none, (Chunk(0, count, 0, blocks_B),))
        runner = self.engine.loop.runner
        h_TD = runner.hidden(torch.tensor(ids), torch.arange(count), None, step)
        logits_TV = runner.head(h_TD).numpy()
        path = f"/tmp/phi4-peer-{os.getpid()}.f32"
        logits_TV.tofile(path)
        return {"path": path, "columns": logits_TV.shape[1]}

    def memory(self) -> dict[str, Any]:
        """Peak memory of this process in bytes."""
        return {"bytes": peak_memory()}

    def _prompt(self, length: int, seed: int) -> tuple[int, ...]:
        vocabulary = min(self.engine._vocab_size, 50_000)
        return tuple((i * 7919 + 11 + 101 * seed) % vocabulary for i in range(length))

    def _ask(self, prompts: Sequence[tuple[int, ...]], tokens: int) -> "_Times":
        times = _Times(len(prompts))
        for number, prompt in enumerate(prompts):
            params = SamplingParams(max_tokens=tokens)
            self.engine.submit(Request(prompt, params), times.listener(number))
        times.wait()
        return times


class _Times:
    """When the tokens of several requests arrived, in seconds from the moment they were handed in."""

    def __init__(self, count: int) -> None:
        self.begun = time.perf_counter()
        self.first, self.last, self.moments = [0.0] * count, [0.0] * count, list[float]()
        self._left, self._done = count, threading.Event()
        self._error: BaseException | None = None

    def listener(self, number: int) -> Any:
        """What to deliver the events of one request to."""

        def deliver(event: Event) -> None:
            now = time.perf_counter() - self.begun
            if isinstance(event, Delta):
                self.first[number] = self.first[number] or now
                self.last[number] = now
                self.moments.append(now)
                return
            if not isinstance(event, Completion):
                self._error = event
            self._left -= 1
            if self._left == 0 or self._error:
                self._done.set()

        return deliver

    def wait(self) -> None:
        """Until all are complete. Raises what the engine raised."""
        self._done.wait()
        if self._error:
            raise self._error


if __name__ == "__main__":
    serve(Peer())
