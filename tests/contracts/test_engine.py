"""Contract 2: the engine's tokens are the plain forward's, in any batch; samples follow the model."""

import random
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from phi4.engine.engine import Engine
from phi4.errors import ModelError
from phi4.model.transformer import Transformer
from phi4.text.generation import Completion, Request, SamplingParams
from tests.contracts.networks import network, plain_logits
from tests.evals.fakes import tokenizer

VOCAB, CONTEXT = 61, 64


@cache
def model() -> Transformer:
    return network(VOCAB, CONTEXT, tied=False)


def engine(slots: int = 256, context: int = 0, **options: Any) -> Engine:
    return Engine(model(), tokenizer(), slots=slots, context=context, **options)


def prompts(count: int, longest: int = 30, seed: int = 0) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    return [tuple(rng.choices(range(VOCAB), k=rng.randint(1, longest))) for _ in range(count)]


@torch.no_grad()
def greedy(ids: tuple[int, ...], count: int) -> list[int]:
    """The plain, uncached forward, one token at a time."""
    written = list(ids)
    for _ in range(count):
        written.append(int(plain_logits(model(), written)[-1].argmax()))
    return written[len(ids) :]


def mixed(count: int) -> list[Request]:
    """Requests of all kinds: lengths, limits, temperatures, nuclei, seeds, numbers of samples."""
    rng = random.Random(7)
    return [
        Request(
            ids,
            SamplingParams(
                max_tokens=rng.randint(1, 25),
                temperature=rng.choice([0.0, 0.7, 1.3]),
                top_p=rng.choice([1.0, 0.9, 0.5]),
                seed=rng.randrange(2**40),
                n=rng.choice([1, 1, 3]),
                stop_ids=tuple(rng.sample(range(VOCAB), 2)),
            ),
        )
        for ids in prompts(count, seed=1)
    ]


def same(first: list[Completion], second: list[Completion]) -> bool:
    """Tokens and endings equal; log-probabilities up to float64 rounding of another batch shape."""
    texts = [[(c.ids, c.finish, c.stop_id) for c in part] for part in (first, second)]
    close = all(a.logprobs == pytest.approx(b.logprobs, abs=1e-9) for a, b in zip(first, second, strict=True))
    return texts[0] == texts[1] and close


@pytest.mark.parametrize("slots", [1, 3, 256])
def test_greedy_is_the_argmax_of_the_plain_forward(slots: int) -> None:
    requests = [Request(ids, SamplingParams(max_tokens=1 + i % 9)) for i, ids in enumerate(prompts(13))]
    completions = engine(slots).generate(requests)
    assert [c.request for c in completions] == list(range(13))
    for request, completion in zip(requests, completions, strict=True):
        assert list(completion.ids) == greedy(request.ids, request.params.max_tokens)
        assert completion.finish == "length"
        logp = plain_logits(model(), [*request.ids, *completion.ids]).detach().log_softmax(-1)
        wanted = [float(logp[len(request.ids) - 1 + t, id]) for t, id in enumerate(completion.ids)]
        assert completion.logprobs == pytest.approx(wanted, abs=1e-9)


def test_a_stop_token_ends_a_sequence_and_is_left_out() -> None:
    for ids in prompts(8):
        whole = greedy(ids, 20)
        stop = whole[7]
        (completion,) = engine().generate([Request(ids, SamplingParams(max_tokens=20, stop_ids=(stop,)))])
        assert list(completion.ids) == whole[: whole.index(stop)]
        assert (completion.finish, completion.stop_id) == ("stop", stop)
        assert len(completion.logprobs) == len(completion.ids)


@pytest.mark.parametrize("slots", [2, 5, 256])
@pytest.mark.parametrize("step_tokens", [3, 8, 64, 8192])
def test_the_batch_around_a_request_changes_nothing(slots: int, step_tokens: int) -> None:
    requests = mixed(17)
    alone = [engine().generate([request]) for request in requests]
    order = list(range(17))
    for shuffle in range(3):
        random.Random(shuffle).shuffle(order)
        together = engine(slots, step_tokens=step_tokens).generate([requests[i] for i in order])
        assert [(c.request, c.sample) for c in together] == sorted((c.request, c.sample) for c in together)
        for place, i in enumerate(order):
            assert same([c for c in together if c.request == place], alone[i])


def test_samples_share_a_prompt_and_can_be_continued() -> None:
    ids = prompts(1)[0]
    params = SamplingParams(max_tokens=12, temperature=1.0, seed=11, n=9)
    nine = engine().generate([Request(ids, params)])
    assert [c.sample for c in nine] == list(range(9))
    assert len({c.ids for c in nine}) > 1
    for k in range(9):
        single = engine().generate([Request(ids, replace(params, n=1, first_sample=k))])
        assert single[0].sample == k
        assert same(single, [nine[k]])
    parts = [replace(params, n=4), replace(params, n=5, first_sample=4)]
    assert same(engine(3).generate([Request(ids, part) for part in parts]), nine)


def test_seeds_decide_and_nothing_else() -> None:
    ids = prompts(1)[0]

    def drawn(seed: int) -> list[tuple[int, ...]]:
        params = SamplingParams(max_tokens=10, temperature=1.0, seed=seed, n=4)
        return [c.ids for c in engine().generate([Request(ids, params)])]

    assert drawn(5) == drawn(5)
    assert len({tuple(drawn(seed)) for seed in range(20)}) == 20


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """By the definition, one token at a time: the likeliest until their mass reaches top_p."""
    kept, mass = torch.zeros_like(probabilities), 0.0
    for id in sorted(range(len(probabilities)), key=lambda id: -float(probabilities[id])):
        if mass >= top_p:
            break
        kept[id] = probabilities[id]
        mass += float(probabilities[id])
    return kept / kept.sum()


def chi_square_is_plausible(counts: Counter[int], expected: Tensor) -> bool:
    """Cells with fewer than 5 expected are pooled; the bound is six standard deviations of chi-square."""
    n = sum(counts.values())
    assert all(expected[id] > 0 for id in counts)
    pairs = [(counts[id], n * float(p)) for id, p in enumerate(expected)]
    small = [pair for pair in pairs if pair[1] < 5]
    cells = [pair for pair in pairs if pair[1] >= 5]
    if sum(e for _, e in small) >= 1:
        cells.append((sum(c for c, _ in small), sum(e for _, e in small)))
    statistic = sum((c - e) ** 2 / e for c, e in cells)
    freedom = len(cells) - 1
    assert freedom >= 1
    return statistic < freedom + 6 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.8), (1.7, 0.6)]
)
def test_samples_follow_the_softmax(temperature: float, top_p: float) -> None:
    ids = prompts(1, seed=3)[0]
    params = SamplingParams(max_tokens=2, temperature=temperature, top_p=top_p, seed=1, n=4000)
    completions = engine(slots=4000).generate([Request(ids, params)])

    def expected(prefix: tuple[int, ...]) -> Tensor:
        logits = plain_logits(model(), list(prefix)).detach()[-1]
        return nucleus((logits / temperature).softmax(-1), top_p)

    first = Counter(c.ids[0] for c in completions)
    assert chi_square_is_plausible(first, expected(ids))
    assert not chi_square_is_plausible(first, torch.full((VOCAB,), 1 / VOCAB))  # the test can fail
    common, _ = first.most_common(1)[0]
    second = Counter(c.ids[1] for c in completions if c.ids[0] == common)
    assert chi_square_is_plausible(second, expected((*ids, common)))
    # logprobs are the model's own whatever the sampling
    logp = plain_logits(model(), list(ids)).detach()[-1].log_softmax(-1)
    assert all(c.logprobs[0] == pytest.approx(float(logp[c.ids[0]]), abs=1e-9) for c in completions[:50])


def test_the_context_bounds_prompt_and_completion() -> None:
    full = prompts(1, longest=1)[0] * (CONTEXT - 1)
    (completion,) = engine().generate([Request(full, SamplingParams(max_tokens=9))])
    assert (len(completion.ids), completion.finish) == (1, "length")
    (short,) = engine(context=20).generate([Request(full[:15], SamplingParams(max_tokens=9))])
    assert len(short.ids) == 5
    assert list(short.ids) == greedy(full[:15], 5)
    for bad in (
        Request(full + full[:1]),
        Request(()),
        Request(full[:3], SamplingParams(max_tokens=0)),
        Request(full[:3], SamplingParams(n=0)),
    ):
        with pytest.raises(ModelError):
            engine().generate([bad])
    assert engine().generate([]) == []


def test_streaming_gives_the_same_tokens() -> None:
    for request in mixed(6):
        single = Request(request.ids, replace(request.params, n=1))
        stream = engine().stream(single)
        deltas = list(stream)
        (whole,) = engine().generate([single])
        assert tuple(token.id for delta in deltas for token in delta.tokens) == whole.ids
        assert "".join(delta.text for delta in deltas) == tokenizer().decode(whole.ids)
        assert [replace(c, request=0) for c in stream.completions] == [whole]


def test_rows_without_a_token_are_never_sampled() -> None:
    """Published vocabularies are padded; a padded row may have any weights, here the strongest of all."""
    real = tokenizer().vocab_size
    padded = network(real + 20, CONTEXT, tied=False)
    with torch.no_grad():
        padded.lm_head.weight[real:] = 10 * padded.lm_head.weight[:20]
    requests = [
        Request(ids, SamplingParams(max_tokens=20, temperature=t, seed=n))
        for n, ids in enumerate(prompts(10))
        for t in (0.0, 3.0)
    ]
    found = Engine(padded, tokenizer()).generate(requests)
    assert any(int(plain_logits(padded, list(r.ids))[-1].argmax()) >= real for r in requests)
    assert all(id < real for completion in found for id in completion.ids)
