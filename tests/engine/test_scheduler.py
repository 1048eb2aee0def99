"""Blocks and plans: nothing leaks, nothing is promised twice, everyone gets a turn, at every abort."""

import random
from collections import Counter

import pytest

from phi4.engine.blocks import BlockPool, chain, root
from phi4.engine.kernels import BLOCK
from phi4.engine.scheduler import Scheduler, blocks_for
from phi4.engine.sequence import Sequence
from phi4.text.generation import Request, SamplingParams, Token


def sequence(ids: list[int], limit: int, salt: str = "", followers: int = 0) -> Sequence:
    request = Request(tuple(ids), SamplingParams(max_tokens=limit, n=1 + followers), salt)
    made = [
        Sequence(0, request, k, frozenset(), limit, lambda event: None, False, ids=list(ids))
        for k in range(1 + followers)
    ]
    made[0].followers = made[1:]
    return made[0]


def check(scheduler: Scheduler) -> None:
    """The books balance: references are holders, promises are what is still to come, no block has two fates."""
    pool = scheduler.pool
    held = Counter(block for s in scheduler.running for block in s.blocks)
    assert [held[block] for block in range(pool.count)] == pool._references
    assert pool.promised == sum(s.promised for s in scheduler.running)
    assert pool.available >= 0
    free, idle = set(pool._free), set(pool._idle)
    assert len(free) == len(pool._free)
    assert not free & idle
    assert not (free | idle) & set(held)
    assert len(free) + len(idle) + len(held) == pool.count
    assert idle <= set(pool._key_of)
    slots = [s.slot for s in scheduler.running]
    assert len(slots) == len(set(slots))
    assert len(slots) + len(scheduler._free_slots) == len(scheduler.table)
    for s in scheduler.running:
        assert list(scheduler.table[s.slot, : len(s.blocks)]) == s.blocks
        assert s.cached <= len(s.blocks) * BLOCK


class Simulation:
    """Drives a scheduler as the engine does, with random tokens; remembers what each block contains."""

    def __init__(self, seed: int, short_context: int | None = None) -> None:
        self.rng = random.Random(seed)
        self.pool = BlockPool(self.rng.randint(14, 40))
        self.scheduler = Scheduler(self.pool, self.rng.randint(1, 6), 12 * BLOCK, short_context)
        self.contents: dict[int, tuple[bool, list[int]]] = {}
        self.made = self.ended = 0
        self.waits: dict[int, int] = {}

    def submit(self) -> None:
        shared = [7] * self.rng.choice([0, 0, 40, 64, 100])
        prompt = shared + [self.rng.randrange(50) for _ in range(self.rng.randint(1, 120))]
        new = sequence(
            prompt, self.rng.randint(1, 60), self.rng.choice(["", "", "other"]), self.rng.choice([0, 0, 3])
        )
        self.made += 1 + len(new.followers)
        self.scheduler.waiting.append(new)

    def step(self) -> None:
        works = self.scheduler.plan(self.rng.choice([1, 5, 33, 200]))
        assert works or not self.scheduler.busy
        check(self.scheduler)
        planned = {id(work.sequence) for work in works}
        assert all(id(s) in planned for s in self.scheduler.running if s.pending == 1)
        ended = []
        for work in works:
            s = work.sequence
            self.write(s, work.start, work.count)
            assert self.readable(s, work.start + work.count)
            self.scheduler.advance(s, work.start + work.count)
            if work.start + work.count < len(s.ids):
                continue
            joined, copies = self.scheduler.fork(s)
            for source, target in copies:
                self.contents[target] = self.contents[source]
            for writer in [s, *joined]:
                assert self.readable(writer, writer.cached)
                writer.add(Token(self.rng.randrange(50), 0.0, ()))
                if writer.finish:
                    ended.append(writer)
        self.remove(ended)

    def write(self, s: Sequence, start: int, count: int) -> None:
        for number in range(start // BLOCK, blocks_for(start + count)):
            known = s.ids[number * BLOCK : min((number + 1) * BLOCK, start + count)]
            self.contents[s.blocks[number]] = (s.long, list(known))

    def readable(self, s: Sequence, length: int) -> bool:
        """Do the blocks of a sequence hold its own tokens, whoever wrote them?"""
        for number, block in enumerate(s.blocks):
            wanted = s.ids[number * BLOCK : min((number + 1) * BLOCK, length)]
            if wanted and (
                self.contents[block][0] != s.long or self.contents[block][1][: len(wanted)] != wanted
            ):
                return False
        return True

    def remove(self, sequences: list[Sequence]) -> None:
        self.scheduler.remove(sequences)
        self.ended += len(sequences)
        check(self.scheduler)

    def abort(self) -> None:
        everyone = [*self.scheduler.running, *self.scheduler.waiting]
        everyone += [f for s in everyone for f in s.followers]
        if everyone:
            self.remove(self.rng.sample(everyone, self.rng.randint(1, min(3, len(everyone)))))


def drive(seed: int, steps: int, short_context: int | None) -> None:
    simulation = Simulation(seed, short_context)
    for _ in range(steps):
        if simulation.rng.random() < 0.3:
            simulation.submit()
        if simulation.rng.random() < 0.1:
            simulation.abort()
        simulation.step()
    for _ in range(100_000):  # nobody starves: everyone who waits ends
        if not simulation.scheduler.busy:
            break
        simulation.step()
    assert simulation.ended == simulation.made
    assert simulation.pool.used == 0
    assert simulation.pool.promised == 0


@pytest.mark.parametrize("short_context", [None, 100])
@pytest.mark.parametrize("seed", range(12))
def test_the_books_balance_at_every_step_and_nobody_starves(seed: int, short_context: int | None) -> None:
    drive(seed, 120, short_context)


@pytest.mark.soak
@pytest.mark.parametrize("short_context", [None, 100])
@pytest.mark.parametrize("seed", range(200))
def test_the_books_balance_for_long(seed: int, short_context: int | None) -> None:
    drive(1000 + seed, 1000, short_context)


def run_through(scheduler: Scheduler, s: Sequence) -> None:
    scheduler.waiting.append(s)
    while s.finish is None:
        for work in scheduler.plan(512):
            scheduler.advance(work.sequence, work.start + work.count)
            if work.start + work.count == len(work.sequence.ids):
                work.sequence.add(Token(1, 0.0, ()))
    scheduler.remove([s])


def test_a_text_seen_before_is_taken_over_except_its_last_token() -> None:
    scheduler = Scheduler(BlockPool(20), 4, 10 * BLOCK, None)
    ids = list(range(3 * BLOCK))
    first, again, other = sequence(ids, 2), sequence(ids, 2), sequence(ids, 2, salt="mine")
    for s in (first, again, other):
        run_through(scheduler, s)
    assert (first.hits, again.hits, other.hits) == (0, 2 * BLOCK, 0)
    longer = sequence([*ids, 1, 5], 2)
    run_through(scheduler, longer)
    assert longer.hits == 3 * BLOCK
    scored = sequence(ids, 2)
    scored.request = Request(scored.request.ids, SamplingParams(max_tokens=2, prompt_logprobs=True))
    run_through(scheduler, scored)
    assert scored.hits == 0


def test_the_end_of_a_text_is_forgotten_before_its_beginning() -> None:
    scheduler = Scheduler(BlockPool(8), 4, 8 * BLOCK, None)
    ids = list(range(4 * BLOCK))
    run_through(scheduler, sequence(ids, 1))
    run_through(scheduler, sequence([9] * (5 * BLOCK), 1))
    again = sequence(ids, 1)
    run_through(scheduler, again)
    assert again.hits == 3 * BLOCK  # five blocks were needed, four were free


def test_keys_tell_texts_salts_and_rotations_apart() -> None:
    keys = {
        chain(root(salt, long=long), tokens)
        for salt in ("", "a")
        for long in (False, True)
        for tokens in ([1, 2], [2, 1], [1, 2, 0])
    }
    assert len(keys) == 12


def test_who_cannot_fit_waits_until_there_is_room() -> None:
    scheduler = Scheduler(BlockPool(4), 4, 4 * BLOCK, None)
    large, small = sequence([1] * 60, 60), sequence([2] * 10, 10)
    scheduler.waiting.extend([large, small])
    assert [work.sequence for work in scheduler.plan(512)] == [large]
    scheduler.remove([large])
    assert [work.sequence for work in scheduler.plan(512)] == [small]
