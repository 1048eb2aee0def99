"""`phi4 quantize` as it is typed, and a quantised model in the hands of the other verbs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import phi4.device
from phi4.cli import models
from phi4.cli.main import main
from phi4.device import Machine
from phi4.errors import ModelError
from phi4.model.config import ModelConfig, Quantization
from phi4.model.presets import PHI_4, PHI_4_MINI
from phi4.model.transformer import Transformer
from phi4.recipes.calibration import HELD_OUT_TOKENS, probe
from phi4.run.files import read_json
from phi4.skills.catalog import family
from phi4.skills.split import held_out
from phi4.text.tokenizer import Tokenizer
from phi4.weights import quantize as room
from phi4.weights.folder import load_model, logit_difference, save_model
from tests.evals.fakes import tokenizer

SKILLS = ["addition", "clock"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model that says it knows two skills."""
    folder = tmp_path_factory.mktemp("made") / "little"
    config = ModelConfig(
        vocab_size=tokenizer().vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=96, max_position_embeddings=256, initializer_range=0.1,
    )  # fmt: skip
    network = Transformer(config)
    network.init_weights(0)
    save_model(folder, network, tokenizer())
    (folder / "phi4.json").write_text(
        json.dumps({"name": "little", "skills": SKILLS, "scores": {"addition": 1.0}})
    )
    return folder


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHI4_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def said(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(
    ("asked", "kind", "method"),
    [
        (["--to", "int8"], Quantization(8), "rtn"),
        (["--to", "int4"], Quantization(4, 32), "gptq"),
        (["--to", "int4", "--method", "rtn"], Quantization(4, 32), "rtn"),
        (["--to", "int8", "--group", "32", "--method", "gptq"], Quantization(8, 32), "gptq"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_folder_that_is_a_model(
    made: Path,
    asked: list[str],
    kind: Quantization,
    method: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["quantize", str(made), *asked, "--json"]) == 0
    report, folder = said(capsys), tmp_path / f"little-{asked[1]}"
    assert (report["path"], report["quantization"], report["method"]) == (folder.name, kind.name, method)
    assert report["bytes"] == (folder / "model.safetensors").stat().st_size < report["bytes_before"]
    assert 0 < report["kl"] < 0.05
    assert 0.5 < report["same_token"] <= 1
    assert report["perplexity"] == pytest.approx(report["perplexity_before"], rel=0.02)
    assert models.is_model(folder)
    assert models.read_shape(folder).quantization == kind
    assert models.read_card(folder) == models.Card(f"little-{asked[1]}", "", tuple(SKILLS))


def test_other_verbs_take_it(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert main(["quantize", str(made), "--to", "int4", "--out", "small"]) == 0
    assert main(["ask", "small", "What is 2 + 2?", "--json"]) == 0
    assert main(["eval", "small", "--n", "2", "--families", "clock", "--json"]) == 0
    assert main(["show", "small"]) == 0
    assert "int4 in groups of 32" in capsys.readouterr().out
    assert main(["export", "small", "--to", "hf", "--out", "plain"]) == 0
    assert main(["export", "small", "--to", "gguf", "--type", "f32", "--out", "plain.gguf"]) == 0
    quantised = load_model(Path("small"))
    for path in (Path("plain"), Path("plain.gguf")):
        plain, _ = models.read_model(path)
        assert plain.config.quantization is None
        assert logit_difference(quantised, plain) < 1e-5
    assert main(["quantize", "plain.gguf", "--to", "int4", "--out", "again", "--method", "rtn"]) == 0


def test_how_the_output_matrix_is_rounded() -> None:
    small = ModelConfig(49_152, 576, 2, 9, 3, 1536, max_position_embeddings=256, tie_word_embeddings=True)
    quantization = Quantization(4, 32)
    expected = ((PHI_4, 8), (PHI_4_MINI, 4), (small, 8), (replace(small, vocab_size=1000), 0))
    for config, bits in expected:
        assert models._head_bits(replace(config, quantization=quantization)) == bits
        assert models._head_bits(config) == 0


def test_a_narrow_cache_is_what_the_engine_gets(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: list[models.LoadedModel] = []

    def load(*arguments: str, **named: str) -> models.LoadedModel:
        loaded.append(models.load(*arguments, **named))  # type: ignore[arg-type]
        return loaded[-1]

    monkeypatch.setattr("sys.stdin", None)
    monkeypatch.setattr("phi4.cli.ask.load", load)
    assert main(["ask", str(made), "What is 2 + 2?", "--cache", "int8"]) == 0
    assert main(["ask", str(made), "What is 2 + 2?"]) == 0
    narrow, usual = (model.engine.cache_dtype for model in loaded)  # type: ignore[attr-defined]
    assert (narrow, usual) == (torch.int8, torch.float32)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["QUANTISED", "--to", "int8", "--out", "new"], "already quantised"),
        (["MADE", "--to", "int4", "--group", "64", "--out", "new"], "cannot be int4 in groups of 64"),
        (["MADE", "--to", "int4", "--group", "48", "--out", "new"], "invalid choice"),
        (["MADE", "--to", "int3", "--out", "new"], "invalid choice"),
        (["MADE", "--to", "int4", "--out", "there"], "left alone"),
        (["MADE", "--to", "int4", "--out", "new", "--calibration", "short.txt"], "too short"),
        (["MADE", "--to", "int4", "--out", "new", "--calibration", "binary"], "cannot be read as text"),
        (["MADE", "--to", "int4", "--out", "new", "--calibration", "missing.txt"], "cannot be read as text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_one_line_and_leave_nothing(
    made: Path, asked: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", str(made), "--to", "int8", "--out", "small"]) == 0
    (tmp_path / "there").mkdir()
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    before = sorted(tmp_path.iterdir())
    capsys.readouterr()
    names = {"QUANTISED": "small", "MADE": str(made)}
    assert main(["quantize", *(names.get(word, word) for word in asked)]) != 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert says in "\n".join(lines)
    assert len([line for line in lines if line.startswith("phi4: ")]) == 1
    assert "internal error" not in "\n".join(lines)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("moment", ["write_shards", "save_description", "agreement_of"])
def test_stopped_half_way_nothing_looks_like_a_model(
    made: Path, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(room, moment, stop)
    assert main(["quantize", str(made), "--to", "int8", "--out", "small"]) == 130
    assert not list(tmp_path.rglob("config.json"))
    assert not (tmp_path / "small").exists()


def test_config_json_is_written_last(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[set[str]] = []
    write = room.save_description

    def watched(folder: Path, *rest: object) -> None:
        there.append({path.name for path in folder.iterdir()})
        write(folder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(room, "save_description", watched)
    assert main(["quantize", str(made), "--to", "int8", "--out", "small"]) == 0
    assert there == [{"model.safetensors"}]


def test_memory_counts_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phi-4 needs 27 GiB in bf16 and 9 in int4: on 16 GiB only the quantised one may load."""
    machine = Machine("cpu", "test", 2, 16.0, "", "bfloat16", {"bfloat16": 1.0, "float32": 1.0})
    monkeypatch.setattr(phi4.device, "measure", lambda: machine)
    with pytest.raises(ModelError, match="27 GiB"):
        models._dtype(PHI_4)
    assert models._dtype(replace(PHI_4, quantization=Quantization(4, 32))) == torch.bfloat16


def test_calibration_and_comparison_never_share_text(made: Path) -> None:
    words = Tokenizer.load(made)
    probed = probe(words, 256, SKILLS)
    known: dict[bool, set[str]] = {False: set(), True: set()}
    for name in SKILLS:
        for i in range(20_000):
            problem = family(name).problem(i)
            known[held_out(problem.problem_key)].add(problem.question)
    for passages, side in ((probed.calibration, False), (probed.held_out, True)):
        questions = set()
        for ids, real, predicted in zip(
            passages.ids_NT, passages.real_NT, passages.predicted_NT, strict=True
        ):
            text = words.decode(ids[real & ~predicted].tolist())
            questions.add(text.split("<|im_sep|>")[1].split("<|im_end|>")[0])
        assert len(questions) > 50
        assert len(questions & known[side]) > 0.9 * len(questions)
        assert not questions & (known[not side] - known[side])
    text = probe(words, 128, ())
    rows = [{tuple(row) for row in part.ids_NT.tolist()} for part in (text.calibration, text.held_out)]
    assert not rows[0] & rows[1]
    assert 0 < text.held_out.tokens <= HELD_OUT_TOKENS


def test_weights_keep_their_names(made: Path) -> None:
    """Exactly the tensors compressed-tensors describes, in the shapes it describes."""
    assert main(["quantize", str(made), "--to", "int4", "--out", "small"]) == 0
    with safe_open("small/model.safetensors", "pt") as file:
        found = {
            name: tuple(file.get_slice(name).get_shape())
            for name in file.keys()  # noqa: SIM118 (not a mapping)
            if "layers.1.mlp.down" in name
        }
    down = "model.layers.1.mlp.down_proj.weight"
    assert found == {f"{down}_packed": (32, 12), f"{down}_scale": (32, 3), f"{down}_shape": (2,)}
    assert read_json(Path("small/config.json"))["quantization_config"]["format"] == "pack-quantized"
