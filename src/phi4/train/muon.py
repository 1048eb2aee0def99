"""Muon (Jordan et al. 2024): momentum whose matrices are orthogonalised before the step.

PyTorch's own `torch.optim.Muon` does the same one matrix at a time; with many small matrices the calls cost
more than the arithmetic, so here all matrices of one shape are orthogonalised in one batched product. The two
are compared in the tests.

Legend: N matrices of one shape, R rows, C columns (R <= C).
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the quintic of Jordan et al.
_ITERATIONS = 5
_EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, scaled to AdamW's RMS (Liu et al. 2025); decoupled weight decay."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            same_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    same_shape[parameter.shape].append((parameter, parameter.grad))
            for shape, found in same_shape.items():
                parameters, gradients = [p for p, _ in found], [g for _, g in found]
                buffers = [self._buffer(parameter) for parameter in parameters]
                torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
                ahead = torch._foreach_lerp(gradients, buffers, group["momentum"])
                updates = orthogonalise(torch.stack(ahead)).to(parameters[0].dtype).unbind()
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                scale = 0.2 * max(shape) ** 0.5
                torch._foreach_add_(parameters, updates, alpha=-group["lr"] * scale)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def orthogonalise(matrices: Tensor) -> Tensor:
    """Newton-Schulz: bring the singular values of matrices [N, R, C] near one, in bfloat16."""
    x_NRC = matrices.bfloat16()
    tall = x_NRC.shape[1] > x_NRC.shape[2]
    if tall:
        x_NRC = x_NRC.mT
    x_NRC = x_NRC / x_NRC.norm(dim=(1, 2), keepdim=True).clamp(min=_EPS)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram_NRR = x_NRC @ x_NRC.mT
        x_NRC = torch.baddbmm(
            x_NRC, torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c), x_NRC, beta=a
        )
    return x_NRC.mT if tall else x_NRC
