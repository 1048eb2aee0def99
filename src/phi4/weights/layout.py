"""Where each of our tensors lies in a checkpoint: fused in Phi-3's, in pieces in Llama's and Mistral's.

Our network keeps the fused layout (qkv: all Q rows, all K, all V; gate rows before up rows), so a Phi
checkpoint is read as it is, and the separate matrices of the others are read into rows of the fused ones.
"""

from dataclasses import dataclass

from phi4.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Piece:
    """A checkpoint's tensor, and the rows of our tensor it fills."""

    name: str
    start: int
    rows: int


def pieces(config: ModelConfig, name: str, rows: int) -> tuple[Piece, ...]:
    """The checkpoint tensors that make up our parameter `name`, which has `rows` rows, in order."""
    full = name if name.startswith("lm_head") else f"model.{name}"
    parts: dict[str, int] = {}
    if config.architecture != "Phi3ForCausalLM":
        query, key = (
            heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        if "qkv_proj" in name:
            parts = {"q_proj": query, "k_proj": key, "v_proj": key}
        elif "gate_up_proj" in name:
            parts = {"gate_proj": config.intermediate_size, "up_proj": config.intermediate_size}
    if not parts:
        return (Piece(full, 0, rows),)
    fused = "qkv_proj" if "qkv_proj" in name else "gate_up_proj"
    found, start = [], 0
    for part, size in parts.items():
        found.append(Piece(full.replace(fused, part), start, size))
        start += size
    return tuple(found)
