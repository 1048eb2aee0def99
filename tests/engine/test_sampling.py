"""Sampling against the distribution by definition, transformers' processors, and OpenAI's formula."""

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from phi4.engine.sampling import Row, check_params, sample, uniforms
from phi4.errors import ModelError
from phi4.text.generation import SamplingParams

VOCAB = 50


def logits(rows: int, vocab: int = VOCAB, seed: int = 0, scale: float = 2.0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def bitmask(allowed: set[int], vocab: int) -> Tensor:
    words = np.zeros(-(-vocab // 32), dtype=np.uint32)
    for id in allowed:
        words[id // 32] |= np.uint32(1 << (id % 32))
    return torch.from_numpy(words.view(np.int32))


def drawn(row_V: Tensor, params: SamplingParams, count: int, row: Row | None = None) -> Counter[int]:
    """`count` samples of one and the same row."""
    base = row or Row(params, 0, (), ())
    rows = [replace(base, params=params, sample=k) for k in range(count)]
    return Counter(token.id for token in sample(row_V.expand(count, -1), rows))


def agrees(counts: Counter[int], expected: Tensor) -> bool:
    """Chi-square, cells below 5 expected pooled, within six standard deviations; nothing impossible was drawn."""
    n = sum(counts.values())
    if any(expected[id] <= 0 for id in counts):
        return False
    pairs = [(counts[id], n * float(p)) for id, p in enumerate(expected)]
    cells = [pair for pair in pairs if pair[1] >= 5]
    rest = [sum(values) for values in zip(*[pair for pair in pairs if pair[1] < 5], strict=True)]
    if rest and rest[1] >= 1:
        cells.append((rest[0], rest[1]))
    statistic = sum((c - e) ** 2 / e for c, e in cells)
    freedom = len(cells) - 1
    return freedom == 0 or statistic < freedom + 6 * (2 * freedom) ** 0.5


def processed(row_V: Tensor, params: SamplingParams, prompt: list[int], written: list[int]) -> Tensor:
    """The distribution that transformers' processors make, in float64; presence and frequency by OpenAI's formula."""
    scores = row_V.double().clone()
    for id, bias in params.logit_bias:
        scores[id] += bias
    ids = torch.tensor([prompt + written], dtype=torch.long)
    if params.repetition_penalty != 1 and ids.numel():
        scores = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(ids, scores[None])[0]
    for id in range(
        len(scores)
    ):  # mu[j] -> mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence
        c = written.count(id)
        scores[id] = scores[id] - c * params.frequency_penalty - float(c > 0) * params.presence_penalty
    chain: list[Any] = [TemperatureLogitsWarper(params.temperature)]
    if params.top_k:
        chain.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        chain.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        chain.append(MinPLogitsWarper(params.min_p))
    found: Tensor = LogitsProcessorList(chain)(ids, scores[None])[0]
    return found.softmax(-1)


SETTINGS = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.4),
    SamplingParams(temperature=2.5),
    SamplingParams(temperature=1.0, top_k=1),
    SamplingParams(temperature=1.3, top_k=7),
    SamplingParams(temperature=1.0, top_k=1000),
    SamplingParams(temperature=1.0, top_p=0.9),
    SamplingParams(temperature=0.8, top_p=0.35),
    SamplingParams(temperature=1.0, top_p=1e-6),
    SamplingParams(temperature=1.0, min_p=0.1),
    SamplingParams(temperature=1.0, min_p=1.0),
    SamplingParams(temperature=1.5, top_k=20, top_p=0.8, min_p=0.05),
    SamplingParams(temperature=1.0, repetition_penalty=1.7),
    SamplingParams(temperature=1.0, repetition_penalty=0.5, top_k=9),
    SamplingParams(temperature=1.0, presence_penalty=1.5),
    SamplingParams(temperature=1.0, frequency_penalty=-0.7),
    SamplingParams(temperature=1.0, presence_penalty=-1.0, frequency_penalty=0.4, repetition_penalty=1.2),
    SamplingParams(temperature=1.0, logit_bias=((3, 4.0), (5, -100.0), (3, 1.0)), top_p=0.95),
]


@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_draws_follow_the_processed_distribution(params: SamplingParams) -> None:
    rng = random.Random(1)
    prompt, written = rng.choices(range(VOCAB), k=12), rng.choices(range(0, VOCAB, 3), k=12)
    for seed in range(3):
        row_V = logits(1, seed=seed)
        counts = drawn(row_V, replace(params, seed=seed), 4000, Row(params, 0, prompt, written))
        expected = processed(row_V[0], params, prompt, written)
        assert agrees(counts, expected)
        wrong = processed(row_V[0], SamplingParams(temperature=1.1), prompt, written)
        assert not agrees(counts, wrong)  # the test can fail


@pytest.mark.parametrize("vocab", [600, 5000])
@pytest.mark.parametrize("scale", [0.01, 1.0, 6.0])
def test_kept_tokens_are_exactly_those_of_the_oracle(vocab: int, scale: float) -> None:
    """Also where the shortlist does not hold the mass: every kept token is forced out by its uniform number."""
    for seed, (top_k, top_p) in enumerate(
        [(0, 0.9), (0, 0.5), (2100, 0.9), (300, 1.0), (2, 0.9), (0, 0.999)]
    ):
        row_V = logits(1, vocab, seed, scale)
        params = SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p)
        expected = processed(row_V[0], params, [], [])
        counts = drawn(row_V, params, 20_000_000 // vocab // 4)
        assert set(counts) <= set(expected.nonzero()[:, 0].tolist())
        assert agrees(counts, expected)


def by_definition(row_V: Tensor, params: SamplingParams, uniform: float) -> int:
    """One token at a time, plain Python: order by likelihood, cut, invert in the order of ids."""
    p = (row_V.double() / params.temperature).softmax(-1).tolist()
    order = sorted(range(len(p)), key=lambda id: (-p[id], id))[: params.top_k or None]
    whole = sum(p[id] for id in order) if params.top_k else 1.0
    kept, mass = [], 0.0
    for id in order:
        if params.top_p < 1 and mass >= params.top_p * whole:
            break
        kept.append(id)
        mass += p[id]
    kept = sorted(id for id in kept if p[id] >= params.min_p * max(p))
    aim, seen = uniform * sum(p[id] for id in kept), 0.0
    for id in kept:
        seen += p[id]
        if seen > aim:
            return id
    return kept[-1]


ROWS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 3.0, 1e-9]),
    top_p=st.sampled_from([1.0, 0.9, 0.4]),
    seed=st.integers(-(2**63), 2**64 - 1),
    top_k=st.sampled_from([0, 0, 1, 5, 300, 2100]),
    min_p=st.sampled_from([0.0, 0.0, 0.2]),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    presence_penalty=st.sampled_from([0.0, 1.0]),
    frequency_penalty=st.sampled_from([0.0, -0.5]),
    logit_bias=st.sampled_from([(), ((1, 2.5), (7, -3.0))]),
    top_logprobs=st.sampled_from([0, 0, 3, 20]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=8), st.integers(0, 10**6), st.sampled_from([40, 2300]), st.data())
def test_a_row_depends_on_itself_alone(
    params: list[SamplingParams], seed: int, vocab: int, data: st.DataObject
) -> None:
    rng = random.Random(seed)
    logits_NV = logits(len(params), vocab, seed).double()
    logits_NV = (logits_NV * 2).round() / 2 if data.draw(st.booleans()) else logits_NV  # many equal ones
    rows = []
    for p in params:
        allowed = set(rng.sample(range(vocab), 20)) if rng.random() < 0.3 else None
        mask = bitmask(allowed, vocab) if allowed else None
        seen = rng.choices(range(vocab), k=9)
        rows.append(Row(p, rng.randrange(5), seen[:4], seen[4 : rng.randint(4, 9)], mask))
        check_params(p, vocab)
    unused = torch.tensor([0, vocab - 1])
    together = sample(logits_NV, rows, unused)
    order = list(range(len(rows)))
    rng.shuffle(order)
    shuffled = sample(logits_NV[order], [rows[i] for i in order], unused)
    for place, i in enumerate(order):
        (alone,) = sample(logits_NV[i : i + 1], [rows[i]], unused)
        for other in (together[i], shuffled[place]):
            assert alone.id == other.id
            assert [id for id, _ in alone.top] == [id for id, _ in other.top]
            assert alone.logprob == pytest.approx(other.logprob, abs=1e-12)
        assert alone.id not in (0, vocab - 1)
        if rows[i].allowed is not None:
            assert int(rows[i].allowed[alone.id // 32]) >> (alone.id % 32) & 1


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([0.5, 1.0, 4.0]),
    st.sampled_from([0, 1, 5, 290, 2100]),
    st.sampled_from([1.0, 0.97, 0.5]),
    st.sampled_from([0.0, 0.3]),
    st.integers(0, 10**6),
    st.sampled_from([0, 1, 4]),
)
def test_each_draw_is_the_definition_s(
    temperature: float, top_k: int, top_p: float, min_p: float, seed: int, grid: int
) -> None:
    """Token for token, ties included."""
    row_V = logits(1, 2500, seed).double()
    row_V = (row_V * grid).round() / grid if grid else row_V
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    for k in range(4):
        uniform = uniforms(*(np.array([x], dtype=np.uint64) for x in (seed, k, 2)))
        (token,) = sample(row_V, [Row(params, k, (), (1, 2))])
        assert token.id == by_definition(row_V[0], params, float(uniform))


def test_greedy_takes_the_lowest_of_the_largest_after_everything_else() -> None:
    row_V = torch.zeros(1, 40)
    row_V[0, [4, 9, 30]] = 3.0
    params = SamplingParams()

    def greedy(params: SamplingParams, **row: Any) -> int:
        return sample(row_V, [Row(params, 0, row.pop("prompt", ()), row.pop("written", ()), **row)])[0].id

    assert greedy(params) == 4
    assert greedy(replace(params, logit_bias=((9, 0.5),))) == 9
    assert greedy(replace(params, repetition_penalty=2.0), prompt=(4,)) == 9
    assert greedy(replace(params, frequency_penalty=0.1), written=(4, 4, 9)) == 30
    assert greedy(replace(params, presence_penalty=0.1), prompt=(4,)) == 4  # prompts are not charged
    assert greedy(params, allowed=bitmask({30, 31}, 40)) == 30
    assert greedy(params, allowed=bitmask({39}, 40)) == 39
    assert sample(row_V, [Row(params, 0, (), ())], torch.tensor([4, 9]))[0].id == 30
    assert greedy(replace(params, temperature=1e-300)) in (4, 9, 30)


def test_logprobs_are_the_model_s_own() -> None:
    row_V = logits(1)
    unused = torch.tensor([2, 48])
    own = row_V[0].double().index_fill(0, unused, -torch.inf).log_softmax(-1)
    params = SamplingParams(
        temperature=0.7, top_k=5, logit_bias=((3, 50.0),), presence_penalty=2.0, top_logprobs=4
    )
    (token,) = sample(row_V, [Row(params, 0, (), (3, 4), bitmask({3, 9}, VOCAB))], unused)
    assert token.id == 3
    assert token.logprob == pytest.approx(float(own[3]), abs=1e-5)
    best = own.sort(descending=True)
    assert [id for id, _ in token.top] == best.indices[:4].tolist()
    assert [value for _, value in token.top] == pytest.approx(best.values[:4].tolist(), abs=1e-5)
    (all_of_them,) = sample(row_V, [Row(replace(params, top_logprobs=256), 0, (), ())], unused)
    assert len(all_of_them.top) == VOCAB - 2
    assert sum(np.exp([value for _, value in all_of_them.top])) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_logits_given_stay_as_they_were(dtype: torch.dtype) -> None:
    given_NV = logits(4).to(dtype)
    kept_NV = given_NV.clone()
    params = SamplingParams(temperature=1.0, repetition_penalty=2.0, logit_bias=((1, 9.0),), top_p=0.5)
    sample(given_NV, [Row(params, 0, (1, 2), (3,))] * 4, torch.tensor([7]))
    assert torch.equal(given_NV, kept_NV)


def test_the_largest_uniform_never_reaches_a_token_without_mass(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = torch.full((1,), 1 - 2.0**-53, dtype=torch.float64)
    monkeypatch.setattr("phi4.engine.sampling.uniforms", lambda *_: largest)
    for seed in range(200):
        params = SamplingParams(temperature=1.0, top_k=3 if seed % 2 else 0)
        (token,) = sample(logits(1, seed=seed), [Row(params, 0, (), ())], torch.arange(30, VOCAB))
        assert token.id < 30


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 1.2}, "min_p"),
        ({"n": 0}, "n is 0"),
        ({"n": 10**9}, "n is"),
        ({"first_sample": -1}, "first_sample"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"seed": None}, "seed"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -float("inf")}, "frequency_penalty"),
        ({"logit_bias": ((VOCAB, 1.0),)}, "logit_bias"),
        ({"logit_bias": ((-1, 1.0),)}, "logit_bias"),
        ({"logit_bias": ((3, float("nan")),)}, "logit_bias"),
        ({"logit_bias": ((3, float("inf")),)}, "logit_bias"),
        ({"logit_bias": ((3, 101.0),)}, "logit_bias"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": 10_000}, "top_logprobs"),
        ({"deadline": 0.0}, "deadline"),
        ({"deadline": float("nan")}, "deadline"),
        ({"stop": ("",)}, "stop"),
        ({"stop": ("a",) * 65}, "stop"),
        ({"stop_ids": (-3,)}, "stop"),
    ],
)
def test_bad_values_are_named(bad: dict[str, Any], word: str) -> None:
    with pytest.raises(ModelError, match=word) as error:
        check_params(SamplingParams(**bad), VOCAB)
    assert "\n" not in error.value.message
    assert len(error.value.message) < 160


def test_values_at_the_edges_are_fine() -> None:
    check_params(SamplingParams(), VOCAB)
    check_params(
        SamplingParams(
            temperature=2, top_p=1, top_k=10**6, min_p=1, n=1000, seed=-1, logit_bias=((VOCAB - 1, -100),)
        ),
        VOCAB,
    )
