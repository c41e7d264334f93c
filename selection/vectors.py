"""Open a dataset of vectors as one [n, d] matrix and line it up with sample ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.encoder import Float32
from cluster.errors import StoreError
from cluster.store import Store


@dataclass(frozen=True, eq=False)
class Vectors:
    """A complete dataset of vectors in memory, or mapped from disk where it is one shard of float32."""

    name: str
    ids: Sequence[str]
    matrix: Float32
    """[n, d] unit rows, read-only."""
    metadata: Mapping[str, str]
    """`encoder`, `part`, `dim`, `dtype` as the manifest has them."""

    def aligned(self, ids: Sequence[str]) -> Float32:
        """Return [len(ids), d], row by row the vector of each id; no copy where the ids stand as they are asked for.

        Raises:
            StoreError: when an id has no vector.
        """
        if list(ids) == list(self.ids):
            return self.matrix
        row = {name: place for place, name in enumerate(self.ids)}
        absent = [name for name in ids if name not in row]
        if absent:
            raise StoreError(
                f"{self.name}: no vector for {len(absent)} of {len(ids)} samples (such as {absent[0]}), must have one "
                "for each; delete the folder and run again"
            )
        return self.matrix[np.array([row[name] for name in ids], np.int64)]


def open_vectors(store: Store, name: str, encoder: str | None = None) -> Vectors:
    """Open a dataset of vectors.

    One shard of float32 on a local store is used where it lies on disk; several shards are joined and float16 is
    widened, both in memory.

    Raises:
        StoreError: when the folder holds no vectors, or vectors of another encoder than the identity asked for.
    """
    manifest = store.manifest(name)
    if manifest.kind != "vectors":
        raise StoreError(f"{name}: holds {manifest.kind}, must hold vectors; name the folder of an embedding")
    found = manifest.metadata.get("encoder", "")
    if encoder is not None and found != encoder:
        raise StoreError(f"{name}: vectors of {found}, must be of {encoder}; delete the folder and run again")
    ids: list[str] = []
    blocks: list[Float32] = []
    for table in store.scan(name):
        ids += table["id"].to_pylist()
        for array in table["vector"].chunks:
            flat = array.flatten().to_numpy(zero_copy_only=True)
            blocks.append(flat.reshape(len(array), array.type.list_size).astype(np.float32, copy=False))
    empty = np.empty((0, int(manifest.metadata.get("dim", "1"))), np.float32)
    return Vectors(name, ids, blocks[0] if len(blocks) == 1 else np.concatenate([empty, *blocks]), manifest.metadata)
