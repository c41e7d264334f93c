"""A dataset of vectors as one matrix."""

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import StoreError
from cluster.schema import vectors as vectors_schema
from cluster.store import Manifest, Store
from selection.contracts import Float32
from selection.vectors import open_vectors
from tests.selection.made import made, put, unit

MATRIX = unit(np.random.default_rng(0).normal(size=(9, 4)))
IDS = [f"id{n}" for n in range(9)]


def put_vectors(store: Store, matrix: Float32, shard_rows: int, dtype: str = "float32") -> str:
    schema = vectors_schema(4, pa.from_numpy_dtype(np.dtype(dtype)))
    shards = []
    for start in range(0, len(matrix), shard_rows):
        block = matrix[start : start + shard_rows].astype(dtype)
        values = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), type=schema.field("vector").type)
        table = pa.Table.from_arrays([pa.array(IDS[start : start + len(block)]), values], schema=schema)
        shards.append(store.commit_shard("vectors-x", f"shard-{len(shards):05d}", table, compress=False))
    metadata = {"encoder": "some-encoder", "dim": "4"}
    store.commit(Manifest("vectors-x", "vectors", "embed", "0", {}, {}, tuple(shards), metadata=metadata))
    return "vectors-x"


def test_one_shard_is_mapped_from_disk_without_a_copy(store: Store) -> None:
    found = open_vectors(store, put_vectors(store, MATRIX, 100))
    np.testing.assert_array_equal(found.matrix, MATRIX)
    before = pa.total_allocated_bytes()
    assert not found.matrix.flags.owndata
    assert found.aligned(IDS) is found.matrix
    assert pa.total_allocated_bytes() == before


@pytest.mark.parametrize(
    ("shard_rows", "dtype", "off"), [(2, "float32", 0), (9, "float16", 1e-3), (4, "float16", 1e-3)]
)
def test_several_shards_and_half_precision_are_joined_as_float32(
    store: Store, shard_rows: int, dtype: str, off: float
) -> None:
    found = open_vectors(store, put_vectors(store, MATRIX, shard_rows, dtype), "some-encoder")
    assert found.matrix.dtype == np.float32
    np.testing.assert_allclose(found.matrix, MATRIX, atol=off)
    np.testing.assert_allclose(found.aligned(["id7", "id0"]), MATRIX[[7, 0]], atol=off)


def test_a_sample_without_vector_is_named(store: Store) -> None:
    found = open_vectors(store, put_vectors(store, MATRIX, 100))
    with pytest.raises(StoreError, match=r"no vector for 1 of 2 samples \(such as stranger\)"):
        found.aligned(["id1", "stranger"])


def test_vectors_of_another_encoder_are_refused(store: Store) -> None:
    name = put_vectors(store, MATRIX, 100)
    with pytest.raises(StoreError, match="vectors of some-encoder, must be of another"):
        open_vectors(store, name, "another")


def test_samples_are_no_vectors(store: Store) -> None:
    with pytest.raises(StoreError, match="holds samples, must hold vectors"):
        open_vectors(store, put(store, "generate-x", [made("a")]))
