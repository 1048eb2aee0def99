"""Tolerant access to what a run folder's JSON files say: wrong types become absent values, never crashes.

All text is untrusted (documents, model output): control and direction-changing characters are replaced here;
escaping is the page's job.
"""

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

_MAX_TEXT = 20_000  # characters shown of any one text
_MAX_ROWS = 200_000  # rows read of any one .jsonl file
_BIDI_CONTROLS = {0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}

Fields = dict[str, Any]


class RunFiles:
    """The run folder's files; remembers the ones that are there but cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unreadable: list[str] = []

    def json(self, name: str) -> Any:
        """The JSON value of a file; None when it is missing or broken."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8", errors="replace"))
        except (OSError, ValueError, RecursionError):
            self.unreadable.append(clean(name))
            return None

    def object(self, name: str) -> Fields:
        """The JSON object of a file, else an empty one."""
        return fields(self.json(name))

    def rows(self, name: str) -> list[Fields]:
        """The JSON objects in a file's list, else none."""
        return rows_of(self.json(name))

    def lines(self, name: str) -> Iterator[Fields]:
        """Rows of a .jsonl file; bad lines are passed over (a torn last line is what a kill leaves)."""
        path = self.folder / name
        if not path.is_file():
            return
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                for line in islice(file, _MAX_ROWS):
                    row = _row(line)
                    if row is not None:
                        yield row
        except OSError:
            self.unreadable.append(clean(name))

    def names(self, pattern: str) -> list[str]:
        """Files matching a glob, sorted, relative to the folder."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.glob(pattern))


def _row(line: str) -> Fields | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def fields(value: Any) -> Fields:
    return value if isinstance(value, dict) else {}


def rows_of(value: Any) -> list[Fields]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def reasons(value: Any) -> tuple[tuple[str, int], ...]:
    """Reasons with their counts, most frequent first."""
    row = fields(value)
    counts = [(clean(reason), count(row, reason)) for reason in row]
    return tuple(sorted(counts, key=lambda item: (-item[1], item[0])))


def number(row: Fields, key: str) -> float | None:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        finite = math.isfinite(value)
    except OverflowError:
        return None
    return float(value) if finite else None


def count(row: Fields, key: str) -> int:
    return int(number(row, key) or 0)


def rate(row: Fields, key: str) -> float:
    return min(1.0, max(0.0, number(row, key) or 0.0))


def text(row: Fields, key: str) -> str:
    value = row.get(key)
    return "" if value is None else clean(str(value))


def moment(value: Any) -> str:
    """The day and minute a run was created; accepts seconds since 1970 or ISO text."""
    try:
        if isinstance(value, int | float):
            when = datetime.fromtimestamp(value, UTC)
        else:
            when = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError):
        return "" if value is None else clean(str(value))
    return when.strftime("%Y-%m-%d %H:%M")


def clean(text: str) -> str:
    """Text that can be shown and encoded: no control characters, lone surrogates or direction overrides."""
    if len(text) > _MAX_TEXT:
        text = f"{text[:_MAX_TEXT]} … ({len(text) - _MAX_TEXT:,} more characters)"
    return "".join("\N{REPLACEMENT CHARACTER}" if _unshowable(ord(c)) else c for c in text)


def _unshowable(code: int) -> bool:
    control = code < 32 and code not in (9, 10)
    return control or 127 <= code < 160 or 0xD800 <= code < 0xE000 or code in _BIDI_CONTROLS
