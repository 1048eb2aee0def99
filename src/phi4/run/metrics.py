"""The metrics of a stage: one JSON object per line, appended as training goes.

A line is on its way to the disk before the next step starts. A process killed half-way through a line
leaves a torn end, which is dropped when the log is opened again; on resume the lines after the
checkpoint's step go too, so that every step stands there once.
"""

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from phi4.errors import RunError
from phi4.run.files import atomic_write, writing


class MetricsLog:
    """Append-only JSON lines; each row should carry `step`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by close)
            end = _whole_lines(path)
            if end != path.stat().st_size:
                self._file.truncate(end)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row and flush it. A NaN or infinity is written as null, which is JSON."""
        line = json.dumps(
            {key: _finite(value) for key, value in row.items()}, ensure_ascii=False, allow_nan=False
        )
        data = line.encode() + b"\n"
        with writing(self.path):
            if self._file.write(data) != len(data):  # unbuffered: a short write is how a disk fills up
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def truncate_after(self, step: int) -> None:
        """Forget every row with a step above `step`: they will be written again."""
        rows = self.path.read_bytes().splitlines(keepends=True)
        steps = [row.get("step", 0) for row in read_metrics(self.path)]
        kept = [row for row, written in zip(rows, steps, strict=True) if written <= step]
        if len(kept) != len(rows):
            self._file.close()
            atomic_write(self.path, b"".join(kept))
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by close)

    def close(self) -> None:
        """Close the file; rows are on disk already."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All rows of a log, without a torn last line; an empty list when there is no log yet.

    Raises RunError when a line in the middle is not a JSON object: that is damage, not a kill.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes()[: _whole_lines(path)].splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise RunError(
                f"{path} is damaged at line {number}", "delete the stage's folder and make it again"
            )
        rows.append(row)
    return rows


def _whole_lines(path: Path) -> int:
    """Length in bytes up to and including the last newline."""
    return path.read_bytes().rfind(b"\n") + 1


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
