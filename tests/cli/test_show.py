"""`phi4 show`: what is in the catalogue only, folders, .gguf files; the arithmetic of the expected speed."""

import json
from pathlib import Path

import pytest

from phi4.cli.main import main
from phi4.cli.show import costs, transcript
from phi4.model.config import ModelConfig, Quantization
from phi4.model.presets import PHI_4, PHI_4_MINI
from phi4.model.transformer import Transformer
from phi4.text.chat import Conversation, Message, render
from phi4.text.templates import TEMPLATES
from phi4.weights.catalog import CATALOG
from phi4.weights.folder import save_model
from phi4.weights.gguf_write import write_gguf
from tests.evals.fakes import tokenizer


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHI4_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("phi4.cli.models.cached", lambda repo: None)
    monkeypatch.setattr("phi4.weights.catalog.cached", lambda repo, revision=None: None)
    monkeypatch.setattr("phi4.device.read_bandwidth", lambda: 45e9)
    monkeypatch.chdir(tmp_path)


def small() -> Transformer:
    model = Transformer(
        ModelConfig(tokenizer().vocab_size, 32, 2, 4, 2, 64, max_position_embeddings=96, rope_theta=250_000.0)
    )
    model.init_weights(0)
    return model


def shown(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[str, dict]:
    assert main(["show", *args, "--json"]) == 0
    *text, last = capsys.readouterr().out.splitlines()
    return " ".join(" ".join(text).split()), json.loads(last)


@pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.name)
def test_a_model_that_is_only_in_the_catalogue(entry, capsys: pytest.CaptureFixture[str]) -> None:
    if entry.package:
        pytest.skip("its package may be installed")
    text, said = shown(capsys, entry.name)
    assert said["parameters"] == entry.parameters
    assert said["source"].startswith(f"https://huggingface.co/{entry.repo}")
    assert entry.licence in text
    assert ("research" in text) == entry.for_research_only
    assert said["scores"] == dict(entry.scores)
    assert "[" in text.split("A conversation")[1]
    assert "And 3 + 3?" in said["example"]


def test_the_figures_of_the_reference_machine() -> None:
    """anchors B.2: 45 GB/s; phi-4-mini reads 3.221 G weights of layers and 0.615 G of its tied head per token."""
    mini = costs(PHI_4_MINI, 45e9)
    assert mini.kv_bytes_per_token == 131_072
    assert mini.precisions["bf16"].read_bytes == 2 * 3_836_021_760  # tied: the head is the embedding
    assert mini.precisions["bf16"].most_tokens_per_second == pytest.approx(45e9 / 7_672_043_520)
    assert mini.precisions["bf16"].most_at_context == pytest.approx(45e9 / (7_672_043_520 + 4096 * 131_072))
    large = costs(PHI_4, 45e9)
    assert large.precisions["bf16"].weight_bytes == 29_319_014_400
    assert large.precisions["bf16"].read_bytes == 29_319_014_400 - 2 * 513_802_240  # one row of the embedding
    layers = 40 * (340_797_440 - 2 * 5120)
    norms, head = 81 * 5120, 513_802_240
    assert large.precisions["int8"].read_bytes == pytest.approx(layers + 2 * (norms + head), rel=1e-3)
    assert large.precisions["int4"].read_bytes == layers // 2 + layers // 32 * 2 + 2 * (norms + head)
    assert large.precisions["int4"].most_tokens_per_second == pytest.approx(5.2, abs=0.1)


def test_a_quantised_network_is_shown_as_it_is() -> None:
    from dataclasses import replace

    found = costs(replace(PHI_4, quantization=Quantization(4, 32)), 45e9)
    assert list(found.precisions) == ["int4 in groups of 32"]
    assert found.parameters == 14_659_507_200
    assert found.precisions["int4 in groups of 32"] == costs(PHI_4, 45e9).precisions["int4"]


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_files_show_the_ids_too(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if kind == "gguf":
        write_gguf(tmp_path / "toy.gguf", small(), tokenizer(), "f16", licence="mit")
    else:
        save_model(tmp_path / "toy", small(), tokenizer())
        (tmp_path / "toy" / "README.md").write_text("---\ntags: [x]\nlicense: mit\n---\n# toy\n")
        card = {"name": "toy", "scores": {"code_tracing": 0.5}}
        (tmp_path / "toy" / "phi4.json").write_text(json.dumps(card))
    text, said = shown(capsys, "toy" if kind == "folder" else "toy.gguf", "--ids")
    assert said["licence"] == "mit"
    assert said["template"] == "phi-4"
    talk = (
        Message("system", "Be brief."),
        Message("user", "What is 2 + 2?"),
        Message("assistant", "4"),
        Message("user", "And 3 + 3?"),
    )
    ids = render(Conversation(talk), tokenizer(), generation=True).ids
    assert said["example"] == tokenizer().decode(ids)
    assert "[<|im_start|>]system[<|im_sep|>]Be brief.[<|im_end|>][<|im_start|>]user" in text
    start = tokenizer().special["<|im_start|>"]
    assert text.count(f"{start}[<|im_start|>]") == ids.count(start) == 5
    if kind == "folder":
        assert said["scores"] == {"code tracing": 50.0}


def test_ids_need_a_tokenizer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "phi-4", "--ids"]) == 2
    assert "`phi4 pull phi-4` fetches it" in capsys.readouterr().err


def test_what_nobody_knows_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "someone/something"]) == 2
    assert "phi4 pull someone/something" in capsys.readouterr().err


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_a_transcript_tells_control_tokens_from_text(template) -> None:
    text = transcript(template)
    assert "\n" not in text
    assert all(f"[{token}]" in text for token in template.needs if "SYSTEM" not in token)
