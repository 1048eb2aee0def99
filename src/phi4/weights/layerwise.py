"""A network computed one layer at a time from where its weights lie, so that only one layer is ever in memory.

Enough to see what every layer reads, and what the whole network predicts, for models far larger than memory.

Legend: N passages, T positions, D hidden, V vocabulary, P counted positions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from phi4.model.config import ModelConfig
from phi4.model.rope import Rope
from phi4.model.transformer import Block, RMSNorm, causal_attention
from phi4.text.chat import Rendered
from phi4.weights.checkpoint import Source, load_part, read_parameter

_TOKENS = 4096  # computed together
_LOGITS = 1 << 25  # logits held at once


@dataclass(frozen=True)
class Passages:
    """Texts side by side: ids, which of them are text and not padding, and which are to be predicted."""

    ids_NT: Tensor
    real_NT: Tensor
    predicted_NT: Tensor

    @property
    def tokens(self) -> int:
        """Tokens of text."""
        return int(self.real_NT.sum())

    @staticmethod
    def of(texts: Sequence[Rendered], length: int) -> "Passages":
        """Texts cut at `length` tokens; nothing predicts the first token of a text."""
        width = min(length, max(len(text.ids) for text in texts))
        ids_NT = torch.zeros((len(texts), width), dtype=torch.long)
        real_NT, predicted_NT = (
            torch.zeros_like(ids_NT, dtype=torch.bool),
            torch.zeros_like(ids_NT, dtype=torch.bool),
        )
        for row, text in enumerate(texts):
            ids = torch.tensor(text.ids[:width])
            ids_NT[row, : len(ids)] = ids
            real_NT[row, : len(ids)] = True
            predicted_NT[row, 1 : len(ids)] = torch.tensor(text.loss_mask[1:width]).bool()
        return Passages(ids_NT, real_NT, predicted_NT)


class LayerByLayer:
    """The states of all passages on their way through a network, a layer at a time."""

    def __init__(
        self,
        config: ModelConfig,
        source: Source,
        passages: Passages,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.config, self.source, self.passages = config, source, passages
        self.dtype, self.device = dtype, device
        rows_VD = read_parameter(source, config, "embed_tokens.weight", _head_meta(config))
        self.x_NTD = F.embedding(passages.ids_NT, rows_VD).to(dtype)
        self._positions_1T = torch.arange(passages.ids_NT.shape[1], device=device)[None]
        self._rope = Rope(config, passages.ids_NT.shape[1], device)

    @torch.no_grad()
    def through(
        self, block: Block, layer: int, *, keep: bool = True, see: Callable[[Tensor], None] | None = None
    ) -> None:
        """Run the states through a layer; `keep` False leaves them as they were. Before each batch of passages
        `see` is told which of its positions are text, real_NT."""
        cos_sin = tuple(table.to(self.dtype) for table in self._rope(self._positions_1T))
        step = max(1, _TOKENS // self.x_NTD.shape[1])
        for start in range(0, len(self.x_NTD), step):
            rows = slice(start, start + step)
            if see is not None:
                see(self.passages.real_NT[rows].to(self.device))
            y_NTD = block(self.x_NTD[rows].to(self.device), layer, cos_sin, causal_attention)
            if keep:
                self.x_NTD[rows] = y_NTD.cpu()

    @torch.no_grad()
    def before_predictions(self, done: Callable[[], None] = lambda: None) -> Tensor:
        """h_PD: run the states through all layers; what the head reads at the positions before the predicted ones.

        `done` is called after each layer."""
        for layer in range(self.config.num_hidden_layers):
            self.through(read_block(self.config, self.source, layer, self.device), layer)
            done()
        with torch.device("meta"):
            norm = RMSNorm(self.config.hidden_size, self.config.rms_norm_eps)
        load_part(norm, "norm.", self.source, self.config)
        h_NTD: Tensor = norm(self.x_NTD)
        return h_NTD[:, :-1][self.passages.predicted_NT[:, 1:]]

    def head(self) -> Tensor:
        """The output matrix [V, D] as it is stored."""
        name = "embed_tokens.weight" if self.config.tie_word_embeddings else "lm_head.weight"
        return read_parameter(self.source, self.config, name, _head_meta(self.config))


def read_block(config: ModelConfig, source: Source, layer: int, device: torch.device) -> Block:
    """A layer with its weights as they are stored."""
    with torch.device("meta"):
        block = Block(config)
    load_part(block, f"layers.{layer}.", source, config)
    return block.to(device)


@dataclass(frozen=True)
class Agreement:
    """How one network's predictions compare with another's on the same text."""

    tokens: int
    divergence: float  # mean KL divergence of the second from the first, nats per token
    same: float  # share of positions at which both find the same token likeliest
    losses: tuple[float, float]  # mean -log p of the text, nats per token, first and second

    @property
    def perplexities(self) -> tuple[float, float]:
        """exp(loss) of both."""
        return math.exp(self.losses[0]), math.exp(self.losses[1])


@torch.no_grad()
def compare(first: LayerByLayer, second: LayerByLayer, done: Callable[[], None] = lambda: None) -> Agreement:
    """Compare two networks of one vocabulary on the same passages; `done` is called after each layer of each."""
    states = [network.before_predictions(done) for network in (first, second)]
    heads = [network.head().to(network.dtype).to(network.device) for network in (first, second)]
    passages = first.passages
    target_P = passages.ids_NT[:, 1:][passages.predicted_NT[:, 1:]]
    divergence, same, losses = 0.0, 0, [0.0, 0.0]
    step = max(1, _LOGITS // first.config.vocab_size)
    for start in range(0, len(target_P), step):
        rows = slice(start, start + step)
        target_P1 = target_P[rows, None].to(first.device)
        logs = [
            F.linear(h_PD[rows].to(first.device), head_VD).float().log_softmax(-1)
            for h_PD, head_VD in zip(states, heads, strict=True)
        ]
        divergence += float(F.kl_div(logs[1], logs[0], reduction="sum", log_target=True))
        same += int((logs[0].argmax(-1) == logs[1].argmax(-1)).sum())
        for i, log_PV in enumerate(logs):
            losses[i] -= float(log_PV.gather(1, target_P1).sum())
    count = len(target_P)
    return Agreement(count, divergence / count, same / count, (losses[0] / count, losses[1] / count))


def _head_meta(config: ModelConfig) -> Tensor:
    return torch.empty((config.vocab_size, config.hidden_size), device="meta")
