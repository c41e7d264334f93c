"""Vectors from the store as the matrix of some samples: one row for each sample, in the order of the samples."""

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
    """A script that the encoder does not know, and the texts in this script."""

    name: str
    rows: int
    unknown: float
    """Share of a text's tokens that the encoder does not know, 0 to 1, as a mean over the texts."""


def scripts_of(store: Store, name: str, wanted: Ids) -> tuple[Array, list[Script]]:
    """Return ([n] whether the encoder knows the script of each sample, the scripts that it does not know).

    The encoder knows a script if the mean share of unknown tokens, over all texts in the script, is at most `UNKNOWN`.
    So in an unknown script, even a text with some known characters is not compared.

    Args:
        store: the store of the vectors.
        name: folder of the vectors.
        wanted: [n] ids of the samples, ascending.
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
    """Return the vectors of samples, one row for each sample.

    In a local store the matrix is a file that later builds use again, and its rows are a memory map.

    Args:
        store: the store of the vectors.
        name: folder of the vectors.
        pool: the samples.
        encoder: identity of the encoder that must have made the vectors; None means any encoder.
        rows: [n] ascending rows of the wanted samples; None means all samples.

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
    """Raise a StoreError for a folder that does not hold vectors of the encoder."""
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
