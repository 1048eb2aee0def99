"""The one loop. Pretraining, midtraining, SFT and DPO differ in data, objective and schedule, not in code."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from phi4.device import Machine
from phi4.errors import ModelError, RunError
from phi4.model.cost import training_flops_per_token
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer
from phi4.run.metrics import MetricsLog, read_metrics
from phi4.run.progress import Progress
from phi4.train.checkpoint import TrainState, load_checkpoint, save_checkpoint
from phi4.train.objectives import Batch, language_model_loss
from phi4.train.optim import Optimizer, OptimizerConfig
from phi4.train.schedule import Schedule


class Countable(Protocol):
    """A micro-batch of any objective."""

    @property
    def units(self) -> int:
        """Tokens or pairs the loss sums over."""
        ...


B = TypeVar("B", bound=Countable)
Loss = Callable[[Transformer, B, Rope, torch.dtype], torch.Tensor]


@dataclass(frozen=True)
class LoopConfig:
    """Length and rhythm of a stage; steps are fixed by the recipe, never by the clock."""

    steps: int
    schedule: Schedule
    optimizer: OptimizerConfig
    log_every: int = 10
    checkpoint_every: int = 200


def train(
    folder: Path,
    model: Transformer,
    batches: Callable[[int], Sequence[B]],
    loss: Loss[B],
    config: LoopConfig,
    machine: Machine,
    rope: Rope,
    *,
    label: str,
    tokens_per_step: int,
    data_fingerprint: str,
    watch: Callable[[Transformer], dict[str, float]] | None = None,
    watch_every: int = 0,
) -> dict[str, Any]:
    """Train `model` in place for `config.steps` steps, resuming from the newest checkpoint in `folder`.

    `batches(step)` gives the micro-batches of a step; the gradient is that of loss_sum / n_units over all of
    them. Every `watch_every` steps the result of `watch(model)` (held-out bits per byte) joins the metrics.
    Returns a summary: steps, tokens, seconds, tok_s, mfu, loss. Raises RunError when the loss stops being a number,
    and ModelError for a quantised model.
    """
    if model.config.quantization is not None:
        raise ModelError("a quantised model cannot be trained", "train the model it was made from")
    dtype = machine.compute_dtype
    model.train()
    optimizer = Optimizer(model, config.optimizer)
    state = load_checkpoint(folder, data_fingerprint, model, optimizer) or TrainState(
        0, 0.0, data_fingerprint
    )
    flops = training_flops_per_token(model.config, len(rope.cos_TR)) * tokens_per_step
    recent: list[float] = []
    with (
        side_by_side(machine.device) as pool,
        MetricsLog(folder / "metrics.jsonl") as log,
        Progress(label, config.steps * tokens_per_step, "tok", done=state.step * tokens_per_step) as progress,
    ):
        log.truncate_after(state.step)
        began, before, logged = time.perf_counter(), state.seconds, (state.step, state.seconds)
        for step in range(state.step, config.steps):
            total = accumulate_gradients(
                model, batches(step), lambda batch: loss(model, batch, rope, dtype), pool
            )
            if not math.isfinite(total):
                raise RunError(
                    f"{label}: the loss is {total} at step {step}", "lower the learning rate and use --fresh"
                )
            lr = config.schedule.peak_lr * config.schedule.scale(step, config.steps)
            norm = optimizer.step(lr)
            recent = [*recent[-19:], total]
            done = step + 1
            seconds = before + time.perf_counter() - began
            watching = watch is not None and (
                done == config.steps or (watch_every and done % watch_every == 0)
            )
            if done % config.log_every == 0 or done == config.steps or watching:
                speed = (done - logged[0]) / max(1e-9, seconds - logged[1])
                logged = (done, seconds)
                row = {
                    "step": done,
                    "tokens": done * tokens_per_step,
                    "loss": total,
                    "lr": lr,
                    "grad_norm": norm,
                    "tok_s": speed * tokens_per_step,
                    "mfu": speed * flops / machine.peak_flops,
                    "seconds": seconds,
                }
                if watch is not None and watching:
                    paused = time.perf_counter()
                    model.eval()
                    row |= watch(model)
                    model.train()
                    began += time.perf_counter() - paused  # watching is not training
                log.write(row)
            progress.advance(tokens_per_step, f"loss {sum(recent) / len(recent):.3f}")
            if done % config.checkpoint_every == 0 and done < config.steps:
                save_checkpoint(folder, TrainState(done, seconds, data_fingerprint), model, optimizer)
    model.eval()
    seconds = before + time.perf_counter() - began
    tokens = config.steps * tokens_per_step
    trained = max(1, config.steps - state.step) * tokens_per_step
    speed = trained / max(1e-9, seconds - before)
    return {
        "steps": config.steps,
        "tokens": tokens,
        "seconds": seconds,
        "tok_s": speed,
        "mfu": speed / tokens_per_step * flops / machine.peak_flops,
        "loss": read_metrics(folder / "metrics.jsonl")[-1]["loss"],
    }


def accumulate_gradients(
    model: Transformer, micro_batches: Sequence[B], loss: Callable[[B], torch.Tensor], pool: Executor | None
) -> float:
    """Set every gradient to that of loss_sum / n_units over all micro-batches; return that loss.

    Gradients are summed in the order of the micro-batches, whichever is ready first.
    """
    parameters = list(model.parameters())
    units = max(1, sum(batch.units for batch in micro_batches))

    def one(batch: B) -> tuple[float, Sequence[torch.Tensor | None]]:
        mean = loss(batch) / units
        return float(mean.detach()), torch.autograd.grad(mean, parameters, allow_unused=True)

    total = 0.0
    for part, gradients in (pool.map if pool else map)(one, micro_batches):
        total += part
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    return total


@contextmanager
def side_by_side(device: str) -> Iterator[Executor | None]:
    """On a CPU, a thread for each core, each computing on its own.

    The operators of a small model are too short to be worth sharing: two micro-batches side by side train a fifth
    faster than two cores on one.
    """
    threads = torch.get_num_threads()
    if device != "cpu" or threads == 1:
        yield None
        return
    torch.set_num_threads(1)  # here too: a helper thread that spins between two operators would steal a core
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def bits_per_byte(
    model: Transformer, batches: Sequence[Batch], n_bytes: int, rope: Rope, dtype: torch.dtype
) -> float:
    """Loss on held-out text in bits per byte of text, which compares tokenizers as well as models."""
    nats = sum(float(language_model_loss(model, batch, rope, dtype)) for batch in batches)
    return nats / math.log(2) / n_bytes
