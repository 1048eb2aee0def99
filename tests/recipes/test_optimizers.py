"""The optimizers' race: read back when it is over, and judged by time to equal bits per byte."""

from pathlib import Path

import pytest

from phi4.recipes import optimizers
from phi4.recipes.optimizers import Curve, race, race_table
from tests.recipes.small import small


def test_every_optimizer_runs_once_and_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "RATES", {"adamw": (1e-2,), "muon": (1e-2,)})
    curves = race(small(), 8_192, tmp_path, range(1), lambda line: None)
    assert [(curve.optimizer, curve.seed) for curve in curves] == [("adamw", 0), ("muon", 0)]
    assert curves[0].points != curves[1].points
    assert all(0 < curve.last < 8 for curve in curves)
    assert race(small(), 8_192, tmp_path, range(1), lambda line: None) == curves


def test_the_table_compares_each_at_its_best_rate() -> None:
    curves = [
        Curve("adamw", 3e-3, 0, ((10, 2.0), (20, 1.5))),
        Curve("adamw", 6e-3, 0, ((10, 1.8), (20, 1.2))),
        Curve("muon", 5e-3, 0, ((12, 1.1), (24, 0.8))),
        Curve("muon", 1e-2, 0, ((12, 1.9), (24, 1.0))),
    ]
    last = race_table(curves).splitlines()[-1]
    assert "1.2000 bits per byte after 20 s with adamw (0.006), after 12 s with muon (0.005)" in last
    assert last.endswith("1.7 times sooner")
