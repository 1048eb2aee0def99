"""The engine on a GPU at the 14B shape, with random weights made there: tokens per second beside the ceiling."""

import gc
import statistics
import time
from dataclasses import dataclass, replace

import torch

from phi4.bench.own_peer import AnyId, Peer
from phi4.device import read_bandwidth
from phi4.engine.engine import Engine
from phi4.errors import UsageError
from phi4.model.config import ModelConfig, Quantization
from phi4.model.cost import kv_bytes_per_token, weight_bytes
from phi4.model.linear import QuantizedLinear
from phi4.model.presets import PHI_4
from phi4.model.transformer import Transformer

BATCHES, PROMPTS = (1, 2, 4, 8, 16, 32), (512, 4096)
_DEPTH, _STEPS, _ROUNDS = 512, 48, 3


@dataclass(frozen=True)
class Row:
    """One figure: tokens per second, and for decoding the share of the measured bandwidth that its reads take."""

    precision: str
    what: str
    rate: float
    share: float | None
    seconds: float


def run(config: ModelConfig = PHI_4) -> list[Row]:
    """All figures. Raises UsageError without a GPU."""
    if not torch.cuda.is_available():
        raise UsageError("this bench needs a CUDA GPU and PyTorch finds none")
    bandwidth = read_bandwidth()
    name = torch.cuda.get_device_name()
    print(f"{name}, {bandwidth / 1e9:,.0f} GB/s read, torch {torch.__version__}")
    rows: list[Row] = []
    for precision, quantization in (("bf16", None), ("int4", Quantization(4, 128))):
        shape = replace(config, quantization=quantization)
        begun = time.perf_counter()
        model = random_model(shape)
        peer = Peer()
        context = max(PROMPTS) + 64
        cache = context * max(BATCHES) // 4 * kv_bytes_per_token(shape)
        peer.engine = Engine(model, AnyId(), slots=max(BATCHES), context=context, cache_bytes=cache)
        print(f"{precision}: made in {time.perf_counter() - begun:.0f} s", flush=True)
        for tokens in PROMPTS:
            seconds = statistics.median(peer.prefill(tokens)["seconds"] for _ in range(_ROUNDS))
            rows.append(Row(precision, f"prefill {tokens:,}", tokens / seconds, None, seconds))
            print(_line(rows[-1]), flush=True)
        for batch in BATCHES:
            peer.decode(batch, 4, _DEPTH)  # records the graphs
            steps = [s for _ in range(_ROUNDS) for s in peer.decode(batch, _STEPS, _DEPTH)["seconds"]]
            seconds = statistics.median(steps)
            read = _weights_read(shape) + batch * _DEPTH * kv_bytes_per_token(shape)
            rows.append(
                Row(precision, f"decode, batch {batch}", batch / seconds, read / seconds / bandwidth, seconds)
            )
            print(_line(rows[-1]), flush=True)
        print(f"{precision}: peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)
        del peer, model
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return rows


def random_model(config: ModelConfig) -> Transformer:
    """Random weights on the GPU, bf16 or quantised as the configuration says."""
    with torch.device("meta"):
        model = Transformer(config).to(torch.bfloat16)
    model = model.to_empty(device="cuda")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, QuantizedLinear):
                module.weight_packed.random_(-(2**31), 2**31 - 1)
                module.weight_scale.fill_(0.004)
        for weight in model.parameters():
            weight.normal_(0.0, 0.02) if weight.ndim > 1 else weight.fill_(1.0)
    return model.eval()


def _weights_read(config: ModelConfig) -> int:
    """Bytes of weights one decode step reads: all but the embedding, of which it takes single rows."""
    embedding = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size * 2
    return weight_bytes(config) - embedding


def _line(row: Row) -> str:
    share = "" if row.share is None else f"  {row.share:.0%} of the bandwidth"
    return f"{row.precision}  {row.what:<18} {row.rate:10,.0f} tok/s  {1000 * row.seconds:8.2f} ms{share}"


if __name__ == "__main__":
    run()
