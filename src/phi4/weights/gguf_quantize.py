"""GGUF in K-quants (Q4_K_M, Q5_K_M, Q6_K), by llama.cpp's own quantiser: a mixture of encodings that it chooses.

The library llama-cpp-python brings it. It is built for one processor, so it often lives in an environment of its
own; the quantiser runs in a process of whatever interpreter has it, which also keeps its memory and crashes apart.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import torch
from gguf.constants import GGMLQuantizationType as Kind
from gguf.constants import LlamaFileType as FileType

from phi4.errors import ModelError
from phi4.model.transformer import Transformer
from phi4.run.files import atomic_file
from phi4.text.tokenizer import Tokenizer
from phi4.weights.gguf_write import Encoding, Written, checked, write_gguf

VARIABLE = "PHI4_LLAMA_CPP"  # an interpreter that has llama-cpp-python
# llama.cpp's names, and how far the result may be from the network (the encodings it mixes in are finer).
K_QUANTS = {
    "q4_k_m": Encoding(Kind.Q4_K, Kind.Q6_K, FileType.MOSTLY_Q4_K_M, 0.1, 1.0),
    "q5_k_m": Encoding(Kind.Q5_K, Kind.Q6_K, FileType.MOSTLY_Q5_K_M, 0.05, 0.4),
    "q6_k": Encoding(Kind.Q6_K, Kind.Q6_K, FileType.MOSTLY_Q6_K, 0.025, 0.2),
}
_WORKER = """
import ctypes, sys
import llama_cpp
source, target, kind, threads = sys.argv[1:]
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = int(kind), int(threads)
llama_cpp.llama_backend_init()
sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)))
"""


def write_k_quantized(
    path: Path, model: Transformer, tokenizer: Tokenizer, kind: str, name: str = "", *, interpreter: str = ""
) -> Written:
    """Write `model` to `path` as `kind` (see K_QUANTS), compared with it before the file takes its place.

    A 16 bit copy lies beside it meanwhile. Raises ModelError when there is no quantiser, it fails, or the file does not
    reproduce the model.
    """
    encoding, python = K_QUANTS[kind], find_quantizer(interpreter)
    plain = "bf16" if model.embed_tokens.weight.dtype == torch.bfloat16 else "f16"
    with atomic_file(path) as temporary:
        source = temporary.with_suffix(".16bit")
        try:
            write_gguf(source, model, tokenizer, plain, name or path.stem)
            _quantize(python, source, temporary, encoding.file_type)
        finally:
            source.unlink(missing_ok=True)
        return checked(temporary, model, encoding, path)


def find_quantizer(interpreter: str = "") -> str:
    """The Python that has llama-cpp-python: the one asked for, the environment's, or this one. Else ModelError."""
    asked = interpreter or os.environ.get(VARIABLE, "")
    if not asked and importlib.util.find_spec("llama_cpp"):
        return sys.executable
    if asked and _has_llama_cpp(asked):
        return asked
    hint = f"pip install llama-cpp-python, here or in another environment ({VARIABLE}=/path/to/its/python)"
    if asked:
        raise ModelError(f"{asked} is not a Python that has llama-cpp-python", hint)
    raise ModelError("K-quants are made by llama.cpp's quantiser, which is not installed", hint)


def _has_llama_cpp(python: str) -> bool:
    code = "import importlib.util as u, sys; sys.exit(u.find_spec('llama_cpp') is None)"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _quantize(python: str, source: Path, target: Path, kind: FileType) -> None:
    threads = str(max(1, torch.get_num_threads()))
    done = subprocess.run(
        [python, "-c", _WORKER, str(source), str(target), str(int(kind)), threads],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if "fail" in line or "rror" in line]
        raise ModelError(f"llama.cpp's quantiser failed: {said[-1] if said else done.returncode!s:.200}")
