"""Documents of the user's own (`--docs DIR`): .txt, .md and .py files, whatever state they are in.

A document that cannot be used is a failure with a reason, never a crash: it is counted in the ledger and told
to the user in one line. No document is read beyond the size limit, and only regular files are opened.
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phi4.data.organic.passages import by_definition, by_heading, by_paragraph
from phi4.data.organic.sources import OrganicSource, Origin, content_fingerprint, passages_of
from phi4.data.record import Record, root_id
from phi4.errors import DataError

SOURCE = "documents"
LICENCE = "user-provided"
SUFFIXES = (".txt", ".md", ".py")

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


@dataclass(frozen=True)
class DocumentLimits:
    """What is still a document."""

    max_bytes: int = 16_000_000
    max_line: int = 100_000  # characters; longer lines are data, not prose
    max_control_fraction: float = 0.001  # of characters; more is a binary file


class _Refused(DataError):
    """A document that cannot be used: `reason` is counted, the message is for the user."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def documents(folder: Path, limits: DocumentLimits | None = None) -> OrganicSource:
    """Every .txt, .md and .py file below `folder`, sorted, cut into passages; hidden names are left out.

    Links to files are read once under their own name; links to folders are not followed, and are failures.
    Raises DataError only when there is no such folder or nothing in it to read.
    """
    limits = limits or DocumentLimits()
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"--docs {_readable(folder)} {what}", "give a folder with .txt, .md or .py files")
    origins: list[Origin] = []
    texts: list[tuple[str, list[str], str]] = []
    for path in _files(folder):
        locator = _readable(path.relative_to(folder))
        try:
            text = _read(path, limits)
        except _Refused as refused:
            origins.append(Origin(root_id(SOURCE, locator), locator, refused.reason, refused.message))
            continue
        origins.append(Origin(root_id(SOURCE, locator), locator))
        texts.append((locator, _split(path, text), "code" if path.suffix.lower() == ".py" else "docs"))
    if not origins:
        raise DataError(
            f"no .txt, .md or .py file in {_readable(folder)}",
            "other formats are not read; convert them to text",
        )
    fingerprint = content_fingerprint(SOURCE, [passage for _, passages, _ in texts for passage in passages])
    records: list[Record] = []
    for locator, passages, kind in texts:
        records += passages_of(SOURCE, LICENCE, locator, passages, kind=kind, skill="documents")
    return OrganicSource(SOURCE, LICENCE, fingerprint, tuple(origins), tuple(records))


def _files(folder: Path) -> Iterator[Path]:
    """Candidate paths in sorted order: documents by suffix, and the folders that cannot be entered."""
    unreadable: list[Path] = []

    def note(error: OSError) -> None:
        unreadable.append(Path(os.fsdecode(error.filename)))

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=note, followlinks=False):
        here = Path(parent)
        found += [here / name for name in folders if not name.startswith(".") and (here / name).is_symlink()]
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            here / name for name in names if not name.startswith(".") and name.lower().endswith(SUFFIXES)
        ]
    yield from sorted([*found, *unreadable], key=os.fsencode)


def _read(path: Path, limits: DocumentLimits) -> str:
    """The text of a document, or _Refused."""
    try:
        if path.is_symlink() and path.is_dir():
            raise _Refused("linked-folder", "a link to a folder is not followed")
        found = path.stat()
        if path.is_dir():
            raise _Refused("unreadable", "the folder cannot be opened")
        if not stat.S_ISREG(found.st_mode):
            raise _Refused("not-a-file", "a device, pipe or socket is not a document")
        if found.st_size > limits.max_bytes:
            raise _Refused(
                "too-large",
                f"{found.st_size / 1e6:.0f} MB, above the limit of {limits.max_bytes / 1e6:.0f} MB; split it",
            )
        with path.open("rb") as file:
            raw = file.read(found.st_size + 1)
            if len(raw) > found.st_size:  # the size can lie (growing files, /proc): no more than the limit
                raw += file.read(limits.max_bytes + 1 - len(raw))
    except OSError as error:
        raise _Refused("unreadable", f"cannot be read ({error.strerror or error})") from error
    if len(raw) > limits.max_bytes:
        raise _Refused("too-large", f"more than {limits.max_bytes / 1e6:.0f} MB; split it")
    text = _decode(raw)
    if not text.strip():
        raise _Refused("empty", "the file has no text")
    if len(_CONTROL.findall(text)) > limits.max_control_fraction * len(text):
        raise _Refused("binary", "a binary file, not text")
    longest = max(map(len, text.splitlines()))
    if longest > limits.max_line:
        raise _Refused("line-too-long", f"a line of {longest:,} characters; break it into lines")
    return text


def _decode(raw: bytes) -> str:
    """UTF-8, or UTF-16 with a byte order mark (as some editors save)."""
    utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    if b"\0" in raw and not utf16:
        raise _Refused("binary", f"a binary file, not text (a zero byte at {raw.index(0)})")
    try:
        text = raw.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        name = "UTF-16" if utf16 else "UTF-8"
        raise _Refused(
            "broken-encoding", f"not valid {name} (byte {error.start}); save it as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _split(path: Path, text: str) -> list[str]:
    suffix = path.suffix.lower()
    if suffix == ".md":
        return by_heading(text)
    return by_definition(text) if suffix == ".py" else by_paragraph(text)


def _readable(path: Path) -> str:
    """A path that can be printed and stored, even if its bytes are no UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
