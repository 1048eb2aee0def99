"""Whole networks: layer by layer equals at once, any source gives the same, little memory, clear refusals."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import phi4.weights.quantize as room
from phi4.device import Machine
from phi4.errors import ModelError, Phi4Error, UsageError
from phi4.model.config import ModelConfig, Quantization
from phi4.model.linear import QuantizedLinear, round_to_scale, unpack
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer
from phi4.recipes.calibration import probe
from phi4.text.chat import Rendered
from phi4.train.objectives import language_model_loss
from phi4.train.optim import OptimizerConfig
from phi4.train.schedule import Schedule
from phi4.train.trainer import LoopConfig, train
from phi4.weights.checkpoint import INDEX, save_weights
from phi4.weights.folder import load_model, logit_difference, save_model
from phi4.weights.gguf_write import write_gguf
from phi4.weights.layerwise import LayerByLayer, Passages
from phi4.weights.quantize import METHODS, Method, agreement_of, dequantized, open_original, quantize_model
from tests.contracts.networks import plain_logits
from tests.evals.fakes import tokenizer

VOCAB = tokenizer().vocab_size
PHI = ModelConfig(
    vocab_size=VOCAB, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=96, max_position_embeddings=128, original_max_position_embeddings=128, rope_theta=10_000.0,
)  # fmt: skip
LLAMA = replace(PHI, architecture="LlamaForCausalLM", tie_word_embeddings=True)
INT4, INT8 = Quantization(4, 32), Quantization(8)


def network(config: ModelConfig = PHI) -> Transformer:
    """Random, with gains that are not 1."""
    model, generator = Transformer(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(0.0, 0.15, generator=generator)
            if "norm" in name:
                weight.add_(1.0)
    return model.eval()


def rows(lengths: tuple[int, ...]) -> list[Rendered]:
    """Random texts; every third token is not to be predicted."""
    generator = torch.Generator().manual_seed(len(lengths))
    return [
        Rendered(
            torch.randint(0, VOCAB, (n,), generator=generator).tolist(), [int(i % 3 > 0) for i in range(n)]
        )
        for n in lengths
    ]


READ, HELD = Passages.of(rows((40, 7, 64, 33, 64, 64)), 64), Passages.of(rows((50, 64, 9)), 64)


def quantized(folder: Path, kind: Quantization, method: Method = "rtn", config: ModelConfig = PHI) -> Path:
    save_model(folder / "plain", network(config), tokenizer())
    quantize_model(folder / "small", open_original(folder / "plain"), kind, method, READ, HELD)
    return folder / "small"


@pytest.mark.parametrize("config", [PHI, LLAMA], ids=lambda c: c.architecture)
def test_nearest_weights_are_within_half_a_step(config: ModelConfig, tmp_path: Path) -> None:
    small, plain = load_model(quantized(tmp_path, INT4, config=config)), network(config)
    for name, module in small.named_modules():
        if isinstance(module, QuantizedLinear):
            wanted = plain.get_submodule(name).weight.detach()
            value_OI = unpack(module.weight_packed, 4)
            assert torch.equal(value_OI, round_to_scale(wanted, module.weight_scale, 4))
            step_OI = module.weight_scale.repeat_interleave(32, 1)
            inside = (value_OI > -8) & (value_OI < 7)
            assert ((module.dequantized() - wanted).abs() <= 0.501 * step_OI)[inside].all()
            assert inside.float().mean() > 0.8
    for name, tensor in plain.state_dict().items():
        if "proj" not in name:
            assert torch.equal(small.state_dict()[name], tensor)


@torch.no_grad()
def test_comparison_equals_plain_forwards(tmp_path: Path) -> None:
    """Padding, layers in turn and uncounted tokens change nothing: KL, loss and agreement from whole networks."""
    folder = quantized(tmp_path, INT4)
    first, second = network(), load_model(folder)
    divergence, losses, same = [], [[], []], []
    for text in rows((50, 64, 9)):
        logs = [plain_logits(model, text.ids).double().log_softmax(-1)[:-1] for model in (first, second)]
        counted = torch.tensor(text.loss_mask[1:]).bool()
        divergence.append((logs[0].exp() * (logs[0] - logs[1])).sum(-1)[counted])
        same.append((logs[0].argmax(-1) == logs[1].argmax(-1))[counted])
        for found, log_TV in zip(losses, logs, strict=True):
            found.append(-log_TV.gather(1, torch.tensor(text.ids[1:])[:, None])[:, 0][counted])
    original = open_original(tmp_path / "plain")
    written = replace(original, config=second.config, source=room.Checkpoint(folder))
    found = agreement_of(original, written, HELD)
    assert found.tokens == len(torch.cat(same))
    assert found.divergence == pytest.approx(float(torch.cat(divergence).mean()), rel=1e-3)
    assert found.same == float(torch.cat(same).double().mean())
    assert found.losses == pytest.approx([float(torch.cat(loss).mean()) for loss in losses], rel=1e-5)
    assert agreement_of(original, original, HELD).divergence == 0
    assert agreement_of(original, original, HELD).same == 1


def test_moments_are_those_of_the_real_inputs(tmp_path: Path) -> None:
    """What a layer's matrices read, padding left out, gathered from plain forwards through quantised earlier layers."""
    folder = quantized(tmp_path, INT4, "gptq")
    model, original = load_model(folder), open_original(tmp_path / "plain")
    layer = 2
    model.layers[layer] = network().layers[layer]  # the layer itself is not yet quantised
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].flatten(0, 1)
            seen[name] = seen.get(name, 0) + x.T @ x

        return add

    matrices = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    for name in matrices:
        model.layers[layer].get_submodule(name).register_forward_pre_hook(hook(name))
    with torch.no_grad():
        for text in rows((40, 7, 64, 33, 64, 64)):
            plain_logits(model, text.ids)
    states = LayerByLayer(original.config, original.source, READ, torch.float32, original.device)
    target = replace(PHI, quantization=INT4)
    for before in range(layer):
        room._quantized_block(original, target, states, before)
    block = room.read_block(original.config, original.source, layer, original.device)
    moments = room._second_moments(states, block, layer)
    assert set(moments) == {f"{name}." for name in matrices}
    for name in matrices:
        assert torch.allclose(moments[f"{name}."], seen[name].detach(), rtol=1e-3, atol=1e-2)


def test_calibration_keeps_the_predictions_closer(tmp_path: Path) -> None:
    save_model(tmp_path / "plain", network(), tokenizer())
    original, text = open_original(tmp_path / "plain"), probe(tokenizer(), 64, (), Path(__file__))
    rtn, gptq = (
        quantize_model(tmp_path / method, original, Quantization(4), method, text.calibration, text.held_out)
        for method in METHODS
    )
    assert gptq.agreement.divergence < 0.7 * rtn.agreement.divergence


@pytest.mark.parametrize("method", METHODS)
def test_a_gguf_gives_what_the_folder_gives(method: Method, tmp_path: Path) -> None:
    quantized(tmp_path, INT4, method)
    write_gguf(tmp_path / "plain.gguf", network(), tokenizer(), "f32")
    quantize_model(tmp_path / "again", open_original(tmp_path / "plain.gguf"), INT4, method, READ, HELD)
    first, second = (load_model(tmp_path / name).state_dict() for name in ("small", "again"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_shards_are_the_same_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_model(quantized(tmp_path / "whole", INT4, config=LLAMA))
    monkeypatch.setattr(room, "_SHARD_BYTES", 30_000)
    folder = quantized(tmp_path / "parts", INT4, config=LLAMA)
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    assert (folder / INDEX).exists()
    assert all(torch.equal(t, whole.state_dict()[n]) for n, t in load_model(folder).state_dict().items())


def test_sixteen_bit_models_stay_sixteen_bit(tmp_path: Path) -> None:
    save_model(tmp_path / "plain", network().bfloat16(), tokenizer())
    quantize_model(tmp_path / "small", open_original(tmp_path / "plain"), INT8, "gptq", READ, HELD)
    found = {tensor.dtype for tensor in load_model(tmp_path / "small").state_dict().values()}
    assert found == {torch.bfloat16, torch.int32}


@pytest.mark.parametrize("kind", [INT8, INT4], ids=lambda kind: kind.name)
def test_dequantised_is_the_same_network(kind: Quantization, tmp_path: Path) -> None:
    small = load_model(quantized(tmp_path, kind, config=LLAMA))
    plain = dequantized(small)
    assert plain.config == LLAMA
    assert logit_difference(small, plain) == 0
    save_model(tmp_path / "out", plain, tokenizer())


def test_refusals_are_one_clear_line(tmp_path: Path) -> None:
    folder = quantized(tmp_path, INT8)
    original = open_original(tmp_path / "plain")

    def refused(error: type[Phi4Error], match: str, call: Callable[[], object]) -> None:
        with pytest.raises(error, match=match) as caught:
            call()
        assert "\n" not in caught.value.message

    refused(UsageError, "already quantised", lambda: open_original(folder))
    out = tmp_path / "out"
    refused(
        ModelError, "cannot be", lambda: quantize_model(out, original, Quantization(4, 64), "rtn", READ, HELD)
    )
    assert not out.exists()
    refused(UsageError, "calibration", lambda: quantize_model(out, original, INT4, "gptq", None, HELD))
    broken = network()
    with torch.no_grad():
        broken.layers[1].mlp.down_proj.weight[3, 3] = float("nan")
    room.save_description(tmp_path / "plain", PHI, tokenizer(), torch.float32)
    save_weights(tmp_path / "plain", broken)
    nan = open_original(tmp_path / "plain")
    refused(ModelError, "layers.1.mlp.down_proj", lambda: quantize_model(out, nan, INT4, "rtn", READ, HELD))
    assert not (out / "config.json").exists()


def test_training_refuses_a_quantised_model(tmp_path: Path) -> None:
    model = load_model(quantized(tmp_path, INT8))
    machine = Machine("cpu", "test", 1, 1.0, "", "float32", {"float32": 1.0})
    loop = LoopConfig(1, Schedule(1e-3, 0, 0.1), OptimizerConfig())
    with pytest.raises(ModelError, match="cannot be trained"):
        train(
            tmp_path / "stage", model, lambda step: [], language_model_loss, loop, machine, Rope(PHI, 8),
            label="sft", tokens_per_step=8, data_fingerprint="",
        )  # fmt: skip
    assert not (tmp_path / "stage").exists()


def test_a_result_that_is_another_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flipped(weight: Tensor, kind: Quantization, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return room_nearest(-weight, kind, dtype)

    room_nearest = room.nearest
    monkeypatch.setattr(room, "nearest", flipped)
    with pytest.raises(ModelError, match="does not reproduce"):
        quantized(tmp_path, INT8)


MEASURE = """
import re, sys, threading, time, torch
from pathlib import Path
torch.set_num_threads(1)
from phi4.model.config import Quantization
from phi4.text.chat import Rendered
from phi4.weights.layerwise import Passages
from phi4.weights.quantize import open_original, quantize_model
import phi4.weights.quantize as room
room._SHARD_BYTES = 2 << 20
text = Passages.of([Rendered(list(range(64)), [1] * 64)] * 4, 64)
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
peak, done = 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.001)
thread = threading.Thread(target=watch); thread.start()
quantize_model(Path(sys.argv[2]), open_original(Path(sys.argv[1])), Quantization(4, 32), sys.argv[3], text, text)
done = True; thread.join()
print(peak)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's memory accounts")
@pytest.mark.parametrize("method", ["rtn", pytest.param("gptq", marks=pytest.mark.soak)])
def test_memory_does_not_grow_with_the_number_of_layers(method: Method, tmp_path: Path) -> None:
    """2 and 16 layers of 4 MB in float32: held as a whole, even the result would take 9 MB more."""
    peaks = []
    for layers in (2, 16):
        config = replace(LLAMA, hidden_size=256, num_hidden_layers=layers, intermediate_size=1024)
        model, folder = Transformer(config), tmp_path / str(layers)
        model.init_weights(0)
        save_model(folder, model, tokenizer())
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / f"small{layers}"), method],
            capture_output=True, text=True,
            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed goes back at once
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 6e6
