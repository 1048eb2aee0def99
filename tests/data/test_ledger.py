"""The ledger balances, or nothing is written: under faults, kills and everything hypothesis thinks of."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import phi4
from phi4.data.ledger import Ledger, Step, funnel, steps
from phi4.errors import LedgerError, RunError


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(tmp_path / "ledger")


def test_a_filter_a_split_and_a_join_balance(ledger: Ledger) -> None:
    with ledger.step("filter") as step:
        step.input(["a", "b", "c", "d", "e"])
        step.keep_all(["a", "b"])
        step.drop("c", "short", "3 words")
        step.fail("d", ValueError("no"))
        step.pend("e", "teacher-busy")
    with ledger.step("split", after=["filter"]) as step:
        step.input(["a", "b"])
        step.keep_all(["a", "b"])
        for number in range(3):
            step.output(f"a{number}", ["a"])
        step.output("b0", ["b"])
    with ledger.step("join", after=["split"]) as step:
        step.input(["a0", "a1", "a2", "b0"])
        step.keep_all(["a0", "a1", "a2"])
        step.drop("b0", "alone")
        step.output("j", ["a0", "a1", "a2"])
    assert funnel(ledger.folder) == {
        "steps": [
            {
                "step": "filter",
                "inputs": 5,
                "kept": 2,
                "dropped": {"short": 1},
                "failed": {"ValueError": 1},
                "pending": 1,
                "outputs": 2,
            },
            {
                "step": "split",
                "inputs": 2,
                "kept": 2,
                "dropped": {},
                "failed": {},
                "pending": 0,
                "outputs": 4,
            },
            {
                "step": "join",
                "inputs": 4,
                "kept": 3,
                "dropped": {"alone": 1},
                "failed": {},
                "pending": 0,
                "outputs": 1,
            },
        ]
    }
    assert ledger.leaving("filter") == {"a", "b"}
    assert ledger.leaving("join") == {"j"}


def _no_status(step: Step) -> None:
    step.input(["a", "b"])
    step.keep("a")


def _two_statuses(step: Step) -> None:
    step.input(["a"])
    step.keep("a")
    step.drop("a", "late")


def _unknown(step: Step) -> None:
    step.input(["a"])
    step.keep("a")
    step.fail("z", "error")


def _enters_twice_at_once(step: Step) -> None:
    step.input(["b", "a", "a"])


def _enters_twice(step: Step) -> None:
    step.input(["b", "a"])
    step.input(["c", "a"])


def _orphan(step: Step) -> None:
    step.input(["a"])
    step.keep("a")
    step.output("x", [])


def _foreign_parent(step: Step) -> None:
    step.input(["a"])
    step.keep("a")
    step.output("x", ["a", "z"])


def _dropped_parent(step: Step) -> None:
    step.input(["a", "b"])
    step.keep("a")
    step.drop("b", "bad")
    step.output("x", ["a", "b"])


def _output_twice(step: Step) -> None:
    step.input(["a"])
    step.keep("a")
    step.output("x", ["a"])
    step.output("x", ["a"])


def _childless(step: Step) -> None:
    step.input(["a", "b"])
    step.keep_all(["a", "b"])
    step.output("x", ["a"])


def _no_reason(step: Step) -> None:
    step.input(["a"])
    step.drop("a", "")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (_no_status, "1 of 2 records have no status, the first is b"),
        (_two_statuses, "already kept"),
        (_unknown, "z never entered"),
        (_enters_twice_at_once, "record a enters twice"),
        (_enters_twice, "record a enters twice"),
        (_orphan, "x has no parent"),
        (_foreign_parent, "parent z of output x is not an input"),
        (_dropped_parent, "parent b of output x is dropped"),
        (_output_twice, "x is made twice"),
        (_childless, "1 kept records have no output, the first is b"),
        (_no_reason, "without a reason"),
    ],
)
def test_what_does_not_balance_stops_the_run_and_writes_nothing(ledger: Ledger, fault, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LedgerError, match=says), ledger.step("faulty") as step:
        fault(step)
    assert list(ledger.folder.iterdir()) == []


def test_an_exception_passes_through_and_the_step_can_be_run_again(ledger: Ledger) -> None:
    def crash(step: Step) -> None:
        step.input(["a"])
        step.keep("a")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), ledger.step("work") as step:
        crash(step)
    assert steps(ledger.folder) == []
    with ledger.step("work") as step:
        step.input(["a"])
        step.keep("a")
    assert funnel(ledger.folder)["steps"][0]["kept"] == 1


@pytest.mark.parametrize(("ids", "says"), [(["a"], "never arrived"), (["a", "b", "z"], "came from nowhere")])
def test_a_record_lost_or_invented_between_two_steps_is_noticed(
    ledger: Ledger, ids: list[str], says: str
) -> None:
    def keep(step: Step, entering: list[str]) -> None:
        step.input(entering)
        step.keep_all(entering)

    for name, entering in (("one", ["a"]), ("two", ["b"])):
        with ledger.step(name) as step:
            keep(step, entering)
    with pytest.raises(LedgerError, match=says), ledger.step("three", after=["one", "two"]) as step:
        keep(step, ids)
    assert [file.name for file in steps(ledger.folder)] == ["one", "two"]


def test_a_step_run_again_replaces_its_file_and_keeps_its_place(ledger: Ledger) -> None:
    for name in ("zebra", "ant", "zebra"):
        with ledger.step(name) as step:
            step.input(["a"])
            step.keep("a")
    assert [file.name for file in steps(ledger.folder)] == ["zebra", "ant"]


@pytest.mark.parametrize("name", ["", "../up", "a/b", "Über", ".hidden"])
def test_a_step_name_is_a_file_name(ledger: Ledger, name: str) -> None:
    with pytest.raises(LedgerError, match="no name for a step"), ledger.step(name):
        pass


STATUS = st.sampled_from(["keep", "drop", "fail", "pend", "forget"])


@given(
    fates=st.dictionaries(st.text("abcdef", min_size=1, max_size=4), STATUS, max_size=30),
    families=st.lists(st.lists(st.integers(0, 29), max_size=4), max_size=12),
)
@settings(max_examples=150, deadline=None)
def test_accounting(
    tmp_path_factory: pytest.TempPathFactory, fates: dict[str, str], families: list[list[int]]
) -> None:
    """Whatever happens: a closed step adds up exactly, and one that cannot is refused and leaves no file."""
    ledger = Ledger.open(tmp_path_factory.mktemp("ledger"))
    ids = list(fates)
    outputs = {f"out{n}": [ids[i] for i in places if i < len(ids)] for n, places in enumerate(families)}
    kept = {id for id, fate in fates.items() if fate == "keep"}
    used = {parent for parents in outputs.values() for parent in parents}
    sound = (
        "forget" not in fates.values()
        and all(parents and kept.issuperset(parents) for parents in outputs.values())
        and (not outputs or used == kept)
    )
    try:
        with ledger.step("s") as step:
            step.input(ids)
            for id, fate in fates.items():
                if fate == "keep":
                    step.keep(id)
                elif fate == "drop":
                    step.drop(id, f"reason {len(id)}")
                elif fate == "fail":
                    step.fail(id, RuntimeError(id))
                elif fate == "pend":
                    step.pend(id, "later")
            for id, parents in outputs.items():
                step.output(id, parents)
    except LedgerError:
        assert not sound
        assert steps(ledger.folder) == []
        return
    assert sound
    (row,) = funnel(ledger.folder)["steps"]
    counts = Counter(fates.values())
    assert (
        row["inputs"]
        == len(ids)
        == row["kept"] + sum(row["dropped"].values()) + counts["fail"] + row["pending"]
    )
    assert (row["kept"], sum(row["dropped"].values()), sum(row["failed"].values()), row["pending"]) == (
        counts["keep"],
        counts["drop"],
        counts["fail"],
        counts["pend"],
    )
    assert row["outputs"] == (len(outputs) or counts["keep"])
    assert ledger.leaving("s") == (set(outputs) or kept)


KILLED = """
import os, signal, sys
from pathlib import Path
from phi4.data.ledger import Ledger
ids = [f"{n:06}" for n in range(50_000)]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] != "middle":
    setattr(os, sys.argv[2], die)
with Ledger.open(Path(sys.argv[1])).step("second") as step:
    step.input(ids)
    step.keep_all(ids[:-1])
    if sys.argv[2] == "middle":
        die()
    step.keep(ids[-1])
"""


@pytest.mark.parametrize("moment", ["middle", "fsync", "replace"])
def test_kill_9_leaves_no_half_written_step(ledger: Ledger, moment: str) -> None:
    with ledger.step("first") as step:
        step.input(["a"])
        step.keep("a")
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(ledger.folder), moment],
        env={**os.environ, "PYTHONPATH": str(Path(phi4.__file__).parents[1])},
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    assert [file.name for file in steps(ledger.folder)] == ["first"]
    with Ledger.open(ledger.folder).step("second", after=["first"]) as step:
        step.input(["a"])
        step.keep("a")
    assert [row["step"] for row in funnel(ledger.folder)["steps"]] == ["first", "second"]


def test_a_full_disk_is_a_clear_error_and_leaves_the_old_file(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(ids: list[str]) -> None:
        with ledger.step("s") as step:
            step.input(ids)
            step.keep_all(ids)

    keep(["a"])
    before = (ledger.folder / "s.parquet").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="no space"):
        keep(["a", "b"])
    monkeypatch.undo()
    assert (ledger.folder / "s.parquet").read_bytes() == before


def test_a_detail_that_is_no_utf8_is_stored_escaped(ledger: Ledger) -> None:
    with ledger.step("s") as step:
        step.input(["a"])
        step.fail("a", "broken", "name \udce9")
    assert steps(ledger.folder)[0].rows()["detail"].to_pylist() == ["name \\udce9"]


def test_same_accounts_same_bytes_and_200_000_records_are_quick(tmp_path: Path) -> None:
    ids = [f"{number:016x}" for number in range(200_000)]
    began = time.process_time()
    for name in ("a", "b"):
        with Ledger.open(tmp_path / name).step("s") as step:
            step.input(ids)
            for id in ids[::2]:
                step.drop(id, "even")
            step.keep_all(ids[1::2])
    funnel(tmp_path / "a")
    assert time.process_time() - began < 8  # two steps; measured 1.2 s on one idle core
    assert (tmp_path / "a/s.parquet").read_bytes() == (tmp_path / "b/s.parquet").read_bytes()
