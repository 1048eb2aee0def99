"""A checkpoint: weights, optimizer moments and the step, published whole or not at all."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save

from phi4.errors import RunError
from phi4.model.transformer import Transformer
from phi4.run.files import atomic_folder, read_json, write_json
from phi4.train.optim import Optimizer

_PREFIX = "checkpoint-"


@dataclass(frozen=True)
class TrainState:
    """Where training stands. With the stage's configuration this is all that resuming needs."""

    step: int  # steps done
    seconds: float  # time spent training, earlier processes included
    data: str  # fingerprint of the data set the order refers to


def save_checkpoint(folder: Path, state: TrainState, model: Transformer, optimizer: Optimizer) -> None:
    """Write checkpoint-STEP atomically, then delete the older ones."""
    path = folder / f"{_PREFIX}{state.step}"
    with atomic_folder(path) as temporary:
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        (temporary / "model.safetensors").write_bytes(save(weights))
        (temporary / "optimizer.safetensors").write_bytes(save(optimizer.state()))
        write_json(
            temporary / "state.json", {"step": state.step, "seconds": state.seconds, "data": state.data}
        )
    for old in _checkpoints(folder):
        if old != path:
            shutil.rmtree(old)


def load_checkpoint(folder: Path, data: str, model: Transformer, optimizer: Optimizer) -> TrainState | None:
    """Restore the newest checkpoint into `model` and `optimizer`; None when there is none.

    Raises RunError when the data set is not the one the checkpoint was trained on.
    """
    found = _checkpoints(folder)
    if not found:
        return None
    path = found[-1]
    state = TrainState(**read_json(path / "state.json"))
    if state.data != data:
        raise RunError(
            f"{path} was trained on data {state.data}, the run now has {data}", "start anew with --fresh"
        )
    model.load_state_dict(load_file(path / "model.safetensors"))
    optimizer.load_state(load_file(path / "optimizer.safetensors"))
    return state


def clear_checkpoints(folder: Path) -> None:
    """Delete all checkpoints of a finished stage: its model folder holds the result."""
    for path in _checkpoints(folder):
        shutil.rmtree(path)


def _checkpoints(folder: Path) -> list[Path]:
    found = [path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(_PREFIX)))
