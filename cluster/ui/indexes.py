"""The indexes of the datasets of a store. Each is built once, in the background, in the user's cache folder."""

import errno
import logging
import os
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import GristmillError, StoreError
from gristmill.cluster.store.store import Store
from gristmill.cluster.ui.build import build
from gristmill.cluster.ui.index import Index

log = logging.getLogger(__name__)
UNUSED_S = 14 * 86_400
"""An index that was not opened for so many seconds is deleted."""
ORPHAN_S = 86_400
"""The folder of a build is deleted if the build did not end in so many seconds, because it was killed."""
QUICK_S = 0.5
"""Seconds in which a small index is built while its first request waits."""


@dataclass
class Building:
    """An index that is being built."""

    rows: int
    done: int = 0
    error: GristmillError | None = None


class Indexes:
    """The indexes of a store, by the names of its datasets. All methods may be called from several threads."""

    def __init__(self, store: Store, folder: Path | None = None) -> None:
        """Make no index yet. `folder` replaces the cache folder of the user."""
        self._store = store
        self._folder = folder or cache_folder()
        self._open: dict[str, Index] = {}
        self._building: dict[str, Building] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Index | Building:
        """Return the index of a complete dataset, or how far its building is. A small one is awaited.

        Raises:
            StoreError: if the dataset is absent, altered, or cannot be indexed.
        """
        with self._lock:
            if name in self._open:
                return self._open[name]
            state = self._building.get(name)
            if state is None:
                state = self._building[name] = Building(self._store.manifest(name).rows)
                thread = threading.Thread(target=self._make, args=(name, state), daemon=True, name=f"index {name}")
                thread.start()
            else:
                thread = None
        if thread is not None:
            thread.join(QUICK_S)
        with self._lock:
            if state.error is not None:
                self._building.pop(name, None)  # the next request tries again
                raise state.error
            return self._open.get(name, state)

    def _make(self, name: str, state: Building) -> None:
        try:
            index = self._opened(name, state)
        except GristmillError as error:
            state.error = error
        except (OSError, ValueError) as error:
            log.exception("the index of %s cannot be built", name)
            what = f"{name}: its index in {self._folder} cannot be built ({error})"
            state.error = StoreError(f"{what}; free some disk space, or set XDG_CACHE_HOME to another folder")
        else:
            with self._lock:
                self._open[name] = index
                self._building.pop(name, None)

    def _opened(self, name: str, state: Building) -> Index:
        folder = self._folder / self._key(name)
        with suppress(OSError, ValueError, KeyError):  # absent, of another version, or damaged: built again
            index = Index(folder)
            os.utime(folder)
            return index
        begin = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.mkdir(mode=0o700)

        def progress(done: int) -> None:
            state.done = done

        try:
            build(self._store, name, temporary, progress)
            temporary.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else another process has built it meanwhile
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        log.info("ui: index of %s with %d rows built in %.1f s", name, state.rows, time.monotonic() - begin)
        return Index(folder)

    def _key(self, name: str) -> str:
        """Return the folder of an index. It depends on the content of the dataset, and not on its place."""
        manifest = self._store.manifest(name)
        content = [[shard.name, shard.digest] for shard in manifest.shards]
        return f"{name}-{ids.digest('index', content)[: ids.SHORT_HEX]}"

    def sweep(self) -> None:
        """Delete the indexes that were not used for `UNUSED_S` seconds, and the rests of killed builds."""
        if not self._folder.is_dir():
            return
        for folder in self._folder.iterdir():
            with suppress(FileNotFoundError):  # another process deleted it
                limit = ORPHAN_S if folder.name.startswith(".") else UNUSED_S
                if time.time() - folder.stat().st_mtime > limit:
                    shutil.rmtree(folder, ignore_errors=True)


def cache_folder() -> Path:
    """Return the folder for indexes: `$XDG_CACHE_HOME/gristmill/ui`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gristmill" / "ui"
