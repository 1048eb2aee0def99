"""Organic sources are whole, licensed, fingerprinted; documents in every bad state fail alone and clearly."""

import ast
import os
import random
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi4.data.ledger import Ledger, funnel
from phi4.data.organic.documents import DocumentLimits, documents
from phi4.data.organic.passages import PASSAGE_CHARACTERS, by_definition, by_heading, by_paragraph
from phi4.data.organic.sources import (
    OrganicSource,
    collect,
    pydoc_topics,
    stdlib_docstrings,
    stdlib_modules,
    textbook,
)
from phi4.data.record import plain_text
from phi4.errors import DataError


@pytest.mark.parametrize(
    ("source", "licence", "kind"),
    [
        (textbook, "CC0-1.0", "textbook"),
        (pydoc_topics, "PSF-2.0", "docs"),
        (stdlib_docstrings, "PSF-2.0", "docs"),
        (stdlib_modules, "PSF-2.0", "code"),
    ],
)
def test_built_in_sources_are_licensed_fingerprinted_and_the_same_every_time(source, licence, kind) -> None:  # type: ignore[no-untyped-def]
    found = source()
    assert found == source()
    assert len(found.records) > 50
    assert {record.licence for record in found.records} == {licence}
    assert {record.kind for record in found.records} == {kind}
    assert len({record.id for record in found.records}) == len(found.records)
    assert all(0 < len(plain_text(record)) <= PASSAGE_CHARACTERS for record in found.records)
    assert re.fullmatch(r"[0-9a-f]{16}", found.fingerprint)
    assert not found.failures


def test_the_size_cap_holds_and_every_module_has_its_turn() -> None:
    for make in (pydoc_topics, stdlib_modules):
        found = make(max_bytes=60_000)
        assert sum(len(plain_text(record).encode()) for record in found.records) <= 60_000
        assert len(found.origins) > 5
        assert found.fingerprint != make().fingerprint


def test_docstrings_are_those_python_reports() -> None:
    import bisect

    texts = [plain_text(record) for record in stdlib_docstrings().records]
    assert any(ast.get_docstring(ast.parse(f'"""{bisect.insort.__doc__}"""')) in text for text in texts)  # type: ignore[operator]


def test_collect_accounts_for_every_file_and_passage(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "good.md").write_text("# One\n\ntext\n\n# Two\n\nmore\n")
    (folder / "bad.txt").write_bytes(b"\x00\x01\x02")
    sources = [textbook(), documents(folder)]
    records = collect(sources, Ledger.open(tmp_path / "ledger"))
    (step,) = funnel(tmp_path / "ledger")["steps"]
    assert step["inputs"] == sum(len(source.origins) for source in sources)
    assert step["failed"] == {"binary": 1}
    assert step["outputs"] == len(records) == sum(len(source.records) for source in sources)


BOOK = """intro

# A

text of A

```python
# not a heading
```

## B
text of B
~~~
# also not
```
# nor this
~~~
# C
"""


def test_headings_cut_and_fences_do_not() -> None:
    assert [passage.splitlines()[0] for passage in by_heading(BOOK)] == ["intro", "# A", "## B", "# C"]


@given(st.text(st.sampled_from("ab \n#`~"), max_size=400) | st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_cutting_loses_nothing_but_white_space(text: str) -> None:
    for cut in (by_heading, by_definition, by_paragraph):
        assert "".join("".join(cut(text)).split()) == "".join(text.split())


@pytest.mark.parametrize("unit", ["word ", "line of words\n", "paragraph\n\n", "x"])
def test_long_text_is_cut_to_size_and_whole(unit: str) -> None:
    text = unit * 30_000
    for cut in (by_heading, by_definition, by_paragraph):
        passages = cut(text)
        assert max(map(len, passages)) <= PASSAGE_CHARACTERS
        assert "".join("".join(passages).split()) == "".join(text.split())


def test_code_is_cut_between_definitions() -> None:
    code = "import os\n\n\n" + "".join(
        f"@cache\ndef f{i}(x):\n{'    x += 1' * 1}\n    return x\n\n\n" for i in range(400)
    )
    passages = by_definition(code)
    assert len(passages) > 3
    for passage in passages:
        ast.parse(passage)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    (docs / "sub").mkdir(parents=True)
    (docs / "b.txt").write_text("plain text, second")
    (docs / "a.md").write_text("# First\n\nmarkdown")
    (docs / "sub" / "c.PY").write_text("def f():\n    return 1\n")
    (docs / "windows.txt").write_bytes("Größe\r\nzwei".encode("utf-8-sig"))
    (docs / "wide.txt").write_bytes("Größe in UTF-16".encode("utf-16"))
    (docs / "picture.png").write_bytes(b"\x89PNG")
    (docs / ".hidden.txt").write_text("hidden")
    (docs / ".git").mkdir()
    (docs / ".git" / "x.txt").write_text("hidden")
    return docs


GOOD = ["a.md", "b.txt", "sub/c.PY", "wide.txt", "windows.txt"]


def reasons(source: OrganicSource) -> dict[str, str]:
    return {origin.locator: origin.reason for origin in source.failures}


def test_documents_are_read_sorted_with_their_kind_and_licence(folder: Path) -> None:
    found = documents(folder)
    assert [origin.locator for origin in found.origins] == GOOD
    assert {record.licence for record in found.records} == {"user-provided"}
    assert [record.kind for record in found.records] == ["docs", "docs", "code", "docs", "docs"]
    assert plain_text(found.records[3]) == "Größe in UTF-16"
    assert plain_text(found.records[4]) == "Größe\nzwei"
    assert found == documents(folder)


def test_editing_one_document_renames_its_own_passages_only(folder: Path) -> None:
    before = documents(folder)
    (folder / "b.txt").write_text("edited")
    after = documents(folder)
    changed = {record.meta["locator"] for record in set_of(after) - set_of(before)}
    assert changed == {"b.txt"}
    assert before.fingerprint != after.fingerprint


def set_of(source: OrganicSource) -> "set[_ById]":
    return {_ById(record.id, record.meta) for record in source.records}


class _ById:
    def __init__(self, id: str, meta: dict[str, object]) -> None:
        self.id, self.meta = id, meta

    def __hash__(self) -> int:
        return int(self.id, 16)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and self.id == other.id


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("empty.txt", lambda path: path.write_bytes(b""), "empty"),
        ("blank.md", lambda path: path.write_text("\n \t\n" * 50), "empty"),
        ("bom.txt", lambda path: path.write_bytes(b"\xef\xbb\xbf"), "empty"),
        ("zeros.txt", lambda path: path.write_bytes(b"text\0more"), "binary"),
        ("elf.py", lambda path: path.write_bytes(b"\x7fELF" + bytes(range(256)) * 9), "binary"),
        ("control.txt", lambda path: path.write_bytes(b"ab\x01\x02\x03\x04" * 99), "binary"),
        ("latin.txt", lambda path: path.write_bytes("Größe".encode("latin-1")), "broken-encoding"),
        ("cut.md", lambda path: path.write_bytes("é".encode()[:1]), "broken-encoding"),
        ("odd.txt", lambda path: path.write_bytes(b"\xff\xfea"), "broken-encoding"),
        ("surrogate.txt", lambda path: path.write_bytes(b"\xed\xa0\x80 text"), "broken-encoding"),
        ("noise.txt", lambda path: path.write_bytes(random.Random(1).randbytes(9000)), "binary"),
        ("line.txt", lambda path: path.write_text("word " * 100_000), "line-too-long"),
        ("huge.txt", lambda path: sparse(path, 200_000_000), "too-large"),
        ("loop.txt", lambda path: path.symlink_to(path), "unreadable"),
        ("nowhere.md", lambda path: path.symlink_to("/nonexistent/file"), "unreadable"),
        ("pipe.txt", lambda path: os.mkfifo(path), "not-a-file"),
        ("device.txt", lambda path: path.symlink_to("/dev/zero"), "not-a-file"),
        ("folder.txt", lambda path: path.mkdir(), ""),
        ("circle", lambda path: path.symlink_to(path.parent, target_is_directory=True), "linked-folder"),
    ],
)
def test_a_bad_document_is_one_clear_line_and_the_others_are_read(
    folder: Path, name: str, make, reason: str
) -> None:  # type: ignore[no-untyped-def]
    make(folder / name)
    found = documents(folder)
    assert reasons(found) == ({name: reason} if reason else {})
    assert [origin.locator for origin in found.origins if not origin.reason] == GOOD
    for line in found.warnings():
        assert line.startswith(f"{name}: not used: ")
        assert "\n" not in line
    collect([found], Ledger.open(folder.parent / "ledger"))
    assert funnel(folder.parent / "ledger")["steps"][0]["failed"] == ({reason: 1} if reason else {})


def test_200_mb_on_one_line_are_never_loaded(folder: Path) -> None:
    with (folder / "line.txt").open("wb") as file:
        for _ in range(200):
            file.write(b"x" * 1_000_000)
    tracemalloc.start()
    found = documents(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reasons(found) == {"line.txt": "too-large"}
    assert peak < 5_000_000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc: no file whose size lies")
def test_a_file_whose_size_lies_is_read_to_the_limit_only(folder: Path) -> None:
    (folder / "proc.txt").symlink_to("/proc/self/status")
    assert reasons(documents(folder, DocumentLimits(max_bytes=100))) == {"proc.txt": "too-large"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_a_failure(folder: Path) -> None:
    (folder / "b.txt").chmod(0)
    (folder / "sub").chmod(0)
    found = documents(folder)
    (folder / "sub").chmod(0o700)
    assert reasons(found) == {"b.txt": "unreadable", "sub": "unreadable"}


def test_a_file_that_fails_while_it_is_read_is_a_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = Path.open

    def broken(path: Path, *args: object, **options: object) -> object:
        if path.name == "b.txt":
            raise OSError(5, "Input/output error")
        return opening(path, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", broken)
    assert reasons(documents(folder)) == {"b.txt": "unreadable"}


def test_a_name_that_is_no_utf8_is_shown_escaped_and_stored(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    try:
        (folder / name).write_text("some text")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = documents(folder)
    assert "caf\\xe9.txt" in [origin.locator for origin in found.origins]
    collect([found], Ledger.open(folder.parent / "ledger"))


@pytest.mark.parametrize("place", ["missing", "file.txt", "nothing"])
def test_no_folder_or_nothing_to_read_is_a_data_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=place):
        documents(tmp_path / place)


@given(st.binary(max_size=300), st.sampled_from([".txt", ".md", ".py"]))
@settings(max_examples=150, deadline=None)
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, raw: bytes, suffix: str) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / f"x{suffix}").write_bytes(raw)
    found = documents(folder)
    collect([found], Ledger.open(folder / "ledger"))
    assert len(found.origins) == 1
    assert bool(found.failures) != bool(found.records)
