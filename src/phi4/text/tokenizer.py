"""How words become ids, and back: byte-level BPE and SentencePiece BPE in Hugging Face's tokenizer.json.

Contents are encoded by a tokenizer that has no added tokens at all (text/tokenizer_spec.py), so no text, whatever it
says, can ever become a control token: only the chat renderer writes those.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from phi4.errors import ModelError
from phi4.run.files import atomic_write
from phi4.text.jinja import CHAT_TEMPLATE, choose_template
from phi4.text.templates import PHI_4, Template
from phi4.text.tokenizer_files import Roles, read_roles
from phi4.text.tokenizer_spec import byte_alphabet, checked, content_tokenizer, piece_bytes, unicode

DOCUMENT_END = "<|endoftext|>"
TURN_START, TURN_END, TURN_SEP = "<|im_start|>", "<|im_end|>", "<|im_sep|>"
PAD = "<|dummy_85|>"  # Microsoft's own padding token: never the end token (facts: bug 2 of the launch)
CONTROL_TOKENS = (DOCUMENT_END, TURN_START, TURN_END, TURN_SEP, PAD)


class Tokenizer:
    """A vocabulary. `encode` and `decode` handle contents; `special` names the control tokens."""

    def __init__(self, spec: str, roles: Roles | None = None) -> None:
        """`spec` is the text of a tokenizer.json. Raises ModelError for one that cannot be used exactly."""
        parsed = checked(spec)
        self.spec = spec
        self.special: dict[str, int] = {t["content"]: t["id"] for t in parsed["added_tokens"]}
        self._content = content_tokenizer(parsed)
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
        self.chat_template, self._template, late = choose_template(
            roles.chat_template, self.special, variables
        )
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
        ids: list[int] = self._content.encode(unicode(text), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, on all cores."""
        whole = list(map(unicode, texts))
        return [e.ids for e in self._content.encode_batch(whole, add_special_tokens=False)]

    def encode_from(self, texts: Sequence[str], starts: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """`encode_batch`, and for each id 1 where it ends behind character `start` of its text, else 0."""
        found = self._content.encode_batch(list(map(unicode, texts)), add_special_tokens=False)
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
            return {id: piece_bytes(token) for token, id in self._vocab.items()} | named
        alphabet = byte_alphabet()
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
            return cls(spec, read_roles(Path(folder), checked(spec)))
        except ModelError as error:
            raise ModelError(f"{path}: {error.message}", error.hint) from error
