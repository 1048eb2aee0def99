"""Prompt lookup: guess what follows from what followed the same tokens before.

Answers that quote, edit or summarise repeat their prompt; checking a few guessed tokens at once costs little more
than making one. Where the guesses are wrong they cost time, so each sequence watches its own luck.
(Saxena 2023, "Prompt Lookup Decoding".)
"""

from array import array
from collections.abc import Callable, Sequence

_CONTEXT = 10  # tokens that are compared at most: the longest match wins, the most recent among equals
_CANDIDATES = 32  # earlier places that are compared at most
_MEMORY = 0.85  # weight of the past after each draft
_EVIDENCE = 6.0  # drafted tokens in that memory before it counts
_GUESS = 0.15  # cost of a drafted token before anything is measured
_FADE = 0.97  # weight of the past after each measured step
_FIRST_PAUSE, _LAST_PAUSE = 16, 512  # tokens without drafts after losing; it doubles as long as retries lose


class StepCost:
    """What one more row costs a step that only decodes: its seconds are fitted by fixed + each * rows.

    Drafts make the steps differ, so their price is known as soon as there are any; older steps fade.
    """

    def __init__(self) -> None:
        self._sums = [0.0] * 6  # of 1, sequences, rows, seconds, rows * rows, rows * seconds
        self._share = _GUESS

    def observe(self, sequences: int, rows: int, seconds: float) -> None:
        """A step of so many sequences, and `rows` rows with their drafts, took so long."""
        new = (1, sequences, rows, seconds, rows * rows, rows * seconds)
        self._sums = [_FADE * old + one for old, one in zip(self._sums, new, strict=True)]
        count, owners, x, y, xx, xy = self._sums
        spread = count * xx - x * x
        if spread < 0.1 * count * count:  # all steps alike: nothing to learn
            return
        each = (count * xy - x * y) / spread
        fixed = (y - each * x) / count
        if each > 0 and fixed > 0:
            without = fixed + each * owners / count  # a step without drafts
            self._share = each * owners / count / without

    def share(self) -> float:
        """The time of a drafted row over that of a token made without drafts, in batches like those observed."""
        return self._share


class PromptLookup:
    """The drafts for one sequence. Each token is looked at once, and a proposal takes constant time.

    Drafting pays as long as more than the share `cost()` of the drafted tokens is right; see StepCost.
    """

    def __init__(self, ids: Sequence[int], cost: Callable[[], float] = lambda: _GUESS) -> None:
        self._cost = cost
        self._ids = list(ids)
        self._last: dict[int, int] = {}  # where each pair of tokens last ended
        self._earlier = array("i")  # for each position, where the pair that ends there ended before, or -1
        self._length = 4
        self._drafted = self._kept = 0.0
        self._resume = 0
        self._pause = _FIRST_PAUSE

    def extend(self, ids: Sequence[int]) -> None:
        """Tokens were written."""
        self._ids += ids

    def propose(self, longest: int) -> list[int]:
        """At most `longest` tokens that may come next; often none."""
        ids = self._ids
        if len(ids) < self._resume:
            return []
        self._index()
        end = self._match()
        draft: list[int] = []
        if end >= 0:
            for place in range(end + 1, end + 1 + min(longest, self._length)):
                draft.append(ids[place] if place < len(ids) else draft[place - len(ids)])
        return draft

    def report(self, drafted: int, kept: int) -> None:
        """How the last proposal fared: tokens that were checked, and how many of them were right."""
        if drafted == 0:
            return
        self._length = min(2 * self._length, 32) if kept == drafted else kept + 1
        self._drafted = self._drafted * _MEMORY + drafted
        self._kept = self._kept * _MEMORY + kept
        if self._drafted < _EVIDENCE:
            return
        if self._kept > self._cost() * self._drafted:
            self._pause = _FIRST_PAUSE
        else:
            self._resume = len(self._ids) + self._pause
            self._pause = min(2 * self._pause, _LAST_PAUSE)
            self._drafted = self._kept = 0.0

    def _index(self) -> None:
        ids, last, earlier = self._ids, self._last, self._earlier
        if ids and not earlier:
            earlier.append(-1)
        for end in range(len(earlier), len(ids)):
            pair = ids[end - 1] << 32 | ids[end]
            earlier.append(last.get(pair, -1))
            last[pair] = end

    def _match(self) -> int:
        """Where the longest end of the text that was there before ended then; -1 if there is none."""
        ids, place = self._ids, self._earlier[-1] if self._earlier else -1
        best, longest = -1, 1
        for _ in range(_CANDIDATES):
            if place < 0 or longest == _CONTEXT:
                break
            length = 2
            while length < min(_CONTEXT, place + 1) and ids[place - length] == ids[-1 - length]:
                length += 1
            if length > longest:
                best, longest = place, length
            place = self._earlier[place]
        return best
