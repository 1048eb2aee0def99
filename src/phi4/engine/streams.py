"""One request's answer as it is made, for a thread that waits (`for`) or a coroutine (`async for`)."""

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from typing import Self

from phi4.text.generation import Completion, Deliver, Delta, Event

Begin = Callable[[Deliver], object]  # submits the request and returns what to abort it by
Abort = Callable[[object], None]


class Stream:
    """Iterates over the deltas of a request; `completions` are there when it ends. Closing it aborts the request."""

    def __init__(self, begin: Begin, abort: Abort, samples: int) -> None:
        self.completions: list[Completion] = []
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._samples, self._abort = samples, abort
        self._ticket = begin(self._events.put)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        while len(self.completions) < self._samples:
            event = self._events.get()
            if isinstance(event, Delta):
                return event
            _take(event, self.completions)
        raise StopIteration

    def close(self) -> None:
        """Give the request up: its place in the cache is free within one step."""
        if len(self.completions) < self._samples:
            self._abort(self._ticket)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStream:
    """The same for asyncio; made inside a running loop."""

    def __init__(self, begin: Begin, abort: Abort, samples: int) -> None:
        self.completions: list[Completion] = []
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._samples, self._abort = samples, abort
        loop = asyncio.get_running_loop()

        def deliver(event: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._events.put_nowait, event)

        self._ticket = begin(deliver)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        while len(self.completions) < self._samples:
            event = await self._events.get()
            if isinstance(event, Delta):
                return event
            _take(event, self.completions)
        raise StopAsyncIteration

    def close(self) -> None:
        """Give the request up: its place in the cache is free within one step."""
        if len(self.completions) < self._samples:
            self._abort(self._ticket)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


def _take(event: Event, completions: list[Completion]) -> None:
    if isinstance(event, BaseException):
        raise event
    if isinstance(event, Completion):
        completions.append(event)
