"""Optimizers: AdamW throughout, or Muon for the layers' matrices with AdamW for the rest.

Muon orthogonalises the momentum of each matrix (Jordan et al. 2024); its step is scaled to AdamW's RMS,
so one learning rate serves both. Fused matrices are orthogonalised whole.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from phi4.train.muon import Muon

OptimizerName = Literal["adamw", "muon"]


@dataclass(frozen=True)
class OptimizerConfig:
    """Weight decay acts on matrices, never on gains; `clip` bounds the global gradient norm."""

    name: OptimizerName = "muon"
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0


class Optimizer:
    """One or two torch optimizers that step together, with their state as named tensors."""

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        self.config = config
        by_muon = {
            p for n, p in model.named_parameters() if config.name == "muon" and n.endswith("proj.weight")
        }
        rest = [p for p in self._names if p not in by_muon]
        adamw = torch.optim.AdamW(
            [
                {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
                {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.0},
            ],
            lr=1.0,
            betas=(config.beta1, config.beta2),
            fused=True,
        )
        self._optimizers: list[torch.optim.Optimizer] = [adamw]
        if by_muon:
            matrices = sorted(by_muon, key=lambda p: self._names[p])
            self._optimizers.append(Muon(matrices, lr=1.0, weight_decay=config.weight_decay))

    def step(self, lr: float) -> float:
        """Clip, update, clear the gradients. Returns the gradient norm before clipping."""
        norm = float(nn.utils.clip_grad_norm_(list(self._names), self.config.clip or float("inf")))
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Every moment and counter as a tensor named PARAMETER/KEY."""
        return {
            f"{name}/{key}": value
            for parameter, name in self._names.items()
            for optimizer in self._optimizers
            for key, value in optimizer.state.get(parameter, {}).items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state` gave."""
        parameters = {name: parameter for parameter, name in self._names.items()}
        owner = {
            parameter: optimizer
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for path, tensor in tensors.items():
            name, key = path.rsplit("/", 1)
            owner[parameters[name]].state[parameters[name]][key] = tensor.clone()
