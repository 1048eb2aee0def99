"""Contract 1: our logits equal transformers' for every shape we load, and our exports load there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Phi3Config, Phi3ForCausalLM
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm

from phi4.errors import ModelError
from phi4.model.config import LongRope, ModelConfig, from_hf, to_hf
from phi4.model.cost import (
    forward_flops_per_token,
    kv_bytes_per_token,
    parameters,
    training_flops_per_token,
)
from phi4.model.presets import PHI_4, PHI_4_MINI
from phi4.model.rope import Rope, attention_factor
from phi4.model.transformer import Transformer, causal_attention
from phi4.train.objectives import Batch, language_model_loss
from phi4.weights.folder import load_model, read_config, save_model
from tests.evals.fakes import tokenizer

ORIGINAL = 64  # where LongRoPE changes its factors in these small networks
BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LONG = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.0, 1.4, 2.5, 4.4, 7.7, 13.5],
}
SHAPES: dict[str, dict[str, Any]] = {
    "phi-4": {"rope_theta": 250_000.0},
    "one head per group": {"num_key_value_heads": 4},
    "one group": {"num_key_value_heads": 1, "rope_theta": 250_000.0},
    "partial": {"partial_rotary_factor": 0.75, "tie_word_embeddings": True},
    "phi-4-mini": {
        "partial_rotary_factor": 0.75,
        "tie_word_embeddings": True,
        "original_max_position_embeddings": ORIGINAL,
        "rope_scaling": LONG,
    },
}
LENGTHS = {"phi-4-mini": (1, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, 150)}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    import transformers

    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


def theirs(shape: dict[str, Any], seed: int = 0) -> Phi3ForCausalLM:
    """A random network whose gains are not 1 and whose attention is far from uniform."""
    torch.manual_seed(seed)
    model = Phi3ForCausalLM(Phi3Config(**{**BASE, **shape}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.copy_(1 + 0.3 * torch.randn_like(weight))
            elif "qkv" in name:
                weight.mul_(4)
    return model.eval()


def probe(length: int, rows: int = 2, vocab: int = 97) -> Tensor:
    return torch.randint(0, vocab, (rows, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def our_logits(model: Transformer, ids_BT: Tensor) -> Tensor:
    length = ids_BT.shape[1]
    positions_BT = torch.arange(length).expand_as(ids_BT)
    return model.head(model(ids_BT, positions_BT, causal_attention, Rope(model.config, length)))


@torch.no_grad()
def their_logits(model: Any, ids_BT: Tensor) -> Tensor:
    logits: Tensor = model(ids_BT, use_cache=False).logits
    return logits


def relative(ours: Tensor, reference: Tensor) -> float:
    """Largest difference beside the size of the logits."""
    assert ours.shape == reference.shape
    assert ours.dtype == reference.dtype
    return float((ours - reference).abs().max() / reference.abs().max())


def norm_in_double(norm: Phi3RMSNorm, x: Tensor) -> Tensor:
    """transformers norms in float32 whatever flows in; this takes that away and changes nothing else."""
    return norm.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", SHAPES)
def test_logits_equal_transformers(
    name: str, dtype: torch.dtype, tolerance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = theirs(SHAPES[name])
    reference.save_pretrained(tmp_path)
    ours = load_model(tmp_path).to(dtype)
    reference = reference.to(dtype)
    if dtype == torch.float64:
        monkeypatch.setattr(Phi3RMSNorm, "forward", norm_in_double)
    for length in LENGTHS.get(name, (1, 100)):
        ids_BT = probe(length)
        assert relative(our_logits(ours, ids_BT), their_logits(reference, ids_BT)) < tolerance


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", ["phi-4", "phi-4-mini"])
def test_inputs_of_any_norm(name: str, scale: float, tmp_path: Path) -> None:
    """Small inputs are where the norm's epsilon counts, large ones where its precision does."""
    reference = theirs(SHAPES[name])
    with torch.no_grad():
        reference.get_input_embeddings().weight.mul_(scale)
    reference.save_pretrained(tmp_path)
    ids_BT = probe(90)
    assert relative(our_logits(load_model(tmp_path), ids_BT), their_logits(reference, ids_BT)) < 2e-5


def test_the_tests_above_can_see_each_part_of_longrope(tmp_path: Path) -> None:
    """Each ingredient changes the logits by far more than the tolerance."""
    theirs(SHAPES["phi-4-mini"]).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    ids_BT = probe(ORIGINAL)
    positions_BT = torch.arange(ORIGINAL).expand_as(ids_BT)

    def logits(rope: Rope) -> Tensor:
        with torch.no_grad():
            return model.head(model(ids_BT, positions_BT, causal_attention, rope))

    right = logits(Rope(model.config, ORIGINAL))
    assert relative(logits(Rope(model.config, ORIGINAL + 1)), right) > 1e-3  # the other factors
    bare = Rope(model.config, ORIGINAL)
    bare.cos_TR, bare.sin_TR = (
        table / attention_factor(model.config) for table in (bare.cos_TR, bare.sin_TR)
    )
    assert relative(logits(bare), right) > 1e-3  # the factor that acts on short prompts too


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_loads_our_folder(name: str, tmp_path: Path) -> None:
    source, exported = tmp_path / "source", tmp_path / "exported"
    vocab = tokenizer().vocab_size
    theirs({**SHAPES[name], "vocab_size": vocab}, seed=1).save_pretrained(source)
    model = load_model(source)
    save_model(exported, model, tokenizer())
    reloaded = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    assert isinstance(reloaded, Phi3ForCausalLM)
    assert read_config(exported) == model.config
    assert reloaded.generation_config.eos_token_id == list(tokenizer().stop_ids)
    for length in (ORIGINAL, ORIGINAL + 1):
        ids_BT = probe(length, vocab=vocab)
        assert relative(our_logits(model, ids_BT), their_logits(reloaded, ids_BT)) < 2e-5


def test_exported_model_generates_what_we_would(tmp_path: Path) -> None:
    """transformers' own cached decoding of our folder follows our uncached argmax."""
    vocab = tokenizer().vocab_size
    theirs({**SHAPES["phi-4"], "vocab_size": vocab}).save_pretrained(tmp_path / "source")
    model = load_model(tmp_path / "source")
    save_model(tmp_path / "exported", model, tokenizer())
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype=torch.float32)
    prompt = probe(12, rows=1, vocab=vocab)
    generated = reloaded.generate(prompt, max_new_tokens=12, do_sample=False)
    ids_BT = prompt
    while ids_BT.shape[1] < generated.shape[1]:
        ids_BT = torch.cat((ids_BT, our_logits(model, ids_BT)[:, -1:].argmax(-1)), 1)
    assert ids_BT.tolist() == generated.tolist()


@pytest.mark.parametrize("length", [20, ORIGINAL - 4, ORIGINAL, ORIGINAL + 5])
def test_greedy_continuations_across_the_switch_of_factors(length: int, tmp_path: Path) -> None:
    """transformers throws its cache away when a text passes the original length; we choose the table by length."""
    reference = theirs(SHAPES["phi-4-mini"])
    reference.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    prompt = probe(length, rows=1)
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    generated = reference.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    ids_BT = prompt
    while ids_BT.shape[1] < generated.shape[1]:
        ids_BT = torch.cat((ids_BT, our_logits(ours, ids_BT)[:, -1:].argmax(-1)), 1)
    assert ids_BT.tolist() == generated.tolist()


@pytest.mark.parametrize(
    ("preset", "count", "kv_bytes"),
    [(PHI_4, 14_659_507_200, 204_800), (PHI_4_MINI, 3_836_021_760, 131_072)],
)
def test_presets_have_the_published_size(preset: ModelConfig, count: int, kv_bytes: int) -> None:
    with torch.device("meta"):
        ours = Transformer(preset)
        ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0}
        reference = Phi3ForCausalLM(Phi3Config(**to_hf(preset, dtype="bfloat16", **ids)))
    assert sum(p.numel() for p in ours.parameters()) == parameters(preset) == count
    assert reference.num_parameters() == count
    assert kv_bytes_per_token(preset) == kv_bytes
    theirs_named = {name.removeprefix("model."): p.shape for name, p in reference.named_parameters()}
    assert {name: p.shape for name, p in ours.named_parameters()} == theirs_named


def test_published_configs_read_as_the_presets() -> None:
    """config.json of microsoft/phi-4 and Phi-4-mini-instruct as published (facts 1.1, 1.2)."""
    common = {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_act": "silu"}
    phi_4 = common | {
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 10,
        "intermediate_size": 17920,
        "vocab_size": 100352,
        "max_position_embeddings": 16384,
        "original_max_position_embeddings": 16384,
        "rope_theta": 250000,
        "rope_scaling": None,
        "sliding_window": None,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
    }
    mini = common | {
        "hidden_size": 3072,
        "num_hidden_layers": 32,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "vocab_size": 200064,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.75,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "type": "longrope",
            "long_factor": list(PHI_4_MINI.long_rope.long_factor) if PHI_4_MINI.long_rope else [],
            "short_factor": [1.0] * 48,
        },
        "sliding_window": 262144,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": True,
    }
    assert from_hf(phi_4) == ModelConfig(**{**vars(PHI_4), "original_max_position_embeddings": 16384})
    assert from_hf(mini) == PHI_4_MINI
    assert attention_factor(PHI_4_MINI) == pytest.approx(1.190238, abs=1e-6)
    assert attention_factor(PHI_4) == 1.0


@pytest.mark.parametrize("preset", [PHI_4, PHI_4_MINI])
def test_config_survives_both_directions(preset: ModelConfig) -> None:
    written = to_hf(preset, bos_id=1, eos_id=2, pad_id=0, dtype="bfloat16")
    read = from_hf(json.loads(json.dumps(written)))
    through_transformers = from_hf(json.loads(Phi3Config(**written).to_json_string(use_diff=False)))
    assert read == through_transformers
    assert {**vars(read), "original_max_position_embeddings": 0} == {
        **vars(preset),
        "original_max_position_embeddings": 0,
    }
    assert read.original_context == preset.original_context


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "llama"},
        {"sliding_window": 64},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {**LONG, "attention_factor": 1.5}},
        {"rope_scaling": {**LONG, "factor": 8.0}},
        {"rope_scaling": {**LONG, "short_factor": [1.0]}},
        {"hidden_act": "gelu"},
        {"num_attention_heads": 5},
    ],
    ids=lambda change: "-".join(change) + str(next(iter(change.values())))[:30],
)
def test_what_would_be_computed_wrongly_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    raw = {**BASE, **SHAPES["phi-4-mini"], "model_type": "phi3", **change}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError):
        read_config(tmp_path)


SMALL = ModelConfig(
    vocab_size=89,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    intermediate_size=40,
    max_position_embeddings=64,
    partial_rotary_factor=0.75,
    long_rope=LongRope((1.0,) * 3, (2.0,) * 3),
    original_max_position_embeddings=32,
    tie_word_embeddings=True,
)


@pytest.mark.parametrize("tied", [True, False])
def test_flops_are_those_torch_counts(tied: bool) -> None:
    config = ModelConfig(**{**vars(SMALL), "tie_word_embeddings": tied})
    model = Transformer(config)
    model.init_weights(0)
    rows, length = 3, 20
    ids_BT = probe(length, rows, config.vocab_size)
    positions_BT = torch.arange(length).expand_as(ids_BT)
    batch = Batch(ids_BT, ids_BT.roll(-1, 1), torch.zeros_like(ids_BT), positions_BT)
    rope = Rope(config, length)

    def attend(layer: int, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
        k, v = (x.repeat_interleave(3, 2).transpose(1, 2) for x in (k_BTGK, v_BTGK))
        return ((q_BTHK.transpose(1, 2) @ k.transpose(2, 3)).softmax(-1) @ v).transpose(1, 2)

    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.head(model(ids_BT, positions_BT, attend, rope))
    assert forward.get_total_flops() == rows * length * forward_flops_per_token(config, length)
    with FlopCounterMode(display=False) as training:
        language_model_loss(model, batch, rope, torch.float32).backward()
    assert training.get_total_flops() == rows * length * training_flops_per_token(config, length)
