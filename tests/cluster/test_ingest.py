"""Ingest: every shape and format, every bad row named, the same content the same dataset."""

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

from cluster import ingest as ingest_module
from cluster.errors import JobError
from cluster.ingest import Source, ingest, place_of, read
from cluster.progress import Screen
from cluster.sample import Message, Sample
from cluster.schema import SAMPLES
from cluster.shapes import language
from cluster.store import Store
from tests.invariants import check_dataset

QA = (Message("user", "What is 2 + 2?"), Message("assistant", "4"))
SHAPES: dict[str, tuple[dict[str, Any], Sequence[tuple[str, str]]]] = {
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


def lines(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def source(path: Path | Sequence[Path], **settings: Any) -> Source:
    paths = (path,) if isinstance(path, Path) else path
    return Source.model_validate({"path": [str(p) for p in paths], **settings})


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


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
    assert [r.getMessage() for r in caplog.records if "ignored" in r.getMessage()] == [
        f"{path}: completion, ignored columns url"
    ]


# -- formats ------------------------------------------------------------------------------------------------------

ROWS = [{"question": "What is 2 + 2?", "answer": "4"}, {"question": "一加一等于几？", "answer": "二"}]
TABLE = pa.Table.from_pylist(ROWS)


def arrow_bytes(new: Callable[..., Any]) -> bytes:
    sink = pa.BufferOutputStream()
    with new(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return sink.getvalue().to_pybytes()


def parquet_bytes() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE, sink)
    return sink.getvalue().to_pybytes()


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


# -- bad rows -----------------------------------------------------------------------------------------------------

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
    assert rows[1].messages[0].content.startswith(bad.decode(errors="replace")[:10])
    assert len(rows[1].messages[0].content) <= ingest_module.RAW_CHARACTERS


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([], "field 'messages' is a list of 0, must be a list of turns"),
        ("hi", "field 'messages' is 'hi', must be a list of turns"),
        (["hi"], r"field 'messages\[0\]' is 'hi', must be a table"),
        ([{"role": "alien", "content": "x"}], r"field 'messages\[0\].role' is 'alien', must be one of system"),
        ([{"content": "x"}], r"field 'messages\[0\].role' is absent"),
        ([{"role": "user", "content": None}], r"field 'messages\[0\].content' is absent, must be text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"field 'messages\[0\].content' is a list of 1"),
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
        "ingest: line 4: has 1 cells, must have ",
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


# -- files --------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    put(tmp_path, "empty.jsonl", b"")
    put(tmp_path, "header.csv", b"text,label\n")
    put(tmp_path, "utf16.csv", "text\nä\n".encode("utf-16"))
    put(tmp_path, "bad.parquet", b"PAR1 no")
    put(tmp_path, "bad.jsonl.gz", b"no gzip at all")
    put(tmp_path, "half.json", b'[{"text": "a"}')
    put(tmp_path, "string.json", b'"a"')
    (tmp_path / "folder").mkdir()
    said = {
        "absent.jsonl": "no such file",
        "folder": r"is a folder, must be a file or a pattern such as .*folder/\*\.jsonl",
        "*.xyz": "matches no file, must match at least one",
        "empty.jsonl": "is empty, must hold at least one row",
        "header.csv": "holds no good row",
        "utf16.csv": "is UTF-16, must be UTF-8",
        "bad.parquet": "cannot be read as parquet",
        "bad.jsonl.gz": "cannot be read as jsonl",
        "half.json": "is not JSON",
        "string.json": r"is a JSON str, must be an array",
    }
    for name, message in said.items():
        with pytest.raises(JobError, match=message):
            ingest(Store(str(tmp_path / "store")), source(tmp_path / name))
    with pytest.raises(JobError, match=r"nosuch://host/x\.jsonl"):
        place_of(Source(path=("nosuch://host/x.jsonl",)))


def test_globs_and_uris_find_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        put(tmp_path, name, lines({"text": name}))
    for path in (f"{tmp_path}/*.jsonl", f"file://{tmp_path}/*.jsonl"):
        assert [s.instruction for s in read(Source(path=(path,)))] == ["a.jsonl", "b.jsonl"]
    listed = Source(path=(f"file://{tmp_path}/b.jsonl", f"{tmp_path}/a.jsonl"))
    assert [s.instruction for s in read(listed)] == ["b.jsonl", "a.jsonl"]


def test_one_string_is_a_source_and_is_looked_up_beside_the_recipe(tmp_path: Path) -> None:
    found = Source.model_validate("x/*.jsonl", context={"base": tmp_path})
    assert found.path == (f"{tmp_path}/x/*.jsonl",)
    assert Source.model_validate({"path": "s3://b/x.jsonl"}, context={"base": tmp_path}).path == ("s3://b/x.jsonl",)
    assert Source.model_validate("/x.jsonl", context={"base": tmp_path}).path == ("/x.jsonl",)
    assert Source.model_validate("~/x.jsonl", context={"base": tmp_path}).path == (f"{Path.home()}/x.jsonl",)


# -- the dataset --------------------------------------------------------------------------------------------------


def test_the_dataset_depends_on_the_content_and_not_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    text = lines(GOOD, {"question": "b", "answer": "c"}, GOOD) + "{oops\n"
    one, two = put(tmp_path, "x.jsonl", text), put(tmp_path / "other", "y.ndjson", text)
    stores = [Store(str(tmp_path / f"store-{n}")) for n in range(2)]
    names = [ingest(s, source(p, on_bad_row="drop")) for s, p in zip(stores, (one, two), strict=True)]
    assert names[0] == names[1] == place_of(source(two, on_bad_row="drop"))[0]
    assert stores[0].manifest(names[0]).shards == stores[1].manifest(names[1]).shards
    assert stores[0].read(names[0]).schema == SAMPLES


def test_content_order_and_settings_change_the_name(tmp_path: Path) -> None:
    a, b = put(tmp_path, "a.jsonl", lines(GOOD)), put(tmp_path, "b.jsonl", lines({"text": "x"}))
    sources = [
        source(a),
        source(b),
        source([a, b]),
        source([b, a]),
        source(a, shape="completion"),
        source(a, on_bad_row="drop"),
        source(a, format="text"),
    ]
    assert len({place_of(s)[0] for s in sources}) == len(sources)


def test_a_second_time_nothing_is_written(tmp_path: Path, store: Store) -> None:
    path = put(tmp_path, "x.jsonl", lines(GOOD))
    name = ingest(store, source(path))
    before = {p.name: p.stat().st_mtime_ns for p in store.folder(name).iterdir()}
    assert ingest(store, source(path)) == name
    assert {p.name: p.stat().st_mtime_ns for p in store.folder(name).iterdir()} == before


def test_what_a_killed_ingest_left_is_written_again(tmp_path: Path, store: Store) -> None:
    path = put(tmp_path, "x.jsonl", lines(GOOD))
    name = ingest(store, source(path))
    whole = store.manifest(name)
    store.delete(name, "manifest.json")
    (store.folder(name) / "shard-00000.arrow").write_bytes(b"half")
    assert ingest(store, source(path)) == name
    assert store.manifest(name) == whole
    check_dataset(store, name)


def test_people_see_how_far_it_is(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    ingest(store, source(put(tmp_path, "x.jsonl", lines(GOOD))), Screen())
    assert "ingest: 1 (" in capsys.readouterr().err


def test_many_rows_become_several_shards(tmp_path: Path, store: Store) -> None:
    count = ingest_module.SHARD_ROWS + 10
    path = put(tmp_path, "x.txt", "".join(f"line {n}\n" for n in range(count)))
    name = ingest(store, source(path))
    assert [shard.rows for shard in store.manifest(name).shards] == [ingest_module.SHARD_ROWS, 10]
    figures = store.figures(name)
    assert (figures["rows"], figures["kept"], figures["dropped"], figures["files"]) == (count, count, 0, 1)


def test_the_seeds_that_ship_are_good(store: Store) -> None:
    seeds = Path(__file__).parents[2] / "examples" / "seeds.jsonl"
    rows = check_dataset(store, ingest(store, source(seeds)))
    assert all(row.dropped is None for row in rows)

    def of(lang: str) -> list[Sample]:
        return [row for row in rows if row.tags["language"] == lang]

    assert len(of("en")) >= 44
    assert len(of("zh")) >= 22
    assert all(language(row.messages) in (row.tags["language"], "") for row in rows)
    assert {row.tags["kind"] for row in of("en")} == {row.tags["kind"] for row in of("zh")}
