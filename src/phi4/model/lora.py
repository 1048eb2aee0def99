"""LoRA: a linear map plus low-rank updates B A of its rows, the only weights that train.

An update may cover a part of the rows, because an adapter for a checkpoint with separate q, k and v (or gate and up)
matrices has one update for each, and ours are fused. Source: Hu et al. 2021, arXiv 2106.09685; peft's LoRA layers.

Legend: O outputs, I inputs, N rows an update covers, R rank.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phi4.errors import ModelError
from phi4.model.linear import Linear, QuantizedLinear
from phi4.model.transformer import Transformer

LARGEST_RANK = 1 << 14


@dataclass(frozen=True)
class LoraConfig:
    """What is updated, and how strongly. Names are those of the checkpoint, in whole parts between dots."""

    rank: int = 16
    alpha: float = 32.0
    rslora: bool = False  # scale alpha / sqrt(rank), arXiv 2312.03732; else alpha / rank
    targets: tuple[str, ...] = ()  # last parts of names; (): every matrix inside the layers
    ranks: tuple[tuple[str, int], ...] = ()  # exceptions, by the last parts of names; the first that fits
    alphas: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        for rank in (self.rank, *(rank for _, rank in self.ranks)):
            if not 1 <= rank <= LARGEST_RANK:
                raise ModelError(f"a LoRA rank of {rank} is not between 1 and {LARGEST_RANK:,}")
        if not all(math.isfinite(alpha) for alpha in (self.alpha, *(alpha for _, alpha in self.alphas))):
            raise ModelError("the alpha of a LoRA adapter is not a finite number")

    def targeted(self, name: str) -> bool:
        """Is the matrix with this checkpoint name (without .weight) to be updated?"""
        return not self.targets or any(ends_with(name, target) for target in self.targets)

    def rank_of(self, name: str) -> int:
        """The rank of this matrix's update."""
        return next((rank for key, rank in self.ranks if ends_with(name, key)), self.rank)

    def scale_of(self, name: str) -> float:
        """The factor on B A."""
        alpha = next((alpha for key, alpha in self.alphas if ends_with(name, key)), self.alpha)
        rank = self.rank_of(name)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def ends_with(name: str, parts: str) -> bool:
    """Is `parts` the whole dotted name or its last parts?"""
    return name == parts or name.endswith(f".{parts}")


class LoraUpdate(nn.Module):
    """scale * B A on rows start .. start + N of a map."""

    def __init__(self, lora_A_RI: Tensor, lora_B_NR: Tensor, start: int, scale: float) -> None:
        super().__init__()
        self.lora_A, self.lora_B = nn.Parameter(lora_A_RI), nn.Parameter(lora_B_NR)
        self.start, self.scale = start, scale

    @property
    def rows(self) -> slice:
        """The rows it covers."""
        return slice(self.start, self.start + len(self.lora_B))

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., N]."""
        return F.linear(F.linear(x, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype)) * self.scale

    def delta(self) -> Tensor:
        """What it adds to the weight, [N, I], in float32 at least."""
        wide = torch.promote_types(self.lora_A.dtype, torch.float32)
        return self.lora_B.to(wide) @ self.lora_A.to(wide) * self.scale


class LoraLinear(nn.Module):
    """A frozen linear map, plain or quantised, and its updates by checkpoint name."""

    def __init__(self, base: Linear | QuantizedLinear) -> None:
        super().__init__()
        self.base = base
        self.names: list[str] = []  # of the updates: a module's own name may not contain dots
        self.updates = nn.ModuleList()

    def add(self, name: str, update: LoraUpdate) -> None:
        """One more update."""
        self.names.append(name)
        self.updates.append(update)

    def named_updates(self) -> Iterator[tuple[str, LoraUpdate]]:
        """Checkpoint names (without .weight) and updates."""
        for name, update in zip(self.names, self.updates, strict=True):
            assert isinstance(update, LoraUpdate)
            yield name, update

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        for _, update in self.named_updates():
            if update.rows == slice(0, y.shape[-1]):
                y = y + update(x)
            else:
                y[..., update.rows] += update(x)
        return y

    @torch.no_grad()
    def merged(self) -> Linear:
        """One plain map that computes the same. Raises ModelError for a quantised one, which cannot hold it."""
        if isinstance(self.base, QuantizedLinear):
            raise ModelError(
                "an adapter cannot be merged into quantised weights",
                "merge it into the plain model, then quantise",
            )
        weight = self.base.weight.to(torch.promote_types(self.base.weight.dtype, torch.float32), copy=True)
        for _, update in self.named_updates():
            weight[update.rows] += update.delta()
        with torch.device("meta"):
            plain = Linear(weight.shape[1], weight.shape[0])
        plain.weight = nn.Parameter(weight.to(self.base.weight.dtype))
        return plain


def attach(model: Transformer, module: str, name: str, update: LoraUpdate) -> None:
    """Put an update, known as `name` in checkpoints, on the linear map `module` of a network."""
    linear = model.get_submodule(module)
    if not isinstance(linear, LoraLinear):
        assert isinstance(linear, Linear | QuantizedLinear)
        linear = LoraLinear(linear)
        model.set_submodule(module, linear)
    linear.add(name, update)


def adapted(model: Transformer) -> list[tuple[str, LoraLinear]]:
    """Module names and layers that have updates."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear)]


def merge(model: Transformer) -> None:
    """Make a network with updates a plain one that computes the same. Raises ModelError when it is quantised."""
    for name, module in adapted(model):
        model.set_submodule(name, module.merged())
    model.requires_grad_(True)


def new_update(
    config: LoraConfig, name: str, start: int, rows: int, n_in: int, generator: torch.Generator
) -> LoraUpdate:
    """One that changes nothing yet: A uniform in +-1/sqrt(I), as peft draws it, B zero; both in float32."""
    rank = config.rank_of(name)
    bound = 1 / math.sqrt(n_in)
    a_RI = torch.empty(rank, n_in).uniform_(-bound, bound, generator=generator)
    return LoraUpdate(a_RI, torch.zeros(rows, rank), start, config.scale_of(name))
