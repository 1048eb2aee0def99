"""The metrics log under torn lines, resumes and a full disk."""

import subprocess
import sys
from pathlib import Path

import pytest

from phi4.errors import RunError
from phi4.run.metrics import MetricsLog, read_metrics


def test_rows_come_back_and_are_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "sft" / "metrics.jsonl"
    assert read_metrics(path) == []
    with MetricsLog(path) as log:
        log.write({"step": 1, "loss": 2.5})
        assert read_metrics(path) == [{"step": 1, "loss": 2.5}]
        log.write({"step": 2, "loss": float("nan")})
    assert read_metrics(path)[1] == {"step": 2, "loss": None}


def test_torn_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    with MetricsLog(path) as log:
        log.write({"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_resume_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with MetricsLog(path) as log:
        for step in range(1, 8):
            log.write({"step": step, "try": 1})
    with MetricsLog(path) as log:
        log.truncate_after(4)
        for step in (5, 6):
            log.write({"step": step, "try": 2})
    rows = read_metrics(path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["try"] for row in rows] == [1, 1, 1, 1, 2, 2]


def test_damage_in_the_middle_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(RunError, match="line 2"):
        read_metrics(path)
    with pytest.raises(RunError, match="line 2"), MetricsLog(path) as log:
        log.truncate_after(1)


def test_full_disk_keeps_every_whole_row(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    code = """
import resource, sys
from pathlib import Path
from phi4.errors import RunError
from phi4.run.metrics import MetricsLog
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
try:
    with MetricsLog(Path(sys.argv[1])) as log:
        for step in range(1000):
            log.write({"step": step, "loss": 1.25})
except RunError as error:
    print(step, error.message)
"""
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True).stdout
    assert "no space to write" in out
    assert [row["step"] for row in read_metrics(path)] == list(range(int(out.split()[0])))
