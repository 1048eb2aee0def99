"""Byte-level BPE with Phi-4's control tokens: how words become ids, and back.

The pre-tokenizer is the `qwen2` pattern (every digit its own token; llama.cpp knows it by that name).
Contents are encoded by a second tokenizer that has no added tokens at all, so no text, whatever it says,
can ever become a control token: only the chat renderer writes those.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from phi4.errors import ModelError
from phi4.run.files import atomic_write

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DOCUMENT_END = "<|endoftext|>"
TURN_START, TURN_END, TURN_SEP = "<|im_start|>", "<|im_end|>", "<|im_sep|>"
PAD = "<|dummy_85|>"  # Microsoft's own padding token: never the end token (facts: bug 2 of the launch)
CONTROL_TOKENS = (DOCUMENT_END, TURN_START, TURN_END, TURN_SEP, PAD)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<|im_sep|>' "
    "+ message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)


class Tokenizer:
    """A trained vocabulary. `encode` and `decode` handle contents; `special` names the control tokens."""

    def __init__(self, spec: str) -> None:
        """`spec` is the text of a Hugging Face tokenizer.json."""
        parsed: dict[str, Any] = json.loads(spec)
        self.special: dict[str, int] = {t["content"]: t["id"] for t in parsed["added_tokens"]}
        missing = [token for token in CONTROL_TOKENS if token not in self.special]
        if missing:
            raise ModelError(f"tokenizer.json lacks the control tokens {', '.join(missing)}")
        self._spec = spec
        self._content = tokenizers.Tokenizer.from_str(json.dumps({**parsed, "added_tokens": []}))
        self.vocab_size = self._content.get_vocab_size() + len(self.special)
        self._special_names = {id: token for token, id in self.special.items()}
        self.fingerprint = hashlib.blake2b(spec.encode(), digest_size=8).hexdigest()

    @property
    def document_end_id(self) -> int:
        """Ends a training document (and is BOS by name in the checkpoints' configuration)."""
        return self.special[DOCUMENT_END]

    @property
    def eos_id(self) -> int:
        """Ends a chat turn."""
        return self.special[TURN_END]

    @property
    def pad_id(self) -> int:
        """Fills rows; never predicted, never equal to an end token."""
        return self.special[PAD]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Every id at which generation ends, whatever the prompt's form."""
        return (self.eos_id, self.document_end_id)

    def encode(self, text: str) -> list[int]:
        """Content ids. Control tokens are impossible here, also when the text spells one."""
        ids: list[int] = self._content.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, on all cores."""
        return [e.ids for e in self._content.encode_batch(list(texts), add_special_tokens=False)]

    def encode_from(self, texts: Sequence[str], starts: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """`encode_batch`, and for each id 1 where it ends behind character `start` of its text, else 0."""
        found = self._content.encode_batch(list(texts), add_special_tokens=False)
        return [
            (e.ids, [int(end > start) for _, end in e.offsets])
            for e, start in zip(found, starts, strict=True)
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of content ids; control tokens are written out by name, broken UTF-8 as U+FFFD."""
        return b"".join(self.token_bytes(id) for id in ids).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes one token stands for."""
        return self._bytes_by_id[id]

    @cached_property
    def _bytes_by_id(self) -> dict[int, bytes]:
        alphabet = _byte_alphabet()
        table = {
            id: bytes(alphabet[character] for character in token)
            for token, id in self._content.get_vocab().items()
        }
        return table | {id: token.encode() for id, token in self._special_names.items()}

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json (Hugging Face layout)."""
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / "tokenizer.json", self._spec)
        names = {"bos_token": DOCUMENT_END, "eos_token": TURN_END, "pad_token": PAD}
        config = {
            **names,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        }
        atomic_write(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
        atomic_write(folder / "special_tokens_map.json", json.dumps(names, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read `folder`/tokenizer.json. Raises ModelError when it is missing or not a tokenizer."""
        path = Path(folder) / "tokenizer.json"
        try:
            return cls(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelError(f"no tokenizer.json in {folder}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is not a tokenizer: {error}") from error


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train byte-level BPE to `vocab_size` tokens, the control tokens included (as the last ids)."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(CONTROL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    return Tokenizer(bpe.to_str())


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte (the inverse of the ByteLevel pre-tokenizer)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(rest)}
