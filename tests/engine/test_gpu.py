"""The same engine on a GPU: graphs replay what the plain forward gives. Needs a CUDA device."""

import copy
from dataclasses import replace

import pytest
import torch

from phi4.engine.engine import Engine
from phi4.model.presets import PHI_4
from phi4.model.transformer import Transformer
from phi4.text.generation import Request, SamplingParams
from tests.engine.test_engine import greedy, long_model, model, prompts, tokens
from tests.evals.fakes import tokenizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.parametrize("step_tokens", [20, 8192])
def test_greedy_on_the_gpu_is_the_argmax_of_the_plain_forward(step_tokens: int) -> None:
    """float64 on the device: padded graphs, chunks, the prefix cache and LongRoPE's switch change no token."""
    for make in (model, long_model):
        requests = [Request(ids, SamplingParams(max_tokens=40)) for ids in prompts(9, 90)]
        wanted = [greedy(make(), request.ids, 40) for request in requests]
        made = Engine(copy.deepcopy(make()).cuda(), tokenizer(), step_tokens=step_tokens)
        assert made.loop.runner._graphs is not None
        assert tokens(made.generate(requests)) == wanted
        assert tokens(made.generate(requests)) == wanted
        for request, answer in zip(requests, wanted, strict=True):
            assert tokens(made.generate([request])) == [answer]


def test_samples_on_the_gpu_depend_on_their_seed_alone() -> None:
    made = Engine(copy.deepcopy(model()).cuda(), tokenizer())
    requests = [
        Request(ids, SamplingParams(max_tokens=20, temperature=0.9, top_p=0.9, seed=i, n=2))
        for i, ids in enumerate(prompts(5, 40))
    ]
    together = made.generate(requests)
    alone = [c for request in requests for c in made.generate([request])]
    assert tokens(together) == tokens(alone)
    assert tokens(together) == tokens(Engine(model(), tokenizer()).generate(requests))


def test_kernels_give_what_pytorchs_operators_give() -> None:
    """bf16: attention, storing, norm, rotation, gate and 4-bit products against the plain path."""
    from phi4.engine.kernels import gpu, plain
    from phi4.engine.kernels.cache import PagedKV
    from phi4.model.linear import Quantization, QuantizedLinear
    from phi4.model.rope import rotate
    from phi4.model.transformer import RMSNorm

    torch.manual_seed(0)
    device = torch.device("cuda")
    bf16 = {"dtype": torch.bfloat16, "device": device}
    for heads, groups, channels, rows, blocks in (
        (40, 10, 128, 3, 21),
        (24, 8, 128, 1, 5),
        (9, 3, 64, 17, 70),
    ):
        caches = [PagedKV.empty(rows * blocks, groups, channels, torch.bfloat16, device) for _ in range(2)]
        table_NB = torch.randperm(rows * blocks, device=device).int().view(rows, blocks)
        lengths_N = torch.randint(1, 32 * blocks + 1, (rows,), device=device).int()
        slots_T = torch.randperm(rows * blocks * 32, device=device)
        k_TGK, v_TGK = torch.randn(2, len(slots_T), groups, channels, **bf16)
        for cache, kernels in zip(caches, (gpu, plain), strict=True):
            kernels.store(cache, k_TGK, v_TGK, slots_T)
        assert torch.equal(caches[0].k_PGCK, caches[1].k_PGCK)
        assert torch.equal(caches[0].v_PGCK, caches[1].v_PGCK)
        q_NHK = torch.randn(rows, heads, channels, **bf16)
        scale = channels**-0.5
        found = gpu.attention(q_NHK, caches[0], table_NB, lengths_N, scale)
        wanted = plain.attention(q_NHK, caches[1], table_NB, lengths_N, scale)
        assert (found - wanted).abs().max() < 0.02
    norm = RMSNorm(5120, 1e-5).to(device, torch.bfloat16)
    x, y = torch.randn(2, 7, 5120, **bf16)
    found, total = gpu.add_norm(x, y, norm.weight, norm.eps)
    assert torch.equal(total, x + y)
    assert (found - norm(x + y)).abs().max() < 0.04
    heads_MHK = torch.randn(5, 12, 128, **bf16)
    table_MR = torch.randn(5, 48, **bf16).repeat(1, 2)
    wanted = heads_MHK.clone()
    wanted[:, :10] = rotate(heads_MHK[None, :, :10], table_MR[None], table_MR.flip(0)[None])[0]
    gpu.rope_(heads_MHK, 10, table_MR, table_MR.flip(0))
    assert (heads_MHK - wanted).abs().max() < 0.07
    both = torch.randn(3, 2 * 17920, **bf16)
    first, second = both.chunk(2, -1)
    assert (gpu.gate(both) - second * torch.nn.functional.silu(first)).abs().max() < 0.04
    for group in (32, 64, 128):
        linear = QuantizedLinear(1024, 300, Quantization(4, group)).to(device)
        linear.weight_packed.random_(-(2**31), 2**31 - 1)
        linear.weight_scale.uniform_(0.001, 0.01)
        for rows in (1, 2, 16, 33, 100):
            x = torch.randn(rows, 1024, **bf16)
            wanted = x.double() @ linear.dequantized().double().T
            assert ((gpu.int4_linear(linear, x) - wanted).norm() / wanted.norm()) < 0.01


def test_bf16_on_the_gpu_agrees_with_bf16_on_the_cpu_up_to_near_ties() -> None:
    config = replace(
        PHI_4,
        hidden_size=256,
        num_hidden_layers=3,
        num_attention_heads=8,
        vocab_size=500,
        num_key_value_heads=2,
        intermediate_size=512,
        head_size=32,
        max_position_embeddings=512,
    )
    made = Transformer(config)
    made.init_weights(1)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.mul_(1.0 if "norm" in name else 4.0)
    requests = [Request(ids, SamplingParams(max_tokens=30, top_logprobs=2)) for ids in prompts(6, 200)]
    exact = Engine(copy.deepcopy(made).double(), tokenizer()).generate(requests)
    fast = Engine(copy.deepcopy(made).bfloat16().cuda(), tokenizer())
    assert fast.kernels.name == "triton"
    for one, other in zip(exact, fast.generate(requests), strict=True):
        agree = next((i for i, (a, b) in enumerate(zip(one.ids, other.ids, strict=True)) if a != b), 30)
        if agree < 30:  # the first difference must be a near-tie
            best, second = one.top[agree][0][1], one.top[agree][1][1]
            assert best - second < 0.1
        assert list(one.logprobs[:agree]) == pytest.approx(list(other.logprobs[:agree]), abs=0.15)
