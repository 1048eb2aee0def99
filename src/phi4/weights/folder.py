"""A model folder in Hugging Face's layout: written, reloaded and compared before it counts as written.

Weights in safetensors, config.json, generation_config.json and the tokenizer's files; transformers loads it
without remote code. Pickle is never read or written.
"""

import json
from pathlib import Path
from typing import Any

import torch

from phi4.errors import ModelError
from phi4.model.config import ModelConfig, from_hf, to_hf
from phi4.model.rope import Rope
from phi4.model.transformer import Transformer, causal_attention
from phi4.run.files import atomic_write
from phi4.text.tokenizer import Tokenizer
from phi4.weights.checkpoint import Checkpoint, load_weights, save_weights

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def save_model(folder: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """Write a model folder and prove it: the reloaded network must give the very same logits.

    Raises ModelError when it does not; the files stay for inspection.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder, model)
    save_description(folder, model.config, tokenizer, model.embed_tokens.weight.dtype)
    difference = logit_difference(model, load_model(folder))
    if difference != 0.0:
        raise ModelError(f"{folder} does not reproduce the model: logits differ by {difference:.3g}")


def save_description(folder: Path, config: ModelConfig, tokenizer: Tokenizer, dtype: torch.dtype) -> None:
    """Everything beside the weights, config.json last: without it a folder is no model."""
    bos, eos, pad = tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id
    tokenizer.save(folder)
    generation = {"bos_token_id": bos, "eos_token_id": list(tokenizer.stop_ids), "pad_token_id": pad}
    _write(folder / "generation_config.json", generation)
    _write(folder / "config.json", to_hf(config, dtype=_DTYPES[dtype], bos_id=bos, eos_id=eos, pad_id=pad))


def _write(path: Path, value: dict[str, Any]) -> None:
    atomic_write(path, json.dumps(value, indent=2) + "\n")


def logit_difference(first: Transformer, second: Transformer) -> float:
    """Largest absolute difference of the logits of two models of one shape on a fixed probe."""
    config = first.config
    ids_BT = torch.arange(32).mul(7919).remainder(config.vocab_size)[None]
    positions_BT = torch.arange(32)[None]
    with torch.no_grad():
        logits = [
            model.head(model(ids_BT, positions_BT, causal_attention, Rope(config, 32)))
            for model in (first, second)
        ]
    return float((logits[0] - logits[1]).abs().max())


def read_config(folder: Path) -> ModelConfig:
    """The network's shape from config.json. Raises ModelError when it is missing or not of this family."""
    path = Path(folder) / "config.json"
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return from_hf(raw)
    except FileNotFoundError:
        raise ModelError(
            f"no config.json in {folder}", "a model folder has config.json and weights"
        ) from None
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise ModelError(f"{path} is not a usable model configuration: {error}") from error


def load_model(folder: Path, dtype: torch.dtype | None = None) -> Transformer:
    """Load a model folder, in shards or whole, converted to `dtype` on the way (None: as it is stored).

    Raises ModelError, naming the tensor, when a weight is missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        model = Transformer(read_config(folder))
    load_weights(model, Checkpoint(folder), dtype)
    return model
