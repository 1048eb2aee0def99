"""llama.cpp as a peer for speed: run as a program by an interpreter that has llama-cpp-python, it answers JSON lines.

It imports nothing of phi4, since the peer lives in an environment of its own, built for this CPU. Questions:
{"do": "info"}, {"do": "load", "path", "context", "sequences", "threads"}, {"do": "prefill", "tokens", "start"},
{"do": "decode", "batch", "steps", "depth"}, {"do": "first_token", "tokens"}, {"do": "memory"}, {"do": "logits", "ids"}.
"""

import ctypes
import json
import os
import sys
import time
from typing import Any


class Peer:
    """One loaded model."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.model: Any = None
        self.context: Any = None
        library.llama_backend_init()
        quiet = library.llama_log_callback(lambda level, text, data: None)
        library.llama_log_set(quiet, ctypes.c_void_p(0))
        self._quiet = quiet

    def info(self) -> dict[str, Any]:
        """What llama.cpp says about its build."""
        import llama_cpp

        return {
            "version": llama_cpp.__version__,
            "system": self.library.llama_print_system_info().decode().strip(),
        }

    def load(self, path: str, context: int, sequences: int, threads: int) -> dict[str, Any]:
        """Load a model, the former one freed."""
        if self.context is not None:
            self.library.llama_free(self.context)
            self.library.llama_model_free(self.model)
        begun = time.perf_counter()
        params = self.library.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = self.library.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        options = self.library.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = context, 512, 512
        options.n_seq_max, options.kv_unified = (
            sequences,
            True,
        )  # all sequences share one cache of `context` tokens
        options.n_threads = options.n_threads_batch = threads
        options.no_perf = True
        self.context = self.library.llama_init_from_model(self.model, options)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context")
        self.vocabulary = self.library.llama_vocab_n_tokens(self.library.llama_model_get_vocab(self.model))
        self._clear()
        self._read(0, 8, 0)  # touches every weight
        return {"seconds": time.perf_counter() - begun}

    def prefill(self, tokens: int, start: int = 0) -> dict[str, Any]:
        """Seconds to read a prompt of `tokens` tokens behind `start` others."""
        self._clear()
        for at in range(0, start, 512):
            self._read(0, min(512, start - at), at)
        begun = time.perf_counter()
        for at in range(start, start + tokens, 512):
            self._read(0, min(512, start + tokens - at), at)
        return {"seconds": time.perf_counter() - begun}

    def decode(self, batch: int, steps: int, depth: int) -> dict[str, Any]:
        """Seconds of each of `steps` steps of `batch` sequences, each behind `depth` tokens."""
        self._clear()
        for sequence in range(batch):
            for at in range(0, depth, 512):
                self._read(sequence, min(512, depth - at), at)
        seconds = []
        for step in range(steps):
            begun = time.perf_counter()
            self._submit([(self._token(step), depth + step, sequence, True) for sequence in range(batch)])
            seconds.append(time.perf_counter() - begun)
        return {"seconds": seconds}

    def first_token(self, tokens: int) -> dict[str, Any]:
        """Seconds to the first logits when all but the last 16 tokens of a prompt are cached."""
        self._clear()
        for at in range(0, tokens - 16, 512):
            self._read(0, min(512, tokens - 16 - at), at)
        begun = time.perf_counter()
        self._read(0, 16, tokens - 16)
        return {"seconds": time.perf_counter() - begun}

    def memory(self) -> dict[str, Any]:
        """Peak memory of this process in bytes."""
        return {"bytes": peak_memory()}

    def logits(self, ids: list[int]) -> dict[str, Any]:
        """Logits behind every token of a text, written to a file as float32."""
        self._clear()
        self._submit([(id, place, 0, True) for place, id in enumerate(ids)])
        path = f"/tmp/phi4-peer-{os.getpid()}.f32"
        with open(path, "wb") as file:
            for place in range(len(ids)):
                row = self.library.llama_get_logits_ith(self.context, place)
                file.write(ctypes.string_at(row, 4 * self.vocabulary))
        return {"path": path, "columns": self.vocabulary}

    def _token(self, number: int) -> int:
        return int((number * 7919 + 11) % min(self.vocabulary, 50_000))

    def _clear(self) -> None:
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)

    def _read(self, sequence: int, count: int, start: int) -> None:
        last = count - 1
        self._submit([(self._token(i), start + i, sequence, i == last) for i in range(count)])

    def _submit(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        batch = self.library.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for i, (token, position, sequence, wanted) in enumerate(tokens):
                batch.token[i], batch.pos[i] = token, position
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = sequence
                batch.logits[i] = wanted
            code = self.library.llama_decode(self.context, batch)
            if code:
                raise RuntimeError(f"llama_decode returned {code}")
            self.library.llama_synchronize(self.context)
        finally:
            self.library.llama_batch_free(batch)


def peak_memory() -> int:
    """The most memory this process has had, in bytes. (What getrusage says may be the parent's, from before exec.)"""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def serve(peer: Any) -> None:
    """Answer questions on standard input, one JSON line each, until it ends."""
    # Libraries write to standard output too: answers go through a copy of it.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = getattr(peer, question.pop("do"))(**question)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Serve llama.cpp."""
    from llama_cpp import llama_cpp

    serve(Peer(llama_cpp))


if __name__ == "__main__":
    main()
