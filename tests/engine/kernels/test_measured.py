"""The measured choice of operators: what is chosen from given times, and that it is measured once."""

import json
from pathlib import Path

import pytest
import torch

from phi4.engine.kernels import choose, measured, operators
from phi4.engine.kernels.measured import ROWS, Times, default_plan
from phi4.engine.kernels.native import Library
from phi4.engine.kernels.operators import ANY, PlainLinear, kinds_for
from phi4.model.config import Quantization
from phi4.model.linear import QuantizedLinear

KINDS = ("int4pack", "int8pack", "onednn")


def times(**milliseconds: list[float]) -> Times:
    return Times((1, 8, 64), milliseconds)


def test_the_fastest_for_each_number_of_rows() -> None:
    found = times(int4pack=[1, 4, 30], onednn=[3, 2, 4], int8pack=[2.5, 3, 5], native=[0.5, 1, 4])
    assert found.plan(KINDS, spare=9) == ((1, "int4pack"), (ANY, "onednn"))
    assert found.plan(KINDS, spare=1.2) == ((ANY, "onednn"),)
    assert found.plan(KINDS, spare=0.7) == ((ANY, "int4pack"),)
    assert found.plan(KINDS, spare=0.1) == ((ANY, "int4pack"),)  # nothing fits: the smallest
    assert found.plan(["int8pack", "onednn"], spare=0.1) == ((ANY, "int8pack"),)
    assert found.native_wins(KINDS, spare=9)


def test_memory_is_spent_only_where_it_pays() -> None:
    found = times(int4pack=[1, 1, 1], onednn=[1.01, 1.0, 0.99])
    assert found.plan(["int4pack", "onednn"], spare=9) == ((ANY, "int4pack"),)


def test_native_loses_where_it_is_slower() -> None:
    found = times(int4pack=[1, 4, 30], native=[2, 8, 60])
    assert not found.native_wins(KINDS, spare=9)
    assert not times(int4pack=[1, 4, 30]).native_wins(KINDS, spare=9)


def test_an_operator_that_fails_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise NotImplementedError("not on this CPU")

    monkeypatch.setattr(operators, "onednn", missing)
    found = measured.measure(None, (1, 2), 256, 1)
    assert found.timed(KINDS) == ["int4pack", "int8pack"]
    assert times(native=[1, 1, 1]).native_wins(KINDS, spare=9)


def test_defaults() -> None:
    assert default_plan(KINDS, 4, 9) == ((1, "int4pack"), (ANY, "onednn"))
    assert default_plan(KINDS, 4, 0.6) == ((ANY, "int4pack"),)
    assert default_plan(KINDS[:2], 4, 9) == ((ANY, "int4pack"),)
    assert default_plan(KINDS[1:2], 4, 9) == ((ANY, "int8pack"),)
    assert default_plan(KINDS[1:], 8, 9) == ((ANY, "onednn"),)
    assert default_plan(KINDS[1:2], 8, 9) == ((ANY, "int8pack"),)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A measurement of a small matrix; says how often it was made."""
    made: list[int] = []
    real = measured.measure

    def small(library: Library | None) -> Times:
        made.append(1)
        return real(library, ROWS, 256, 1)

    monkeypatch.setattr(measured, "measure", small)
    return made


def test_measured_once_and_written_down(native: Library, quick: list[int], tmp_path: Path) -> None:
    first = measured.times(native, tmp_path)
    (path,) = tmp_path.iterdir()
    raw = json.loads(path.read_text())
    linear = QuantizedLinear(256, 256, Quantization(4, 128))
    assert set(raw["milliseconds"]) == {*kinds_for(linear), "native"}
    assert all(len(every) == len(ROWS) and min(every) > 0 for every in raw["milliseconds"].values())
    again = measured.times(native, tmp_path)
    assert again.plan(again.timed(KINDS), 9) == first.plan(first.timed(KINDS), 9)
    assert len(quick) == 1
    measured.times(None, tmp_path)  # without the native kernels it is another machine
    assert len(quick) == 2


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"rows": [1], "milliseconds": {}}',
        json.dumps({"rows": ROWS, "milliseconds": {"int8pack": [0.0] * len(ROWS)}}),
        json.dumps({"rows": ROWS, "milliseconds": {"int8pack": [1.0]}}),
        json.dumps({"rows": ROWS, "milliseconds": {"native": [1.0] * len(ROWS)}}),
    ],
)
def test_a_damaged_record_is_measured_again(quick: list[int], tmp_path: Path, damage: str) -> None:
    measured.times(None, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(damage)
    measured.times(None, tmp_path)
    assert len(quick) == 2
    assert json.loads(path.read_text())["rows"] == list(ROWS)


def test_a_folder_that_cannot_be_written(quick: list[int], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert measured.times(None, tmp_path / "file").milliseconds


def test_a_large_model_takes_what_was_measured(monkeypatch: pytest.MonkeyPatch, native: Library) -> None:
    """Also away from the native kernels, where those lost."""
    from tests.engine.kernels.test_choose import native_kernels, small_model

    slow = Times(ROWS, {"int8pack": [1.0] * len(ROWS), "native": [2.0] * len(ROWS)})
    monkeypatch.setattr(measured, "times", lambda library: slow)
    monkeypatch.setattr(choose, "_LARGE", 1)
    model = small_model(Quantization(4, 32), tied=True)
    native_kernels(native).prepare(model, 8)
    layer = model.layers[0].mlp.down_proj
    assert isinstance(layer, PlainLinear)
    assert layer.plan == ((ANY, "int8pack"),)
    assert torch.isfinite(layer(torch.randn(3, 256))).all()
