"""The loop: one thread that owns the network, plans a step, runs it, chooses tokens, and delivers what came of it.

Other threads hand sequences in and give them up; they touch nothing else.
"""

import atexit
import threading
import time
import weakref
from collections.abc import Sequence as Items
from contextlib import suppress

import torch

from phi4.engine.draft import StepCost
from phi4.engine.runner import Runner
from phi4.engine.sampling import Row, sample
from phi4.engine.scheduler import Scheduler, Work
from phi4.engine.sequence import Sequence
from phi4.text.generation import Delta, Event, Finish, Token


class Loop:
    """Runs what is handed in, `step_tokens` prompt tokens a step; `unused`: ids that no token has.

    Its thread lives while there is something to do.
    """

    def __init__(self, scheduler: Scheduler, runner: Runner, step_tokens: int, unused: torch.Tensor) -> None:
        self.scheduler, self.runner = scheduler, runner
        self.step_tokens, self._unused = step_tokens, unused
        self.cost = StepCost()
        self._lock = threading.Lock()
        self._inbox: list[Sequence] = []
        self._aborted: set[object] = set()
        self._deadlines = False  # has any request ever had one?
        self._closing = False
        self.thread: threading.Thread | None = None
        _LOOPS.add(self)

    @property
    def waiting(self) -> int:
        """Sequences that have not begun."""
        return len(self._inbox) + len(self.scheduler.waiting)

    def hand_in(self, sequences: Items[Sequence]) -> None:
        """Run these; those that follow another one come with it."""
        if not sequences:
            return
        with self._lock:
            self._deadlines |= any(sequence.request.params.deadline for sequence in sequences)
            followers = {id(f) for sequence in sequences for f in sequence.followers}
            self._inbox += [sequence for sequence in sequences if id(sequence) not in followers]
            if self.thread is None:
                self.thread = threading.Thread(target=self._work, name="phi4-engine", daemon=True)
                _THREADS.add(self.thread)
                self.thread.start()

    def abort(self, ticket: object) -> None:
        """Give up a request: its samples end with "abort" and their blocks are free before the next step."""
        with self._lock:
            if self.thread is not None:
                self._aborted.add(ticket)

    def close(self) -> None:
        """Give up everything, and return when the thread has ended."""
        with self._lock:
            thread, self._closing = self.thread, True
        if thread is not None:
            thread.join()
        self._closing = False

    def _work(self) -> None:
        """The loop. The thread ends when nothing is left to do; the next request starts another."""
        while True:
            with self._lock:
                self.scheduler.waiting.extend(self._inbox)
                self._inbox.clear()
                aborted, self._aborted = self._aborted, set()
                if self._closing:
                    aborted = {sequence.ticket for sequence in self._everyone()}
                if not self.scheduler.busy:
                    self.thread = None
                    return
            if aborted:
                self._end([s for s in self._everyone() if s.ticket in aborted], "abort")
            if self._deadlines:
                self._end([s for s in self._everyone() if s.overdue], "deadline")
            if self.scheduler.busy:
                try:
                    self._step(self.scheduler.plan(self.step_tokens))
                except Exception as error:  # a mistake of ours: nobody is left waiting for an answer
                    for sequence in self._everyone():
                        self._fail(sequence, error)

    def _everyone(self) -> list[Sequence]:
        known = [*self.scheduler.running, *self.scheduler.waiting]
        return [*known, *(f for sequence in known for f in sequence.followers)]

    def _step(self, works: list[Work]) -> None:
        """Run planned work. When it fails, each piece is tried alone: only those that fail by themselves are lost."""
        begun, decoding = time.perf_counter(), all(work.decodes for work in works)
        try:
            logits_RV, rows_of = self.runner.run(works, self.scheduler.table)
        except Exception as error:
            if len(works) == 1:
                self._fail(works[0].sequence, error)
            else:
                for work in works:
                    self._step([work])
            return
        self._choose(works, logits_RV, rows_of)
        if decoding:
            self.cost.observe(len(works), len(logits_RV), time.perf_counter() - begun)

    def _choose(self, works: list[Work], logits_RV: torch.Tensor, rows_of: list[range]) -> None:
        """The next token of every sequence whose text has been read to its end."""
        picked: list[tuple[Sequence, Work, range]] = []
        rows: list[Row] = []
        index: list[int] = []
        copies: list[tuple[int, int]] = []
        for work, own in zip(works, rows_of, strict=True):
            sequence = work.sequence
            if not work.completes:
                self.scheduler.advance(sequence, work.start + work.count)
                continue
            writers = [sequence]
            if sequence.followers:
                self.scheduler.advance(sequence, work.start + work.count)
                joined, copied = self.scheduler.fork(sequence)
                writers += joined
                copies += copied
            for writer in writers:
                try:
                    asked = _rows(writer, work.draft)
                except Exception as error:
                    self._fail(writer, error)
                    continue
                picked.append((writer, work, range(len(rows), len(rows) + len(own))))
                rows += asked
                index += own
        self.runner.cache.copy(copies)
        if not rows:
            return
        if index != list(range(len(logits_RV))):
            logits_RV = logits_RV[torch.tensor(index, device=logits_RV.device)]
        tokens = sample(logits_RV, rows, self._unused)
        ended = []
        for sequence, work, own in picked:
            try:
                self._extend(sequence, work, tokens[own.start : own.stop])
            except Exception as error:
                self._fail(sequence, error)
                continue
            if sequence.finish is not None:
                ended.append(sequence)
        if ended:
            self.scheduler.remove(ended)
            for sequence in ended:
                self._deliver(sequence, sequence.completion())

    def _extend(self, sequence: Sequence, work: Work, tokens: list[Token]) -> None:
        """Take the tokens a step gave a sequence: one, and one more for every drafted token that was right."""
        if not sequence.limit:  # only the log-probabilities of its prompt were asked for
            sequence.finish = "length"
            return
        taken: list[Token] = []
        text = ""
        for place, token in enumerate(tokens):
            length = len(sequence.ids)
            text += sequence.add(token)
            if len(sequence.ids) > length:
                taken.append(token)
            if sequence.finish or (place < len(work.draft) and token.id != work.draft[place]):
                break
        kept = min(len(work.draft), max(0, len(taken) - 1))
        if sequence.lookup is not None:
            sequence.lookup.extend([token.id for token in taken])
            sequence.lookup.report(len(work.draft), kept)
        self.scheduler.advance(sequence, work.start + work.count + kept)
        if sequence.finish is not None:
            text += sequence.close()
        if sequence.streaming and (taken or text):
            self._deliver(sequence, Delta(sequence.sample, tuple(taken), text))

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self.scheduler.remove([sequence])
        self._deliver(sequence, error)

    def _end(self, sequences: list[Sequence], finish: Finish) -> None:
        """End sequences from outside, wherever they are."""
        self.scheduler.remove(sequences)
        for sequence in sequences:
            sequence.finish = finish
            sequence.close()
            self._deliver(sequence, sequence.completion())

    @staticmethod
    def _deliver(sequence: Sequence, event: Event) -> None:
        with suppress(Exception):  # a caller that is gone must not hurt the others
            sequence.deliver(event)


# A thread that is inside the network, or frees it, when the interpreter goes away takes the process down with it.
_LOOPS: weakref.WeakSet[Loop] = weakref.WeakSet()
_THREADS: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for loop in list(_LOOPS):
        loop.close()
    for thread in list(_THREADS):
        thread.join()


def _rows(sequence: Sequence, draft: tuple[int, ...]) -> list[Row]:
    """What the sampler must know: one row, and one behind each drafted token."""
    params, prompt = sequence.request.params, sequence.request.ids
    allowed = sequence.matcher.mask() if sequence.matcher is not None else None
    rows = [Row(params, sequence.sample, prompt, sequence.written, allowed)]
    for place in range(len(draft)):
        rows.append(Row(params, sequence.sample, prompt, [*sequence.written, *draft[: place + 1]], None))
    return rows
