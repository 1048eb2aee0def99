"""Contracts 1 and 5 for quantised folders: transformers with compressed-tensors computes what we do, both ways."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import calculate_qparams
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM

from phi4.errors import ModelError
from phi4.model.config import Quantization, from_hf
from phi4.model.cost import weight_bytes
from phi4.model.linear import QuantizedLinear, pack, unpack
from phi4.recipes.calibration import Probe, probe
from phi4.weights.folder import load_model, save_model
from phi4.weights.quantize import METHODS, Method, open_original, quantize_model
from tests.contracts import test_parity_families as families
from tests.contracts import test_parity_transformers as phi
from tests.contracts.test_parity_transformers import our_logits, relative, their_logits
from tests.contracts.test_parity_transformers import probe as ids_of
from tests.evals.fakes import tokenizer

VOCAB = tokenizer().vocab_size
SIZES: dict[str, Any] = {"vocab_size": VOCAB, "intermediate_size": 96}
SHAPES = {
    "phi-4": lambda: phi.theirs({**phi.SHAPES["phi-4"], **SIZES}),
    "phi-4-mini": lambda: phi.theirs({**phi.SHAPES["phi-4-mini"], **SIZES}),
    "llama": lambda: families.theirs("Orca-2", **SIZES),
    "mistral": lambda: families.theirs("Mistral 22B", **SIZES),
}
KINDS = (Quantization(8), Quantization(4, 32), Quantization(4), Quantization(8, 32))


@cache
def text() -> Probe:
    file = Path(__file__).with_name("test_parity_transformers.py")
    return probe(tokenizer(), 128, (), file)


def original(folder: Path, shape: str) -> Path:
    """A random network as a folder of ours."""
    SHAPES[shape]().save_pretrained(folder / "theirs")
    save_model(folder / "ours", load_model(folder / "theirs"), tokenizer())
    return folder / "ours"


def quantized(folder: Path, shape: str, kind: Quantization, method: Method = "rtn") -> Path:
    source = open_original(original(folder, shape))
    quantize_model(folder / "small", source, kind, method, text().calibration, text().held_out)
    return folder / "small"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_computes_what_we_do(shape: str, kind: Quantization, tmp_path: Path) -> None:
    folder = quantized(tmp_path, shape, kind)
    ours = load_model(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert sum(isinstance(module, QuantizedLinear) for module in ours.modules()) == 12
    assert ours.config.quantization == kind
    for length in (1, 100):
        ids_BT = ids_of(length, vocab=VOCAB)
        logits = our_logits(ours, ids_BT)
        assert relative(logits, their_logits(theirs, ids_BT)) < 2e-5
        assert relative(logits, our_logits(load_model(tmp_path / "ours"), ids_BT)) > 1e-4  # it is quantised


@pytest.mark.parametrize(
    "weights",
    [{"num_bits": 4, "strategy": "group", "group_size": 32}, {"num_bits": 8, "strategy": "channel"}],
    ids=str,
)
@pytest.mark.parametrize("shape", ["phi-4", "llama"])
def test_what_compressed_tensors_wrote_is_read(shape: str, weights: dict[str, Any], tmp_path: Path) -> None:
    """Their scales, their rounding, their packing, their config.json."""
    theirs = SHAPES[shape]()
    args = QuantizationArgs(type="int", symmetric=True, **weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    config = QuantizationConfig(
        config_groups={"group_0": scheme}, format="pack-quantized", ignore=["lm_head"]
    )
    apply_quantization_config(theirs, config)
    for name, module in theirs.named_modules():
        if hasattr(module, "weight_scale"):
            grouped = module.weight.unflatten(1, (module.weight_scale.shape[1], -1))
            scale, zero = calculate_qparams(grouped.amin(-1), grouped.amax(-1), args)
            module.weight_scale.data, module.weight_zero_point.data = scale, zero
            assert name != "lm_head"
    compressor = ModelCompressor.from_pretrained_model(theirs, "pack-quantized")
    compressor.compress_model(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    compressor.update_config(str(tmp_path / "theirs"))
    read = load_model(tmp_path / "theirs")
    assert read.config.quantization == Quantization(weights["num_bits"], weights.get("group_size", 0))
    ids_BT = ids_of(100, vocab=VOCAB)
    assert relative(our_logits(read, ids_BT), their_logits(theirs, ids_BT)) < 2e-5


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 5), words=st.integers(1, 9), bits=st.sampled_from((4, 8)), data=st.data())
def test_packing_equals_compressed_tensors(rows: int, words: int, bits: int, data: st.DataObject) -> None:
    half, columns = 1 << bits - 1, words * 32 // bits
    values = data.draw(
        st.lists(st.integers(-half, half - 1), min_size=rows * columns, max_size=rows * columns)
    )
    value_OI = torch.tensor(values, dtype=torch.int8).view(rows, columns)
    packed_OW = pack(value_OI, bits)
    assert torch.equal(packed_OW, pack_to_int32(value_OI, bits))
    assert torch.equal(unpack(packed_OW, bits), value_OI)
    assert torch.equal(unpack_from_int32(packed_OW, bits, value_OI.shape), value_OI)


@pytest.mark.parametrize("method", METHODS)
def test_memory_is_what_is_stored(method: Method, tmp_path: Path) -> None:
    for kind in KINDS:
        folder = quantized(tmp_path / kind.name, "llama", kind, method)
        model = load_model(folder)
        held = sum(tensor.nbytes for tensor in model.state_dict().values())
        assert held == weight_bytes(model.config, 4)
        assert held < (folder / "model.safetensors").stat().st_size < held + 20_000


def described(**change: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "group", "group_size": 32}}
    raw = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
    return {**phi.BASE, "model_type": "phi3", "quantization_config": {**raw, **change}}


def groups(**weights: Any) -> dict[str, Any]:
    known = {"num_bits": 4, "strategy": "group", "group_size": 32, **weights}
    return {"group_0": {"targets": ["Linear"], "weights": known}}


@pytest.mark.parametrize(
    "change",
    [
        {"quant_method": "awq"},
        {"format": "int-quantized"},
        {"ignore": []},
        {"ignore": ["lm_head", "model.layers.0.mlp.down_proj"]},
        {"kv_cache_scheme": {"num_bits": 8}},
        {"transform_config": {"config_groups": {"R1": {}}}},
        {"config_groups": {}},
        {"config_groups": groups(symmetric=False)},
        {"config_groups": groups(actorder="group")},
        {"config_groups": groups(type="float")},
        {"config_groups": groups(num_bits=3)},
        {"config_groups": groups(group_size=None)},
        {"config_groups": groups(group_size=16)},
        {"config_groups": groups(strategy="block")},
        {"config_groups": {**groups(), "group_1": groups()["group_0"]}},
    ],
    ids=json.dumps,
)
def test_other_quantisations_are_refused(change: dict[str, Any]) -> None:
    assert from_hf(described()).quantization == Quantization(4, 32)
    with pytest.raises(ModelError) as caught:
        from_hf(described(**change))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "harm", ["scale missing", "shape missing", "shape wrong", "packed as float", "plain"]
)
def test_a_damaged_folder_is_one_clear_line(harm: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = quantized(tmp_path, "phi-4", Quantization(4, 32))
    tensors: dict[str, Tensor] = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    if harm == "scale missing":
        del tensors[f"{name}_scale"]
    elif harm == "shape missing":
        del tensors[f"{name}_shape"]
    elif harm == "shape wrong":
        tensors[f"{name}_shape"] += 32
    elif harm == "packed as float":
        tensors[f"{name}_packed"] = tensors[f"{name}_packed"].float()
    else:
        tensors[name] = torch.zeros(64, 96)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=name) as caught:
        load_model(folder)
    assert "\n" not in caught.value.message
    assert ("missing" in caught.value.message) == ("missing" in harm)
