"""A dataset of vectors as the matrix of a pool."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gristmill.cluster.contract.errors import StoreError
from gristmill.cluster.contract.schema import vectors as vectors_schema
from gristmill.cluster.store.store import Manifest, Shard, Store
from gristmill.selection.data.matrix import Float32
from gristmill.selection.data.memo import memo_of
from gristmill.selection.data.parts import Parts
from gristmill.selection.data.samples import Samples
from gristmill.selection.data.vectors import matrix_of, scripts_of
from tests.selection.made import made, put, unit

MATRIX = unit(np.random.default_rng(0).normal(size=(9, 4)))
THAI = {"id1": 0.9, "id4": 0.0, "id7": 0.8}
"""Share of unknown tokens of each text in Thai."""
IDS = np.array([f"id{n}" for n in range(9)], "S32")


def put_vectors(store: Store, matrix: Float32, shard_rows: int, dtype: str = "float32") -> str:
    schema = vectors_schema(4, pa.from_numpy_dtype(np.dtype(dtype)))
    shards: list[Shard] = []
    for start in range(0, len(matrix), shard_rows):
        block = matrix[start : start + shard_rows].astype(dtype)
        values = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), type=schema.field("vector").type)
        names = [name.decode() for name in IDS[start : start + len(block)]]
        scripts = pa.array(["Thai" if name in THAI else "Latin" for name in names])
        unknown = pa.array([THAI.get(name, 0.0) for name in names], pa.float32())
        table = pa.Table.from_arrays([pa.array(names), scripts, unknown, values], schema=schema)
        shards.append(store.commit_shard("vectors-x", f"shard-{len(shards):05d}", table, compress=False))
    metadata = {"encoder": "some-encoder", "dim": "4", "dtype": dtype}
    store.commit(Manifest("vectors-x", "vectors", "embed", "0", {}, {}, tuple(shards), metadata=metadata))
    return "vectors-x"


def pool_of(names: np.ndarray) -> Samples:
    return Samples(Parts.of([]), np.zeros(1, np.int64), np.sort(names), np.empty(0, np.int32), {})


@pytest.mark.parametrize(
    ("shard_rows", "dtype", "off"), [(2, "float32", 0), (100, "float16", 1e-3), (4, "float16", 1e-3)]
)
def test_rows_stand_in_the_order_of_the_pool_whatever_the_shards(
    store: Store, shard_rows: int, dtype: str, off: float
) -> None:
    some = pool_of(IDS[[7, 0, 3]])
    found = matrix_of(store, put_vectors(store, MATRIX, shard_rows, dtype), some, "some-encoder")
    assert found.block(0, 1).dtype == np.float32
    np.testing.assert_allclose(found.whole(), MATRIX[[0, 3, 7]], atol=off)


def test_a_script_is_judged_by_all_of_its_texts_together(store: Store) -> None:
    name = put_vectors(store, MATRIX, 2)
    readable, unknown = scripts_of(store, name, IDS)
    assert np.flatnonzero(~readable).tolist() == [1, 4, 7]
    assert [(s.name, s.rows) for s in unknown] == [("Thai", 3)]
    assert unknown[0].unknown == pytest.approx(0.567)
    readable, unknown = scripts_of(store, name, IDS[[0, 4]])
    assert readable.all()
    assert unknown == []


def test_in_a_local_store_the_matrix_is_mapped_from_a_file_that_is_found_again(store: Store) -> None:
    name = put_vectors(store, MATRIX, 2, "float16")
    pool = Samples(
        Parts.of([]), np.zeros(1, np.int64), IDS, np.empty(0, np.int32), {}, memo=memo_of(store, "generate-x")
    )
    found = matrix_of(store, name, pool)
    assert isinstance(found.base, np.memmap)
    (file,) = store.folder("index-generate-x").glob("*.npy")
    stamp = file.stat().st_mtime_ns
    np.testing.assert_array_equal(matrix_of(store, name, pool).whole(), found.whole())
    assert file.stat().st_mtime_ns == stamp
    assert len(list(Path(file.parent).iterdir())) == 1


def test_a_sample_without_vector_is_named(store: Store) -> None:
    with pytest.raises(StoreError, match=r"no vector for 1 of 2 samples \(such as stranger\)"):
        matrix_of(store, put_vectors(store, MATRIX, 100), pool_of(np.array([b"id1", b"stranger"], "S32")))


def test_vectors_of_another_encoder_are_refused(store: Store) -> None:
    name = put_vectors(store, MATRIX, 100)
    with pytest.raises(StoreError, match="vectors of some-encoder, must be of another"):
        matrix_of(store, name, pool_of(IDS), "another")


def test_samples_are_no_vectors(store: Store) -> None:
    with pytest.raises(StoreError, match="holds samples, must hold vectors"):
        matrix_of(store, put(store, "generate-x", [made("a")]), pool_of(IDS))
