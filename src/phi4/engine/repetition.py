"""When a text only repeats itself: the same few tokens over and over, word for word."""

import numpy as np

_LONGEST = 64  # tokens of a block that is looked for
_ROOM = 4096

# Repetitions of a block of 1, 2, ... tokens that make a loop: 100 of one token, 16 of eight, 6 of sixty-four. Tables,
# lists and rulers repeat too, but not that often, and an honest row of them differs from the one before.
_REPEATS = -(-96 // np.arange(1, _LONGEST + 1)) + 4


class LoopDetector:
    """Fed every written token; says when the text has begun to go round in circles."""

    def __init__(self) -> None:
        lengths = np.arange(1, _LONGEST + 1)
        self._enough = (_REPEATS - 1) * lengths
        self._ids = np.full(_ROOM, -1, dtype=np.int64)
        self._count = _LONGEST
        # For each block length: how many tokens in a row have been the same as the one a block earlier.
        self._run = np.zeros(_LONGEST, dtype=np.int64)

    def feed(self, id: int) -> bool:
        """Is the end of the text, this token included, one block again and again?"""
        if self._count == _ROOM:
            self._ids[:_LONGEST] = self._ids[-_LONGEST:]
            self._count = _LONGEST
        before = self._ids[self._count - _LONGEST : self._count][::-1]
        self._run = (self._run + 1) * (before == id)
        self._ids[self._count] = id
        self._count += 1
        return bool((self._run >= self._enough).any())
