"""What ingest reads: every shape of a row, and every format of a file."""

import bz2
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message
from gristmill.cluster.io.ingest import read
from gristmill.cluster.io.shapes import language
from tests.cluster.io.sources import lines, put, source

QA = (Message("user", "What is 2 + 2?"), Message("assistant", "4"))
SHAPES: dict[str, tuple[dict[str, Any], Sequence[str | tuple[str, str]]]] = {
    "messages": ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, ["qa"]),
    "messages with parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}]}, ["q"]),
    "sharegpt": ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, ["qa"]),
    "sharegpt, empty system": (
        {"conversations": [{"from": "system", "value": ""}, {"from": "human", "value": "q"}]},
        ["q"],
    ),
    "alpaca": ({"instruction": "q", "input": "", "output": "a"}, ["qa"]),
    "alpaca with input": ({"instruction": "q", "input": "i", "output": "a"}, [("q\n\ni", "a")]),
    "alpaca without input": ({"instruction": "q", "output": "a"}, ["qa"]),
    "alpaca with history": (
        {"instruction": "q", "output": "a", "history": [["p", "b"]], "system": "s"},
        ["s", "pb", "qa"],
    ),
    "completion": ({"prompt": "q", "completion": "a"}, ["qa"]),
    "response": ({"prompt": "q", "response": "a"}, ["qa"]),
    "question": ({"question": "q", "answer": "a"}, ["qa"]),
    "completion of turns": (
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        ["qa"],
    ),
    "label": ({"text": "q", "label": 1}, [("q", "1")]),
    "label, capital letters": ({"Review": "q", " Label ": "a"}, ["qa"]),
    "document": ({"text": "q"}, ["q"]),
    "content": ({"content": "q"}, ["q"]),
    "self_instruct": (
        {"instruction": "q", "instances": [{"input": "i", "output": "a"}, {"input": "", "output": "z"}]},
        [("q\n\ni", "a")],
    ),
}


# -- shapes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_told_by_its_columns(name: str, tmp_path: Path) -> None:
    row, pairs = SHAPES[name]
    expected = []
    for pair in pairs:
        roles = ["system"] if pair == "s" else ["user", "assistant"]
        expected += [Message(role, content) for role, content in zip(roles, pair, strict=False)]
    [sample] = read(source(put(tmp_path, "x.jsonl", lines(row))))
    assert list(sample.messages) == expected
    assert sample.dropped is None
    assert sample.method == "seed"


def test_a_label_is_a_tag_and_the_answer(tmp_path: Path) -> None:
    [sample] = read(source(put(tmp_path, "x.csv", "label,review\n1,很快，好吃\n")))
    assert sample.tags == {"label": "1", "language": "zh"}
    assert sample.answer == "1"


@pytest.mark.parametrize(
    "tags",
    [
        {"topic": "food", "level": 2, "none": None, "empty": ""},
        [["topic", "food"], ["level", 2]],
        [{"key": "topic", "value": "food"}, {"key": "level", "value": "2"}],
    ],
)
def test_tags_come_along(tags: object, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "q"}], "tags": tags}
    [sample] = read(source(put(tmp_path, "x.jsonl", lines(row))))
    assert sample.tags == {"topic": "food", "level": "2"}


def test_the_first_question_decides_the_language_and_the_rest_where_it_says_nothing() -> None:
    assert language([Message("user", "Translate the word 你好"), Message("assistant", "你好是一种问候")]) == "en"
    assert language([Message("user", "2 + 2?"), Message("assistant", "答案是四")]) == "zh"


def test_a_language_that_the_row_brings_is_kept(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "bonjour"}], "tags": {"language": "fr"}}
    [sample] = read(source(put(tmp_path, "x.jsonl", lines(row))))
    assert sample.tags["language"] == "fr"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Name three of the rivers.", "en"),
        ("Nennen Sie drei Flüsse, die in die Nordsee fließen.", ""),
        ("Citez trois fleuves de France et dites où ils se jettent.", ""),
        ("请说出三条河。", "zh"),
        ("把这句话翻译成英文：我 like 雨天", "zh"),
        ("Translate 你好 into English, please", "en"),
        ("川の名前を三つ挙げてください。", "ja"),
        ("강 세 개의 이름을 말하세요.", "ko"),
        ("2 + 2 = ?", ""),
    ],
)
def test_the_language_is_read_from_the_script(text: str, expected: str) -> None:
    assert language([Message("user", text)]) == expected


def test_columns_that_fit_no_shape_are_an_error_that_lists_the_shapes(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"columns body, title fit no shape; .* messages, sharegpt"):
        list(read(source(put(tmp_path, "x.jsonl", lines({"title": "a", "body": "b"})))))


def test_ignored_columns_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = put(tmp_path, "x.jsonl", lines(*({"question": f"q{n}", "answer": "a", "url": "u"} for n in range(3))))
    list(read(source(path)))
    assert [r.getMessage() for r in caplog.records if "not read" in r.getMessage()] == [
        f"{path}: not read: url (100% of the rows); map a column with `columns`, or name it in `ignore`"
    ]


# -- formats ------------------------------------------------------------------------------------------------------

ROWS = [{"question": "What is 2 + 2?", "answer": "4"}, {"question": "一加一等于几？", "answer": "二"}]
TABLE = pa.Table.from_pylist(ROWS)


def arrow_bytes(new: Callable[..., Any]) -> bytes:
    sink = pa.BufferOutputStream()
    with new(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return bytes(sink.getvalue())


def parquet_bytes() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE, sink)
    return bytes(sink.getvalue())


CSV = "question,answer\nWhat is 2 + 2?,4\n一加一等于几？,二\n"
FORMATS: dict[str, bytes] = {
    "x.jsonl": lines(*ROWS).encode(),
    "bom.jsonl": b"\xef\xbb\xbf" + lines(*ROWS).encode(),
    "crlf.jsonl": lines(*ROWS).replace("\n", "\r\n").encode(),
    "blank.jsonl": b"\n" + lines(*ROWS).encode() + b"  \n\n",
    "no_end.jsonl": lines(*ROWS).rstrip("\n").encode(),
    "x.json": json.dumps(ROWS, indent=1).encode(),
    "bom.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "data.json": json.dumps({"data": ROWS, "version": 1}).encode(),
    "really_lines.json": lines(*ROWS).encode(),
    "x.csv": CSV.encode(),
    "bom.csv": b"\xef\xbb\xbf" + CSV.encode(),
    "x.tsv": CSV.replace(",", "\t").encode(),
    "x.parquet": parquet_bytes(),
    "x.arrow": arrow_bytes(ipc.new_file),
    "stream.arrow": arrow_bytes(ipc.new_stream),
    "x.jsonl.gz": gzip.compress(lines(*ROWS).encode()),
    "x.csv.bz2": bz2.compress(CSV.encode()),
    "no_suffix": lines(*ROWS).encode(),
    "parquet.bin": parquet_bytes(),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_samples(name: str, tmp_path: Path) -> None:
    samples = list(read(source(put(tmp_path, name, FORMATS[name]))))
    assert [(s.messages, s.tags.get("language")) for s in samples] == [
        (QA, "en"),
        ((Message("user", "一加一等于几？"), Message("assistant", "二")), "zh"),
    ]


def test_plain_text_is_one_document_a_line(tmp_path: Path) -> None:
    samples = list(read(source(put(tmp_path, "reviews.pos", "a fine film .\n\n{ not json\n"), format="text")))
    assert [s.instruction for s in samples] == ["a fine film .", "{ not json"]
    assert len(list(read(source(put(tmp_path, "reviews.neg", "a dull film .\r\nworse ."))))) == 2


def test_a_cell_may_hold_commas_quotes_and_line_ends(tmp_path: Path) -> None:
    path = put(tmp_path, "x.csv", 'text,label\n"a, ""b""\nc",x\nplain,y\n,z\n')
    samples = list(read(source(path, on_bad_row="drop")))
    assert [s.instruction for s in samples[:2]] == ['a, "b"\nc', "plain"]
    assert samples[2].dropped == "ingest: line 5: field 'text' is empty, must be text"


def test_batches_of_a_parquet_file_are_all_read(tmp_path: Path) -> None:
    table = pa.table({"text": [f"text {n}" for n in range(5000)]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=1500)
    assert [s.instruction for s in read(source(tmp_path / "x.parquet"))] == table["text"].to_pylist()
