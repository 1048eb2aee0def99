"""The run folder: stages, keys, and the lock between real processes."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from phi4.errors import RunError
from phi4.run.folder import RunFolder, find_runs, fingerprint

HOLD = """
import sys, time
from pathlib import Path
from phi4.run.folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(root: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_second_process_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    process = holder(run.root)
    try:
        with pytest.raises(RunError, match=rf"in use by another process \(pid {process.pid}\)"), run.lock():
            pass
    finally:
        process.communicate("")
    with run.lock():  # released by a normal end
        pass


def test_lock_of_a_killed_process_is_taken_over_and_its_leftovers_swept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    process = holder(run.root)
    (run.stage("sft") / ".model.123-abc.tmp").mkdir()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (run.root / ".lock").read_text().strip() == str(process.pid)  # stale id on disk
    with run.lock():
        assert (run.root / ".lock").read_text().strip() == str(os.getpid())
        assert list(run.stage("sft").iterdir()) == []


def test_lock_is_released_after_an_error_and_excludes_within_a_process(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(RunError, match="in use"), run.lock(), RunFolder(run.root).lock():
        pass
    with run.lock():
        pass


def test_states_of_a_stage(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert run.state("sft", "k1") == "missing"
    path = run.begin("sft", "k1")
    (path / "checkpoint").write_text("half")
    assert run.state("sft", "k1") == "partial"
    assert run.state("sft", "k2") == "stale"
    assert not run.done("sft", "k1")
    with pytest.raises(RunError, match="not finished"):
        run.summary("sft")

    assert (run.begin("sft", "k1") / "checkpoint").exists()  # same key: resumed
    run.mark_done("sft", "k1", {"loss": 1.5}, seconds=2.0)
    assert run.done("sft", "k1")
    assert not run.done("sft", "k2")
    assert run.summary("sft") == {"loss": 1.5}
    assert run.seconds("sft") == 2.0

    (run.stage("pretrain") / "keep").write_text("x")
    path = run.begin("sft", "k2")  # another key: its own folder starts anew, no other is touched
    assert not (path / "checkpoint").exists()
    assert run.state("sft", "k2") == "partial"
    assert (run.root / "pretrain" / "keep").exists()


def test_files_of_unknown_origin_are_stale(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    (run.stage("sft") / "weights").write_text("?")
    assert run.state("sft", "k") == "stale"
    assert [p.name for p in run.begin("sft", "k").iterdir()] == ["started.json"]


def test_kill_while_marking_done_leaves_the_stage_unfinished(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from phi4.run.folder import RunFolder
run = RunFolder(Path(sys.argv[1]))
run.begin("sft", "k")
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
run.mark_done("sft", "k", {}, 1.0)
"""
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True)
    assert result.returncode == -signal.SIGKILL
    run = RunFolder(tmp_path)
    assert run.state("sft", "k") == "partial"
    with run.lock():
        assert sorted(p.name for p in (tmp_path / "sft").iterdir()) == ["started.json"]


def test_damaged_markers_are_clear_errors(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.mark_done("sft", "k", {}, 1.0)
    (tmp_path / "sft" / "done.json").write_text("{tor")
    with pytest.raises(RunError, match=r"done\.json cannot be read"):
        run.done("sft", "k")
    (tmp_path / "sft" / "done.json").write_text("[]")
    with pytest.raises(RunError, match="damaged"):
        run.summary("sft")
    assert not run.done("sft", "k")


@pytest.mark.parametrize("stage", ["", ".", "..", "../other", "a/b", "/tmp"])
def test_reset_only_deletes_stages(tmp_path: Path, stage: str) -> None:
    root = tmp_path / "run"
    (root / "a" / "b").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    with pytest.raises(RunError, match="not a stage"):
        RunFolder(root).reset(stage)
    assert (root / "a" / "b").exists()


def test_run_json_and_find_runs(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        RunFolder(tmp_path).read_run()
    for name, created in (("pico", "2025-01-02"), ("pico", "2025-01-03"), ("tiny", "2025-01-04")):
        RunFolder(tmp_path / f"{name}-{created}").write_run({"name": name, "created": created})
    (tmp_path / "junk").mkdir()
    (tmp_path / "file").write_text("x")
    assert [r.root.name for r in find_runs(tmp_path)] == [
        "tiny-2025-01-04",
        "pico-2025-01-03",
        "pico-2025-01-02",
    ]
    assert [r.root.name for r in find_runs(tmp_path, "pico")] == ["pico-2025-01-03", "pico-2025-01-02"]
    assert find_runs(tmp_path / "nowhere") == []


@dataclass(frozen=True)
class Adam:
    lr: float = 0.1


@dataclass(frozen=True)
class Muon:
    lr: float = 0.1


def test_fingerprint_is_stable_and_tells_things_apart() -> None:
    values = [1, 1.5, "1", True, None, [1], [[1]], {"a": 1}, Adam(), Muon(), Adam(0.2), (Adam(), Muon())]
    prints = [fingerprint(value) for value in values]
    assert len(set(prints)) == len(values)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    code = "from phi4.run.folder import fingerprint; print(fingerprint({'a': (1, 2.5, 'é'), 'b': None}))"
    out = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert out == {fingerprint({"b": None, "a": [1, 2.5, "é"]})}
