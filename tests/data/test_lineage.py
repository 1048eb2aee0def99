"""From a training example back to where it came from, and from a missing one to what ended it."""

import argparse
import json
from pathlib import Path

import pytest

from phi4.cli.data import add_arguments, run
from phi4.data.ledger import Ledger
from phi4.data.lineage import trace, why_dropped
from phi4.data.record import Record, Text, derived_record, root_id, write_records
from phi4.errors import DataError, Phi4Error, UsageError


def derived(parents: list[str], number: int, step: str, source: str, licence: str, generator: str) -> Record:
    return derived_record(
        step,
        f"fingerprint of {step}",
        parents,
        number,
        Text(f"{source}: text [bold]number[/bold] {number}"),
        kind="docs",
        skill="any",
        licence=licence,
        source=source,
        generator=generator,
        meta={"locator": "manual.md"},
    )


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """File -> 3 passages -> (2 kept, 1 dropped) -> 1 summary of both."""
    folder = tmp_path / "runs" / "tiny-abc"
    ledger = Ledger.open(folder / "ledger")
    file = root_id("documents", "manual.md")
    passages = [derived([file], i, "sources", "documents", "user-provided", "human") for i in range(3)]
    ids = [passage.id for passage in passages]
    with ledger.step("sources") as step:
        step.input([file])
        step.keep(file, "documents: manual.md")
        for id in ids:
            step.output(id, [file])
    with ledger.step("policy", after=["sources"]) as step:
        step.input(ids)
        step.keep_all(ids[:2])
        step.drop(ids[2], "words-low", "words 3 is below 8")
    summary = derived(ids[:2], 0, "rewrite", "summaries", "MIT", "teacher-x")
    with ledger.step("rewrite", after=["policy"]) as step:
        step.input(ids[:2])
        step.keep_all(ids[:2])
        step.output(summary.id, ids[:2])
    write_records(folder / "data/records/organic.parquet", passages[:2])
    write_records(folder / "data/records/summaries.parquet", [summary])
    (folder / "run.json").write_text("{}")
    (folder / "ids.json").write_text(json.dumps([file, *ids, summary.id]))
    return folder


def ids_of(run_folder: Path) -> list[str]:
    found: list[str] = json.loads((run_folder / "ids.json").read_text())
    return found


def test_an_example_is_followed_to_its_file_across_steps(run_folder: Path) -> None:
    file, one, two, _, summary = ids_of(run_folder)
    found = trace(run_folder, summary[:8])
    assert [link.id for link in found.links] == [summary, one, two, file]
    assert [link.depth for link in found.links] == [0, 1, 1, 2]
    assert found.example.parents == (one, two)
    assert [event.step for event in found.links[1].events] == ["sources", "policy", "rewrite"]
    assert found.links[3].record is None
    assert found.links[3].events[0].detail == "documents: manual.md"
    assert found.to_json() == [
        {"id": summary, "step": "rewrite", "source": "summaries", "licence": "MIT", "generator": "teacher-x"},
        *(
            {
                "id": id,
                "step": "sources",
                "source": "documents",
                "licence": "user-provided",
                "generator": "human",
            }
            for id in (one, two)
        ),
        {"id": file, "step": "sources", "source": "documents: manual.md", "licence": "", "generator": ""},
    ]


def test_a_dropped_record_names_step_reason_and_value(run_folder: Path) -> None:
    dropped = ids_of(run_folder)[3]
    fate = why_dropped(run_folder, dropped)
    assert (fate.step, fate.status, fate.reason) == ("policy", "dropped", "words-low")
    assert fate.detail == "words 3 is below 8"
    assert fate.trace.links[1].id == ids_of(run_folder)[0]


def test_a_kept_record_was_not_dropped(run_folder: Path) -> None:
    _, one, _, _, summary = ids_of(run_folder)
    assert why_dropped(run_folder, one).status == "kept"
    assert why_dropped(run_folder, one).step == "rewrite"
    assert why_dropped(run_folder, summary).status == "kept"


@pytest.mark.parametrize(
    ("prefix", "error", "says"),
    [("zzzz", UsageError, "no record"), ("", UsageError, "no id")],
)
def test_an_id_that_is_not_there(run_folder: Path, prefix: str, error: type[Phi4Error], says: str) -> None:
    with pytest.raises(error, match=says):
        trace(run_folder, prefix)


def test_an_ambiguous_beginning_lists_what_it_could_be(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger").step("s") as step:
        step.input(["ab1", "ab2", "ab"])
        step.keep_all(["ab1", "ab2", "ab"])
    with pytest.raises(UsageError, match="3 ids begin with 'a': ab, ab1, ab2"):
        trace(tmp_path, "a")
    assert trace(tmp_path, "ab").example.id == "ab"  # a whole id is never ambiguous


def test_a_folder_without_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no ledger"):
        trace(tmp_path, "a")


def command(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_the_command_tells_the_story(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_folder.parents[1])
    _, one, _, dropped, summary = ids_of(run_folder)
    assert run(command("trace", summary[:8])) == 0
    told = capsys.readouterr().out
    for part in (summary, one, "teacher-x", "user-provided", "manual.md", "rewrite", "[bold]number[/bold]"):
        assert part in told
    assert run(command("why-dropped", dropped, "--run", str(run_folder))) == 0
    told = capsys.readouterr().out
    assert f"{dropped} was dropped at step policy: words-low" in told
    assert "words 3 is below 8" in told
    assert run(command("funnel")) == 0
    assert "words-low 1" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["trace", "why-dropped", "funnel"])
def test_json_is_one_object_on_the_last_line(
    run_folder: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    words = [verb] if verb == "funnel" else [verb, ids_of(run_folder)[3]]
    arguments = command(*words, "--run", str(run_folder))
    arguments.json = True
    assert run(arguments) == 0
    assert isinstance(json.loads(capsys.readouterr().out.splitlines()[-1]), dict)


def test_without_any_run_the_command_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no run in runs/"):
        run(command("funnel"))
