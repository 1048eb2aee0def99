"""The text of a tokenizer.json: checked, and made into a tokenizer without its added tokens.

What is encoded with that one can never become a control token, because it has none.
"""

import json
import re
from typing import Any

import tokenizers

from phi4.errors import ModelError

LARGEST_ID = 1 << 22
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# Bytes of a token could not be told from its name; and with a prefix the library cuts through characters, and aborts.
_NOT_COMPUTED = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")


def checked(spec: str) -> dict[str, Any]:
    """A parsed tokenizer.json whose parts we rely on are what they should be."""
    try:
        parsed = json.loads(spec)
        added, model = parsed["added_tokens"], parsed["model"]
        for token in added:
            if (
                not isinstance(token["content"], str)
                or type(token["id"]) is not int
                or not 0 <= token["id"] < LARGEST_ID
                or not token["content"].encode()
            ):
                raise ValueError(f"added token {token!r:.60}")
        if model["type"] != "BPE":
            raise ModelError(f"a tokenizer of type {model['type']!r:.40} is not supported", "supported: BPE")
        for key in _NOT_COMPUTED:
            if model.get(key):
                raise ModelError(f"a tokenizer with {key} {model[key]!r:.40} is not supported")
        if any(type(id) is not int or not 0 <= id < LARGEST_ID for id in model["vocab"].values()):
            raise ValueError("an id is not a number in range")
        result: dict[str, Any] = parsed
        return result
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"this is not a tokenizer: {error!r:.120}") from error


def content_tokenizer(parsed: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer without its added tokens: nothing that is encoded can become one."""
    added = {token["content"] for token in parsed["added_tokens"]}
    model = dict(parsed["model"])
    try:
        if model.get("unk_token"):
            added.discard(model["unk_token"])
        if not added.isdisjoint(model["vocab"]):
            model["vocab"] = {token: id for token, id in model["vocab"].items() if token not in added}
            pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
            model["merges"] = [
                [left, right] for left, right in pairs if not added & {left, right, left + right}
            ]
        plain = {
            **parsed,
            "model": model,
            "added_tokens": [],
            "post_processor": None,
            "truncation": None,
            "padding": None,
        }
        return tokenizers.Tokenizer.from_str(json.dumps(plain))
    except BaseException as error:  # the library's panics are not Exceptions
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise ModelError(f"this is not a tokenizer: {error}") from error


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte (the inverse of the ByteLevel pre-tokenizer)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(rest)}


def piece_bytes(piece: str) -> bytes:
    """A SentencePiece piece: a byte spelled out, or text with a mark for the space."""
    match = _BYTE_TOKEN.fullmatch(piece)
    return bytes([int(match[1], 16)]) if match else piece.replace("▁", " ").encode()


def unicode(text: str) -> str:
    """Lone surrogates, which broken arguments and JSON bring, are no text: a question mark for each."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
