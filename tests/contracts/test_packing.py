"""Contract 3: packed loss equals the sum of separate losses; gradients ignore the micro-batch split."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from phi4.data.pack import PackedSet, pack
from phi4.device import Machine
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer
from phi4.run.metrics import read_metrics
from phi4.train.loader import PackedLoader
from phi4.train.objectives import (
    IGNORE,
    Batch,
    PairBatch,
    document_attention,
    dpo_loss,
    language_model_loss,
    linear_cross_entropy,
    row_logprobs,
)
from phi4.train.optim import OptimizerConfig
from phi4.train.schedule import Schedule
from phi4.train.trainer import LoopConfig, train
from tests.contracts.networks import network, plain_logits

CONTEXT, VOCAB = 24, 61
Document = tuple[list[int], list[int] | None]


def documents(count: int, longest: int, *, masked: bool, seed: int = 0) -> list[Document]:
    rng = np.random.default_rng(seed)
    made: list[Document] = []
    for _ in range(count):
        size = int(rng.integers(1, longest + 1))
        ids = rng.integers(0, VOCAB, size).tolist()
        made.append((ids, rng.integers(0, 2, size).tolist() if masked else None))
    return made


def separate_loss(model: Transformer, made: Sequence[Document]) -> tuple[Tensor, int]:
    """Every document alone, by PyTorch's own cross-entropy; cut as a context of CONTEXT cuts it."""
    total, units = torch.zeros((), dtype=torch.float64), 0
    for ids, mask in made:
        # A piece is CONTEXT inputs and their next tokens; the last input of one piece opens the next.
        for start in range(0, len(ids) - 1, CONTEXT):
            piece = ids[start : start + CONTEXT + 1]
            learn = [1] * len(piece) if mask is None else mask[start : start + CONTEXT + 1]
            logits_TV = plain_logits(model, piece[:-1])
            targets = [t if m else -100 for t, m in zip(piece[1:], learn[1:], strict=True)]
            total = total + F.cross_entropy(logits_TV, torch.tensor(targets), reduction="sum")
            units += sum(learn[1:])
    return total, units


def all_batches(data: PackedSet, micro_rows: int = 0) -> list[Batch]:
    return PackedLoader(data, rows=data.rows, seed=3, micro_rows=micro_rows)(0)


def gradients(model: Transformer, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-10, atol=1e-11, msg=name)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("longest", [10, CONTEXT + 1, 4 * CONTEXT])
@pytest.mark.parametrize("tied", [True, False])
def test_packed_loss_is_the_sum_of_separate_losses(
    longest: int, masked: bool, tied: bool, tmp_path: Path
) -> None:
    model = network(VOCAB, CONTEXT, tied=tied)
    made = documents(30, longest, masked=masked)
    data = pack(made, tmp_path / "rows", CONTEXT, VOCAB)
    assert data.rows < 30 or longest > CONTEXT  # several documents share a row
    batches = all_batches(data)
    rope = Rope(model.config, CONTEXT)
    packed = sum(language_model_loss(model, batch, rope, torch.float64) for batch in batches)
    assert isinstance(packed, Tensor)
    separate, units = separate_loss(model, made)
    assert sum(batch.units for batch in batches) == units
    torch.testing.assert_close(packed, separate, rtol=1e-12, atol=0)
    assert_same(gradients(model, packed), gradients(model, separate))


@pytest.mark.parametrize("micro_rows", [1, 2, 3, 100])
def test_gradients_do_not_depend_on_the_micro_batch_split(micro_rows: int, tmp_path: Path) -> None:
    """Micro-batches hold very different numbers of learned tokens, and still weigh every token alike."""
    model = network(VOCAB, CONTEXT)
    data = pack(documents(30, 20, masked=True), tmp_path / "rows", CONTEXT, VOCAB)
    rope = Rope(model.config, CONTEXT)

    def accumulated(micro_rows: int) -> dict[str, Tensor]:
        batches = all_batches(data, micro_rows)
        units = sum(batch.units for batch in batches)
        model.zero_grad()
        for batch in batches:
            (language_model_loss(model, batch, rope, torch.float64) / units).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    assert len(all_batches(data, micro_rows)) == -(-data.rows // micro_rows)
    assert_same(accumulated(micro_rows), accumulated(0))


@pytest.mark.parametrize("micro_rows", [1, 3])
def test_the_trainer_divides_by_the_units_of_the_whole_step(micro_rows: int, tmp_path: Path) -> None:
    data = pack(documents(40, 20, masked=True), tmp_path / "rows", CONTEXT, VOCAB)
    machine = Machine("cpu", "test", 1, 1.0, "", "float32", {"float32": 1.0})
    config = LoopConfig(steps=2, schedule=Schedule(1e-3), optimizer=OptimizerConfig(), log_every=1)
    logged = []
    for name, rows in (("whole", 0), ("split", micro_rows)):
        model = network(VOCAB, CONTEXT).float()
        train(
            tmp_path / name,
            model,
            PackedLoader(data, rows=7, seed=0, micro_rows=rows),
            language_model_loss,
            config,
            machine,
            Rope(model.config, CONTEXT),
            label=name,
            tokens_per_step=7 * CONTEXT,
            data_fingerprint=data.fingerprint,
        )
        logged.append(
            [(row["loss"], row["grad_norm"]) for row in read_metrics(tmp_path / name / "metrics.jsonl")]
        )
    assert np.allclose(logged[0], logged[1], rtol=1e-5)
    assert np.shape(logged[0]) == (2, 2)


def test_documents_never_see_each_other(tmp_path: Path) -> None:
    """Replacing one document of a row changes no bit of what is computed for another."""
    model = network(VOCAB, CONTEXT)
    first, second, other = [5, 6, 7, 8, 9, 10, 11, 12], [20, 21, 22, 23, 24, 25], [33, 34, 35, 36, 37, 38]
    rope = Rope(model.config, CONTEXT)
    hidden = []
    for name, neighbour in (("a", second), ("b", other)):
        for order, pair in (("after", [first, neighbour]), ("before", [neighbour, first])):
            data = pack([(ids, None) for ids in pair], tmp_path / f"{name}-{order}", CONTEXT, VOCAB)
            (batch,) = all_batches(data)
            assert len(batch.ids_BT) == 1
            attend = document_attention(batch.documents_BT, torch.float64)
            with torch.no_grad():
                h_BTD = model(batch.ids_BT, batch.positions_BT, attend, rope)
            hidden.append(h_BTD[0, :8] if order == "after" else h_BTD[0, 6:14])
    assert torch.equal(hidden[0], hidden[2])
    assert torch.equal(hidden[1], hidden[3])
    torch.testing.assert_close(hidden[0], hidden[1], rtol=1e-12, atol=1e-12)  # nor where it stands


def test_padding_and_first_tokens_are_never_targets(tmp_path: Path) -> None:
    data = pack([([1, 2, 3], None), ([4, 5], None)], tmp_path / "rows", CONTEXT, VOCAB)
    (batch,) = all_batches(data)
    assert batch.ids_BT[0, :6].tolist() == [1, 2, 3, 4, 5, 0]
    assert batch.targets_BT[0].tolist() == [2, 3, IGNORE, 5] + [IGNORE] * (CONTEXT - 4)
    assert batch.positions_BT[0, :5].tolist() == [0, 1, 2, 0, 1]


def test_linear_cross_entropy_over_several_chunks() -> None:
    """More positions than a chunk holds, against PyTorch's own, values and both gradients."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(2500, 8, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(13, 8, dtype=torch.float64, generator=generator).requires_grad_()
    targets = torch.randint(0, 13, (2500,), generator=generator)
    (3 * linear_cross_entropy(h, weight, targets)).backward()
    ours = (h.grad, weight.grad)
    h.grad = weight.grad = None
    loss = F.cross_entropy(h @ weight.T, targets, reduction="sum")
    (3 * loss).backward()
    torch.testing.assert_close(linear_cross_entropy(h, weight, targets), loss, rtol=1e-12, atol=0)
    for mine, reference in zip(ours, (h.grad, weight.grad), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-12)


def pair_batch(pairs: int, reference: Tensor, *, start: int = 0) -> PairBatch:
    """Rows 2i and 2i+1 share a prefix and differ from some point on."""
    rows: list[tuple[list[int], int]] = []
    for pair in range(start, start + pairs):
        rng = np.random.default_rng(pair)
        prefix = rng.integers(0, VOCAB, int(rng.integers(2, 8))).tolist()
        for _ in range(2):
            tail = rng.integers(0, VOCAB, int(rng.integers(1, 6))).tolist()
            rows.append((prefix + tail, len(prefix)))
    width = 16
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    targets = torch.full((len(rows), width), IGNORE)
    inside = torch.zeros(len(rows), width, dtype=torch.long)
    for number, (row, prefix_length) in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        inside[number, : len(row)] = 1
        targets[number, prefix_length - 1 : len(row) - 1] = torch.tensor(row[prefix_length:])
    positions = torch.arange(width).expand_as(ids)
    return PairBatch(Batch(ids, targets, inside, positions), reference[start : start + pairs])


def test_dpo_is_its_formula_on_separate_rows_and_sums_over_pairs() -> None:
    model = network(VOCAB, CONTEXT)
    rope, beta = Rope(model.config, CONTEXT), 0.3
    reference = torch.linspace(-2, 2, 7, dtype=torch.float64)
    whole = pair_batch(7, reference)
    loss = dpo_loss(beta)(model, whole, rope, torch.float64)
    expected, logprobs = torch.zeros((), dtype=torch.float64), []
    for row, targets in zip(whole.rows.ids_BT.tolist(), whole.rows.targets_BT.tolist(), strict=True):
        logp_TV = plain_logits(model, row).log_softmax(-1)
        learned = [logp_TV[t, target] for t, target in enumerate(targets) if target != IGNORE]
        logprobs.append(torch.stack(learned).sum())
    for pair in range(7):
        margin = logprobs[2 * pair] - logprobs[2 * pair + 1] - reference[pair]
        expected = expected + torch.log1p(torch.exp(-beta * margin))
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(row_logprobs(model, whole.rows, rope, torch.float64), torch.stack(logprobs))
    parts = dpo_loss(beta)(model, pair_batch(3, reference), rope, torch.float64)
    parts = parts + dpo_loss(beta)(model, pair_batch(4, reference, start=3), rope, torch.float64)
    assert whole.units == 7
    assert_same(gradients(model, loss), gradients(model, parts))
