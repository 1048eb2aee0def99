"""`phi4 export` as it is typed, on a small network."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from phi4.cli.export import K_QUANTS, go_template, modelfile
from phi4.cli.main import main
from phi4.text.templates import PROBES, written
from phi4.weights import gguf_quantize
from phi4.weights.folder import load_model, save_model
from phi4.weights.gguf_read import read_gguf
from tests.evals.fakes import tokenizer
from tests.text.test_templates import pair
from tests.weights.test_gguf import PHI_4, network


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PHI4_HOME", str(tmp_path / "home"))
    save_model(tmp_path / "small", network(PHI_4), tokenizer())
    return tmp_path / "small"


def test_gguf_and_back_to_a_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gguf, again = tmp_path / "small.gguf", tmp_path / "again"
    assert main(["export", str(folder), "--to", "gguf", "--type", "f32", "--out", str(gguf), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["bytes"] == gguf.stat().st_size
    assert said["error"] == 0
    assert main(["export", str(gguf), "--to", "hf", "--out", str(again)]) == 0
    wanted = load_model(folder).state_dict()
    assert all(torch.equal(t, wanted[n]) for n, t in load_model(again).state_dict().items())
    AutoModelForCausalLM.from_pretrained(again)


def test_nothing_is_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(folder), "--to", "gguf", "--out", str(folder / "config.json")]) == 2
    assert "left alone" in capsys.readouterr().err


def test_ollama_gets_a_modelfile_without_newlines(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "ollama"
    assert main(["export", str(folder), "--to", "ollama", "--type", "q8_0", "--out", str(out)]) == 0
    text = (out / "Modelfile").read_text()
    assert "FROM ./small.gguf" in text
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert (
        "<|im_start|>{{ .Role }}<|im_sep|>{{ .Content }}<|im_end|>{{ end }}<|im_start|>assistant<|im_sep|>"
        in text
    )
    assert "\n" not in go_template(tokenizer())
    assert read_gguf(out / "small.gguf").config.hidden_size == PHI_4.hidden_size


@pytest.mark.parametrize(
    ("name", "stops"),
    [("phi-4", ["<|im_end|>", "<|endoftext|>"]), ("phi-4-mini", ["<|end|>", "<|endoftext|>"])],
)
def test_ollama_writes_conversations_as_microsoft_does(name: str, stops: list[str]) -> None:
    """The Go template, expanded by hand, is the template the model was trained with: no newlines (facts 2.4)."""
    ours, theirs = pair(name)
    found = re.fullmatch(r"\{\{- range \.Messages \}\}(.*)\{\{ end \}\}(.*)", go_template(ours))
    assert found is not None
    for messages in PROBES:
        text = "".join(
            found[1].replace("{{ .Role }}", m.role).replace("{{ .Content }}", m.content) for m in messages
        )
        assert text + found[2] == written(ours.template, messages, True)
        plain = [{"role": m.role, "content": m.content} for m in messages]
        assert text + found[2] == theirs.apply_chat_template(
            plain, tokenize=False, add_generation_prompt=True
        )
    lines = modelfile("x.gguf", ours).splitlines()
    assert [line for line in lines if "stop" in line] == [f'PARAMETER stop "{stop}"' for stop in stops]


def test_the_kinds_offered_are_those_there_are() -> None:
    assert set(gguf_quantize.K_QUANTS) == set(K_QUANTS)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (
            ["--to", "gguf", "--quant", "q4_k_m"],
            "llama.cpp's quantiser, which is not installed",
            "pip install",
        ),
        (
            ["--to", "gguf", "--quant", "q6_k", "--llama-cpp", "/no/python"],
            "/no/python is not a Python",
            "pip",
        ),
        (["--to", "gguf", "--quant", "q6_k", "--type", "f16"], "two answers to one question", ""),
        (["--to", "hf", "--quant", "q6_k"], "--quant is for gguf and ollama", ""),
    ],
)
def test_without_a_quantiser_one_clear_line(
    options: list[str],
    message: str,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv(gguf_quantize.VARIABLE, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["export", str(tmp_path), *options, "--out", str(tmp_path / "x")]) != 0
    first, *rest = capsys.readouterr().err.splitlines()
    assert message in first
    assert hint in "".join(rest)
    assert len(rest) == 1
