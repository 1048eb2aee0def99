"""Progress lines in a log (with a clock of our own) and on a real terminal."""

import io
import os
import pty
import subprocess
import sys

import pytest

from phi4.run.progress import Progress, duration


def test_sparse_plain_lines_with_rate_and_eta() -> None:
    now = 0.0
    out = io.StringIO()
    with Progress("pretrain", 100, "steps", done=20, stream=out, clock=lambda: now) as progress:
        for step in range(80):
            now += 0.5
            progress.advance(1, note=f"loss {step}")
    lines = out.getvalue().splitlines()
    # 40 seconds: a line each 10 s (the last coincides with the end), then the closing line
    assert lines[0] == "pretrain: 40% 40/100 steps 2 steps/s  ETA 30 s  loss 19"
    assert lines[-1] == "pretrain: 100 steps in 40 s, 2 steps/s  loss 79"
    assert len(lines) == 5


def test_no_closing_line_after_an_error_and_no_division_by_zero() -> None:
    out = io.StringIO()
    with pytest.raises(KeyError), Progress("x", 0, stream=out):
        {}["x"]
    assert out.getvalue() == ""
    with Progress("empty", 0, stream=out, clock=lambda: 1.0):
        pass
    assert out.getvalue() == "empty: 0 in 0.0 s\n"


def test_live_on_a_terminal() -> None:
    code = """
import sys, time
from phi4.run.progress import Progress
with Progress("[tokens]", 5, "docs", stream=sys.stdout) as progress:
    for _ in range(5):
        time.sleep(0.15)
        progress.advance(1, "note [x]")
"""
    parent, child = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=child, stderr=child, env=env)
    os.close(child)
    data = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:
            break
        if not piece:
            break
        data += piece
    os.close(parent)
    assert process.wait() == 0
    text = data.decode()
    assert "docs/s" in text
    assert "ETA" in text
    assert "\x1b[" in text  # drawn in place
    assert text.rstrip().splitlines()[-1].endswith("note [x]")
    assert "[tokens]: 5 docs in" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (185, "3:05"),
        (3723, "1:02:03"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
