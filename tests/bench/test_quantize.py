"""`phi4 bench quantize` on a small random model: every variant stands in the table, and the figures are ordered."""

import json
from pathlib import Path

import pytest

from phi4.cli.main import main
from phi4.model.config import ModelConfig
from phi4.model.transformer import Transformer
from phi4.weights.folder import save_model
from tests.evals.fakes import tokenizer


def test_all_variants_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PHI4_HOME", str(tmp_path / "home"))
    config = ModelConfig(
        vocab_size=tokenizer().vocab_size, hidden_size=128, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=128, max_position_embeddings=384, initializer_range=0.1,
    )  # fmt: skip
    network = Transformer(config)
    network.init_weights(0)
    save_model(tmp_path / "little", network, tokenizer())
    (tmp_path / "little" / "phi4.json").write_text(json.dumps({"name": "little", "skills": ["clock"]}))
    assert main(["bench", "quantize", str(tmp_path / "little"), "--quick", "--json"]) == 0
    out = capsys.readouterr().out
    original, *rows = json.loads(out.splitlines()[-1])["cells"]
    assert original["agreement"] is None
    assert len(rows) == 10
    found = {(row["name"], row["method"]): row for row in rows}
    for row in rows:
        assert row["tally"]["n"] == original["tally"]["n"] == row["change"]["n"] == 6
        assert row["bytes"] < original["bytes"]
        assert row["name"] in out
        eight = row["name"].startswith("int8")
        assert (
            row["agreement"]["divergence"] < found["int4 per row", "rtn"]["agreement"]["divergence"] / 10
        ) == eight
    sizes = [found[f"int4 in groups of {group}", "rtn"]["bytes"] for group in (128, 64, 32)]
    assert sizes == sorted(sizes)
