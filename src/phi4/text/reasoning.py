"""A reasoning model's answer in its two parts: the thought between <think> and </think>, and the solution behind it.

Whole answers are cut behind the last end mark, for a thought may quote the mark. An answer that is still being
written cannot know which mark is the last, so a stream passes from thought to solution at the first one.
"""

from dataclasses import dataclass, field

_BEGIN, _END = "<think>", "</think>"


def split_reasoning(text: str) -> tuple[str, str]:
    """An answer as (thought, solution), cut behind the last end-of-thinking mark.

    Without marks all of it is the solution; a thought that was begun and never ended is a thought.
    """
    thought, mark, solution = text.rpartition(_END)
    if mark:
        return thought.lstrip().removeprefix(_BEGIN).strip(), solution.strip()
    if text.lstrip().startswith(_BEGIN):
        return text.lstrip().removeprefix(_BEGIN).strip(), ""
    return "", text


@dataclass
class ReasoningStream:
    """An answer that arrives in pieces, told apart as it comes; the marks themselves are left out."""

    _held: str = field(default="", init=False)  # what may be a mark, or the space around one
    _state: str = field(default="begin", init=False)  # begin, thought, gap (behind the mark), solution

    def feed(self, piece: str) -> tuple[str, str]:
        """(thought, solution): what is certain by now of either."""
        self._held += piece
        thought = ""
        if self._state == "begin":
            start = self._held.lstrip()
            if start.startswith(_BEGIN):
                self._held, self._state = start.removeprefix(_BEGIN), "thought"
            elif not _BEGIN.startswith(start):
                self._state = "solution"
            else:
                return "", ""
        if self._state == "thought":
            thought, mark, rest = self._held.partition(_END)
            if not mark:
                safe = len(self._held) - _overlap(self._held)
                thought, self._held = self._held[:safe], self._held[safe:]
                return thought, ""
            self._held, self._state = rest, "gap"
        if self._state == "gap":
            self._held = self._held.lstrip()
            if self._held:
                self._state = "solution"
        solution, self._held = self._held, ""
        return thought, solution

    def close(self) -> tuple[str, str]:
        """The rest, when the answer ends."""
        rest, self._held = self._held, ""
        return (rest, "") if self._state == "thought" else ("", rest)


def _overlap(text: str) -> int:
    """How many characters at the end may be the beginning of the end mark."""
    return next((n for n in range(len(_END) - 1, 0, -1) if text.endswith(_END[:n])), 0)
