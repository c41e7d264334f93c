"""Croissant metadata: they name the files that are there with their digests, and every column."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.io.export import export
from gristmill.cluster.io.forms import ExportForm
from gristmill.cluster.io.ingest import ingest
from gristmill.cluster.store.store import Store
from tests.cluster.io.sources import lines, put, source

ROWS = [
    {
        "messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": "yes"}],
        "tags": {"a": "b"},
    }
    for n in range(5)
]


@pytest.mark.parametrize(
    ("form", "types"),
    [
        ("jsonl", {"id": "sc:Text", "messages/content": "sc:Text", "tags/a": "sc:Text"}),
        ("parquet", {"id": "sc:Text", "round": "sc:Integer", "messages/train": "sc:Boolean", "parents": "sc:Text"}),
        ("alpaca", {"instruction": "sc:Text", "input": "sc:Text", "output": "sc:Text"}),
    ],
)
def test_the_metadata_name_files_and_columns(
    form: ExportForm, types: dict[str, str], store: Store, tmp_path: Path
) -> None:
    name = ingest(store, source(put(tmp_path, "in.jsonl", lines(*ROWS))), shard_rows=2)
    export(store, name, tmp_path / "out", form)
    said: dict[str, Any] = json.loads((tmp_path / "out/croissant.json").read_text())
    *files, whole = said["distribution"]
    assert [file["contentUrl"] for file in files] == [
        str(path.relative_to(tmp_path / "out")) for path in sorted((tmp_path / "out/data").iterdir())
    ]
    for file in files:
        assert file["sha256"] == hashlib.sha256((tmp_path / "out" / file["contentUrl"]).read_bytes()).hexdigest()
    assert whole["includes"].endswith("parquet" if form == "parquet" else "jsonl")
    fields = {field["name"]: field for field in said["recordSet"][0]["field"]}
    inner = {within["name"]: within for field in fields.values() for within in field.get("subField", ())}
    typed = {column: field["dataType"] for column, field in (fields | inner).items() if "dataType" in field}
    assert types.items() <= typed.items()
    assert all((fields | inner)[column]["source"]["extract"] == {"column": column.split("/")[0]} for column in typed)
    if "messages" in fields:
        assert fields["messages"]["repeated"] is True
        assert inner["messages/role"]["source"]["transform"] == {"jsonPath": "[*].role"}


def test_a_folder_with_the_metadata_is_loaded_as_before(store: Store, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets loads the folder")
    name = ingest(store, source(put(tmp_path, "in.jsonl", lines(*ROWS))))
    for form in ("jsonl", "parquet"):
        export(store, name, tmp_path / form, form)
        rows = datasets.load_dataset(str(tmp_path / form), split="train", cache_dir=str(tmp_path / "cache"))
        assert rows.num_rows == 5
