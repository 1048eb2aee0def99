"""adapter_config.json: which of peft's settings are computed here, and which are refused by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phi4.errors import ModelError
from phi4.model.lora import LoraConfig

CONFIG = "adapter_config.json"

# However the weights of these began, they are all in the file; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change the base.
_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
# peft adds kinds of adapters by adding settings, so one that is unknown and set is refused.
_READ = {
    "r", "lora_alpha", "use_rslora", "target_modules", "rank_pattern", "alpha_pattern", "layers_to_transform",
    "exclude_modules", "init_lora_weights", "auto_mapping", "peft_type",
}  # fmt: skip
_WITHOUT_EFFECT = {
    "base_model_name_or_path", "revision", "peft_version", "task_type", "inference_mode", "lora_dropout",
    "layers_pattern", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "qalora_group_size", "ensure_weight_tying", "runtime_config",
}  # fmt: skip


def read_settings(folder: Path) -> tuple[LoraConfig, dict[str, Any]]:
    """The settings of an adapter's folder and the whole file, when all of what it asks for is computed here.

    Raises ModelError, naming what is not.
    """
    path = Path(folder) / CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"no {CONFIG} in {folder}", "an adapter is a folder as peft writes it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path} is not a JSON object")
    return _settings(path, raw), raw


def _settings(path: Path, raw: Mapping[str, Any]) -> LoraConfig:
    if raw.get("peft_type") != "LORA":
        raise ModelError(f"{path}: an adapter of type {raw.get('peft_type')!r:.40} is not read", "LORA is")
    start = raw.get("init_lora_weights", True)
    if start not in _STARTS:
        raise ModelError(
            f"{path}: weights that start as {start!r:.40} change the base, which is not done here"
        )
    for key, value in raw.items():
        if key not in _READ | _WITHOUT_EFFECT and value and not (key == "bias" and value == "none"):
            raise ModelError(f"{path}: {key} {value!r:.60} is not computed here", "plain LoRA and rsLoRA are")
    targets = raw.get("target_modules")
    try:
        return LoraConfig(
            rank=_whole(raw["r"]),
            alpha=_number(raw["lora_alpha"]),
            rslora=bool(raw.get("use_rslora")),
            targets=tuple(map(_dotted, targets)) if isinstance(targets, list) else (),
            ranks=tuple((_dotted(k), _whole(v)) for k, v in (raw.get("rank_pattern") or {}).items()),
            alphas=tuple((_dotted(k), _number(v)) for k, v in (raw.get("alpha_pattern") or {}).items()),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(f"{path} is not the configuration of a LoRA adapter: {error!r:.100}") from error


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r:.40} is not a whole number")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{value!r:.40} is not a number")
    return float(value)


def _dotted(value: Any) -> str:
    """A name or its last parts; peft also allows regular expressions, which could stand for anything."""
    if not isinstance(value, str) or not value.replace(".", "").replace("_", "").isalnum():
        raise ValueError(f"{value!r:.60} is not a module's name")
    return value
