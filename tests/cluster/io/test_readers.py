"""Readers: strict CSV, values as people mean them, paths of any spelling, and files that are damaged in any way."""

import gzip
import json
import random
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.ingest import Source, ingest, read
from gristmill.cluster.io.readers import columnar
from gristmill.cluster.io.readers import lines as lines_module
from gristmill.cluster.io.readers.files import find
from gristmill.cluster.io.readers.lines import Dialect, Row
from gristmill.cluster.io.readers.rows import rows
from gristmill.cluster.store.store import Store
from tests.cluster.io.sources import lines, put, source


def of(path: Path, **dialect: Any) -> list[Row]:
    [file] = find((str(path),), "auto")
    return list(rows(file, Dialect(**dialect)))


def cells(path: Path, **dialect: Any) -> list[Any]:
    """The values of each row, or what is wrong with it."""
    return [list(row.columns.values()) if row.columns is not None else row.problem for row in of(path, **dialect)]


# -- CSV ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('a,"b ""c"", d"\n', [["a", 'b "c", d']]),
        ('"a\n\nb",c\nd,e\n', [["a\n\nb", "c"], ["d", "e"]]),
        ('a,5" pipe\n', [["a", '5" pipe']]),
        ('a,""\n"",b\n', [["a", ""], ["", "b"]]),
        ("a,\n,b\n", [["a", ""], ["", "b"]]),
        ("\n\na,b\n\n", [["a", "b"]]),
        ('a,"b\nc,d\n"e",f\n', ["opens a quote at character 3 that is closed inside", ["c", "d"], ["e", "f"]]),
        ('a,"b\nc,d\ne,f\n', ["opens a quote at character 3 that is never closed", ["c", "d"], ["e", "f"]]),
        ('a,"b" c\nd,e\n', ["opens a quote at character 3 that is closed inside a cell, at character 5", ["d", "e"]]),
        ('a,b"\nc,d\n', [["a", 'b"'], ["c", "d"]]),
        ("a\nb,c,d\ne,f\n", ["has 1 cells, must have 2", "has 3 cells, must have 2", ["e", "f"]]),
        ("a\rb,c\nd,e\n", ["holds a carriage return", ["d", "e"]]),
        ('"a\rb",c\n', [["a\rb", "c"]]),
        ("a\x00b,c\n", [["a\x00b", "c"]]),
    ],
)
def test_csv_is_read_strictly_and_a_bad_row_costs_itself_alone(body: str, expected: list[Any], tmp_path: Path) -> None:
    found = cells(put(tmp_path, "x.csv", "text,label\n" + body))
    assert len(found) == len(expected)
    for one, right in zip(found, expected, strict=True):
        assert one.startswith(right) if isinstance(right, str) else one == right


def test_what_other_tools_write_as_csv_comes_back(tmp_path: Path) -> None:
    import csv

    stream = random.Random(7)
    signs = ["a", "字", ",", '"', "\n", ";", " ", "'", "\t", "😀"]
    table = [["".join(stream.choices(signs, k=stream.randrange(9))) for _ in range(3)] for _ in range(400)]
    path = tmp_path / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([["x", "y", "z"], *table])
    assert cells(path) == table


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_header_says_the_separator(separator: str, tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", "text,label\na b,c\n".replace(",", separator))
    assert cells(path) == [["a b", "c"]]


def test_separator_and_quoting_are_settings(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", 'text^label\n"a^b\n')
    assert cells(path, separator="^", quoting="none") == [['"a', "b"]]
    tabs = put(tmp_path, "x.tsv", 'text\tlabel\n"a\tb\n"c\td"\te\n')
    assert cells(tabs)[0] == ['"a', "b"]
    assert cells(tabs, quoting="double")[1] == ["c\td", "e"]
    [sample] = read(source(path, separator="^", quoting="none"))
    assert (sample.instruction, sample.answer) == ('"a', "b")


@pytest.mark.parametrize("header", ["text,label,text", "Text,label, text", "a,,"])
def test_two_columns_of_one_name_are_refused(header: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"columns \d and \d are called .* and .*, must have two names"):
        of(put(tmp_path, "x.csv", header + "\n1,2,3\n"))


def test_two_columns_of_one_name_in_a_table_are_refused(tmp_path: Path) -> None:
    arrays = [pa.array(["a"]), pa.array(["b"])]
    for names in (["text", "text"], ["text", "Text"]):
        table = pa.Table.from_arrays(arrays, names=names)
        with ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as writer:
            writer.write_table(table)
        with pytest.raises(JobError, match=f"columns 1 and 2 are called '{names[0]}' and '{names[1]}'"):
            of(tmp_path / "x.arrow")


# -- values -------------------------------------------------------------------------------------------------------


def test_numbers_and_dates_of_a_table_are_what_people_mean(tmp_path: Path) -> None:
    table = pa.table(
        {
            "a": [1.0, 2.5, float("nan"), None],
            "b": [Decimal("1.00"), Decimal("4.50"), None, None],
            "c": [date(2026, 1, 2), None, None, None],
            "d": [[1.0, float("nan")], [], None, [2.5]],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    assert cells(tmp_path / "x.parquet") == [
        [1, 1, "2026-01-02", [1.0, None]],
        [2.5, 4.5, None, []],
        [None, None, None, None],
        [None, None, None, [2.5]],
    ]
    assert cells(put(tmp_path, "x.jsonl", '{"a": 1.0, "b": NaN, "c": {"d": 1.0}}\n')) == [[1, None, {"d": 1.0}]]


def test_class_labels_have_their_names_and_minus_one_is_none(tmp_path: Path) -> None:
    features = {"info": {"features": {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}}}
    schema = pa.schema([("text", pa.string()), ("label", pa.int64())], {"huggingface": json.dumps(features)})
    table = pa.table({"text": ["a", "b", "c"], "label": [1, -1, 7]}, schema)
    pq.write_table(table, tmp_path / "x.parquet")
    assert cells(tmp_path / "x.parquet") == [
        ["a", "good"],
        ["b", None],
        "field 'label' is 7, must be one of 2 class labels",
    ]


def test_text_of_a_table_that_is_no_utf_8_is_a_bad_row(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
    )
    table = pa.Table.from_arrays([bad], ["text"])
    with ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    good, broken = cells(tmp_path / "x.arrow")
    assert good == ["a"] and broken.startswith("cannot be read (In column 0: Invalid: Invalid UTF8")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "a", "text": "b"}', "key 'text' comes twice, must come once"),
        ('{"text": "a", " Text": "b"}', "keys 'text' and ' Text' are one column"),
        ('{"text": {"b": 1, "b": 2}}', "field 'text': key 'b' comes twice"),
        ('{"text": Infinity}', "field 'text': number is Infinity, must be finite"),
        ('{"text": [1e999]}', "field 'text[0]': number 1e999 is beyond a float64"),
        ('{"text": {"a": ["\\ud83d"]}}', "field 'text.a[0]' holds half a surrogate pair at character 0"),
        ('{"\\udc00": 1}', "field '(a key)' holds half a surrogate pair"),
        ('{"text": ' + "[" * 150 + "]" * 150 + "}", "has more than 100 lists and tables in each other"),
        ('{"text": ' + "[" * 90_000 + "]" * 90_000 + "}", "is not JSON (more than 100"),
        ('{"text": ' + "9" * 5000 + "}", "is not JSON (Exceeds the limit"),
    ],
)
@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_json_that_no_dataset_can_hold_is_a_bad_row(line: str, problem: str, name: str, tmp_path: Path) -> None:
    content = f'{{"text": "fine"}}\n{line}\n' if name == "x.jsonl" else f'[{{"text": "fine"}},\n{line}]'
    path = put(tmp_path, name, content)
    if problem.startswith("is not JSON") and name == "x.json":
        with pytest.raises(JobError, match="is not JSON"):
            of(path)
        return
    good, bad = cells(path)
    assert good == ["fine"] and bad.startswith(problem)
    dropped = list(read(source(path, on_bad_row="drop")))[1]
    assert problem in str(dropped.dropped) and dropped.messages[0].text.encode()


def test_text_is_repaired_where_the_source_says_so(tmp_path: Path) -> None:
    path = put(tmp_path, "x.jsonl", b'{"text": "caf\xe9 \\ud83d."}\n{"text": "\\ud83d\\ude00"}\n')
    assert [s.instruction for s in read(source(path, repair_text=True))] == ["caf\ufffd \ufffd.", "😀"]


def test_a_line_without_end_is_a_bad_row_and_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "LONGEST_LINE", 1000)
    bomb = gzip.compress(b'{"text": "' + b"0" * 5_000_000 + b'"}\n{"text": "after"}\n')
    long, after = cells(put(tmp_path, "x.jsonl", bomb))
    assert long == "is longer than 1000 bytes, must be shorter"
    assert after == ["after"]


# -- paths --------------------------------------------------------------------------------------------------------


def test_paths_may_have_brackets_blanks_and_chinese(tmp_path: Path) -> None:
    for folder in ("data[1]", "数据 集", "data1"):
        (tmp_path / folder).mkdir()
        put(tmp_path / folder, "一.jsonl", lines({"text": folder}))
    for folder in ("data[1]", "数据 集"):
        for path in (f"{tmp_path}/{folder}/*.jsonl", f"{tmp_path}/{folder}/一.jsonl"):
            assert [s.instruction for s in read(Source(path=(path,)))] == [folder]
    for path in (f"file://{tmp_path}/数据 集/一.jsonl", f"file://{tmp_path}/数据 集/*.jsonl"):
        assert [s.instruction for s in read(Source(path=(path,)))] == ["数据 集"]


def test_compressed_files_are_told_by_their_content(tmp_path: Path) -> None:
    text = lines({"text": "a"}).encode()
    assert cells(put(tmp_path, "x.jsonl", gzip.compress(text))) == [["a"]]
    assert cells(put(tmp_path, "plain.jsonl.gz", text)) == [["a"]]
    assert cells(put(tmp_path, "no_suffix", gzip.compress(text))) == [["a"]]
    with pytest.raises(JobError, match="is empty"):
        of(put(tmp_path, "empty.jsonl.gz", gzip.compress(b"")))


def test_lines_may_end_with_a_carriage_return_alone(tmp_path: Path) -> None:
    assert cells(put(tmp_path, "x.jsonl", '{"text": "a"}\r{"text": "b"}\r')) == [["a"], ["b"]]
    assert cells(put(tmp_path, "x.txt", "a\rb")) == [["a"], ["b"]]


def test_a_shard_ends_where_its_texts_are_long(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gristmill.cluster.contract.sample.SHARD_CHARACTERS", 1000)
    path = put(tmp_path, "x.jsonl", lines(*({"text": f"{n} " * 200} for n in range(5))))
    assert [shard.rows for shard in store.manifest(ingest(store, source(path))).shards] == [3, 2]


def test_a_row_that_no_shard_can_hold_is_a_bad_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gristmill.cluster.contract.sample.LONGEST_SAMPLE", 1000)
    big = pa.array(["x" * 1001, "ok"], pa.large_string())
    pq.write_table(pa.table({"text": big}), tmp_path / "x.parquet")
    bad, good = read(source(tmp_path / "x.parquet", on_bad_row="drop"))
    assert bad.dropped == "ingest: row 1: holds 1001 characters, must hold at most 1000; split it"
    assert (good.instruction, good.dropped) == ("ok", None) and len(bad.instruction) < 5000


def test_long_cells_are_read_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    values = columnar._values

    def counted(batch: pa.RecordBatch) -> Iterator[list[Any] | str]:
        seen.append(batch.num_rows)
        return values(batch)

    monkeypatch.setattr(columnar, "_values", counted)
    monkeypatch.setattr(columnar, "BATCH_BYTES", 1 << 16)
    rows = pa.table({"text": [f"{n} " * 5_000 for n in range(40)]})
    pq.write_table(rows, tmp_path / "x.parquet", use_dictionary=False)
    assert len(list(read(source(tmp_path / "x.parquet")))) == 40
    assert max(seen) <= 7 and sum(seen) == 40
