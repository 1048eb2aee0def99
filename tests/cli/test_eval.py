"""`phi4 eval` from the command line, on a small random model: an honest zero, files, rescoring, errors."""

import json
from pathlib import Path

import pytest

from phi4.cli.main import main
from phi4.model.config import ModelConfig
from phi4.model.transformer import Transformer
from phi4.skills.catalog import FAMILIES
from phi4.text.train_tokenizer import train_tokenizer
from phi4.weights.folder import save_model

CHOSEN = "addition,clock"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random-model")
    texts = [family.problem(i).question for family in FAMILIES for i in range(20)]
    tokenizer = train_tokenizer(texts, 600)
    network = Transformer(
        ModelConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=32,
            max_position_embeddings=384,
        )
    )
    network.init_weights(0)
    save_model(folder, network, tokenizer)
    return folder


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHI4_HOME", str(tmp_path / "home"))


def last_json(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("form", [[], ["--few-shot", "--shots", "1"]])
def test_a_random_model_scores_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    out = tmp_path / "scores"
    asked = ["eval", str(model), "--n", "4", "--families", CHOSEN, "--out", str(out), "--json", *form]
    assert main(asked) == 0
    said = last_json(capsys)
    assert said["mode"] == ("few-shot" if form else "chat")
    assert list(said["families"]) == CHOSEN.split(",")
    assert said["overall"]["n"] == said["overall"]["format_failures"] == 8
    assert said["overall"]["correct"] == 0
    assert said["overall"]["high"] < 0.4
    assert said["families"]["clock"]["chance"] < 0.25
    assert json.loads((out / "eval.json").read_text())["families"] == said["families"]
    assert len((out / "eval.items.jsonl").read_text().splitlines()) == 8

    assert main(["eval", "--rescore", str(out / "eval.items.jsonl"), "--json"]) == 0
    again = last_json(capsys)
    assert again["changed"] == 0
    assert again["families"] == said["families"]


def test_rescoring_finds_what_a_wrong_scorer_missed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["eval", str(model), "--n", "3", "--families", "addition", "--out", str(tmp_path)])
    path = tmp_path / "eval.items.jsonl"
    items = [json.loads(line) for line in path.read_text().splitlines()]
    items[0] |= {"response": f"so\nAnswer: {items[0]['reference']}", "finish": "stop"}
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    assert main(["eval", "--rescore", str(path), "--json"]) == 0
    said = last_json(capsys)
    assert (said["changed"], said["overall"]["correct"]) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--families", "adition"], "adition"),
        (["--families", ","], "names no family"),
        (["--n", "0"], "--n must be at least 1"),
        (["--level", "nightmare"], "nightmare"),
        (["--rescore", "/nowhere.items.jsonl"], "/nowhere.items.jsonl"),
    ],
)
def test_wrong_calls_are_one_clear_line(
    model: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["eval", str(model), *arguments]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert "internal error" not in error
    assert "Traceback" not in error
