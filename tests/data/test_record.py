"""Records: ids name the origin, content hashes name the content, files keep both and are byte-identical."""

import random
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi4.data.record import (
    Lineage,
    Record,
    Text,
    TokenPair,
    content_hash,
    derived_record,
    plain_text,
    read_records,
    root_record,
    write_records,
)
from phi4.errors import DataError
from phi4.text.chat import Conversation, Message
from tests.data.helpers import LINEAGE, problem, written

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
CONTENTS = st.one_of(
    TEXTS.map(Text),
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS), max_size=3).map(
        lambda turns: Conversation(tuple(Message(role, content) for role, content in turns))
    ),
    st.lists(st.lists(st.integers(0, 2**31), max_size=4).map(tuple), min_size=3, max_size=3).map(
        lambda ids: TokenPair("tok", *ids)
    ),
)


@given(content=CONTENTS, prompt=st.none() | TEXTS, locator=TEXTS)
@settings(max_examples=60, deadline=None)
def test_a_file_gives_back_the_same_records(
    tmp_path_factory: pytest.TempPathFactory, content: Text, prompt: str | None, locator: str
) -> None:
    path = tmp_path_factory.mktemp("records") / "a.parquet"
    root = root_record(
        "src", locator, content, kind="docs", skill="s", licence="MIT", lineage=LINEAGE, meta={"a": [1, "é"]}
    )
    child = derived_record(
        "step",
        "f",
        [root.id],
        0,
        content,
        kind="docs",
        skill="s",
        licence="MIT",
        source="src",
        generator="g",
        prompt=prompt,
        problem_key="k",
        template_id="t",
    )
    assert write_records(path, [root, child]) == 2
    assert list(read_records(path)) == [root, child]


def test_same_records_same_bytes_and_other_order_other_bytes(tmp_path: Path) -> None:
    records = [written(f"{i}", f"text number {i}") for i in range(20_000)]
    for name in ("a", "b"):
        write_records(tmp_path / name, iter(records))
    write_records(tmp_path / "c", reversed(records))
    first = (tmp_path / "a").read_bytes()
    assert first == (tmp_path / "b").read_bytes()
    assert first != (tmp_path / "c").read_bytes()
    assert [record.id for record in read_records(tmp_path / "a")] == [record.id for record in records]


def test_ids_name_the_origin_and_hashes_the_content() -> None:
    same_text = [written("a.md", "one"), written("b.md", "one")]
    assert same_text[0].id != same_text[1].id
    assert content_hash(same_text[0]) == content_hash(same_text[1])
    edited = written("a.md", "two")
    assert edited.id == same_text[0].id
    assert content_hash(edited) != content_hash(same_text[0])


def test_ids_of_outputs_depend_on_step_parents_and_place_and_parts_do_not_run_together() -> None:
    def child(step: str, fingerprint: str, parents: list[str], index: int) -> str:
        return derived_record(
            step,
            fingerprint,
            parents,
            index,
            Text("x"),
            kind="k",
            skill="s",
            licence="l",
            source="s",
            generator="g",
        ).id

    ids = [
        child("a", "b", ["c"], 0),
        child("ab", "", ["c"], 0),
        child("a", "b", ["c"], 1),
        child("a", "b", ["c", "d"], 0),
        child("a", "b", ["d", "c"], 0),
        child("a", "b", ["cd"], 0),
    ]
    assert len(set(ids)) == len(ids)
    assert all(len(id) == 16 for id in ids)


def test_a_text_and_a_conversation_saying_the_same_have_different_hashes() -> None:
    text = written("a", "hello")
    talk = problem("a", "hello", "hello", "k")
    assert content_hash(text) != content_hash(talk)
    assert plain_text(talk) == "hello\n\nhello"


def test_a_record_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        written("a", "b").id = "other"  # type: ignore[misc]


@pytest.mark.parametrize("content", [b"", b"not parquet", random.Random(1).randbytes(4000)])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet"):
        list(read_records(tmp_path / "a.parquet"))


def test_a_truncated_or_flipped_file_never_gives_wrong_records_silently(tmp_path: Path) -> None:
    records = [written(f"{i}", f"text number {i}") for i in range(300)]
    write_records(tmp_path / "whole", records)
    whole = (tmp_path / "whole").read_bytes()
    rng = random.Random(7)
    for length in rng.sample(range(len(whole)), 20):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(DataError):
            list(read_records(tmp_path / "cut"))


def test_another_parquet_file_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="not a file of records"):
        list(read_records(tmp_path / "other.parquet"))


def test_token_pairs_have_no_plain_text() -> None:
    pair = Record(
        "i", TokenPair("t", (1,), (2,), (3,)), "preference", "s", "MIT", "src", Lineage("s", "f", "g")
    )
    assert plain_text(pair) == ""
