"""Contract 10: training numerics do not change unnoticed. Bytes of our own textbook, so it holds on every machine.

After an intended change: `python -m tests.contracts.test_golden_loss` rewrites the curve; say why in LOG.md.
"""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from phi4.data.pack import Tokens, pack
from phi4.model.config import ModelConfig
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer
from phi4.train.loader import PackedLoader
from phi4.train.objectives import language_model_loss
from phi4.train.optim import Optimizer, OptimizerConfig, OptimizerName
from phi4.train.schedule import Schedule

GOLDEN = Path(__file__).parent / "golden" / "loss.json"
STEPS = 24


def curve(name: OptimizerName, folder: Path) -> list[float]:
    """Loss per byte of each step in float32."""
    text = (resources.files("phi4.data.organic") / "textbook" / "02-addition-with-carries.md").read_bytes()
    passages: list[Tokens] = [(list(text[i : i + 100]), None) for i in range(0, 4000, 100)]
    data = pack(passages, folder, context=128, vocab_size=256)
    model = Transformer(ModelConfig(256, 32, 2, 4, 2, 64, 128, tie_word_embeddings=True))
    model.init_weights(0)
    optimizer = Optimizer(model, OptimizerConfig(name))
    loader, schedule, rope = (
        PackedLoader(data, 4, seed=0, micro_rows=2),
        Schedule(1e-2),
        Rope(model.config, 128),
    )
    losses = []
    for step in range(STEPS):
        batches = loader(step)
        units = sum(batch.units for batch in batches)
        parts = [language_model_loss(model, batch, rope, torch.float32) / units for batch in batches]
        torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
        losses.append(sum(float(part.detach()) for part in parts))
        optimizer.step(schedule.peak_lr * schedule.scale(step, STEPS))
    return losses


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_golden_loss_curve(name: OptimizerName, tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    # Muon orthogonalises in bfloat16, whose rounding differs a little between processors.
    np.testing.assert_allclose(curve(name, tmp_path / "rows"), golden, rtol=1e-4 if name == "adamw" else 5e-3)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        curves = {name: curve(name, Path(folder) / name) for name in ("adamw", "muon")}
    GOLDEN.write_text(json.dumps({k: [round(x, 6) for x in v] for k, v in curves.items()}, indent=1) + "\n")
