"""Tool calls in a model's answer, in each of the spellings Phi-4-mini was shown with.

`functools[{...}, ...]`, `<|tool_call|>[{...}]<|/tool_call|>`, or an answer that is a bare JSON list. The calls are read
with a JSON decoder from the marker on, so arrays in arguments are no trouble; what is not a call stays text.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MARKERS = ("functools", "<|tool_call|>")
_MARKED = re.compile(r"(?:functools|<\|tool_call\|>)\s*(?=\[)")
_MAYBE = re.compile(r"(?:functools|<\|tool_call\|>)\s*$")
_END = "<|/tool_call|>"


@dataclass(frozen=True)
class ToolCall:
    """A function the model wants called."""

    name: str
    arguments: dict[str, Any]


def parse(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """(the answer's text without its calls, the calls). Text that is no call is left as it is."""
    begin = len(text) - len(text.lstrip())
    if text[begin : begin + 1] == "[":
        calls, end = _calls(text, begin)
        if calls:
            return text[end:].strip(), tuple(calls)
    return _marked(text)


def _marked(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """`parse` for the spellings with a marker; the first one counts."""
    mark = _MARKED.search(text)
    calls, end = _calls(text, mark.end()) if mark else ([], 0)
    if mark is None or not calls:
        return text, ()
    return (text[: mark.start()] + text[end:].removeprefix(_END)).strip(), tuple(calls)


class Stream:
    """An answer that arrives in pieces: text is passed on as soon as it cannot be part of a call any more."""

    def __init__(self) -> None:
        self._held = ""
        self._said = False  # text was passed on: a bare list can no longer be a call

    def feed(self, piece: str) -> str:
        """Text that is certain by now."""
        self._held += piece
        safe = self._certain()
        text, self._held = self._held[:safe], self._held[safe:]
        self._said = self._said or bool(text)
        return text

    def close(self) -> tuple[str, tuple[ToolCall, ...]]:
        """The rest of the text, and the calls."""
        return _marked(self._held) if self._said else parse(self._held)

    def _certain(self) -> int:
        held = self._held
        if not self._said and held.lstrip()[:1] in ("", "["):
            return 0
        mark = _MARKED.search(held) or _MAYBE.search(held)
        if mark is not None:
            return mark.start()
        # The end may grow into a marker.
        begun = (n for m in _MARKERS for n in range(1, len(m)) if held.endswith(m[:n]))
        return len(held) - max(begun, default=0)


def _calls(text: str, start: int) -> tuple[list[ToolCall], int]:
    """The calls of the JSON list at `start`, and where it ends; none when it is not a list of calls."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return [], start
    calls = list(_valid(value if isinstance(value, list) else []))
    return (calls, end) if isinstance(value, list) and len(calls) == len(value) else ([], start)


def _valid(items: list[Any]) -> Iterator[ToolCall]:
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            continue
        arguments = item.get("arguments", item.get("parameters", {}))
        if isinstance(arguments, str):  # some models write them as JSON in a string
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                continue
        if isinstance(arguments, dict):
            yield ToolCall(item["name"], arguments)
