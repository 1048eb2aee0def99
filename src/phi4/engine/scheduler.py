"""Who goes next: sequences wait for room, read their prompts in chunks, then write, all in the same steps.

A sequence is admitted when the cache has room for everything it may ever need, so none is ever thrown out again.
One that has read all but its last token decodes; anything longer is read in chunks within a step's budget. A sequence
that outgrows LongRoPE's short factors loses its cache and reads its text again under the long ones, like any other
prompt, while the others go on.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from phi4.engine.blocks import BlockPool, chain, root
from phi4.engine.kernels import BLOCK
from phi4.engine.sequence import Sequence

_LONGEST_DRAFT = 8


@dataclass(slots=True)
class Work:
    """What one step does for one sequence: read `count` of its tokens from `start` on, and `draft` behind them."""

    sequence: Sequence
    start: int
    count: int
    draft: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens that go through the network."""
        return self.count + len(self.draft)

    @property
    def decodes(self) -> bool:
        """Reads only the last token, so that the next one can be chosen."""
        return self.count == 1 and self.start == len(self.sequence.ids) - 1

    @property
    def completes(self) -> bool:
        """Reads up to the end of the text."""
        return self.start + self.count == len(self.sequence.ids)


class Scheduler:
    """Admits sequences and plans steps. `short_context`: tokens up to which LongRoPE's short factors hold, or None."""

    def __init__(self, pool: BlockPool, slots: int, context: int, short_context: int | None) -> None:
        self.pool = pool
        self.short_context = short_context
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._free_slots = list(range(slots - 1, -1, -1))
        self.table = np.zeros((slots, blocks_for(context)), dtype=np.int32)  # blocks of each slot, in order

    @property
    def busy(self) -> bool:
        """Is there anything to do?"""
        return bool(self.waiting or self.running)

    def need(self, sequence: Sequence) -> int:
        """Blocks a sequence needs at most."""
        return blocks_for(sequence.prompt + sequence.limit)

    def plan(self, budget: int) -> list[Work]:
        """The next step: every decoding sequence, and chunks of prompts of at most `budget` tokens together."""
        works: list[Work] = []
        reading: list[Sequence] = []
        for sequence in self.running:
            if self._outgrown(sequence):
                self._restart(sequence)
            if sequence.pending > 1:
                reading.append(sequence)
            else:
                works.append(Work(sequence, sequence.cached, 1, self._draft(sequence)))
        for sequence in reading:
            if budget <= 0:
                break
            works.append(Work(sequence, sequence.cached, min(sequence.pending, budget)))
            budget -= works[-1].count
        while budget > 0 and self.waiting and self._admit(self.waiting[0]):
            sequence = self.waiting.popleft()
            works.append(Work(sequence, sequence.cached, min(sequence.pending, budget)))
            budget -= works[-1].count
        for work in works:
            self._grow(work.sequence, work.start + work.tokens)
        return works

    def advance(self, sequence: Sequence, cached: int) -> None:
        """The keys of the first `cached` tokens are in the cache now."""
        sequence.cached = cached
        self._remember(sequence)

    def fork(self, leader: Sequence) -> tuple[list[Sequence], list[tuple[int, int]]]:
        """Let the samples that waited for a prompt to be read join in, as many as have room; the rest will wait.

        Returns them, and the copies (from block, to block) of the partly filled last block they need.
        """
        joined: list[Sequence] = []
        copies: list[tuple[int, int]] = []
        full = leader.cached // BLOCK
        for follower in leader.followers:
            follower.long = leader.long
        while (
            leader.followers
            and not self._keeps_apart(leader)
            and self._room(leader.followers[0], leader.blocks[:full])
        ):
            sequence = leader.followers.pop(0)
            self._enter(sequence, leader.blocks[:full])
            sequence.keys = list(leader.keys)
            sequence.cached = sequence.hits = leader.cached
            if leader.cached % BLOCK:
                self._grow(sequence, leader.cached)
                copies.append((leader.blocks[full], sequence.blocks[full]))
            joined.append(sequence)
        self.waiting.extendleft(reversed(leader.followers))
        leader.followers = []
        return joined, copies

    def remove(self, sequences: Iterable[Sequence]) -> None:
        """Free what these hold, wherever they are. Followers of one that goes early wait in its place."""
        gone = set(map(id, sequences))
        running, waiting = self.running, self.waiting
        for sequence in [*running, *waiting]:
            if sequence.followers:
                sequence.followers = [f for f in sequence.followers if id(f) not in gone]
        orphans = [f for s in [*running, *waiting] if id(s) in gone for f in s.followers]
        for sequence in running:
            if id(sequence) in gone:
                sequence.followers = []
                self._leave(sequence)
        self.running = [sequence for sequence in running if id(sequence) not in gone]
        if orphans or any(id(sequence) in gone for sequence in waiting):
            self.waiting = deque([*orphans, *(s for s in waiting if id(s) not in gone)])

    def _leave(self, sequence: Sequence) -> None:
        self._release(sequence)
        self.pool.promised -= sequence.promised
        sequence.promised = 0
        self._free_slots.append(sequence.slot)
        sequence.slot = -1

    def _admit(self, sequence: Sequence) -> bool:
        sequence.long = self.short_context is not None and len(sequence.ids) > self.short_context
        shared = self._known(sequence)
        if not self._room(sequence, shared):
            return False
        self._enter(sequence, shared)
        sequence.cached = sequence.hits = len(shared) * BLOCK
        return True

    def _room(self, sequence: Sequence, shared: list[int]) -> bool:
        own = self._own(sequence, shared)
        return bool(self._free_slots) and self.pool.available - self.pool.idle(shared) >= own

    def _own(self, sequence: Sequence, shared: list[int]) -> int:
        """Blocks to promise: all but those it shares, which one that may outgrow the short factors gives back."""
        return self.need(sequence) - (0 if self._keeps_apart(sequence) else len(shared))

    def _keeps_apart(self, sequence: Sequence) -> bool:
        """May this one outgrow the short factors? Then others must not build on its blocks: it will need the room."""
        if self.short_context is None or sequence.long:
            return False
        return sequence.prompt + sequence.limit > self.short_context

    def _enter(self, sequence: Sequence, shared: list[int]) -> None:
        sequence.promised = self._own(sequence, shared)
        self.pool.promised += sequence.promised
        sequence.slot = self._free_slots.pop()
        self._share(sequence, shared)
        self.running.append(sequence)

    def _share(self, sequence: Sequence, shared: list[int]) -> None:
        for block in shared:
            self.pool.share(block)
        sequence.blocks = list(shared)
        self.table[sequence.slot, : len(shared)] = shared

    def _known(self, sequence: Sequence) -> list[int]:
        """Remembered blocks of the beginning of the text; never all of it, for the last token must be read.

        Nothing is taken over where the log-probabilities of the prompt are asked for.
        """
        sequence.keys = []
        if sequence.request.params.prompt_logprobs:
            return []
        ids, parent = sequence.ids, root(sequence.request.salt, long=sequence.long)
        for start in range(0, (len(ids) - 1) // BLOCK * BLOCK, BLOCK):
            parent = chain(parent, ids[start : start + BLOCK])
            sequence.keys.append(parent)
        shared = self.pool.find(sequence.keys)
        del sequence.keys[len(shared) :]
        return shared

    def _remember(self, sequence: Sequence) -> None:
        if self._keeps_apart(sequence):
            return
        for number in range(len(sequence.keys), sequence.cached // BLOCK):
            parent = sequence.keys[-1] if number else root(sequence.request.salt, long=sequence.long)
            key = chain(parent, sequence.ids[number * BLOCK : (number + 1) * BLOCK])
            sequence.keys.append(key)
            self.pool.remember(sequence.blocks[number], key)

    def _grow(self, sequence: Sequence, length: int) -> None:
        """Blocks for the first `length` tokens."""
        while len(sequence.blocks) * BLOCK < length:
            self.table[sequence.slot, len(sequence.blocks)] = block = self.pool.take()
            sequence.blocks.append(block)
            sequence.promised -= 1

    def _release(self, sequence: Sequence) -> None:
        for block in reversed(sequence.blocks):  # the end of a text is forgotten before its beginning
            self.pool.release(block)
        sequence.blocks = []

    def _outgrown(self, sequence: Sequence) -> bool:
        return self.short_context is not None and not sequence.long and len(sequence.ids) > self.short_context

    def _restart(self, sequence: Sequence) -> None:
        """Read everything again under the long factors; all blocks needed were promised at admission."""
        self._release(sequence)
        need = self.need(sequence)
        self.pool.promised += need - sequence.promised
        sequence.promised, sequence.cached, sequence.long, sequence.keys = need, 0, True, []

    def _draft(self, sequence: Sequence) -> tuple[int, ...]:
        """Tokens that may follow, if they turn out to be the ones that are sampled."""
        if sequence.lookup is None:
            return ()
        room = sequence.limit - len(sequence.written) - 1
        if self.short_context is not None and not sequence.long:
            room = min(room, self.short_context - len(sequence.ids))
        return tuple(sequence.lookup.propose(min(room, _LONGEST_DRAFT))) if room > 0 else ()


def blocks_for(tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-tokens // BLOCK)
