"""LoRA adapters both ways, with peft on transformers as the judge."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as TheirConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from phi4.cli.main import main
from phi4.cli.models import read_model
from phi4.engine.engine import Engine
from phi4.errors import ModelError
from phi4.model.config import Quantization
from phi4.model.linear import pack, round_to_scale
from phi4.model.lora import LoraConfig, adapted, merge
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer
from phi4.text.generation import Request, SamplingParams
from phi4.train.objectives import Batch, language_model_loss
from phi4.weights.adapter import WEIGHTS, add_adapter, load_adapter, save_adapter
from phi4.weights.adapter_config import CONFIG
from phi4.weights.checkpoint import to_checkpoint
from phi4.weights.folder import load_model
from tests.contracts.test_parity_transformers import BASE, our_logits, probe, relative, their_logits
from tests.evals.fakes import tokenizer

VOCAB = tokenizer().vocab_size
SHAPE: dict[str, Any] = {**BASE, "vocab_size": VOCAB}
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
SEPARATE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 16},
    "rslora": {"r": 4, "lora_alpha": 6, "use_rslora": True, "lora_dropout": 0.1},
    "patterns": {
        "r": 4, "lora_alpha": 8, "rank_pattern": {"layers.1.self_attn.o_proj": 2, "down_proj": 7},
        "alpha_pattern": {"o_proj": 20},
    },
    "some layers": {"r": 3, "lora_alpha": 8, "layers_to_transform": [0, 2]},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import transformers

    monkeypatch.setenv("PHI4_HOME", str(tmp_path / "home"))
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


def base(folder: Path, family: str = "phi3", seed: int = 0) -> Any:
    """A random network of transformers', saved with our tokenizer beside it."""
    torch.manual_seed(seed)
    made = (
        Phi3ForCausalLM(Phi3Config(**SHAPE, partial_rotary_factor=0.75))
        if family == "phi3"
        else LlamaForCausalLM(LlamaConfig(**SHAPE))
    )
    made.save_pretrained(folder)
    tokenizer().save(folder)
    return made.eval()


def trained(network: Any, folder: Path, targets: list[str] | str, **settings: Any) -> Any:
    """An adapter of peft's whose B is not zero."""
    model = get_peft_model(
        network, TheirConfig(target_modules=targets, task_type="CAUSAL_LM", **settings)
    ).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    return model


def our_adapted(base_folder: Path, adapter: Path) -> Transformer:
    model = load_model(base_folder)
    load_adapter(model, adapter)
    return model


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(
    ("family", "targets"), [("phi3", FUSED), ("llama", SEPARATE), ("llama", ["q_proj", "up_proj"])]
)
def test_peft_s_adapters_give_peft_s_logits(
    family: str, targets: list[str], settings: str, tmp_path: Path
) -> None:
    network = base(tmp_path / "base", family)
    plain = their_logits(network, probe(40, vocab=VOCAB))
    theirs = trained(network, tmp_path / "adapter", targets, **SETTINGS[settings])
    ours = our_adapted(tmp_path / "base", tmp_path / "adapter")
    ids_BT = probe(40, vocab=VOCAB)
    wanted = their_logits(theirs, ids_BT)
    assert relative(wanted, plain) > 0.05  # the adapter does something
    assert relative(our_logits(ours, ids_BT), wanted) < 2e-5
    merge(ours)
    assert not adapted(ours)
    assert relative(our_logits(ours, ids_BT), wanted) < 2e-5
    by_peft = theirs.merge_and_unload().state_dict()
    for name, weight in to_checkpoint(ours).items():
        torch.testing.assert_close(weight, by_peft[name], rtol=1e-5, atol=1e-6)


def test_targets_given_as_an_expression(tmp_path: Path) -> None:
    theirs = trained(base(tmp_path / "base"), tmp_path / "adapter", r".*\.[02]\..*(qkv|down)_proj", r=2)
    ids_BT = probe(20, vocab=VOCAB)
    ours = our_logits(our_adapted(tmp_path / "base", tmp_path / "adapter"), ids_BT)
    assert relative(ours, their_logits(theirs, ids_BT)) < 2e-5


@pytest.mark.parametrize("family", ["phi3", "llama"])
@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(rank=4, alpha=8),
        LoraConfig(rank=4, alpha=2.5, rslora=True, targets=("o_proj", "down_proj"),
                   ranks=(("layers.1.mlp.down_proj", 2),)),
    ],
)  # fmt: skip
def test_adapters_written_here_load_in_peft(family: str, config: LoraConfig, tmp_path: Path) -> None:
    base(tmp_path / "base", family)
    model = load_model(tmp_path / "base")
    ids_BT = probe(40, vocab=VOCAB)
    plain = our_logits(model, ids_BT)
    add_adapter(model, config, seed=3)
    assert torch.equal(our_logits(model, ids_BT), plain)  # a new adapter changes nothing
    _randomise(model)
    save_adapter(tmp_path / "adapter", model, config, "base")
    ours = our_logits(model, ids_BT)
    assert relative(ours, plain) > 0.05
    with warnings.catch_warnings(record=True) as said:
        theirs = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
        ).eval()
    assert not [w for w in said if "keyword" in str(w.message) or "missing" in str(w.message)]
    assert relative(ours, their_logits(theirs, ids_BT)) < 2e-5
    again = load_model(tmp_path / "base")
    read, notices = load_adapter(again, tmp_path / "adapter")
    assert (read.rank, read.alpha, read.rslora, read.ranks, notices) == (
        config.rank, config.alpha, config.rslora, config.ranks, (),
    )  # fmt: skip
    assert torch.equal(our_logits(again, ids_BT), ours)


def _randomise(model: Transformer) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, layer in adapted(model):
            for _, update in layer.named_updates():
                update.lora_B.normal_(0.0, 0.3, generator=generator)


def test_only_the_updates_train_and_they_learn(tmp_path: Path) -> None:
    base(tmp_path / "base", "llama")
    model = load_model(tmp_path / "base")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    config = LoraConfig(rank=8, alpha=16)
    add_adapter(model, config)
    names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert names == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert len(names) == 3 * len(SEPARATE) * 2
    ids_BT = probe(33, vocab=VOCAB)
    inside = torch.zeros_like(ids_BT[:, 1:])
    batch = Batch(ids_BT[:, :-1], ids_BT[:, 1:], inside, torch.arange(32).expand_as(inside))
    optimizer = torch.optim.Adam([w for w in model.parameters() if w.requires_grad], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = language_model_loss(model, batch, Rope(model.config, 32), torch.float32) / batch.units
        optimizer.zero_grad()
        loss.backward()
        assert {name for name, w in model.named_parameters() if w.grad is not None} == names
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    for name, weight in model.named_parameters():
        if "lora_" not in name:
            assert torch.equal(weight, before[name.replace(".base", "")])
    save_adapter(tmp_path / "adapter", model, config)
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    ).eval()
    assert relative(our_logits(model, ids_BT), their_logits(theirs, ids_BT)) < 2e-5


def test_an_adapter_of_a_split_phi_fits_the_original(tmp_path: Path) -> None:
    """Phi-4 is also published with Llama's separate matrices, and adapters made on that; the rows are the same."""
    torch.manual_seed(0)
    fused = Phi3ForCausalLM(Phi3Config(**SHAPE)).eval()
    split = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    fused.save_pretrained(tmp_path / "fused")
    weights = to_checkpoint(load_model(tmp_path / "fused"))
    llama = Transformer(replace(load_model(tmp_path / "fused").config, architecture="LlamaForCausalLM"))
    llama.load_state_dict(load_model(tmp_path / "fused").state_dict())
    assert weights.keys() != to_checkpoint(llama).keys()
    split.load_state_dict(to_checkpoint(llama))
    theirs = trained(split, tmp_path / "adapter", SEPARATE, r=4, lora_alpha=16)
    ours = our_adapted(tmp_path / "fused", tmp_path / "adapter")
    ids_BT = probe(40, vocab=VOCAB)
    assert relative(our_logits(ours, ids_BT), their_logits(theirs, ids_BT)) < 2e-5


def test_another_base_is_refused(tmp_path: Path) -> None:
    base(tmp_path / "base")
    base(tmp_path / "other", seed=1)
    model, config = load_model(tmp_path / "base"), LoraConfig(rank=2, targets=("o_proj",))
    add_adapter(model, config)
    save_adapter(tmp_path / "adapter", model, config, "mine")
    other = load_model(tmp_path / "other")
    with pytest.raises(ModelError, match="made on another base"):
        load_adapter(other, tmp_path / "adapter")
    assert not adapted(other)
    load_adapter(
        load_model(tmp_path / "base", torch.bfloat16), tmp_path / "adapter"
    )  # the same, less precise
    tuned = load_model(tmp_path / "base")
    with torch.no_grad():
        tuned.layers[1].mlp.down_proj.weight.add_(0.01)
    with pytest.raises(ModelError, match="made on another base"):
        load_adapter(tuned, tmp_path / "adapter")
    trained(base(tmp_path / "base"), tmp_path / "foreign", ["o_proj"], r=2)
    _, notices = load_adapter(other, tmp_path / "foreign")
    assert "does not say" in notices[0]


def test_quantised_bases_keep_the_adapter_beside_them(tmp_path: Path) -> None:
    base(tmp_path / "base")
    plain = load_model(tmp_path / "base")
    shape = replace(plain.config, quantization=Quantization(8, 0))
    quantised = Transformer(shape)
    quantised.load_state_dict(plain.state_dict(), strict=False)  # what lies outside the layers
    with torch.no_grad():
        for layer, block in enumerate(quantised.layers):
            for path in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"):
                weight = plain.get_submodule(f"layers.{layer}.{path}").weight
                target = block.get_submodule(path)
                target.weight_scale.copy_(weight.abs().amax(1, keepdim=True) / 127)
                target.weight_packed.copy_(pack(round_to_scale(weight, target.weight_scale, 8), 8))
    config = LoraConfig(rank=4)
    add_adapter(plain, config)
    _randomise(plain)
    save_adapter(tmp_path / "adapter", plain, config)
    _, notices = load_adapter(quantised, tmp_path / "adapter")
    assert "int8 per row" in notices[0]
    ids_BT = probe(20, vocab=VOCAB)
    assert relative(our_logits(quantised, ids_BT), our_logits(plain, ids_BT)) < 0.05
    with pytest.raises(ModelError, match="cannot be merged into quantised"):
        merge(quantised)
    assert len(adapted(quantised)) == 12
    ids = ids_BT[0].tolist()
    for _ in range(6):
        ids.append(int(our_logits(quantised, torch.tensor([ids]))[0, -1].argmax()))
    request = Request(tuple(ids[:20]), SamplingParams(max_tokens=6, stop_ids=(VOCAB,)))
    (answer,) = Engine(quantised, tokenizer()).generate([request])
    assert list(answer.ids) == ids[20:]


def _change(folder: Path, **settings: Any) -> None:
    raw = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**raw, **settings}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "use_dora True is not computed"),
        ({"bias": "all"}, "bias 'all'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"something_new": {"a": 1}}, "something_new"),
        ({"init_lora_weights": "pissa"}, "change the base"),
        ({"peft_type": "IA3"}, "type 'IA3'"),
        ({"rank_pattern": {"(a+)+$": 3}}, "is not a module's name"),
        ({"rank_pattern": {"o_proj": 10**9}}, "LoRA rank of 1000000000"),
        ({"r": 0}, "LoRA rank of 0"),
        ({"r": 3.5}, "not a whole number"),
        ({"r": 5}, "is (4, 64), not (5, 64)"),
        ({"lora_alpha": float("inf")}, "not a finite number"),
        ({"lora_alpha": None}, "not a number"),
        ({"lora_alpha": 10**400}, "not the configuration"),
        ({"target_modules": ["o_proj", "down_proj"]}, "has no update of model.layers.0.mlp.down_proj"),
        ({"target_modules": ["down_proj"], "layers_to_transform": [0]}, "does not target"),
        ({"target_modules": [3]}, "not the configuration"),
        ({"auto_mapping": {"phi4_base": 3}}, "not a base's fingerprint"),
    ],
)  # fmt: skip
def test_what_is_not_computed_is_refused_by_name(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    trained(base(tmp_path / "base"), tmp_path / "adapter", ["o_proj"], r=4)
    _change(tmp_path / "adapter", **settings)
    model = load_model(tmp_path / "base")
    with pytest.raises(ModelError) as caught:
        load_adapter(model, tmp_path / "adapter")
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert not adapted(model)


@pytest.mark.parametrize(
    "harm", ["missing", "extra", "rows", "outside", "integers", "only pickled", "both", "none"]
)
def test_every_tensor_is_checked(harm: str, tmp_path: Path) -> None:
    trained(base(tmp_path / "base"), tmp_path / "adapter", ["o_proj"], r=4)
    file = tmp_path / "adapter" / WEIGHTS
    tensors: dict[str, Tensor] = load_file(file)
    a, b = sorted(tensors)[:2]
    reason = {
        "missing": "missing tensor", "extra": "unexpected tensor", "rows": "not (64, 4)", "outside": "no model.norm",
        "integers": "not a plain weight", "only pickled": "run code", "none": "updates nothing",
    }.get(harm)  # fmt: skip
    if harm == "missing":
        del tensors[b]
    elif harm == "extra":
        tensors[a.replace("lora_A", "lora_magnitude_vector")] = torch.ones(64)
    elif harm == "rows":
        tensors[b] = tensors[b][:32].clone()
    elif harm == "outside":
        for part in ("lora_A", "lora_B"):
            tensors[f"base_model.model.model.norm.{part}.weight"] = torch.ones(4, 4)
    elif harm == "integers":
        tensors[a] = tensors[a].int()
    elif harm == "none":
        tensors = {}
    save_file(tensors, file)
    if harm in ("only pickled", "both"):
        (tmp_path / "adapter" / "adapter_model.bin").write_bytes(b"\x80\x04.")
    if harm == "only pickled":
        file.unlink()
    model = load_model(tmp_path / "base")
    if reason is None:
        load_adapter(model, tmp_path / "adapter")
        return
    with pytest.raises(ModelError) as caught:
        load_adapter(model, tmp_path / "adapter")
    assert reason in caught.value.message
    assert not adapted(model)


def test_a_target_that_is_not_there(tmp_path: Path) -> None:
    base(tmp_path / "base")
    with pytest.raises(ModelError, match="no matrix of this network is called q_proj"):
        add_adapter(load_model(tmp_path / "base"), LoraConfig(targets=("o_proj", "q_proj")))


def test_export_merges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = base(tmp_path / "base", "llama")
    theirs = trained(network, tmp_path / "adapter", SEPARATE, r=4, lora_alpha=8)
    out = tmp_path / "merged"
    arguments = ["export", str(tmp_path / "base"), "--adapter", str(tmp_path / "adapter")]
    assert main([*arguments, "--to", "hf", "--out", str(out)]) == 0
    assert "only its shapes were compared" in capsys.readouterr().err
    ids_BT = probe(30, vocab=VOCAB)
    wanted = their_logits(theirs, ids_BT)
    merged = AutoModelForCausalLM.from_pretrained(out).eval()
    assert relative(their_logits(merged, ids_BT), wanted) < 2e-5
    assert main([*arguments, "--to", "gguf", "--type", "f32", "--out", str(tmp_path / "merged.gguf")]) == 0
    assert relative(our_logits(read_model(tmp_path / "merged.gguf")[0], ids_BT), wanted) < 2e-5


def test_ask_answers_with_the_adapter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    network = base(tmp_path / "base")
    trained(network, tmp_path / "adapter", FUSED, r=4, lora_alpha=64)
    answers = []
    for adapter in ([], ["--adapter", str(tmp_path / "adapter")]):
        words = ["ask", str(tmp_path / "base"), "What is 2 + 2?", "--max-tokens", "8", "--json", *adapter]
        assert main(words) == 0
        answers.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert answers[0]["answer"] != answers[1]["answer"]
    assert answers[1]["model"] == "base + adapter"
    assert main(["ask", str(tmp_path / "base"), "x", "--adapter", str(tmp_path / "base")]) == 1
    assert "no adapter_config.json" in capsys.readouterr().err
