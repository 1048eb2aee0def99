"""Text out of tokens, one at a time: no character is ever split, and no part of a stop string ever shown."""

import codecs
from collections import deque

from phi4.text.tokenizer import Tokenizer


class TextStream:
    """The text of a growing list of ids: what `feed` and `finish` return is, together, `tokenizer.decode` of all ids,
    up to the first stop string. Of several stop strings the one completed first counts, as if the text came letter
    by letter; of those completed by the same letter the longest.

    `stopped`: a stop string was met. `tokens_before_stop`: ids that lie wholly before its first byte.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...] = ()) -> None:
        self.stopped = False
        self.tokens_before_stop = 0
        self._tokenizer = tokenizer
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""  # may still become a stop string
        self._shown = 0  # characters before it
        self._ends: deque[int] = deque()  # where each id ends that may lie in a stop string

    def feed(self, id: int) -> str:
        """The text that is certain now and was not before; it may be empty, or older than this id."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(self._tokenizer.token_bytes(id))
        half = self._decoder.getstate()[0]  # the first bytes of one more character
        if len(half.decode("utf-8", errors="replace")) > 1:  # of a surrogate, which never becomes one
            self._held += self._decoder.decode(b"", final=True)
            half = b""
        self._ends.append(self._shown + len(self._held) + bool(half))
        return self._show()

    def finish(self) -> str:
        """The rest: what could have become a stop string, and U+FFFD for half a character."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(b"", final=True)
        text = self._show()
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _show(self) -> str:
        """Take what can be shown off the held text, and see whether it has a stop string."""
        matches = [
            (self._held.find(stop) + len(stop), -len(stop)) for stop in self._stop if stop in self._held
        ]
        if matches:
            end, length = min(matches)
            cut, self.stopped = end + length, True
        else:
            cut = next((i for i in range(len(self._held)) if self._may_stop(i)), len(self._held))
        text, self._held = self._held[:cut], self._held[cut:]
        self._shown += cut
        while self._ends and self._ends[0] <= self._shown:
            self._ends.popleft()
            self.tokens_before_stop += 1
        return text

    def _may_stop(self, start: int) -> bool:
        tail = self._held[start:]
        return any(stop.startswith(tail) for stop in self._stop)
