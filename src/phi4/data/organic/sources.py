"""Text written by people: the project's own textbook, and the documentation that comes with Python.

Each function returns one source whole: where it came from, under which licence, its fingerprint (Python
version and content) and its passages as records. `collect` enters sources into the ledger, each passage under
the file or entry it was cut from.
"""

import ast
import hashlib
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from phi4.data.ledger import Ledger
from phi4.data.organic.passages import by_definition, by_heading, by_paragraph
from phi4.data.record import Record, Text, derived_record, root_id

STEP = "sources"
PYTHON_LICENCE = "PSF-2.0"

# Well-written modules of the standard library in pure Python, present in every supported version.
# fmt: off
MODULES = (
    "abc.py", "argparse.py", "ast.py", "base64.py", "bdb.py", "bisect.py", "calendar.py", "cmd.py",
    "code.py", "collections/__init__.py", "colorsys.py", "configparser.py", "contextlib.py", "copy.py",
    "csv.py", "dataclasses.py", "difflib.py", "dis.py", "doctest.py", "enum.py", "filecmp.py",
    "fileinput.py", "fnmatch.py", "fractions.py", "functools.py", "getopt.py", "glob.py", "graphlib.py",
    "gzip.py", "heapq.py", "html/parser.py", "inspect.py", "ipaddress.py", "json/decoder.py",
    "json/encoder.py", "keyword.py", "linecache.py", "mimetypes.py", "numbers.py", "operator.py",
    "pprint.py", "queue.py", "random.py", "reprlib.py", "sched.py", "selectors.py", "shelve.py",
    "shlex.py", "shutil.py", "statistics.py", "string.py", "tempfile.py", "textwrap.py", "threading.py",
    "tokenize.py", "traceback.py", "types.py", "unittest/case.py", "unittest/mock.py",
    "urllib/parse.py", "warnings.py", "weakref.py", "zipfile.py",
)
# fmt: on

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Origin:
    """A file or entry of a source. With a `reason` it could not be used, and `message` tells the user why."""

    id: str
    locator: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class OrganicSource:
    """One source, read whole. The parents of each record lie among the usable origins."""

    name: str
    licence: str
    fingerprint: str
    origins: tuple[Origin, ...]
    records: tuple[Record, ...]

    @property
    def failures(self) -> tuple[Origin, ...]:
        """The origins that could not be used."""
        return tuple(origin for origin in self.origins if origin.reason)

    def warnings(self) -> list[str]:
        """One clear line for each origin that could not be used."""
        return [f"{origin.locator}: not used: {origin.message}" for origin in self.failures]


def textbook() -> OrganicSource:
    """The project's own textbook, one passage per heading (CC0-1.0): the same on every machine."""
    folder = resources.files("phi4.data.organic") / "textbook"
    chapters = sorted(
        (entry.name, entry.read_text("utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".md") and entry.name[0].isdigit()
    )
    passages = [(name, by_heading(text)) for name, text in chapters]
    return _source("textbook", "CC0-1.0", "", passages, kind="textbook")


def pydoc_topics(max_bytes: int = 1_000_000) -> OrganicSource:
    """The language reference as it comes with Python (`pydoc_data.topics`), cut between paragraphs."""
    from pydoc_data.topics import topics

    passages = [(topic, by_paragraph(text)) for topic, text in sorted(topics.items())]
    return _source("python-topics", PYTHON_LICENCE, _python(), _capped(passages, max_bytes), kind="docs")


def stdlib_docstrings(max_bytes: int = 1_000_000) -> OrganicSource:
    """The docstrings of standard-library modules, classes and functions, each under its signature."""
    passages = [(name, list(_docstrings(name, code))) for name, code in _modules()]
    return _source("python-docstrings", PYTHON_LICENCE, _python(), _capped(passages, max_bytes), kind="docs")


def stdlib_modules(max_bytes: int = 1_000_000) -> OrganicSource:
    """The code of standard-library modules, cut between top-level definitions."""
    passages = [(name, by_definition(code)) for name, code in _modules()]
    return _source("python-modules", PYTHON_LICENCE, _python(), _capped(passages, max_bytes), kind="code")


def collect(sources: Sequence[OrganicSource], ledger: Ledger, name: str = STEP) -> list[Record]:
    """Enter sources into the ledger as one step and return their records; failures are entered as failed."""
    with ledger.step(name) as step:
        for source in sources:
            with_records = {parent for record in source.records for parent in record.parents}
            step.input(origin.id for origin in source.origins)
            for origin in source.origins:
                if origin.reason:
                    step.fail(origin.id, origin.reason, f"{origin.locator}: {origin.message}")
                elif origin.id in with_records:
                    step.keep(origin.id, f"{source.name}: {origin.locator}")
                else:
                    step.drop(origin.id, "no-passage", f"{source.name}: {origin.locator}")
            for record in source.records:
                step.output(record.id, record.parents)
    return [record for source in sources for record in source.records]


def content_fingerprint(source: str, passages: Sequence[str]) -> str:
    """16 hexadecimal digits of a source's name and everything it says, in order."""
    digest = hashlib.blake2b(source.encode(), digest_size=8)
    for passage in passages:
        digest.update(hashlib.blake2b(passage.encode("utf-8", "replace"), digest_size=16).digest())
    return digest.hexdigest()


def passages_of(
    source: str, licence: str, locator: str, passages: Sequence[str], *, kind: str, skill: str
) -> list[Record]:
    """The records of the passages of one file or entry; their fingerprint is the file's, so editing one
    document renames its own passages and no others."""
    parent = root_id(source, locator)
    fingerprint = content_fingerprint(source, passages)
    return [
        derived_record(
            STEP,
            fingerprint,
            (parent,),
            number,
            Text(passage.encode("utf-8", "replace").decode()),  # docstrings may hold lone surrogates
            kind=kind,
            skill=skill,
            licence=licence,
            source=source,
            generator="human",
            meta={"locator": locator, "passage": number},
        )
        for number, passage in enumerate(passages)
    ]


def _source(
    name: str, licence: str, version: str, entries: Sequence[tuple[str, list[str]]], *, kind: str
) -> OrganicSource:
    """Make a source of entries (locator, passages); `version` goes before each locator and into the hash."""
    prefix = f"{version}/" if version else ""
    fingerprint = content_fingerprint(name + version, [text for _, passages in entries for text in passages])
    origins, records = list[Origin](), list[Record]()
    for entry, passages in entries:
        locator = prefix + entry
        origins.append(Origin(root_id(name, locator), locator))
        skill = Path(entry).stem if kind == "textbook" else "python"
        records += passages_of(name, licence, locator, passages, kind=kind, skill=skill)
    return OrganicSource(name, licence, fingerprint, tuple(origins), tuple(records))


def _capped(entries: Sequence[tuple[str, list[str]]], max_bytes: int) -> list[tuple[str, list[str]]]:
    """The first passages of every entry, then the second ones, and so on, until the size is reached."""
    left = max_bytes
    fitting: dict[str, list[str]] = {name: [] for name, _ in entries}
    for number in range(max((len(passages) for _, passages in entries), default=0)):
        for name, passages in entries:
            if number < len(passages):
                left -= len(passages[number].encode("utf-8", "replace"))
                if left < 0:
                    return [(name, passages) for name, passages in fitting.items() if passages]
                fitting[name].append(passages[number])
    return [(name, passages) for name, passages in fitting.items() if passages]


def _modules() -> Iterator[tuple[str, str]]:
    """The chosen modules (path in the library, code), without those that carry a notice of their own."""
    library = Path(sysconfig.get_path("stdlib"))
    for name in MODULES:
        try:
            code = (library / name).read_text("utf-8")
        except (OSError, UnicodeDecodeError):  # left out by some distributions
            continue
        if "copyright" not in code.lower() and "all rights reserved" not in code.lower():
            yield name, code


def _docstrings(name: str, code: str) -> Iterator[str]:
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, _Documented):
            continue
        docstring = ast.get_docstring(node)
        if docstring:
            yield from by_paragraph(f"{_signature(module, node)}\n\n{docstring}")


def _signature(module: str, node: _Documented) -> str:
    if isinstance(node, ast.Module):
        return f"module {module}"
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        return f"class {module}.{node.name}({bases}):" if bases else f"class {module}.{node.name}:"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {node.name}({ast.unparse(node.args)}){returns}:"


def _python() -> str:
    return f"python-{platform.python_version()}"
