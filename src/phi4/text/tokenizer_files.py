"""What the files beside a tokenizer.json say about its control tokens: end, padding, stops, chat template.

Several files may name them, and the published ones do not agree; stop tokens are united, the rest goes by precedence.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi4.errors import ModelError
from phi4.text.tokenizer_spec import LARGEST_ID


@dataclass(frozen=True)
class Roles:
    """What a model's files say about its control tokens, beside tokenizer.json itself."""

    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    stop_ids: tuple[int, ...] = ()  # from every file that names one
    chat_template: str = ""
    add_bos: bool = False


def read_roles(folder: Path, parsed: dict[str, Any]) -> Roles | None:
    """What a folder's other files say; None for one of ours without them."""
    special = {token["content"]: token["id"] for token in parsed["added_tokens"]}
    tokenizer, named, generation, model = (
        _read_object(folder / name)
        for name in (
            "tokenizer_config.json",
            "special_tokens_map.json",
            "generation_config.json",
            "config.json",
        )
    )
    if not tokenizer and not named:
        return None

    def token_id(key: str) -> int | None:
        """First by name in the tokenizer's files, then by number in the model's."""
        for value in (tokenizer.get(key), named.get(key)):
            name = value.get("content") if isinstance(value, dict) else value
            if isinstance(name, str) and name in special:
                return int(special[name])
        numbers = [id for source in (generation, model) for id in _ids(source.get(f"{key}_id"))]
        return numbers[0] if numbers else None

    stops = [id for source in (generation, model) for id in _ids(source.get("eos_token_id"))]
    template = tokenizer.get("chat_template") or ""
    if isinstance(template, list):  # several, by name
        template = next(
            (t.get("template") for t in template if isinstance(t, dict) and t.get("name") == "default"), ""
        )
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8", errors="replace")
    return Roles(
        token_id("bos_token"),
        token_id("eos_token"),
        token_id("pad_token"),
        tuple(stops),
        template if isinstance(template, str) else "",
        tokenizer.get("add_bos_token") is True,
    )


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object, {} where there is no such file. Raises ModelError for a damaged one."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} beside it is damaged: {error!r:.100}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path.name} beside it is not a JSON object")
    return value


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [id for id in values if type(id) is int and 0 <= id < LARGEST_ID]
