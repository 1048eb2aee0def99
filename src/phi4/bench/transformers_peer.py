"""transformers in bf16 as one of the programs that are timed: the same questions as llama_cpp_peer."""

import time
from typing import Any

import torch

from phi4.bench.llama_cpp_peer import peak_memory, serve


class Peer:
    """One loaded model."""

    model: Any

    def info(self) -> dict[str, Any]:
        """Versions."""
        import transformers

        return {"version": f"transformers {transformers.__version__}, torch {torch.__version__}"}

    def load(self, path: str, context: int, sequences: int, threads: int) -> dict[str, Any]:
        """Load a model folder in bf16."""
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        begun = time.perf_counter()
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
        self._read(self._prompt(8, 1))
        return {"seconds": time.perf_counter() - begun}

    def prefill(self, tokens: int, start: int = 0) -> dict[str, Any]:
        """Seconds to read a prompt of `tokens` tokens behind `start` others."""
        cache = self._read(self._prompt(start, 1)) if start else None
        begun = time.perf_counter()
        self._read(self._prompt(tokens, 1), cache)
        return {"seconds": time.perf_counter() - begun}

    def decode(self, batch: int, steps: int, depth: int) -> dict[str, Any]:
        """Seconds of each of `steps` steps of `batch` sequences, each behind `depth` tokens."""
        cache = self._read(self._prompt(depth, batch))
        seconds = []
        for _ in range(steps):
            begun = time.perf_counter()
            cache = self._read(self._prompt(1, batch), cache)
            seconds.append(time.perf_counter() - begun)
        return {"seconds": seconds}

    def first_token(self, tokens: int) -> dict[str, Any]:
        """Seconds to the first logits when all but the last 16 tokens of a prompt are cached."""
        cache = self._read(self._prompt(tokens - 16, 1))
        begun = time.perf_counter()
        self._read(self._prompt(16, 1), cache)
        return {"seconds": time.perf_counter() - begun}

    def memory(self) -> dict[str, Any]:
        """Peak memory of this process in bytes."""
        return {"bytes": peak_memory()}

    @torch.inference_mode()
    def _read(self, ids_BT: torch.Tensor, cache: Any = None) -> Any:
        """Read tokens as generation does: keys kept, logits of the last position only."""
        return self.model(ids_BT, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values

    def _prompt(self, length: int, batch: int) -> torch.Tensor:
        row = torch.arange(length).mul(7919).add(11).remainder(50_000)
        return row.expand(batch, -1)


if __name__ == "__main__":
    serve(Peer())
