"""The engine's loop: caches, drafts, LongRoPE, stops, aborts, deadlines and failures change no other token."""

import asyncio
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from queue import SimpleQueue
from typing import Any

import pytest
import torch
from torch import Tensor

from phi4.engine.engine import Engine
from phi4.engine.kernels import BLOCK
from phi4.errors import BusyError, ModelError
from phi4.model.config import LongRope
from phi4.model.rope import Rope, RowRope
from phi4.model.transformer import RopeTable, Transformer, causal_attention
from phi4.text.generation import Completion, Event, Grammar, Request, SamplingParams
from tests.contracts.networks import network
from tests.evals.fakes import tokenizer

VOCAB, CONTEXT, SHORT = 61, 256, 80


@cache
def model() -> Transformer:
    return network(VOCAB, CONTEXT, tied=False)


@cache
def long_model() -> Transformer:
    """LongRoPE with factors far apart, so that the wrong table shows at once."""
    made = network(VOCAB, CONTEXT, tied=False)
    pairs = made.config.rotary_dim // 2
    rope = LongRope((1.0,) * pairs, tuple(1.0 + 2.0 * i for i in range(pairs)))
    made.config = replace(made.config, long_rope=rope, original_max_position_embeddings=SHORT)
    return made


def engine(made: Transformer | None = None, **options: Any) -> Engine:
    return Engine(made or model(), tokenizer(), **options)


def prompts(count: int, longest: int, seed: int = 0) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    return [tuple(rng.choices(range(VOCAB), k=rng.randint(2, longest))) for _ in range(count)]


@torch.no_grad()
def logits(made: Transformer, ids: Sequence[int], rope: RopeTable | None = None) -> Tensor:
    """The plain forward, uncached; its table follows from the length, as transformers' does."""
    rope = rope or Rope(made.config, len(ids))
    return made.head(made(torch.tensor([ids]), torch.arange(len(ids))[None], causal_attention, rope))[0]


def greedy(
    made: Transformer, ids: tuple[int, ...], count: int, rope: RopeTable | None = None
) -> tuple[int, ...]:
    written = list(ids)
    for _ in range(count):
        written.append(int(logits(made, written, rope)[-1].argmax()))
    return tuple(written[len(ids) :])


def tokens(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.ids for completion in completions]


def test_from_the_prefix_cache_as_cold() -> None:
    shared = prompts(1, 150, seed=5)[0] * 2
    requests = [Request((*shared[:120], *tail), SamplingParams(max_tokens=9)) for tail in prompts(6, 40)]
    cold = [engine().generate([request])[0] for request in requests]
    warm = engine()
    for request, wanted in zip(requests, cold, strict=True):
        (found,) = warm.generate([request])
        assert found.ids == wanted.ids
        assert found.logprobs == pytest.approx(wanted.logprobs, abs=1e-9)
    assert warm.generate(requests[:1])[0].cached_tokens >= 3 * BLOCK
    salted = replace(requests[0], salt="another key")
    assert warm.generate([salted])[0].cached_tokens == 0
    warm.forget()
    assert warm.generate(requests[:1])[0].cached_tokens == 0


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_drafts_change_nothing_and_save_steps(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    phrases = prompts(4, 12, seed=9)
    requests = [
        Request(phrase * 6, SamplingParams(max_tokens=60, temperature=temperature, seed=i))
        for i, phrase in enumerate(phrases)
    ]
    steps = {False: 0, True: 0}
    results = {}
    for speculate in (False, True):
        made = engine(speculate=speculate)
        run = made.loop.runner.run

        def counted(works: Any, table: Any, run: Any = run, speculate: bool = speculate) -> Any:
            steps[speculate] += 1
            return run(works, table)

        monkeypatch.setattr(made.loop.runner, "run", counted)
        results[speculate] = made.generate(requests)
    assert tokens(results[True]) == tokens(results[False])
    for drafted, plain in zip(results[True], results[False], strict=True):
        assert drafted.logprobs == pytest.approx(plain.logprobs, abs=1e-9)
    if temperature == 0.0:  # a small network soon repeats itself
        assert steps[True] < steps[False]


def test_the_price_of_drafts_comes_from_the_steps_that_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine(speculate=True)
    seen: list[tuple[int, int, float]] = []
    monkeypatch.setattr(made.loop.cost, "observe", lambda *step: seen.append(step))
    phrases = prompts(3, 12, seed=9)
    found = made.generate([Request(phrase * 6, SamplingParams(max_tokens=60)) for phrase in phrases])
    assert all(0 < sequences <= rows and seconds > 0 for sequences, rows, seconds in seen)
    assert len(seen) >= 10
    assert any(rows > sequences for sequences, rows, _ in seen)
    # Every token but the first of each answer was written in such a step, beside the drafts that were wrong.
    assert sum(rows for _, rows, _ in seen) >= sum(len(completion.ids) - 1 for completion in found)


@pytest.mark.parametrize("step_tokens", [7, 8192])
@pytest.mark.parametrize("speculate", [False, True])
def test_each_sequence_changes_its_rotation_when_it_outgrows_the_short_factors(
    step_tokens: int, speculate: bool
) -> None:
    lengths = [3, SHORT - 20, SHORT - 1, SHORT, SHORT + 1, SHORT + 40]
    rng = random.Random(1)
    requests = [
        Request(tuple(rng.choices(range(VOCAB), k=length)), SamplingParams(max_tokens=30))
        for length in lengths
    ]
    wanted = [greedy(long_model(), request.ids, 30) for request in requests]
    made = engine(long_model(), step_tokens=step_tokens, speculate=speculate)
    assert tokens(made.generate(requests)) == wanted
    assert tokens(made.generate(requests)) == wanted  # now from the prefix cache
    assert made.statistics()["blocks_used"] == 0
    short = RowRope(
        long_model().config
    )  # the factors matter: with the short ones alone other tokens come out
    assert [greedy(long_model(), request.ids, 30, short) for request in requests] != wanted


def test_log_probabilities_of_the_prompt() -> None:
    ids = prompts(1, 150, seed=2)[0] * 2
    ids = ids[:200]
    log_p = logits(model(), ids).log_softmax(-1)
    wanted = [float(log_p[place, id]) for place, id in enumerate(ids[1:])]
    for step_tokens in (50, 8192):
        made = engine(step_tokens=step_tokens)
        made.generate([Request(ids)])  # what is cached must not be skipped
        params = SamplingParams(max_tokens=1, prompt_logprobs=True)
        (found,) = made.generate([Request(ids, params)])
        assert found.prompt_logprobs == pytest.approx(wanted, abs=1e-9)
        (only,) = made.generate([Request(ids, replace(params, max_tokens=0))])
        assert (only.ids, only.finish) == ((), "length")
        assert only.prompt_logprobs == pytest.approx(wanted, abs=1e-9)


def test_stop_strings_end_the_text_before_them() -> None:
    ids = prompts(1, 20, seed=4)[0]
    (whole,) = engine().generate([Request(ids, SamplingParams(max_tokens=30))])
    text = tokenizer().decode(whole.ids)
    stop = text[10:13]
    begin = text.index(stop)
    params = SamplingParams(max_tokens=30, stop=(stop,))
    (found,) = engine().generate([Request(ids, params)])
    assert (found.text, found.finish) == (text[:begin], "stop")
    assert text[:begin].startswith(tokenizer().decode(found.ids))
    streamed = "".join(delta.text for delta in engine().stream(Request(ids, params)))
    assert streamed == text[:begin]


def test_grammars_in_one_batch_hold_and_hurt_nobody() -> None:
    grammars = [
        Grammar("regex", "[0-9]{3}-[a-c]+"),
        Grammar("choice", '["yes", "no", "maybe"]'),
        Grammar(
            "json_schema", '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
        ),
        None,
    ]
    requests = [
        Request(ids, SamplingParams(max_tokens=60, temperature=t, seed=i, grammar=grammar))
        for i, ids in enumerate(prompts(3, 40))
        for grammar in grammars
        for t in (0.0, 1.0)
    ]
    made = network(tokenizer().vocab_size + 3, CONTEXT, tied=False)
    found = engine(made, speculate=True).generate(requests)
    for request, completion in zip(requests, found, strict=True):
        text, grammar = tokenizer().decode(completion.ids), request.params.grammar
        if grammar is None:
            (alone,) = engine(made).generate([request])
            assert completion.ids == alone.ids
        elif completion.finish == "stop":
            if grammar.kind == "regex":
                assert re.fullmatch(grammar.source, text)
            elif grammar.kind == "choice":
                assert text in json.loads(grammar.source)
            else:
                assert type(json.loads(text)["n"]) is int
    ended = [c.finish for r, c in zip(requests, found, strict=True) if r.params.grammar is not None]
    assert ended.count("stop") > len(ended) // 2
    with pytest.raises(ModelError):
        engine(made).stream(Request((1, 2), SamplingParams(grammar=Grammar("regex", "(((("))))


def slow_engine(seconds: float = 0.01, **options: Any) -> Engine:
    made = engine(**options)
    run = made.loop.runner.run

    def slow(works: Any, table: Any) -> Any:
        time.sleep(seconds)
        return run(works, table)

    made.loop.runner.run = slow  # type: ignore[method-assign]
    return made


def idle(made: Engine) -> bool:
    for _ in range(500):
        if made.loop.thread is None:
            return True
        time.sleep(0.01)
    return False


def test_a_closed_stream_is_gone_within_a_step_and_hurts_nobody() -> None:
    made = slow_engine()
    seen: list[set[object]] = []
    run = made.loop.runner.run

    def watched(works: Any, table: Any) -> Any:
        seen.append({work.sequence.request for work in works})
        return run(works, table)

    made.loop.runner.run = watched  # type: ignore[method-assign]
    kept = Request(prompts(1, 20)[0], SamplingParams(max_tokens=40))
    other = made.stream(kept)
    for samples in (1, 3):
        given_up = Request(prompts(1, 20, seed=3)[0], SamplingParams(max_tokens=200, n=samples))
        stream = made.stream(given_up)
        next(stream)
        stream.close()
        closed = len(seen)
        while len(seen) < closed + 5:
            time.sleep(0.005)
        assert sum(given_up in step for step in seen[closed:]) <= 1
        assert made.statistics()["running"] == 1
    assert [token.id for delta in other for token in delta.tokens] == list(greedy(model(), kept.ids, 40))
    assert idle(made)
    assert made.statistics()["blocks_used"] == 0


def test_without_deltas_only_completions_are_delivered() -> None:
    (prompt,) = prompts(1, 9)
    request = Request(prompt, SamplingParams(max_tokens=6, temperature=1.0, n=3))
    made = engine()
    arrived: SimpleQueue[Event] = SimpleQueue()
    made.submit(request, arrived.put, deltas=False)
    events = [arrived.get(timeout=60) for _ in range(3)]
    assert sorted(events, key=lambda event: event.sample) == made.generate([request])  # type: ignore[union-attr]
    assert arrived.empty()


def test_closing_gives_everything_up() -> None:
    made = slow_engine()
    streams = [made.stream(Request(ids, SamplingParams(max_tokens=200))) for ids in prompts(3, 20)]
    next(streams[0])
    made.close()
    assert made.loop.thread is None
    for stream in streams:
        list(stream)
        assert stream.completions[0].finish == "abort"
    assert made.statistics()["blocks_used"] == 0
    assert tokens(made.generate([Request((1, 2), SamplingParams(max_tokens=3))])) == [
        greedy(model(), (1, 2), 3)
    ]


@pytest.mark.parametrize(
    "ask",
    [
        "stream = engine().stream(request); next(stream)",
        "import time; engine().submit(request, lambda event: None); time.sleep(0.05)",  # nobody holds the engine
    ],
)
def test_a_process_that_ends_while_the_engine_works_ends_quietly(ask: str) -> None:
    program = f"""
from tests.engine.test_engine import *
request = Request((1, 2, 3), SamplingParams(max_tokens=200))
{ask}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_deadline_ends_one_request_with_what_it_has() -> None:
    made = slow_engine()
    requests = [
        Request(prompts(1, 20)[0], SamplingParams(max_tokens=200, deadline=0.15)),
        Request(prompts(1, 20, seed=3)[0], SamplingParams(max_tokens=20)),
    ]
    late, whole = made.generate(requests)
    assert late.finish == "deadline"
    assert 0 < len(late.ids) < 200
    assert late.ids == greedy(model(), requests[0].ids, len(late.ids))
    assert whole.finish == "length"


def test_a_full_queue_says_so() -> None:
    made = slow_engine(slots=1, queue=2)
    request = Request(prompts(1, 20)[0], SamplingParams(max_tokens=30))
    streams = [made.stream(request)]
    next(streams[0])
    streams += [made.stream(request), made.stream(request)]
    with pytest.raises(BusyError, match="waiting"):
        made.stream(request)
    for stream in streams:
        stream.close()
    assert idle(made)


def test_asyncio_gives_the_same_tokens() -> None:
    requests = [Request(ids, SamplingParams(max_tokens=20)) for ids in prompts(5, 40)]
    made = engine()

    async def one(request: Request) -> tuple[int, ...]:
        async with made.astream(request) as stream:
            return tuple([token.id async for delta in stream for token in delta.tokens])

    async def everyone() -> list[tuple[int, ...]]:
        return list(await asyncio.gather(*map(one, requests)))

    assert asyncio.run(everyone()) == tokens(engine().generate(requests))


def test_a_step_that_fails_costs_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine()
    bad = tuple(prompts(1, 20, seed=8)[0])
    run = made.loop.runner.run

    def fragile(works: Any, table: Any) -> Any:
        if any(work.sequence.request.ids == bad for work in works):
            raise RuntimeError("out of memory")
        return run(works, table)

    monkeypatch.setattr(made.loop.runner, "run", fragile)
    good = [Request(ids, SamplingParams(max_tokens=10)) for ids in prompts(4, 12)]
    results: list[list[Completion]] = []
    thread = threading.Thread(target=lambda: results.append(made.generate(good)))
    thread.start()
    with pytest.raises(RuntimeError, match="out of memory"):
        made.generate([Request(bad, SamplingParams(max_tokens=10))])
    thread.join(20)
    assert tokens(results[0]) == tokens(engine().generate(good))
    assert idle(made)
    assert made.statistics()["blocks_used"] == 0


def test_what_cannot_be_served_is_refused_before_any_token() -> None:
    made = engine(context=64)
    ids = prompts(1, 20)[0]
    for bad in (
        Request(ids * 40),
        Request((0, VOCAB)),
        Request((-1, 2)),
        Request(ids, SamplingParams(temperature=-1.0)),
        Request(ids, SamplingParams(top_p=0.0)),
        Request(ids, SamplingParams(max_tokens=0)),
    ):
        with pytest.raises(ModelError):
            made.stream(bad)
        with pytest.raises(ModelError):
            made.generate([Request(ids), bad])
    assert made.loop.thread is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_memory_bounds_the_context_and_who_runs(dtype: torch.dtype) -> None:
    made = engine(dtype=dtype, cache_bytes=40_000, slots=8)
    assert made.statistics()["blocks"] * BLOCK >= made.context
    requests = [Request(ids, SamplingParams(max_tokens=20)) for ids in prompts(12, 12)]
    found = made.generate(requests)
    assert [len(completion.ids) for completion in found] == [20] * 12
    if dtype == torch.float64:
        assert tokens(found) == [greedy(model(), request.ids, 20) for request in requests]


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16])
def test_narrow_caches_give_nearly_the_same(dtype: torch.dtype) -> None:
    requests = [Request(ids, SamplingParams(max_tokens=1, prompt_logprobs=True)) for ids in prompts(4, 200)]
    forced = [Request(ids, SamplingParams(max_tokens=12, top_logprobs=1)) for ids in prompts(4, 200)]
    wide, narrow = engine(dtype=torch.float32), engine(dtype=torch.float32, cache_dtype=dtype, step_tokens=32)
    for one, other in zip(wide.generate(requests), narrow.generate(requests), strict=True):
        assert list(other.prompt_logprobs) == pytest.approx(list(one.prompt_logprobs), abs=0.25)
    for one, other in zip(wide.generate(forced), narrow.generate(forced), strict=True):
        assert one.ids[:1] == other.ids[:1] or one.logprobs[0] < -0.6  # up to near-ties


def chaos(made: Engine, seed: int, count: int) -> None:
    """Concurrent requests with random aborts; the ones that are left give the tokens they give alone."""
    rng = random.Random(seed)
    requests = [
        Request(ids, SamplingParams(max_tokens=rng.randint(1, 30), n=rng.choice([1, 1, 2])))
        for ids in prompts(count, 60, seed=seed)
    ]
    failures: list[str] = []

    def one(request: Request, give_up: int) -> None:
        with made.stream(request) as stream:
            for number, _ in enumerate(stream):
                if number == give_up:
                    return
            wanted = greedy(model(), request.ids, request.params.max_tokens)
            if any(completion.ids != wanted for completion in stream.completions):
                failures.append(str(request))

    threads = [
        threading.Thread(target=one, args=(request, rng.choice([-1, -1, 0, 1, 5]))) for request in requests
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures
    assert idle(made)
    assert made.statistics()["blocks_used"] == 0
    assert made._pool.promised == 0


def test_many_at_once_with_random_aborts() -> None:
    chaos(engine(slots=16, cache_bytes=400_000), 1, 60)


@pytest.mark.soak
def test_two_minutes_of_two_hundred_at_once() -> None:
    made = engine(slots=32, cache_bytes=800_000)
    begun, seed = time.monotonic(), 100
    while time.monotonic() - begun < 120:
        seed += 1
        chaos(made, seed, 200)
