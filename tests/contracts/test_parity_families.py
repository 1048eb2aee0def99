"""Contract 1 for the comparators: Llama and Mistral checkpoints, with separate weights and in shards."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm

from phi4.errors import ModelError
from phi4.model.config import ModelConfig, from_hf
from phi4.model.cost import parameters
from phi4.model.transformer import Transformer
from phi4.weights.checkpoint import INDEX, WEIGHTS, to_checkpoint, write_shards
from phi4.weights.folder import load_model, save_model
from tests.contracts.test_parity_transformers import (
    BASE,
    norm_in_double,
    our_logits,
    probe,
    relative,
    their_logits,
)
from tests.evals.fakes import tokenizer

FAMILIES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "Orca-2": (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 4}),
    "SmolLM2": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": True, "rope_theta": 100_000.0}),
    "Mistral 22B": (MistralForCausalLM, MistralConfig, {"sliding_window": None, "rope_theta": 1e6}),
    "Mistral 24B": (
        MistralForCausalLM,
        MistralConfig,
        {"sliding_window": None, "head_dim": 12, "rope_theta": 1e8},  # 4 heads of 12 channels beside 64
    ),
}


def theirs(name: str, **change: Any) -> Any:
    """A random network with gains that are not 1 and attention that is far from uniform."""
    network, config, shape = FAMILIES[name]
    torch.manual_seed(0)
    model = network(config(**{**BASE, **shape, **change}))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "norm" in key:
                weight.copy_(1 + 0.3 * torch.randn_like(weight))
            elif "q_proj" in key or "k_proj" in key:
                weight.mul_(4)
    return model.eval()


@pytest.mark.parametrize("shard", ["5GB", "30KB"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_transformers(
    name: str,
    dtype: torch.dtype,
    tolerance: float,
    shard: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference = theirs(name)
    reference.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / INDEX).exists() == (shard == "30KB")
    ours, reference = load_model(tmp_path, dtype), reference.to(dtype)
    assert {weight.dtype for weight in ours.parameters()} == {dtype}
    if dtype == torch.float64:
        monkeypatch.setattr(LlamaRMSNorm, "forward", norm_in_double)
        monkeypatch.setattr(MistralRMSNorm, "forward", norm_in_double)
    for length in (1, 100):
        ids_BT = probe(length)
        assert relative(our_logits(ours, ids_BT), their_logits(reference, ids_BT)) < tolerance


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_loads_what_we_write(name: str, tmp_path: Path) -> None:
    vocab = tokenizer().vocab_size
    theirs(name, vocab_size=vocab).save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs")
    save_model(tmp_path / "ours", model, tokenizer())
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    assert type(reloaded) is FAMILIES[name][0]
    ids_BT = probe(100, vocab=vocab)
    assert relative(our_logits(model, ids_BT), their_logits(reloaded, ids_BT)) < 2e-5
    prompt = probe(12, rows=1, vocab=vocab)
    generated = reloaded.generate(prompt, max_new_tokens=12, do_sample=False)
    while prompt.shape[1] < generated.shape[1]:
        prompt = torch.cat((prompt, our_logits(model, prompt)[:, -1:].argmax(-1)), 1)
    assert prompt.tolist() == generated.tolist()


@pytest.mark.parametrize(
    ("raw", "count"),
    [
        ({"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
          "intermediate_size": 11008, "vocab_size": 32003, "max_position_embeddings": 4096}, 6_738_440_192),
        ({"model_type": "llama", "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40,
          "intermediate_size": 13824, "vocab_size": 32003, "max_position_embeddings": 4096}, 13_015_895_040),
        ({"model_type": "mistral", "hidden_size": 6144, "num_hidden_layers": 56, "num_attention_heads": 48,
          "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 16384, "vocab_size": 32768,
          "max_position_embeddings": 32768, "rope_theta": 1e6, "sliding_window": None}, 22_247_282_688),
        ({"model_type": "mistral", "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 32,
          "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 32768, "vocab_size": 131072,
          "max_position_embeddings": 32768, "rope_theta": 1e8, "sliding_window": None}, 23_572_403_200),
    ],
    ids=["Orca-2-7b", "Orca-2-13b", "Mistral-Small-2409", "Mistral-Small-2501"],
)  # fmt: skip
def test_comparators_have_the_published_size(raw: dict[str, Any], count: int) -> None:
    config = from_hf(raw)
    with torch.device("meta"):
        model = Transformer(config)
    assert sum(p.numel() for p in model.parameters()) == parameters(config) == count


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": ["LlamaForSequenceClassification"]},
        {"model_type": "qwen2"},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"head_dim": 7},
        {"num_hidden_layers": 1 << 40},
        {"num_key_value_heads": -1},
    ],
    ids=str,
)
def test_other_networks_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        from_hf({**BASE, "model_type": "llama", **change})


def sharded(folder: Path, mb: int = 0) -> Transformer:
    """A Llama written by us in float32 shards; `mb` makes it about that large."""
    width = 512 if mb else 64
    config = ModelConfig(
        vocab_size=97, hidden_size=width, num_hidden_layers=mb // 12 or 2, num_attention_heads=4,
        num_key_value_heads=4, intermediate_size=4 * width // 3 // 8 * 8, max_position_embeddings=64,
        architecture="LlamaForCausalLM",
    )  # fmt: skip
    model = Transformer(config)
    model.init_weights(0)
    save_model(folder, model, tokenizer())
    write_shards(folder, to_checkpoint(model), shard_bytes=(mb or 1) << 17)
    (folder / WEIGHTS).unlink(missing_ok=True)
    return model


def test_own_shards_read_back_exactly(tmp_path: Path) -> None:
    model = sharded(tmp_path)
    read = load_model(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    wanted: dict[str, Tensor] = model.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in read.state_dict().items())


@pytest.mark.parametrize(
    "harm", ["missing shard", "truncated shard", "outside", "not json", "no map", "twice"]
)
def test_a_broken_set_of_shards_is_one_clear_line(harm: str, tmp_path: Path) -> None:
    sharded(tmp_path)
    shard = sorted(tmp_path.glob("model-*.safetensors"))[0]
    index = json.loads((tmp_path / INDEX).read_text())
    if harm == "missing shard":
        shard.unlink()
    elif harm == "truncated shard":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif harm == "outside":
        index["weight_map"]["model.norm.weight"] = "../model.safetensors"
    elif harm == "no map":
        index = {"weight_map": [1, 2]}
    elif harm == "twice":
        copy = tmp_path / "again.safetensors"
        copy.write_bytes(shard.read_bytes())
        index["weight_map"]["more"] = copy.name
    (tmp_path / INDEX).write_text("{" if harm == "not json" else json.dumps(index))
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path)
    assert "\n" not in caught.value.message


def test_pickled_weights_are_refused_with_the_reason(tmp_path: Path) -> None:
    sharded(tmp_path)
    for file in tmp_path.glob("model*.safetensors*"):
        file.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="run code"):
        load_model(tmp_path)


MEASURE = """
import sys, threading, time, re, torch
from pathlib import Path
from phi4.model.transformer import Transformer
from phi4.weights.folder import load_model, read_config
with torch.device("meta"):  # torch loads a good deal of itself when a network is first made there
    Transformer(read_config(Path(sys.argv[1])))
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
before, peak, done = anonymous(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.001)
thread = threading.Thread(target=watch); thread.start()
model = load_model(Path(sys.argv[1]), torch.bfloat16)
done = True; thread.join()
print(peak - before, sum(p.nbytes for p in model.parameters()), max(2 * p.nbytes for p in model.parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's memory accounts")
def test_loading_holds_the_target_and_one_tensor(tmp_path: Path) -> None:
    """float32 shards of 150 MB become 75 MB of bf16; the float32 copy is never there as a whole."""
    sharded(tmp_path, mb=150)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    peak, target, largest = map(int, done.stdout.split())
    assert 0.9 * target < peak < target + 2 * largest + (16 << 20)
