"""What ingest refuses: every bad row is named by file, line and field, or dropped with its reason."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.ingest import ingest, read
from gristmill.cluster.io.readers.lines import RAW_CHARACTERS
from gristmill.cluster.store.store import Store
from tests.cluster.io.sources import lines, put, source
from tests.invariants import check_dataset

GOOD = {"question": "q", "answer": "a"}
BAD: dict[str, tuple[bytes, str]] = {
    "not json": (b"{oops", r"x\.jsonl:2: is not JSON"),
    "not an object": (b"[1, 2]", r"x\.jsonl:2: is not a JSON object"),
    "field absent": (b'{"question": "b"}', r"x\.jsonl:2: field 'completion' is absent, must be text"),
    "field null": (b'{"question": null, "answer": "a"}', r"x\.jsonl:2: field 'prompt' is absent, must be text"),
    "field empty": (b'{"question": " ", "answer": "a"}', r"x\.jsonl:2: field 'question' is empty, must be text"),
    "field a number": (
        b'{"question": 7, "answer": "a"}',
        r"x\.jsonl:2: field 'question' is the number 7, must be text",
    ),
    "field a list": (
        b'{"question": [], "answer": "a"}',
        r"x\.jsonl:2: field 'question' is a list of 0, must be a list of turns",
    ),
    "byte that is no UTF-8": (
        b'{"question": "caf\xe9", "answer": "a"}',
        r"x\.jsonl:2: byte 0xe9 at character 18 is not UTF-8",
    ),
    "half a surrogate": (
        b'{"question": "\\ud83d", "answer": "a"}',
        r"x\.jsonl:2: field 'question' holds half a surrogate pair",
    ),
    "tags": (
        b'{"question": "q", "answer": "a", "tags": {"a": [1]}}',
        r"x\.jsonl:2: field 'tags\.a' is a list of 1, must be a word",
    ),
    "deep": (b"[" * 100_000, r"x\.jsonl:2: is not JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named_by_file_line_and_field_or_dropped_with_its_reason(
    name: str, tmp_path: Path, store: Store
) -> None:
    bad, said = BAD[name]
    path = put(tmp_path, "x.jsonl", lines(GOOD).encode() + bad + b"\n" + lines({**GOOD, "answer": "z"}).encode())
    with pytest.raises(JobError, match=said + r'.*; fix it or set on_bad_row = "drop"'):
        ingest(store, source(path))
    assert store.names() == [], "a refused source leaves nothing behind"

    rows = check_dataset(store, ingest(store, source(path, on_bad_row="drop")))
    assert [row.dropped is None for row in rows] == [True, False, True]
    assert str(rows[1].dropped).startswith("ingest: line 2: ")
    assert str(tmp_path) not in str(rows[1].dropped)
    assert rows[1].messages[0].text.startswith(bad.decode(errors="replace")[:10])
    assert len(rows[1].messages[0].text) <= RAW_CHARACTERS


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([], "field 'messages' is a list of 0, must be a list of turns"),
        ("hi", "field 'messages' is 'hi', must be a list of turns"),
        (["hi"], r"field 'messages\[0\]' is 'hi', must be a table"),
        ([{"role": "alien", "content": "x"}], r"field 'messages\[0\].role' is 'alien', must be one of system"),
        ([{"content": "x"}], r"field 'messages\[0\].role' is absent"),
        ([{"role": "user", "content": None}], r"field 'messages\[0\].content' is absent, must be text"),
        ([{"role": "user", "content": [7]}], r"field 'messages\[0\].content\[0\]' is the number 7, must be text or"),
        ([{"role": "tool", "content": None}], r"field 'messages\[0\].content' is absent, must be text"),
        ([{"role": "assistant", "content": "x"}], "its turns are assistant, must have one of the user"),
    ],
)
def test_a_bad_conversation_says_which_turn(turns: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=rf"x\.jsonl:1: {said}"):
        list(read(source(put(tmp_path, "x.jsonl", lines({"messages": turns})))))


def test_a_row_of_a_table_is_named_by_its_number(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "x.parquet")
    with pytest.raises(JobError, match=r"x\.parquet:row 2: field 'text' is absent, must be text"):
        list(read(source(tmp_path / "x.parquet")))


def test_a_csv_row_with_a_cell_too_many_or_an_open_quote_is_bad(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", 'text,label\na,b\na,b,c\n"open,b\nd,e\n')
    samples = list(read(source(path, on_bad_row="drop")))
    assert [s.dropped and s.dropped[:39] for s in samples] == [
        None,
        "ingest: line 3: has 3 cells, must have ",
        "ingest: line 4: opens a quote at charac",
        None,
    ]


def test_the_same_conversation_twice_is_dropped_the_second_time(tmp_path: Path, store: Store) -> None:
    path = put(tmp_path, "x.jsonl", lines(GOOD, {**GOOD, "url": "other"}, {**GOOD, "answer": "b"}, GOOD))
    rows = check_dataset(store, ingest(store, source(path)))
    assert [row.dropped for row in rows] == [
        None,
        "ingest: same conversation as line 1",
        None,
        "ingest: same conversation as line 1",
    ]
    assert rows[1].messages == rows[0].messages


def test_the_same_conversation_in_another_file_is_dropped_too(tmp_path: Path) -> None:
    paths = [put(tmp_path, name, lines({"question": "x", "answer": name}, GOOD)) for name in ("a.jsonl", "b.jsonl")]
    assert [s.dropped for s in read(source(paths))][2:] == [None, "ingest: same conversation as line 2 of file 1"]


def test_a_source_of_bad_rows_alone_is_refused(tmp_path: Path, store: Store) -> None:
    path = put(tmp_path, "x.jsonl", "{oops\n")
    with pytest.raises(JobError, match=r"holds no good row, must hold at least one; .*x\.jsonl:1: is not JSON"):
        ingest(store, source(path, on_bad_row="drop"))
    assert store.names() == []
