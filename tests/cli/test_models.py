"""Which model is meant, on real folders."""

import json
from pathlib import Path

import pytest

from phi4.cli.models import Card, last, read_card, remember, resolve
from phi4.errors import ModelError, UsageError
from phi4.run.folder import RunFolder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PHI4_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def make_run(name: str, created: str, finished: bool = True) -> Path:
    root = Path("runs") / f"{name}-{created}"
    RunFolder(root).write_run({"name": name, "created": created})
    if finished:
        (root / "model").mkdir()
        for file in ("config.json", "model.safetensors", "tokenizer.json"):
            (root / "model" / file).write_text("{}")
    return root / "model"


def test_nothing_there_offers_what_can_be_made() -> None:
    with pytest.raises(UsageError) as caught:
        resolve(None)
    assert "phi4 make tiny" in caught.value.hint
    assert "phi4 make pico" in caught.value.hint


def test_names_folders_and_runs() -> None:
    old, new = make_run("pico", "1"), make_run("pico", "2")
    make_run("pico", "3", finished=False)
    tiny = make_run("tiny", "4")
    assert resolve("pico") == new
    assert resolve("tiny") == tiny
    assert resolve(str(old)) == old
    assert resolve(str(old.parent)) == old
    assert resolve(None) == tiny  # the newest finished one
    remember(old)
    assert resolve(None).resolve() == old.resolve()
    (old / "config.json").unlink()  # what was remembered is gone
    assert last() is None
    assert resolve(None) == tiny


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"last": 3}', '{"last": null}', "\x00", "[" * 5_000])
def test_a_damaged_state_file_is_ignored(home: Path, state: str) -> None:
    home.mkdir()
    (home / "state.json").write_text(state)
    assert last() is None


def test_remember_never_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PHI4_HOME", str(tmp_path / "file" / "inside"))
    remember(tmp_path)
    assert last() is None


def test_mistakes() -> None:
    make_run("pico", "1", finished=False)
    make_run("tiny", "1")
    Path("notes.txt").write_text("x")
    Path("empty").mkdir()
    for name, error, message, hint in [
        ("pico", ModelError, "not finished", "phi4 make pico"),
        ("runs/pico-1", ModelError, "not finished", "phi4 make pico"),
        ("tinny", UsageError, "no model called tinny", "did you mean tiny?"),
        ("notes.txt", UsageError, "is a file", ""),
        ("empty", ModelError, "not a model folder", "phi4 make"),
        ("gpt", UsageError, "no model called gpt", "phi4 make tiny"),
    ]:
        with pytest.raises(error) as caught:
            resolve(name)
        assert message in caught.value.message
        assert hint in caught.value.hint
        assert "\n" not in caught.value.message


def test_cards(tmp_path: Path) -> None:
    assert read_card(tmp_path / "pico-1" / "model") == Card(name="pico-1")
    card = {"name": "pico", "skills": ["addition"], "scores": {"addition": 0.5}, "recipe": "pico@1"}
    (tmp_path / "phi4.json").write_text(json.dumps(card))
    assert read_card(tmp_path) == Card("pico", "pico@1", ("addition",), (("addition", 0.5),))
    deep = "[" * 5_000
    for damage in (
        deep,
        '{"scores": {"a": 1%s}}' % ("0" * 400),
        "[]",
        "{",
        '{"skills": 3}',
        '{"scores": {"a": "x"}}',
        '{"scores": []}',
    ):
        (tmp_path / "phi4.json").write_text(damage)
        with pytest.raises(ModelError, match="not a model card"):
            read_card(tmp_path)


def test_a_real_folder_is_loaded_remembered_and_answers(tmp_path: Path) -> None:
    """Random weights through the real loader, tokenizer and engine: what streams is what `generate` gives."""
    import torch

    from phi4.cli import talk
    from phi4.cli.models import load
    from phi4.model.config import ModelConfig
    from phi4.model.transformer import Transformer
    from phi4.text.chat import Conversation, Message
    from phi4.text.generation import Request, SamplingParams
    from phi4.weights.folder import save_model
    from tests.cli.fakes import tokenizer

    torch.manual_seed(0)
    config = ModelConfig(tokenizer().vocab_size, 32, 2, 4, 2, 64, max_position_embeddings=96)
    model = Transformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_model(tmp_path / "toy", model, tokenizer())

    loaded = load("toy")
    assert (loaded.name, loaded.context) == ("toy", 96)
    assert last() == (tmp_path / "toy").absolute()
    assert load(None).path == tmp_path / "toy"

    _, ids = talk.fit(Conversation((Message("user", "what is it?"),)), loaded, 20)
    answer = talk.answer(loaded, ids, talk.Settings(temperature=0.7, seed=3, max_tokens=20))
    params = SamplingParams(max_tokens=20, temperature=0.7, seed=3, stop_ids=tokenizer().stop_ids)
    (whole,) = loaded.engine.generate([Request(tuple(ids), params)])
    assert answer.text == tokenizer().decode(whole.ids)
    assert answer.tokens == len(whole.ids) > 0
