"""One line of progress with a rate and an ETA: live on a terminal, sparse plain lines in a log.

It goes to standard error, so that standard output stays what the command was asked for.
"""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class Progress:
    """Progress of `total` units of work, of which `done` were finished before this process began.

    Use it as a context manager; a closing line with time and rate stays behind on success.
    """

    def __init__(
        self,
        label: str,
        total: float,
        unit: str = "",
        *,
        done: float = 0,
        every: float = 10.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = done
        self._first = done
        self._every = every
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._note = ""
        self._live: RichProgress | None = None
        self._begun = self._spoken = clock()

    def __enter__(self) -> Self:
        self._begun = self._spoken = self._clock()
        if self._stream.isatty():
            self._live = self._open_live()
        return self

    def advance(self, n: float = 1, note: str = "") -> None:
        """`n` more units are done; `note` (a loss, a count) is shown at the end of the line."""
        self.done += n
        self._note = note or self._note
        now = self._clock()
        if self._live is not None:
            self._live.update(self._live.task_ids[0], completed=self.done, tail=self._tail(now))
        elif now - self._spoken >= self._every:
            self._spoken = now
            share = f"{self.done / self.total:.0%} " if self.total else ""
            self._say(f"{self.label}: {share}{self._count()} {self._tail(now)}".rstrip())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if kind is None:
            seconds = self._clock() - self._begun
            rate = f", {_short(self._rate(seconds))} {self.unit}/s" if self.unit and seconds > 0 else ""
            self._say(f"{self.label}: {self._count()} in {duration(seconds)}{rate}  {self._note}".rstrip())

    def _open_live(self) -> "RichProgress":
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            TaskProgressColumn(),
            TextColumn("{task.fields[tail]}"),
        )
        live = RichProgress(*columns, console=Console(file=self._stream), transient=True)
        live.add_task(escape(self.label), total=self.total or None, completed=int(self.done), tail="")
        live.start()
        return live

    def _tail(self, now: float) -> str:
        rate = self._rate(now - self._begun)
        parts = [f"{_short(rate)} {self.unit}/s"] if rate and self.unit else []
        if rate and self.total:
            parts.append(f"ETA {duration(max(0.0, self.total - self.done) / rate)}")
        return "  ".join([*parts, self._note]).strip()

    def _rate(self, seconds: float) -> float:
        """Units per second in this process: what was there before it began does not flatter the rate."""
        return (self.done - self._first) / seconds if seconds > 0 else 0.0

    def _count(self) -> str:
        total = f"/{self.total:,.0f}" if self.total and self.done != self.total else ""
        return f"{self.done:,.0f}{total} {self.unit}".rstrip()

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def duration(seconds: float) -> str:
    """A time as people read it: 0.4 s, 12 s, 3:05, 1:02:03."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
