"""The one record of the project: immutable content, and the story of how it came to be.

`id` names a record by its origin: (source, locator) for roots, (step fingerprint, parents, output index) for
what a step made. `content_hash` names what it says, and keys the signals measured on it. The two differ on
purpose: two sources may say the same thing, and one step run twice must name its output the same way.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi4.errors import DataError
from phi4.text.chat import Conversation, Message

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_GROUP = 8192
# fmt: off
_COLUMNS = (
    "id", "content_type", "content", "kind", "skill", "licence", "source", "step", "fingerprint", "generator",
    "prompt", "parents", "problem_key", "template_id", "meta",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Text:
    """Running text: a passage, a document, a page of a textbook."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A preference at one place: after `prefix`, `accepted` is better than `rejected` (token ids)."""

    tokenizer: str  # fingerprint of the tokenizer the ids belong to
    prefix: tuple[int, ...]
    accepted: tuple[int, ...]
    rejected: tuple[int, ...]


Content = Text | Conversation | TokenPair


@dataclass(frozen=True, slots=True)
class Lineage:
    """Which step made a record, with which parameters, by what, from which prompt."""

    step: str
    fingerprint: str  # of the step's parameters and code version
    generator: str  # "human", a skill family, or a model's name
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One unit of data. `meta` is small JSON (a locator, a level); never change it in place."""

    id: str
    content: Content
    kind: str  # "textbook", "docs", "code", "procedural", "chat", "recall", "preference"
    skill: str  # family or subject
    licence: str  # SPDX identifier, or "user-provided"
    source: str
    lineage: Lineage
    parents: tuple[str, ...] = ()
    problem_key: str | None = None  # procedural records only: the mathematical problem, whatever the words
    template_id: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


def hash_id(*parts: str) -> str:
    """16 hexadecimal digits naming a sequence of strings; the parts cannot run into each other."""
    text = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def root_id(source: str, locator: str) -> str:
    """The id of something that comes from outside: a file, an entry of a source, a generated problem."""
    return hash_id("root", source, locator)


def root_record(
    source: str,
    locator: str,
    content: Content,
    *,
    kind: str,
    skill: str,
    licence: str,
    lineage: Lineage,
    problem_key: str | None = None,
    template_id: str | None = None,
    meta: dict[str, Any] | None = None,
) -> Record:
    """A record without parents, named by where it was found."""
    return Record(
        id=root_id(source, locator),
        content=content,
        kind=kind,
        skill=skill,
        licence=licence,
        source=source,
        lineage=lineage,
        problem_key=problem_key,
        template_id=template_id,
        meta={} if meta is None else meta,
    )


def derived_record(
    step: str,
    fingerprint: str,
    parents: Sequence[str],
    output_index: int,
    content: Content,
    *,
    kind: str,
    skill: str,
    licence: str,
    source: str,
    generator: str,
    prompt: str | None = None,
    problem_key: str | None = None,
    template_id: str | None = None,
    meta: dict[str, Any] | None = None,
) -> Record:
    """Output number `output_index` of a step that read the records with the ids `parents`."""
    return Record(
        id=hash_id("derived", step, fingerprint, str(output_index), *parents),
        content=content,
        kind=kind,
        skill=skill,
        licence=licence,
        source=source,
        lineage=Lineage(step=step, fingerprint=fingerprint, generator=generator, prompt=prompt),
        parents=tuple(parents),
        problem_key=problem_key,
        template_id=template_id,
        meta={} if meta is None else meta,
    )


def plain_text(record: Record) -> str:
    """What a reader would read: the text, or the messages one under another; token pairs have none."""
    content = record.content
    if isinstance(content, Text):
        return content.text
    if isinstance(content, Conversation):
        return "\n\n".join(message.content for message in content.messages)
    return ""


def content_hash(record: Record) -> str:
    """16 hexadecimal digits of what a record says, whoever says it."""
    return hash_id("content", *_encode(record.content))


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write records to a parquet file, in order, atomically; returns how many. Same records, same bytes."""
    from phi4.data.tables import write_table  # here, because training machines may lack pyarrow

    return write_table(path, _schema(), (_columns(group) for group in _batched(records, ROWS_PER_GROUP)))


def read_records(path: Path) -> Iterator[Record]:
    """Read what `write_records` wrote, one row group in memory at a time. Raises DataError if damaged."""
    from phi4.data.tables import read_groups

    for columns in read_groups(path):
        try:
            rows = zip(*(columns[name] for name in _COLUMNS), strict=True)
        except KeyError as error:
            raise DataError(f"{path}: not a file of records (column {error} is missing)") from error
        for row in rows:
            yield _record(*row)


def _encode(content: Content) -> tuple[str, str]:
    if isinstance(content, Text):
        return "text", content.text
    if isinstance(content, Conversation):
        return "conversation", _json([[message.role, message.content] for message in content.messages])
    pair = [content.tokenizer, list(content.prefix), list(content.accepted), list(content.rejected)]
    return "token_pair", _json(pair)


def _decode(content_type: str, value: str) -> Content:
    if content_type == "text":
        return Text(value)
    if content_type == "conversation":
        return Conversation(tuple(Message(role, content) for role, content in json.loads(value)))
    tokenizer, prefix, accepted, rejected = json.loads(value)
    return TokenPair(tokenizer, tuple(prefix), tuple(accepted), tuple(rejected))


def _columns(records: Sequence[Record]) -> dict[str, list[Any]]:
    encoded = [_encode(record.content) for record in records]
    return {
        "id": [record.id for record in records],
        "content_type": [kind for kind, _ in encoded],
        "content": [value for _, value in encoded],
        "kind": [record.kind for record in records],
        "skill": [record.skill for record in records],
        "licence": [record.licence for record in records],
        "source": [record.source for record in records],
        "step": [record.lineage.step for record in records],
        "fingerprint": [record.lineage.fingerprint for record in records],
        "generator": [record.lineage.generator for record in records],
        "prompt": [record.lineage.prompt for record in records],
        "parents": [list(record.parents) for record in records],
        "problem_key": [record.problem_key for record in records],
        "template_id": [record.template_id for record in records],
        "meta": [_json(record.meta) if record.meta else "{}" for record in records],
    }


def _record(
    id: str,
    content_type: str,
    content: str,
    kind: str,
    skill: str,
    licence: str,
    source: str,
    step: str,
    fingerprint: str,
    generator: str,
    prompt: str | None,
    parents: list[str],
    problem_key: str | None,
    template_id: str | None,
    meta: str,
) -> Record:
    return Record(
        id=id,
        content=_decode(content_type, content),
        kind=kind,
        skill=skill,
        licence=licence,
        source=source,
        lineage=Lineage(step, fingerprint, generator, prompt),
        parents=tuple(parents),
        problem_key=problem_key,
        template_id=template_id,
        meta=json.loads(meta),
    )


def _schema() -> "pa.Schema":
    import pyarrow as pa

    text, optional = pa.string(), {"prompt", "problem_key", "template_id"}
    fields = []
    for name in _COLUMNS:
        column_type = pa.list_(text) if name == "parents" else text
        fields.append(pa.field(name, column_type, nullable=name in optional))
    return pa.schema(fields)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _batched(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    rest = iter(records)
    while group := list(islice(rest, size)):
        yield group
