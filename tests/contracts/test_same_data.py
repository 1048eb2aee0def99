"""Contract 8: the same recipe makes the same data set, byte for byte, whatever the number of workers.

And what was made can be followed back.
"""

from pathlib import Path

import pytest

from phi4.cli.main import main
from phi4.data.record import read_records
from phi4.recipes.corpus import build_corpus, evaluation_tasks, organic_sources
from phi4.run.folder import RunFolder
from tests.recipes.small import small


def test_workers_change_nothing(tmp_path: Path) -> None:
    made = []
    for workers in (1, 2):
        recipe = small(workers)
        run = RunFolder(tmp_path / str(workers))
        build_corpus(recipe, run, organic_sources(recipe), evaluation_tasks(recipe))
        files = sorted(path for path in run.root.rglob("*.parquet"))
        made.append({path.relative_to(run.root): path.read_bytes() for path in files})
    assert len(made[0]) > 10
    assert made[0] == made[1]


def test_a_made_record_can_be_traced_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = small()
    run = RunFolder(tmp_path)
    run.write_run({"name": "small"})
    build_corpus(recipe, run, organic_sources(recipe), evaluation_tasks(recipe))
    for name in ("problems", "sheets", "chat", "textbook"):
        record = next(read_records(tmp_path / "data" / "records" / f"{name}.parquet"))
        assert main(["data", "trace", record.id, "--run", str(tmp_path)]) == 0
        assert record.source in capsys.readouterr().out
