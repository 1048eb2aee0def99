"""Parallel work: same results for any number of workers, errors at their place, no orphans."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phi4.errors import DataError, RunError
from phi4.run.parallel import map_chunks


def square(chunk: list[int]) -> list[int]:
    if len(chunk) % 2:  # uneven work, so that completion order differs from submission order
        time.sleep(0.01)
    return [n * n for n in chunk]


def fail_at_three(n: int) -> int:
    if n == 3:
        raise DataError("three is bad", "use four")
    return n


def die_at_two(n: int) -> int:
    if n == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def test_results_do_not_depend_on_the_number_of_workers() -> None:
    chunks = [list(range(i, i + 1 + i % 5)) for i in range(30)]
    expected = [[n * n for n in chunk] for chunk in chunks]
    assert list(map_chunks(square, chunks, 1)) == expected
    assert list(map_chunks(square, chunks, 2)) == expected
    assert list(map_chunks(square, [], 2)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_at_its_turn_with_its_type_and_hint(workers: int) -> None:
    got: list[int] = []
    with pytest.raises(DataError) as caught:
        got.extend(map_chunks(fail_at_three, range(10), workers))
    assert got == [0, 1, 2]
    assert (caught.value.message, caught.value.hint) == ("three is bad", "use four")


def test_a_killed_worker_is_a_clear_error() -> None:
    with pytest.raises(RunError, match="a worker process died"):
        list(map_chunks(die_at_two, range(5), 2))


def test_chunks_are_drawn_lazily() -> None:
    drawn = []

    def chunks() -> Iterator[list[int]]:
        for i in range(1000):
            drawn.append(i)
            yield [i]

    results = map_chunks(square, chunks(), 2)
    assert next(results) == [0]
    results.close()  # type: ignore[attr-defined]
    assert len(drawn) < 10


def test_workers_leave_when_the_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "def work(folder):\n"
        "    (Path(folder) / f'{os.getpid()}.pid').touch()\n"
        "    time.sleep(60)\n"
    )
    (tmp_path / "main.py").write_text(
        "import sys, slow\n"
        "from phi4.run.parallel import map_chunks\n"
        "if __name__ == '__main__':\n"
        "    list(map_chunks(slow.work, [sys.argv[1]] * 4, 2))\n"
    )
    process = subprocess.Popen([sys.executable, str(tmp_path / "main.py"), str(tmp_path)])
    pids = wait_for(lambda: found if len(found := list(tmp_path.glob("*.pid"))) == 2 else None)
    process.kill()
    process.wait()
    assert pids
    assert wait_for(lambda: not any(alive(int(path.stem)) for path in pids)), "workers outlived their parent"


def wait_for(condition, seconds: float = 20.0):  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    return None


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
