"""Open a dataset of vectors as the matrix of some samples, one row for each sample, in their order."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import StoreError
from gristmill.cluster.models.encoder import UNKNOWN
from gristmill.cluster.store.store import Store
from gristmill.selection.data import columns
from gristmill.selection.data.columns import Ids, Int
from gristmill.selection.data.matrix import Matrix
from gristmill.selection.data.memo import StoreMemo
from gristmill.selection.data.samples import Array, Samples


class Script(NamedTuple):
    """The texts of a script among some vectors."""

    name: str
    rows: int
    unknown: float
    """Mean share of the tokens that the encoder does not know."""


def scripts_of(store: Store, name: str, wanted: Ids) -> tuple[Array, list[Script]]:
    """Return ([n] whether the encoder knows the script of each, the scripts that it does not know) of wanted vectors.

    A script is judged by all of its texts together. So a single text with some known characters is not compared either.
    """
    scripts, unknown = np.zeros(len(wanted), object), np.zeros(len(wanted), np.float64)
    for table in store.scan(name, ["id", "script", "unknown"]):
        place, known = columns.find_ids(columns.ids(table), wanted)
        scripts[place[known]] = np.array(table["script"].to_pylist(), object)[known]
        unknown[place[known]] = table["unknown"].to_numpy()[known]
    readable, found = np.ones(len(wanted), np.bool_), list[Script]()
    for script in sorted(set(scripts.tolist()) - {"", 0}):
        mine = scripts == script
        share = float(unknown[mine].mean())
        if share > UNKNOWN:
            readable[mine] = False
            found.append(Script(script, int(mine.sum()), round(share, 3)))
    return readable, found


def matrix_of(store: Store, name: str, pool: Samples, encoder: str | None = None, rows: Int | None = None) -> Matrix:
    """Return the vectors of samples, one row each. In a local store they are memory-mapped from a file that is kept.

    Args:
        store: where the vectors are.
        name: their folder.
        pool: the samples.
        encoder: identity that the vectors must have.
        rows: [n] ascending rows of the samples, where not all are wanted.

    Raises:
        StoreError: when the folder has no vectors, vectors of another encoder, or no vector for a sample.
    """
    _check(store, name, encoder)
    wanted = pool.ids if rows is None else pool.ids[rows]

    def fill(array: Array) -> None:
        open_ = np.ones(len(wanted), np.bool_)
        for names, block in _scan(store, name):
            place, known = columns.find_ids(names, wanted)
            array[place[known]] = block[known]
            open_[place[known]] = False
        if open_.any():
            raise StoreError(
                f"{name}: no vector for {int(open_.sum())} of {len(open_)} samples (such as "
                f"{pool.ids[open_.argmax()].decode()}), must have one for each; move the folder away and run again"
            )

    metadata = store.manifest(name).metadata
    shape = (len(wanted), int(metadata["dim"]))
    if isinstance(pool.memo, StoreMemo):
        whose = pool.fingerprint if rows is None else ids.of_bytes(wanted.tobytes())
        return Matrix(pool.memo.build(f"matrix-{name}-{whose}", shape, metadata["dtype"], fill))
    held = np.empty(shape, metadata["dtype"])
    fill(held)
    return Matrix(held)


def _check(store: Store, name: str, encoder: str | None) -> None:
    """Refuse a folder that does not hold vectors of the encoder."""
    manifest = store.manifest(name)
    if manifest.kind != "vectors":
        raise StoreError(f"{name}: holds {manifest.kind}, must hold vectors; name the folder of an embedding")
    found = manifest.metadata.get("encoder", "")
    if encoder is not None and found != encoder:
        raise StoreError(f"{name}: vectors of {found}, must be of {encoder}; move the folder away and run again")


def _scan(store: Store, name: str) -> Iterator[tuple[Ids, Array]]:
    for table in store.scan(name):
        column = table["vector"]
        flat = [chunk.flatten().to_numpy(zero_copy_only=True) for chunk in column.chunks]
        width = column.type.list_size
        block = np.concatenate(flat) if flat else np.empty(0, column.type.value_type.to_pandas_dtype())
        yield columns.ids(table), block.reshape(-1, width)
