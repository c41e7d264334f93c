"""Arrays that are expensive to make; they are stored as files with a dataset, so that the next build can read them."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gristmill.cluster.contract import ids
from gristmill.cluster.store.store import Store
from gristmill.selection.data.samples import Array, Memo, MemoryMemo

REVISION = 2
"""Increased when the array of a name gets other numbers than before, so that no build reads an array of an older
version."""
_PLAIN = re.compile(r"[a-z0-9_.-]{1,100}")


class StoreMemo:
    """Stores arrays as `index-<dataset>/<name>.<revision>.npy` in a local store, and returns them as memory maps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, name: str, make: Callable[[], Array]) -> Array:
        """Return the array of a name; it is made now, unless an earlier build has stored it."""
        path = self._path(name)
        if not path.exists():
            temporary = path.with_suffix(f".{os.getpid()}.tmp.npy")
            np.save(temporary, make())
            temporary.replace(path)
        found: Array = np.load(path, mmap_mode="r")
        return found

    def build(self, name: str, shape: tuple[int, ...], dtype: str, fill: Callable[[Array], None]) -> Array:
        """Return the array of a name. `fill` writes to a map of the file, so the array need not fit in memory."""
        path = self._path(name)
        if not path.exists():
            temporary = path.with_suffix(f".{os.getpid()}.tmp.npy")
            array: np.memmap = np.lib.format.open_memmap(temporary, "w+", np.dtype(dtype), shape)
            fill(array)
            array.flush()
            del array
            temporary.replace(path)
        found: Array = np.load(path, mmap_mode="r")
        return found

    def _path(self, name: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{name if _PLAIN.fullmatch(name) else ids.digest(name)}.{REVISION}.npy"


def memo_of(store: Store, dataset: str) -> Memo:
    """Return the memo of a dataset.

    In a local store it stores files. An object store cannot map files, so there the arrays last as long as the process.
    """
    return StoreMemo(store.local / f"index-{dataset}") if store.local else MemoryMemo()
