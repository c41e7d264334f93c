"""Targets of exports: the suffix says the form, and URIs are written to."""

import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.export import export
from gristmill.cluster.io.ingest import Source, ingest, read
from gristmill.cluster.store.store import Store
from tests.cluster.io.sources import lines, put, source


@pytest.fixture
def name(store: Store, tmp_path: Path) -> str:
    rows = ({"question": f"Question {n}?", "answer": "yes"} for n in range(3))
    return ingest(store, source(put(tmp_path, "in.jsonl", lines(*rows))))


def test_the_suffix_says_form_and_compression(store: Store, name: str, tmp_path: Path) -> None:
    for file in ("out.parquet", "out.jsonl", "out.ndjson", "out.jsonl.gz", "out.jsonl.zst", "out.jsonl.bz2"):
        assert export(store, name, tmp_path / file).rows == 3
        back = read(Source(path=(str(tmp_path / file),)))
        assert [s.instruction for s in back] == [f"Question {n}?" for n in range(3)]
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 3
    assert gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()) == (tmp_path / "out.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("target", "form", "problem"),
    [
        ("out.csv", None, "the suffix '.csv' is no form, must be one of .jsonl"),
        ("out.arrow", None, "is no form"),
        ("out.json", None, "is no form"),
        ("out.gz", None, "is no form"),
        ("my.data", None, "end a folder with /"),
        ("out.parquet.gz", None, "Parquet is compressed inside"),
        ("out.parquet", "sharegpt", "the suffix .parquet is not of the form sharegpt"),
        ("out.jsonl", "parquet", "the suffix .jsonl is not of the form parquet, must have the suffix .parquet"),
        ("nosuch://bucket/x.jsonl", None, "cannot be reached"),
    ],
)
def test_a_suffix_that_says_no_form_or_another_is_refused(
    target: str, form: str | None, problem: str, store: Store, name: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=problem):
        export(store, name, target if "://" in target else str(tmp_path / target), form)  # type: ignore[arg-type]
    assert not (tmp_path / target).exists()


def test_a_uri_gets_a_file_or_a_folder(store: Store, name: str, tmp_path: Path) -> None:
    base = f"file://{tmp_path}/出 口"
    assert export(store, name, f"{base}/out.jsonl.gz").rows == 3
    [first, *_] = gzip.decompress((tmp_path / "出 口/out.jsonl.gz").read_bytes()).splitlines()
    assert json.loads(first)["messages"][0]["content"] == "Question 0?"
    export(store, name, f"{base}/folder/", "parquet")
    assert (tmp_path / "出 口/folder/README.md").exists()
    assert pq.read_table(tmp_path / "出 口/folder/data/train-00000.parquet").num_rows == 3
    with pytest.raises(JobError, match="is not empty"):
        export(store, name, f"{base}/folder/", "parquet")
    local = fs.LocalFileSystem().get_file_info(fs.FileSelector(str(tmp_path)))
    assert not [info for info in local if info.base_name == "file:"]
