"""Files as they were published, faults of the launch included: what is read from them, mended, or never run."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter

from phi4.model.config import from_hf
from phi4.model.rope import attention_factor
from phi4.text.chat import Conversation, Message, render
from phi4.text.jinja import CHAT_TEMPLATE
from phi4.text.tokenizer import Tokenizer
from phi4.weights.checkpoint import Checkpoint
from phi4.weights.folder import load_model, save_model
from phi4.weights.gguf_file import GgufFile, open_gguf
from phi4.weights.gguf_read import read_gguf, read_gguf_config
from phi4.weights.gguf_write import add_metadata, write_gguf
from tests.evals.fakes import tokenizer
from tests.text.test_templates import CASES, MINI, spec
from tests.weights.test_gguf import MINI as MINI_SHAPE
from tests.weights.test_gguf import PHI_4, network


def edited(source: Path, target: Path, changes: dict[str, Any]) -> Path:
    """A copy of a float32 GGUF file with other metadata; None removes a key."""
    file: GgufFile = open_gguf(source)
    writer = GGUFWriter(target, file.metadata["general.architecture"])
    for key, value in {**file.metadata, **changes}.items():
        if key != "general.architecture" and value is not None:
            add_metadata(writer, key, value)
    for name, info in file.tensors.items():
        writer.add_tensor(name, file.bytes_of(name).view("<f4").reshape(info.shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_gguf_files_of_the_launch_are_mended_on_import(tmp_path: Path) -> None:
    """They still circulate: end and padding <|endoftext|>, and a template that always opens an answer."""
    write_gguf(tmp_path / "now.gguf", network(PHI_4), tokenizer(), "f32")
    end = tokenizer().special["<|endoftext|>"]
    always = CHAT_TEMPLATE.replace("{% if add_generation_prompt %}", "").removesuffix("{% endif %}")
    old = edited(
        tmp_path / "now.gguf",
        tmp_path / "launch.gguf",
        {
            "tokenizer.ggml.eos_token_id": end,
            "tokenizer.ggml.padding_token_id": end,
            "tokenizer.chat_template": always,
        },
    )
    found, wanted = read_gguf(old, torch.float32).tokenizer, tokenizer()
    assert len(found.notices) == 3
    assert (found.eos_id, found.pad_id) == (wanted.eos_id, wanted.pad_id)
    assert set(found.stop_ids) == set(wanted.stop_ids)
    talk = Conversation((Message("user", "u"), Message("assistant", "a")))
    assert render(talk, found) == render(talk, wanted)


def test_stop_ids_of_all_files_of_phi_4_mini_are_united(tmp_path: Path) -> None:
    """config.json names <|endoftext|> alone, generation_config.json <|end|> too (facts 1.2)."""
    special = {t["content"]: t["id"] for t in json.loads(spec(CASES["phi-4-mini"][0]))["added_tokens"]}
    end, endoftext = special["<|end|>"], special["<|endoftext|>"]
    files: dict[str, Any] = {
        "tokenizer_config.json": dict.fromkeys(
            ("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>"
        ),
        "config.json": {"eos_token_id": endoftext},
        "generation_config.json": {"eos_token_id": [end, endoftext]},
    }
    files["tokenizer_config.json"]["chat_template"] = MINI
    (tmp_path / "tokenizer.json").write_text(spec(CASES["phi-4-mini"][0]))
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert set(Tokenizer.load(tmp_path).stop_ids) == {end, endoftext}
    (tmp_path / "generation_config.json").unlink()  # a copy that lost it must not run on
    assert set(Tokenizer.load(tmp_path).stop_ids) == {end, endoftext}
    odd = special["<|user|>"]
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [odd]}))
    assert set(Tokenizer.load(tmp_path).stop_ids) == {end, endoftext, odd}


@pytest.mark.parametrize("window", [None, 262_144, "missing"])
def test_no_sliding_window_however_it_is_said(window: int | str | None) -> None:
    """null in phi-4, larger than any context in mini, absent in some copies."""
    raw = {
        "model_type": "phi3", "vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
        "intermediate_size": 80, "max_position_embeddings": 131_072, "sliding_window": window,
    }  # fmt: skip
    if window == "missing":
        del raw["sliding_window"]
    assert from_hf(raw).max_position_embeddings == 131_072


def test_gguf_says_what_llama_cpp_must_know_of_phi(tmp_path: Path) -> None:
    """Window 0 (else some versions assume Phi-3's), the attention factor, float32 rope factors of rotary_dim/2."""
    write_gguf(tmp_path / "mini.gguf", network(MINI_SHAPE), tokenizer(), "q8_0")
    file = open_gguf(tmp_path / "mini.gguf")
    assert file.metadata["phi3.attention.sliding_window"] == 0
    factor = file.metadata["phi3.rope.scaling.attn_factor"]
    assert factor == pytest.approx(attention_factor(MINI_SHAPE), rel=1e-6)
    assert file.metadata["phi3.rope.dimension_count"] == MINI_SHAPE.rotary_dim == 24
    for name in ("rope_factors_long.weight", "rope_factors_short.weight"):
        assert (file.tensors[name].kind.name, file.tensors[name].shape) == ("F32", (12,))
    assert "output.weight" not in file.tensors  # tied: the head is the embedding


@pytest.mark.parametrize(
    "change",
    [
        {"phi3.attention.sliding_window": None},
        {"phi3.attention.sliding_window": 262_144},
        {"phi3.rope.dimension_count": 32},  # a converter that ignores partial rotary writes the whole head
        {"phi3.rope.scaling.attn_factor": None},
    ],
    ids=str,
)
def test_gguf_files_of_other_converters_mean_the_same(change: dict[str, Any], tmp_path: Path) -> None:
    write_gguf(tmp_path / "mini.gguf", network(MINI_SHAPE), tokenizer(), "f32")
    path = edited(tmp_path / "mini.gguf", tmp_path / "other.gguf", change)
    assert read_gguf_config(path) == read_gguf_config(tmp_path / "mini.gguf")


def test_a_tied_head_is_not_in_the_file_and_not_missed(tmp_path: Path) -> None:
    save_model(tmp_path / "tied", network(MINI_SHAPE), tokenizer())
    assert "lm_head.weight" not in Checkpoint(tmp_path / "tied").names
    model = load_model(tmp_path / "tied")
    assert model.config.tie_word_embeddings
    save_model(tmp_path / "untied", network(replace(MINI_SHAPE, tie_word_embeddings=False)), tokenizer())
    assert "lm_head.weight" in Checkpoint(tmp_path / "untied").names


def test_code_in_a_model_folder_is_never_run(tmp_path: Path) -> None:
    """microsoft/Phi-4-mini-instruct brings modelling code and an auto_map that asks for it."""
    save_model(tmp_path, network(PHI_4), tokenizer())
    for name in ("modeling_phi3", "configuration_phi3", "tokenization_phi4"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this code was run')")
    for name in ("config.json", "tokenizer_config.json"):
        raw = json.loads((tmp_path / name).read_text())
        raw["auto_map"] = {
            "AutoConfig": "configuration_phi3.Phi3Config",
            "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
            "AutoTokenizer": ["tokenization_phi4.Phi4Tokenizer", "Xenova/gpt-4o"],
        }
        (tmp_path / name).write_text(json.dumps(raw))
    assert load_model(tmp_path).config.hidden_size == PHI_4.hidden_size
    assert Tokenizer.load(tmp_path).fingerprint == tokenizer().fingerprint
    assert not {"modeling_phi3", "configuration_phi3", "tokenization_phi4"} & set(sys.modules)
