"""Contract 8: the same recipe makes the same data set, byte for byte, whatever the number of workers."""

from pathlib import Path

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
