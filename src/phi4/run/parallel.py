"""Chunks of work over processes, results in the order of the chunks.

What comes out depends on the chunks alone, never on the number of workers: that is how a data set is
byte-identical on one core and on sixty-four.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from phi4.errors import RunError

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")


def map_chunks(fn: Callable[[Chunk], Result], chunks: Iterable[Chunk], workers: int) -> Iterator[Result]:
    """Yield `fn(chunk)` for every chunk, in order. `workers=1` runs in this process.

    `fn` must be importable (a module-level function or a partial of one). Chunks are drawn lazily, at
    most a few per worker ahead of the results. An exception in `fn` is raised here, at its chunk's turn.
    Raises RunError when a worker dies. Workers never outlive this process, even when it is killed.
    """
    if workers <= 1:
        yield from map(fn, chunks)
        return
    # Not fork: the parent may hold threads (torch, BLAS) and locks that a forked child would inherit.
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    pending: deque[Future[Result]] = deque()
    try:
        for chunk in chunks:
            pending.append(pool.submit(fn, chunk))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process died (killed, or out of memory)", "try again with fewer workers"
        ) from error
    except BaseException:
        for process in list((pool._processes or {}).values()):  # do not wait for work nobody will use
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, once
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """A killed parent cannot stop its workers; they notice that it is gone and leave."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        with contextlib.suppress(OSError):
            multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
