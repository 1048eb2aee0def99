"""Schedules, optimizers and checkpoints: what a resumed process must find as it was."""

from concurrent.futures import Executor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from phi4.errors import RunError
from phi4.model.config import ModelConfig
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer, causal_attention
from phi4.train.checkpoint import TrainState, load_checkpoint, save_checkpoint
from phi4.train.loader import RowOrder
from phi4.train.muon import Muon
from phi4.train.objectives import Batch, language_model_loss
from phi4.train.optim import Optimizer, OptimizerConfig, OptimizerName
from phi4.train.schedule import Schedule
from phi4.train.trainer import accumulate_gradients, side_by_side

CONFIG = ModelConfig(64, 32, 2, 4, 2, 48, 32)


def _model(seed: int) -> Transformer:
    model = Transformer(CONFIG)
    model.init_weights(seed)
    return model


def _step(model: Transformer, optimizer: Optimizer, step: int) -> None:
    ids = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(step))
    h = model(ids, torch.arange(16)[None].expand(2, 16), causal_attention, Rope(CONFIG, 16))
    torch.nn.functional.cross_entropy(model.head(h).flatten(0, 1), ids.flatten()).backward()
    optimizer.step(1e-2)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_checkpoint_continues_bit_for_bit(name: OptimizerName, tmp_path: Path) -> None:
    model = _model(0)
    optimizer = Optimizer(model, OptimizerConfig(name))
    for step in range(3):
        _step(model, optimizer, step)
    save_checkpoint(tmp_path, TrainState(3, 1.0, "data"), model, optimizer)
    other = _model(1)
    other_optimizer = Optimizer(other, OptimizerConfig(name))
    assert load_checkpoint(tmp_path, "data", other, other_optimizer) == TrainState(3, 1.0, "data")
    for step in range(3, 6):
        _step(model, optimizer, step)
        _step(other, other_optimizer, step)
    for first, second in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second)


def test_only_the_newest_checkpoint_stays(tmp_path: Path) -> None:
    model = _model(0)
    optimizer = Optimizer(model, OptimizerConfig())
    for step in (9, 10):
        save_checkpoint(tmp_path, TrainState(step, 0.0, "data"), model, optimizer)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


def test_other_data_is_refused(tmp_path: Path) -> None:
    model = _model(0)
    optimizer = Optimizer(model, OptimizerConfig())
    save_checkpoint(tmp_path, TrainState(1, 0.0, "data"), model, optimizer)
    with pytest.raises(RunError, match="trained on data"):
        load_checkpoint(tmp_path, "other", model, optimizer)


def test_muon_moves_the_matrices_of_the_layers_and_adamw_the_rest() -> None:
    model = _model(0)
    optimizer = Optimizer(model, OptimizerConfig("muon"))
    _step(model, optimizer, 0)
    by_key = {name for name in optimizer.state() if name.endswith("momentum_buffer")}
    assert {name.split("/")[0] for name in by_key} == {
        name for name, _ in model.named_parameters() if name.endswith("proj.weight")
    }
    assert "embed_tokens.weight/exp_avg" in optimizer.state()


def test_schedule_rises_and_falls_and_every_step_counts() -> None:
    scales = [Schedule(1.0, warmup=0.1).scale(step, 100) for step in range(100)]
    assert scales[9] == scales[10] == 1.0
    assert scales[:10] == sorted(scales[:10])
    assert scales[10:] == sorted(scales[10:], reverse=True)
    assert 0 < scales[-1] < 0.02


def test_row_order_reads_every_row_once_an_epoch_from_anywhere() -> None:
    order = RowOrder(rows=10, seed=5)
    whole = order.at(0, 35)
    assert sorted(whole[:10]) == sorted(whole[10:20]) == list(range(10))
    assert whole[:10] != whole[10:20]
    assert order.at(7, 20) == whole[7:27]


def test_micro_batches_side_by_side_give_the_gradients_of_one_after_another() -> None:
    model, rope = _model(0), Rope(CONFIG, 16)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 64, (6, 16), generator=generator)
    batches = [
        Batch(part, part.roll(-1, 1), torch.ones_like(part), torch.arange(16).expand_as(part))
        for part in ids.split((1, 3, 2))
    ]

    def gradients(pool: Executor | None) -> tuple[float, list[Tensor | None]]:
        model.zero_grad(set_to_none=True)
        total = accumulate_gradients(
            model, batches, lambda batch: language_model_loss(model, batch, rope, torch.float32), pool
        )
        return total, [parameter.grad for parameter in model.parameters()]

    alone, expected = gradients(None)
    torch.set_num_threads(3)
    try:
        with side_by_side("cpu") as pool:
            assert pool is not None
            assert torch.get_num_threads() == 1
            together, found = gradients(pool)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert together == alone
    for a, b in zip(found, expected, strict=True):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)


def test_batched_muon_takes_the_steps_of_pytorchs_muon() -> None:
    torch.manual_seed(0)
    shapes = [(24, 16), (24, 16), (16, 48), (16, 16)]
    ours = [torch.randn(shape).requires_grad_() for shape in shapes]
    theirs = [weight.detach().clone().requires_grad_() for weight in ours]
    mine = Muon(ours, lr=0.02, weight_decay=0.1)
    peer = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        mine.step()
        peer.step()
    for a, b in zip(ours, theirs, strict=True):
        # Both orthogonalise in bfloat16, whose products may differ in the last bit.
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)
