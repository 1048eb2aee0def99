"""`phi4 export` as it is typed, on a small network."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from phi4.cli.export import go_template
from phi4.cli.main import main
from phi4.weights.folder import load_model, save_model
from phi4.weights.gguf_read import read_gguf
from tests.evals.fakes import tokenizer
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
