"""K-quants by llama.cpp's quantiser: read back, compared, and judged by another build of llama.cpp."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from phi4.errors import ModelError
from phi4.weights.gguf_file import open_gguf
from phi4.weights.gguf_quantize import K_QUANTS, VARIABLE, find_quantizer, write_k_quantized
from phi4.weights.gguf_read import read_gguf
from tests.evals.fakes import tokenizer
from tests.weights.llama_cpp import LlamaCpp
from tests.weights.test_gguf import MINI, PHI_4, VOCAB, divergence, network, our_logprobs, probe

WIDE = {
    "phi-4": replace(PHI_4, hidden_size=256, intermediate_size=256),
    "phi-4-mini": replace(MINI, hidden_size=256, num_attention_heads=8, intermediate_size=256),
}


@pytest.mark.parametrize("kind", K_QUANTS)
@pytest.mark.parametrize("name", WIDE)
def test_k_quants_reproduce_the_network(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        find_quantizer()
    except ModelError:
        pytest.skip(f"llama-cpp-python is not installed, and {VARIABLE} names no Python that has it")
    model, path = network(WIDE[name]), tmp_path / "model.gguf"
    written = write_k_quantized(path, model, tokenizer(), kind)
    file = open_gguf(path)
    assert file.tensors["blk.0.attn_output.weight"].kind == K_QUANTS[kind].matrices
    assert list(tmp_path.iterdir()) == [path]  # the 16 bit copy is gone
    theirs, decoded = LlamaCpp(path, 256), read_gguf(path, torch.float32).model
    ids = probe(40)
    away, beside = (divergence(our_logprobs(m, ids), theirs.logprobs(ids, VOCAB)) for m in (model, decoded))
    with capsys.disabled():
        print(
            f"\n{name} {kind}: {written}; KL to the model {away:.2g} nats, to its decoded weights {beside:.2g}"
        )
    assert beside < 0.05  # llama.cpp rounds activations to 8 bits there
    assert (
        away < 1.0
    )  # one token of a random network, whose logits are far more sensitive than a trained one's


def fake(folder: Path, quantise: str) -> str:
    """A Python that says it has llama-cpp-python; asked to quantise, it runs `quantise` ($3 source, $4 target)."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\ncase "$2" in *find_spec*) exit 0;; esac\n{quantise}\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
@pytest.mark.parametrize(
    ("quantise", "message"),
    [
        ('echo "llama_model_quantize: failed to quantize: no" >&2; exit 1', "failed to quantize: no"),
        ("kill -9 $$", "quantiser failed"),
        ('head -c 1000 "$3" > "$4"', "model.gguf|damaged|GGUF"),
        (': > "$4"', "(?i)gguf"),
    ],
    ids=["fails", "is killed", "half a file", "nothing"],
)
def test_a_quantiser_that_fails_leaves_nothing(quantise: str, message: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ModelError, match=message) as caught:
        write_k_quantized(
            out / "model.gguf", network(PHI_4), tokenizer(), "q4_k_m", interpreter=fake(tmp_path, quantise)
        )
    assert "\n" not in caught.value.message
    assert list(out.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_another_network_is_not_taken_for_this_one(tmp_path: Path) -> None:
    """A quantiser that loses too much: here it hands over somebody else's weights."""
    from phi4.weights.gguf_write import write_gguf

    write_gguf(tmp_path / "other.gguf", network(PHI_4, seed=1), tokenizer(), "f16")
    python = fake(tmp_path, f'cp {tmp_path / "other.gguf"} "$4"')
    with pytest.raises(ModelError, match="does not reproduce the model"):
        write_k_quantized(
            tmp_path / "out" / "model.gguf", network(PHI_4), tokenizer(), "q6_k", interpreter=python
        )
    assert list((tmp_path / "out").iterdir()) == []


def test_the_interpreter_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, fake(tmp_path, "exit 1"))
    assert find_quantizer() == str(tmp_path / "python")
    monkeypatch.setenv(VARIABLE, sys.executable + "-nowhere")
    with pytest.raises(ModelError, match="is not a Python that has llama-cpp-python"):
        find_quantizer()
