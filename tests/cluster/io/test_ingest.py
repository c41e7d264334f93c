"""Ingest: the files that it finds, and the dataset that they become, the same for the same content."""

from pathlib import Path

import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.contract.schema import SAMPLES
from gristmill.cluster.io.ingest import Source, ingest, place_of, read
from gristmill.cluster.io.shapes import language
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.store import Store
from tests.cluster.io.sources import lines, put, source
from tests.invariants import check_dataset
from tests.paths import EXAMPLES

GOOD = {"question": "q", "answer": "a"}


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
        "bad.jsonl.gz": "is not JSON",
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
    assert names[0] == names[1] == place_of(source(two, on_bad_row="drop"))
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
    assert len({place_of(s) for s in sources}) == len(sources)


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
    path = put(tmp_path, "x.txt", "".join(f"line {n}\n" for n in range(450)))
    name = ingest(store, source(path), shard_rows=200)
    assert [shard.rows for shard in store.manifest(name).shards] == [200, 200, 50]
    assert [row.instruction for row in check_dataset(store, name)] == [f"line {n}" for n in range(450)]
    figures = store.figures(name)
    assert (figures["rows"], figures["kept"]) == (450, 450)


def test_the_seeds_that_ship_are_good(store: Store) -> None:
    seeds = EXAMPLES / "seeds.jsonl"
    rows = check_dataset(store, ingest(store, source(seeds)))
    assert all(row.dropped is None for row in rows)

    def of(lang: str) -> list[Sample]:
        return [row for row in rows if row.tags["language"] == lang]

    assert len(of("en")) >= 44
    assert len(of("zh")) >= 22
    assert all(language(row.messages) in (row.tags["language"], "") for row in rows)
    assert {row.tags["kind"] for row in of("en")} == {row.tags["kind"] for row in of("zh")}
