"""Tokenizers in GGUF metadata, both ways.

GGUF names a pre-tokenizer instead of spelling it out, so reading looks the name up, and writing finds the name by
trying each known one on a probe text. Vocabularies of kind `gpt2` are byte-level BPE; those of kind `llama` are
SentencePiece with scores, from which the merges follow.
"""

import json
from typing import Any

import tokenizers

from phi4.errors import ModelError
from phi4.text.tokenizer import Tokenizer
from phi4.text.train_tokenizer import QWEN2_PATTERN
from phi4.weights.gguf_file import GgufFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER, _TAIL = (
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
)
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_TAIL}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_TAIL}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _bytes(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


# llama.cpp's names; Phi-4 goes by `dbrx` and Phi-4-mini by `gpt-4o`.
PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "dbrx": [_split(_CL100K), _bytes(False)],
    "gpt-4o": [_split(_O200K), _bytes(False)],
    "qwen2": [_split(QWEN2_PATTERN), _bytes(False)],
    "smollm": [{"type": "Digits", "individual_digits": True}, _bytes(True)],
    "gpt-2": [_bytes(True)],
}
_ALIASES = {"llama-bpe": "dbrx", "llama3": "dbrx", "phi-4": "dbrx", "default": "gpt-2"}
_PROBE = "It's  WHAT we'LL  do\n\n in 2024: 12345+6, 3.14!\t日本語 naïve CamelCase\r\n  x/=y//z ... don't 👍🏽 ١٢٣ ǅ"


def read_tokenizer(file: GgufFile) -> Tokenizer:
    """The tokenizer in a file's metadata. Raises ModelError when it is missing or of an unknown kind."""
    meta = file.metadata
    kind = meta.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise ModelError(f"{file.path}: tokenizer kind {kind!r} is not supported", "supported: gpt2, llama")
    tokens = _list(file, "tokens", str)
    types = _list(file, "token_type", int, len(tokens)) or [NORMAL] * len(tokens)
    if kind == "gpt2":
        model, around = _byte_level(file, tokens, types)
    else:
        model, around = _sentence_piece(file, tokens, types)
    spec = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": id, "content": tokens[id], "special": types[id] == CONTROL, "single_word": False,
                "lstrip": False, "rstrip": False, "normalized": False,
            }
            for id in range(len(tokens)) if types[id] in (CONTROL, USER_DEFINED)
        ],
        **around,
        "post_processor": None,
        "model": model,
    }  # fmt: skip
    ids = {key: _id(file, f"{key}_token_id", len(tokens)) for key in ("bos", "eos", "padding", "eot")}
    return Tokenizer.from_parts(
        json.dumps(spec, ensure_ascii=False),
        bos_id=ids["bos"],
        eos_id=ids["eos"],
        pad_id=ids["padding"],
        stop_ids=tuple(dict.fromkeys(id for id in (ids["eos"], ids["eot"]) if id is not None)),
        chat_template=str(meta.get("tokenizer.chat_template", "")),
        add_bos=bool(meta.get("tokenizer.ggml.add_bos_token", kind == "llama")),
    )


def tokenizer_metadata(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """The `tokenizer.*` keys of a file with a vocabulary of `vocab_size` rows, unused rows named as such.

    Raises ModelError for a tokenizer llama.cpp has no name for.
    """
    spec = json.loads(tokenizer.spec)
    model = spec["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise ModelError(
            "only byte-level BPE tokenizers can be written to GGUF", "export --to hf keeps every kind"
        )
    tokens = {id: token for token, id in model["vocab"].items()}
    types = dict.fromkeys(tokens, NORMAL)
    for added in spec["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    if max(tokens) >= vocab_size:
        raise ModelError(f"the tokenizer has id {max(tokens)}, the network only {vocab_size} rows")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    found = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre_tokenizer_name(tokenizer.spec),
        "tokenizer.ggml.tokens": [tokens.get(id, f"[PAD{id}]") for id in range(vocab_size)],
        "tokenizer.ggml.token_type": [types.get(id, UNUSED) for id in range(vocab_size)],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": tokenizer.add_bos,
    }
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "padding": tokenizer.pad_id}
    found |= {f"tokenizer.ggml.{key}_token_id": id for key, id in ids.items() if id is not None}
    if tokenizer.chat_template:
        found["tokenizer.chat_template"] = tokenizer.chat_template
    return found


def pre_tokenizer_name(spec: str) -> str:
    """llama.cpp's name of a tokenizer.json's pre-tokenizer, found by what it does to a probe text."""
    parts = tokenizers.Tokenizer.from_str(spec).pre_tokenizer
    wanted = parts.pre_tokenize_str(_PROBE) if parts is not None else None
    for name, known in PRE_TOKENIZERS.items():
        if _pre_tokenizer(known).pre_tokenize_str(_PROBE) == wanted:
            return name
    raise ModelError(
        "llama.cpp has no name for this tokenizer's pre-tokenizer", f"known are {', '.join(PRE_TOKENIZERS)}"
    )


def _pre_tokenizer(parts: list[dict[str, Any]]) -> Any:
    empty: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": parts},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    return tokenizers.Tokenizer.from_str(json.dumps(empty)).pre_tokenizer


def _byte_level(file: GgufFile, tokens: list[str], types: list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and surroundings of a byte-level BPE tokenizer.json."""
    name = file.metadata.get("tokenizer.ggml.pre", "default")
    parts = PRE_TOKENIZERS.get(_ALIASES.get(name, name))
    if parts is None:
        raise ModelError(
            f"{file.path}: pre-tokenizer {name!r} is not known, and guessing would garble the text",
            f"known are {', '.join([*PRE_TOKENIZERS, *_ALIASES])}",
        )
    merges = _list(file, "merges", str)
    model = {
        "type": "BPE",
        "vocab": _vocabulary(file, tokens, [kind == NORMAL for kind in types]),
        "merges": merges,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return model, {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": parts},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    }


def _sentence_piece(
    file: GgufFile, tokens: list[str], types: list[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and surroundings of a SentencePiece BPE: a pair merges the sooner, the higher its result scores."""
    scores = _list(file, "scores", float, len(tokens))
    vocab = _vocabulary(file, tokens, [kind not in (UNUSED, CONTROL, USER_DEFINED) for kind in types])
    ranked = []
    for token, id in vocab.items():
        if types[id] == NORMAL and len(token) <= 64:
            for cut in range(1, len(token)):
                left, right = token[:cut], token[cut:]
                if left in vocab and right in vocab:
                    ranked.append((-scores[id], vocab[left], vocab[right], left, right))
    ranked.sort()
    unknown = next((token for token, id in vocab.items() if types[id] == UNKNOWN), None)
    model = {
        "type": "BPE",
        "vocab": vocab,
        "merges": [[left, right] for *_, left, right in ranked],
        "unk_token": unknown,
        "fuse_unk": True,
        "byte_fallback": True,
    }
    prefix = file.metadata.get("tokenizer.ggml.add_space_prefix", True)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return model, {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace] if prefix else [replace],
        },
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": back},
    }


def _vocabulary(file: GgufFile, tokens: list[str], kept: list[bool]) -> dict[str, int]:
    vocab: dict[str, int] = {}
    for id, (token, keep) in enumerate(zip(tokens, kept, strict=True)):
        if keep and vocab.setdefault(token, id) != id:
            raise ModelError(f"{file.path}: token {token!r} is in the vocabulary twice")
    return vocab


def _list(file: GgufFile, name: str, kind: type, length: int = 0) -> list[Any]:
    value = file.metadata.get(f"tokenizer.ggml.{name}", [])
    kinds = (int, float) if kind is float else (kind,)
    if not isinstance(value, list) or not all(type(item) in kinds for item in value):
        raise ModelError(f"{file.path}: tokenizer.ggml.{name} is not a list of {kind.__name__}")
    if (length and value and len(value) != length) or (name in ("tokens", "scores", "merges") and not value):
        raise ModelError(f"{file.path}: tokenizer.ggml.{name} has {len(value)} entries")
    return value


def _id(file: GgufFile, name: str, count: int) -> int | None:
    value = file.metadata.get(f"tokenizer.ggml.{name}")
    if value is None or value == 0xFFFFFFFF:
        return None
    if not isinstance(value, int) or not 0 <= value < count:
        raise ModelError(f"{file.path}: tokenizer.ggml.{name} is {value!r}, not one of its {count} tokens")
    return value
