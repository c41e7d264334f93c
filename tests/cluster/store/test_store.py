"""The store: whole or not at all, damage noticed and named, the same table the same bytes."""

import os
import pickle
import re
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gristmill.cluster.contract.errors import SchemaError, StoreError
from gristmill.cluster.contract.sample import Message, from_table, seed, to_table
from gristmill.cluster.contract.schema import SCHEMA_VERSION, vectors
from gristmill.cluster.store.store import MANIFEST, Manifest, Shard, Store, file_shard, place

SEEDS = [seed([Message("user", f"question {n} 问题")], dropped="rule: odd" if n % 2 else None) for n in range(5)]


def fill(store: Store, name: str = "made-1", shards: int = 2) -> Manifest:
    entries = tuple(store.commit_shard(name, f"shard-{n:05d}", to_table(SEEDS)) for n in range(shards))
    manifest = Manifest(name, "samples", "made", "f" * 32, {"samples": "seeds-1"}, {"x": [1]}, entries)
    store.commit(manifest, {"seconds": 1.5})
    return manifest


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_what_was_committed_is_read_back(store: Store) -> None:
    manifest = fill(store)
    assert store.manifest("made-1") == manifest
    assert (manifest.rows, manifest.kept) == (10, 6)
    assert from_table(store.read("made-1")) == SEEDS * 2
    assert store.read("made-1", ["id", "dropped"]).column_names == ["id", "dropped"]
    assert store.figures("made-1") == {"seconds": 1.5}
    assert [m.name for m in store.entries()[0]] == ["made-1"]


@pytest.mark.parametrize("name", ["../up", "/etc", "a/../../b", "nul\0"])
def test_no_name_leads_out_of_the_store(name: str, store: Store) -> None:
    for use in (store.exists, store.read_bytes, store.names, store.delete, store.folder, store.complete):
        with pytest.raises(StoreError, match="leads out of the store"):
            use(name)


def test_an_altered_manifest_is_refused(store: Store) -> None:
    fill(store)
    raw = store.read_json("made-1", MANIFEST)
    for altered, said in (
        ({**raw, "name": "../made-2"}, "is that of '../made-2', must be that of its folder"),
        ({**raw, "shards": [{**raw["shards"][0], "name": "../x.arrow"}]}, "leads out of the store"),
        ({**raw, "shards": 5}, "was altered (shards: Input should be a valid array)"),
        ({**raw, "settings": None}, "was altered (settings"),
        ([], "was altered"),
    ):
        store.write_json(altered, "made-1", MANIFEST)
        with pytest.raises(StoreError, match=re.escape(said)):
            list(store.scan("made-1"))


def test_a_shard_with_the_digest_of_its_damage_is_no_table(store: Store) -> None:
    manifest = fill(store, shards=1)
    path = store.folder("made-1") / "shard-00000.arrow"
    path.write_bytes(b"ARROW1" + bytes(500))
    there = file_shard(path, store.folder("made-1"))
    with pytest.raises(StoreError, match=r"no table .* although its digest is right"):
        store.read_shard("made-1", replace(manifest.shards[0], bytes=there.bytes, digest=there.digest))


def test_a_path_that_cannot_be_a_store_is_refused() -> None:
    for uri in ("nul\0", "x" * 5000):
        with pytest.raises(StoreError, match="is no path of a folder"):
            Store(uri)


@pytest.mark.parametrize(
    ("damage", "said"),
    [(flip, "was altered"), (cut, "bytes, the manifest says"), (empty, "0 bytes"), (os.remove, "absent")],
)
def test_a_damaged_shard_is_named_with_what_to_do(store: Store, damage: Callable[[Path], None], said: str) -> None:
    fill(store)
    damage(store.folder("made-1") / "shard-00001.arrow")
    tables = store.scan("made-1")
    next(tables)  # the whole shard before it is fine
    with pytest.raises(
        StoreError, match=rf"made-1/shard-00001\.arrow: .*{said}.*move the folder .*made-1 away and run again"
    ):
        next(tables)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"schema_version": 1}', '{"schema_version": 1, "shards": [{"a": 1}]}']
)
def test_a_damaged_manifest_is_a_store_error(store: Store, text: str) -> None:
    fill(store)
    (store.folder("made-1") / MANIFEST).write_text(text)
    with pytest.raises(StoreError, match="made-1"):
        store.manifest("made-1")


def test_a_manifest_of_another_schema_version_is_refused(store: Store) -> None:
    fill(store)
    path = store.folder("made-1") / MANIFEST
    path.write_text(path.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'))
    with pytest.raises(StoreError, match=f"schema version 99, must be {SCHEMA_VERSION}"):
        store.manifest("made-1")


def test_a_folder_is_complete_exactly_when_its_manifest_stands(store: Store) -> None:
    store.commit_shard("made-1", "shard-00000", to_table(SEEDS))
    assert not store.complete("made-1")
    with pytest.raises(StoreError, match=r"incomplete \(it has no manifest\)"):
        store.manifest("made-1")
    with pytest.raises(StoreError, match="absent"):
        store.manifest("other")
    fill(store)
    assert store.complete("made-1")


def test_the_manifest_is_the_last_file_that_is_written(store: Store) -> None:
    fill(store)
    times = {path.name: path.stat().st_mtime_ns for path in store.folder("made-1").iterdir()}
    assert max(times, key=lambda name: times[name]) == MANIFEST


def test_committed_shards_are_known_until_the_manifest_lists_them(store: Store) -> None:
    first = store.commit_shard("made-1", "shard-00003", to_table(SEEDS))
    raw = store.commit_shard("made-1", "raw-00000", to_table(SEEDS[:1]))
    assert store.committed("made-1") == {"shard-00003": first}
    assert store.committed("made-1", "raw-") == {"raw-00000": raw}
    assert first == Shard("shard-00003.arrow", 5, 3, first.bytes, first.digest)
    store.commit(Manifest("made-1", "samples", "made", "f", {}, {}, (first,)))
    assert store.committed("made-1") == {}


def test_a_shard_without_its_commit_file_does_not_count(store: Store) -> None:
    entry = store.commit_shard("made-1", "shard-00000", to_table(SEEDS))
    store.delete("made-1", "shard-00000.json")
    assert store.committed("made-1") == {}
    assert store.commit_shard("made-1", "shard-00000", to_table(SEEDS)) == entry


def test_the_same_table_makes_the_same_bytes_however_it_is_chunked(store: Store) -> None:
    whole = to_table(SEEDS)
    pieces = pa.concat_tables([to_table(SEEDS[:2]), to_table(SEEDS[2:])])
    entries = {
        store.commit_shard(name, "shard-00000", table).digest
        for name, table in (("a-1", whole), ("b-1", whole), ("c-1", pieces))
    }
    assert len(entries) == 1


def test_the_same_dataset_in_two_stores_is_equal_byte_for_byte(tmp_path: Path) -> None:
    for side in ("left", "right"):
        fill(Store(str(tmp_path / side)))
    left, right = (
        {p.name: p.read_bytes() for p in (tmp_path / side / "made-1").iterdir()} for side in ("left", "right")
    )
    assert left == right


def test_temporary_files_are_not_listed(store: Store) -> None:
    fill(store)
    (store.folder("made-1") / ".shard-00009.arrow.77.tmp").write_bytes(b"x")
    assert store.names("made-1") == ["figures.json", MANIFEST, "shard-00000.arrow", "shard-00001.arrow"]
    assert store.names("nowhere") == []


def test_a_failed_write_leaves_the_old_file(store: Store) -> None:
    store.write_json({"a": 1}, "x.json")
    with pytest.raises(TypeError):
        store.write_json({"a": print}, "x.json")
    assert store.read_json("x.json") == {"a": 1}


def test_a_table_that_breaks_the_contract_is_not_committed(store: Store) -> None:
    table = to_table(SEEDS)
    broken = pa.Table.from_arrays([pa.array([None] * 5, pa.string()), *table.columns[1:]], schema=table.schema)
    with pytest.raises(SchemaError, match="made-1/shard-00000: column id has 5 nulls"):
        store.commit_shard("made-1", "shard-00000", broken)
    assert store.names("made-1") == []


def test_vectors_map_into_memory_uncompressed(store: Store) -> None:
    matrix = np.random.default_rng(0).random((100, 8), dtype=np.float32)
    schema = vectors(8)
    array = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), type=schema.field("vector").type)
    known = (pa.array(["Latin"] * 100), pa.array(np.zeros(100, np.float32)))
    table = pa.Table.from_arrays([pa.array([str(n) for n in range(100)]), *known, array], schema=schema)
    entry = store.commit_shard("vectors-1", "shard-00000", table, compress=False)
    before = pa.total_allocated_bytes()
    back = store.read_shard("vectors-1", entry)
    assert pa.total_allocated_bytes() == before, "the shard was copied into memory"
    np.testing.assert_array_equal(back["vector"].chunk(0).flatten().to_numpy().reshape(100, 8), matrix)
    assert entry.kept == 100


def test_files_of_a_model_stay_when_it_is_committed(store: Store) -> None:
    folder = store.folder("train-1")
    (folder / "adapter").mkdir()
    for name in ("config.json", "model.safetensors", "adapter/adapter_config.json"):
        (folder / name).write_text("{}")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    store.commit(Manifest("train-1", "model", "train", "f", {}, {}, tuple(file_shard(path, folder) for path in files)))
    assert all(path.exists() for path in files)
    assert store.manifest("train-1").shards[0].name == "adapter/adapter_config.json"


def test_a_store_travels_to_other_processes(store: Store) -> None:
    fill(store)
    assert pickle.loads(pickle.dumps(store)).read("made-1").num_rows == 10


def test_a_uri_and_a_path_open_the_same_store(store: Store) -> None:
    fill(store)
    assert Store(f"file://{store.local}").read("made-1").equals(store.read("made-1"))


def test_a_place_follows_from_identity_and_inputs() -> None:
    name, fingerprint = place("select", {"budget": 3}, {"samples": "generate-1"})
    assert name == f"select-{fingerprint[:12]}"
    others = [
        place("select", {"budget": 4}, {"samples": "generate-1"}),
        place("select", {"budget": 3}, {"samples": "generate-2"}),
    ]
    assert len({name, *(other for other, _ in others)}) == 3


def test_a_store_that_cannot_be_reached_is_an_error_in_words() -> None:
    for uri in ("nosuch://bucket/x", "file://host/x"):
        with pytest.raises(StoreError, match="cannot be reached"):
            Store(uri)


def test_a_store_may_have_a_uri_in_any_script(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}/数据 1")
    store.write_json({"a": 1}, "x.json")
    assert (tmp_path / "数据 1/x.json").exists() and store.read_json("x.json") == {"a": 1}


def test_the_home_of_nobody_is_a_folder_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("~nobody-of-this-name/runs").local == tmp_path / "~nobody-of-this-name/runs"


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(store: Store) -> None:
    fill(store)
    before = store.walk()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as on a disk with so much room, a write ends half way
    try:
        with pytest.raises(
            StoreError, match=r"made-2/x: cannot be written, the disk is full \(.*\); make room and run"
        ):
            store.write_bytes(b"x" * 2000, "made-2", "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.walk() == before


def test_a_folder_that_may_not_be_used_is_one_line(store: Store, tmp_path: Path) -> None:
    fill(store)
    tmp_path.chmod(0)
    user = os.geteuid()
    os.seteuid(user or 65534)  # the superuser may use any folder
    try:
        for act in (lambda: fill(store), lambda: store.folder("x"), store.names, lambda: store.manifest("made-1")):
            with pytest.raises(
                StoreError, match=r"may not be used \(.*Permission denied.*must be allowed to this user"
            ):
                act()
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)
