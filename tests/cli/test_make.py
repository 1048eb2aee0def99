"""`phi4 make`, `show` and `ablate` as typed: mistakes, the dry run, and what is printed."""

import json
from pathlib import Path

import pytest

from phi4.cli.main import main


def test_unknown_recipe_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["make", "picco"]) == 2
    error = capsys.readouterr().err
    assert "unknown recipe picco" in error
    assert "did you mean pico?" in error
    assert "Traceback" not in error


def test_unknown_key_has_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["make", "tiny", "--set", "pretrain.peek_lr=1"]) == 2
    assert "pretrain.peak_lr" in capsys.readouterr().err


def test_documents_that_do_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["make", "tiny", "--docs", str(tmp_path / "none"), "--out", str(tmp_path)]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_dry_run_prints_values_origins_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["make", "pico", "--dry-run", "--set", "sft.rows=4", "--json"]) == 0
    out = capsys.readouterr().out
    assert "sft.rows = 4  (--set)" in out
    assert "pretrain.context = 256  (recipe pico)" in out
    last = json.loads(out.strip().split("\n")[-1])
    assert last["recipe"]["sft"]["rows"] == 4
    assert last["cost"]["parameters"] > 500_000


@pytest.mark.parametrize(("name", "count"), [("phi-4", "14,659,507,200"), ("phi-4-mini", "3,836,021,760")])
def test_show_prints_the_published_counts(name: str, count: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name]) == 0
    assert count in capsys.readouterr().out


def test_ablate_dpo_needs_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "dpo", "--out", str(tmp_path)]) == 2
    assert "phi4 make pico" in capsys.readouterr().err
