"""How words become ids, and back: byte-level BPE and SentencePiece BPE in Hugging Face's tokenizer.json.

Contents are encoded by a tokenizer that has no added tokens at all, so no text, whatever it says, can ever become a
control token: only the chat renderer writes those. Vocabularies of our own use the `qwen2` pattern (every digit its
own token; llama.cpp knows it by that name) and Phi-4's control tokens.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from phi4.errors import DataError, ModelError
from phi4.run.files import atomic_write
from phi4.text.jinja import JinjaTemplate, render
from phi4.text.templates import PHI_4, Message, Template, by_text, by_tokens

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
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LARGEST_ID = 1 << 22
# Bytes of a token could not be told from its name; and with a prefix the library cuts through characters, and aborts.
_NOT_COMPUTED = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")


@dataclass(frozen=True)
class Roles:
    """What a model's files say about its control tokens, beside tokenizer.json itself."""

    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    stop_ids: tuple[int, ...] = ()  # from every file that names one
    chat_template: str = ""
    add_bos: bool = False


class Tokenizer:
    """A vocabulary. `encode` and `decode` handle contents; `special` names the control tokens."""

    def __init__(self, spec: str, roles: Roles | None = None) -> None:
        """`spec` is the text of a tokenizer.json. Raises ModelError for one that cannot be used exactly."""
        parsed = _checked(spec)
        self.spec = spec
        self.special: dict[str, int] = {t["content"]: t["id"] for t in parsed["added_tokens"]}
        self._content = _content_tokenizer(parsed)
        self._byte_fallback = bool(parsed["model"].get("byte_fallback"))
        self._vocab: dict[str, int] = self._content.get_vocab()
        self._special_names = {id: token for token, id in self.special.items()}
        self.vocab_size = max([*self._vocab.values(), *self._special_names], default=-1) + 1
        self.fingerprint = hashlib.blake2b(spec.encode(), digest_size=8).hexdigest()
        self.notices: tuple[str, ...] = ()
        self._settle(roles or self._own_roles())

    @classmethod
    def from_parts(
        cls,
        spec: str,
        *,
        bos_id: int | None,
        eos_id: int | None,
        pad_id: int | None,
        stop_ids: tuple[int, ...],
        chat_template: str = "",
        add_bos: bool = False,
    ) -> "Tokenizer":
        """A tokenizer.json and what other files say about it."""
        return cls(spec, Roles(bos_id, eos_id, pad_id, stop_ids, chat_template, add_bos))

    def _own_roles(self) -> Roles:
        """Of a vocabulary trained here. Raises ModelError when it lacks one of our control tokens."""
        missing = [token for token in CONTROL_TOKENS if token not in self.special]
        if missing:
            raise ModelError(f"tokenizer.json lacks the control tokens {', '.join(missing)}")
        document_end, end, pad = (self.special[token] for token in (DOCUMENT_END, TURN_END, PAD))
        return Roles(document_end, end, pad, (end, document_end), CHAT_TEMPLATE)

    def _settle(self, roles: Roles) -> None:
        """Choose the template, unite the stop ids, and mend what the launch-era files got wrong."""
        notices = []
        named = {"bos_token": roles.bos_id, "eos_token": roles.eos_id, "pad_token": roles.pad_id}
        variables = {key: self._special_names[id] for key, id in named.items() if id in self._special_names}
        self.chat_template, self._template, late = _pick(roles.chat_template, self.special, variables)
        if late:
            notices.append(
                "the chat template always opened an assistant's turn, as at Phi-4's launch: replaced"
            )
        eos, pad = roles.eos_id, roles.pad_id
        turn_ends = [self.special[token] for token in self._stops if token in self.special]
        if self._template is PHI_4 and eos != self.special[TURN_END]:
            notices.append(f"the end token was {self._name(eos)}, as at Phi-4's launch: now {TURN_END}")
            eos = self.special[TURN_END]
        stops = dict.fromkeys([*([] if eos is None else [eos]), *turn_ends, *roles.stop_ids])
        if pad in stops and self._template is PHI_4 and PAD in self.special:
            notices.append(f"the padding token was {self._name(pad)}, which ends answers: now {PAD}")
            pad = self.special[PAD]
        self.bos_id, self._eos_id, self._pad_id = roles.bos_id, eos, pad
        self.add_bos = roles.add_bos
        self.stop_ids: tuple[int, ...] = tuple(stops)
        self.notices = tuple(notices)

    @property
    def _stops(self) -> tuple[str, ...]:
        return self._template.stops if self._template else ()

    def _name(self, id: int | None) -> str:
        return "missing" if id is None else self._special_names.get(id, str(id))

    @property
    def template(self) -> Template:
        """How conversations are written for this model. Raises ModelError when nothing says so."""
        if self._template is None:
            raise ModelError(
                "this model has no chat template, and its control tokens fit none", "it only completes text"
            )
        return self._template

    @property
    def document_end_id(self) -> int:
        """Ends a training document (and is BOS by name in the checkpoints' configuration)."""
        return self.control_id(DOCUMENT_END)

    @property
    def eos_id(self) -> int:
        """Ends a chat turn. Raises ModelError when the model has none."""
        if self._eos_id is None:
            raise ModelError("this model names no end token")
        return self._eos_id

    @property
    def pad_id(self) -> int:
        """Fills rows; never predicted. Its own token, or the end token where a model has no other."""
        return self.eos_id if self._pad_id is None else self._pad_id

    def control_id(self, token: str) -> int:
        """The id of a control token. Raises ModelError when the model has no such token."""
        try:
            return self.special[token]
        except KeyError:
            raise ModelError(f"this model's tokenizer has no {token}") from None

    def encode(self, text: str) -> list[int]:
        """Content ids. Control tokens are impossible here, also when the text spells one."""
        ids: list[int] = self._content.encode(_unicode(text), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, on all cores."""
        whole = list(map(_unicode, texts))
        return [e.ids for e in self._content.encode_batch(whole, add_special_tokens=False)]

    def encode_from(self, texts: Sequence[str], starts: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """`encode_batch`, and for each id 1 where it ends behind character `start` of its text, else 0."""
        found = self._content.encode_batch(list(map(_unicode, texts)), add_special_tokens=False)
        return [
            (e.ids, [int(end > start) for _, end in e.offsets])
            for e, start in zip(found, starts, strict=True)
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of content ids; control tokens are written out by name, broken UTF-8 as U+FFFD."""
        return b"".join(self.token_bytes(id) for id in ids).decode("utf-8", errors="replace")

    def unused(self, rows: int) -> list[int]:
        """Ids below `rows`, the network's vocabulary, that no token has: padding that must never be sampled."""
        used = {*self._vocab.values(), *self._special_names}
        return [id for id in range(rows) if id not in used]

    def token_bytes(self, id: int) -> bytes:
        """The bytes one token stands for; none for an id that no token has (a padded row of the vocabulary)."""
        return self._bytes_by_id.get(id, b"")

    @cached_property
    def _bytes_by_id(self) -> dict[int, bytes]:
        named = {id: token.encode() for id, token in self._special_names.items()}
        if self._byte_fallback:
            return {id: _piece_bytes(token) for token, id in self._vocab.items()} | named
        alphabet = _byte_alphabet()
        table = {
            id: bytes(alphabet[character] for character in token)
            for token, id in self._vocab.items()
            if all(character in alphabet for character in token)
        }
        return table | named

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json (Hugging Face layout)."""
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / "tokenizer.json", self.spec)
        ids = {"bos_token": self.bos_id, "eos_token": self._eos_id, "pad_token": self._pad_id}
        names = {key: self._special_names[id] for key, id in ids.items() if id in self._special_names}
        config = {
            **names,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": self.add_bos,
            "clean_up_tokenization_spaces": False,
        }
        if self.chat_template:
            config["chat_template"] = self.chat_template
        atomic_write(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
        atomic_write(folder / "special_tokens_map.json", json.dumps(names, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read a model folder's tokenizer, and all that its files say about end tokens and template.

        Raises ModelError when it is missing or not a tokenizer.
        """
        path = Path(folder) / "tokenizer.json"
        try:
            spec = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ModelError(f"no tokenizer.json in {folder}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error
        try:
            return cls(spec, _read_roles(Path(folder), _checked(spec)))
        except ModelError as error:
            raise ModelError(f"{path}: {error.message}", error.hint) from error


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


def _unicode(text: str) -> str:
    """Lone surrogates, which broken arguments and JSON bring, are no text: a question mark for each."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _checked(spec: str) -> dict[str, Any]:
    """A parsed tokenizer.json whose parts we rely on are what they should be."""
    try:
        parsed = json.loads(spec)
        added, model = parsed["added_tokens"], parsed["model"]
        for token in added:
            if (
                not isinstance(token["content"], str)
                or type(token["id"]) is not int
                or not 0 <= token["id"] < _LARGEST_ID
                or not token["content"].encode()
            ):
                raise ValueError(f"added token {token!r:.60}")
        if model["type"] != "BPE":
            raise ModelError(f"a tokenizer of type {model['type']!r:.40} is not supported", "supported: BPE")
        for key in _NOT_COMPUTED:
            if model.get(key):
                raise ModelError(f"a tokenizer with {key} {model[key]!r:.40} is not supported")
        if any(type(id) is not int or not 0 <= id < _LARGEST_ID for id in model["vocab"].values()):
            raise ValueError("an id is not a number in range")
        checked: dict[str, Any] = parsed
        return checked
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"this is not a tokenizer: {error!r:.120}") from error


def _content_tokenizer(parsed: dict[str, Any]) -> tokenizers.Tokenizer:
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


def _read_roles(folder: Path, parsed: dict[str, Any]) -> Roles | None:
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
    return [id for id in values if type(id) is int and 0 <= id < _LARGEST_ID]


def _pick(
    source: str, special: dict[str, int], variables: dict[str, str]
) -> tuple[str, Template | None, bool]:
    """(chat template to save, the template to use, whether a launch-era one was replaced)."""
    if not source:
        return "", by_tokens(special), False
    if source == CHAT_TEMPLATE and all(token in special for token in PHI_4.needs):
        return source, PHI_4, False

    def shipped(messages: Sequence[Message], generation: bool) -> str | None:
        try:
            return render(source, messages, generation, variables)
        except (DataError, ModelError):
            return None

    known = by_text(special, shipped)
    if known is PHI_4 and shipped((Message("user", "q1"),), False) == shipped((Message("user", "q1"),), True):
        return CHAT_TEMPLATE, PHI_4, True
    if known is not None:
        return source, known, False
    guess = by_tokens(special)
    return (
        source,
        JinjaTemplate(source, frozenset(special), tuple(variables.items()), guess.stops if guess else ()),
        False,
    )


def _piece_bytes(piece: str) -> bytes:
    """A SentencePiece piece: a byte spelled out, or text with a mark for the space."""
    match = _BYTE_TOKEN.fullmatch(piece)
    return bytes([int(match[1], 16)]) if match else piece.replace("▁", " ").encode()
