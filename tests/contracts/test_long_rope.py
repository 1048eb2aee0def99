"""Contract 1 at real lengths: Phi-4-mini's own LongRoPE (96 of 128 channels, 4,096 to 131,072) in a small network.

Below, at and above the switch of the factors, and a text that grows across it with transformers' own cache.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Phi3Config, Phi3ForCausalLM
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm

from phi4.model.config import to_hf
from phi4.model.presets import PHI_4_MINI
from phi4.model.rope import Rope, attention_factor
from phi4.model.transformer import Transformer, causal_attention
from phi4.weights.folder import load_model
from tests.contracts.test_parity_transformers import norm_in_double, probe, relative, their_logits

SWITCH = 4096
# Three query heads to a key-value head, as the original; everything that belongs to positions is the original's.
SMALL = replace(
    PHI_4_MINI,
    vocab_size=97,
    hidden_size=384,
    num_hidden_layers=2,
    num_attention_heads=3,
    num_key_value_heads=1,
    intermediate_size=256,
)


@cache
def theirs(tied: bool) -> Phi3ForCausalLM:
    """A random network in transformers, with gains that are not 1 and attention that is far from uniform."""
    raw = to_hf(replace(SMALL, tie_word_embeddings=tied), dtype="float32", bos_id=1, eos_id=2, pad_id=0)
    config = Phi3Config(**raw)
    assert config.rope_parameters["rope_type"] == "longrope"
    torch.manual_seed(0)
    model = Phi3ForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(0.0, 0.08)
            if "norm" in name:
                weight.add_(1.0)
            elif "qkv" in name:
                weight.mul_(1.5)
    return model.eval()


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Transformer, Phi3ForCausalLM]:
    folder: Path = tmp_path_factory.mktemp("mini")
    reference = theirs(request.param)
    reference.save_pretrained(folder)
    ours = load_model(folder)
    assert (ours.config.rotary_dim, ours.config.head_dim, ours.config.original_context) == (96, 128, SWITCH)
    assert ours.config.tie_word_embeddings == request.param
    return ours, reference


@torch.no_grad()
def logits(model: Transformer, ids_BT: Tensor, table: int = 0) -> Tensor:
    """By the table for the text's own length, or the one for `table` tokens."""
    length = ids_BT.shape[1]
    rope = Rope(model.config, table or length)
    positions_BT = torch.arange(length).expand_as(ids_BT)
    return model.head(model(ids_BT, positions_BT, causal_attention, rope))


@pytest.mark.parametrize("length", [1, 40, SWITCH - 1, SWITCH, SWITCH + 1, SWITCH + 200])
def test_logits_below_at_and_above_the_switch(pair: tuple[Transformer, Phi3ForCausalLM], length: int) -> None:
    ours, reference = pair
    ids_BT = probe(length, rows=1)
    found = logits(ours, ids_BT)
    assert relative(found, their_logits(reference, ids_BT)) < 5e-5
    if length == SWITCH:  # the long factors would be seen
        assert relative(logits(ours, ids_BT, SWITCH + 1), found) > 0.05


def test_the_factor_acts_on_short_texts_too(pair: tuple[Transformer, Phi3ForCausalLM]) -> None:
    """1.190238 on cos and sin: without it, as an implementation once shipped, the logits are far off."""
    ours, reference = pair
    assert attention_factor(ours.config) == pytest.approx(1.190238, abs=1e-6)
    ids_BT = probe(40, rows=1)
    bare = Rope(ours.config, 40)
    bare.cos_TR, bare.sin_TR = (table / 1.190238 for table in (bare.cos_TR, bare.sin_TR))
    with torch.no_grad():
        wrong = ours.head(ours(ids_BT, torch.arange(40)[None], causal_attention, bare))
    assert relative(wrong, their_logits(reference, ids_BT)) > 0.02


def test_a_text_that_grows_across_the_switch(pair: tuple[Transformer, Phi3ForCausalLM]) -> None:
    """transformers drops its cache when token 4,097 is read; every token it writes is the argmax of our two tables.

    All lengths up to the switch share one forward by the short factors, all above it one by the long ones.
    """
    ours, reference = pair
    prompt, count = probe(SWITCH - 4, rows=1), 10
    generated = reference.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
    )
    assert generated.shape[1] == SWITCH - 4 + count
    short, long = logits(ours, generated[:, :SWITCH])[0], logits(ours, generated)[0]
    wanted, other = [], []
    for length in range(SWITCH - 4, generated.shape[1]):
        wanted.append(int((short if length <= SWITCH else long)[length - 1].argmax()))
        other.append(int(long[length - 1].argmax()))
    assert generated[0, SWITCH - 4 :].tolist() == wanted
    assert wanted[:5] != other[:5]  # the short factors were needed before the switch


def scaled(size: float, dtype: torch.dtype, folder: Path) -> tuple[Transformer, Phi3ForCausalLM, Tensor]:
    """Both networks with inputs and attention products of an enormous norm, and a text."""
    config = Phi3Config(**theirs(True).config.to_dict())
    reference = Phi3ForCausalLM(config).eval()
    reference.load_state_dict(theirs(True).state_dict())
    with torch.no_grad():
        reference.get_input_embeddings().weight.mul_(size)
        for layer in reference.model.layers:
            layer.input_layernorm.weight.mul_(size**0.5)
    reference.save_pretrained(folder)
    return load_model(folder, dtype), reference.to(dtype), probe(60, rows=1)


def largest_product(model: Transformer, ids_BT: Tensor) -> float:
    """The largest |q . k| before it is scaled."""
    seen: list[float] = []

    def attend(layer: int, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
        seen.append(float(torch.einsum("bthk,bsgk->bhtsg", q_BTHK, k_BTGK).abs().max()))
        return causal_attention(layer, q_BTHK, k_BTGK, v_BTGK)

    with torch.no_grad():
        model(ids_BT, torch.arange(ids_BT.shape[1])[None], attend, Rope(model.config, ids_BT.shape[1]))
    return max(seen)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-8), (torch.float32, 2e-2)], ids=["float64", "float32"]
)
def test_products_beyond_half_precision(
    dtype: torch.dtype, bound: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Phi's attention products leave float16's range; ours stay finite and equal.

    The softmax is all but a maximum there, which turns a rounding of the product (relative 1e-7 of 1e5) into 1e-2 of
    a logit: in float64 the same comparison is tight.
    """
    if dtype == torch.float64:
        monkeypatch.setattr(Phi3RMSNorm, "forward", norm_in_double)
    ours, reference, ids_BT = scaled(1e3, dtype, tmp_path)
    assert largest_product(ours, ids_BT) > 65_504
    found = logits(ours, ids_BT)
    assert torch.isfinite(found).all()
    assert relative(found, their_logits(reference, ids_BT)) < bound


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_bfloat16_is_no_further_from_the_truth_than_transformers(size: float, tmp_path: Path) -> None:
    """Root mean square distance to the float32 logits: at most half again theirs, and finite."""
    truth = their_logits(scaled(size, torch.float32, tmp_path)[1], probe(60, rows=1))
    ours, reference, ids_BT = scaled(size, torch.bfloat16, tmp_path)

    def away(found: Tensor) -> float:
        assert torch.isfinite(found).all()
        return float((found.float() - truth).pow(2).mean().sqrt() / truth.pow(2).mean().sqrt())

    found, allowed = away(logits(ours, ids_BT)), away(their_logits(reference, ids_BT))
    assert found < 1.5 * allowed
    if size == 1.0:
        assert allowed < 0.1
