"""A store in a folder of a local or mounted file system."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Literal

import pyarrow as pa

from gristmill.cluster.store.backend import Entry, Fence, stale

TEMPORARY = ".tmp"
"""Suffix of a file that is being written. Its name begins with a dot, so no list of names has it."""
FENCE = ".fence"
"""Suffix of the file beside that of a lease. It has the number of the last holder, as digits."""


class FileFence:
    """The fence of a lease in a folder: writers hold a shared lock on its file, a new holder an exclusive one."""

    def __init__(self, path: str, number: int) -> None:
        """Take the path of the lease's file, and the number that this holder got."""
        self._path, self._number = path, number

    @contextmanager
    def holding(self, *, anew: bool = True) -> Iterator[None]:
        """Raise `BusyError` if another process has got the lease since; else none gets it while the block runs."""
        del anew  # it costs microseconds
        with Path(self._path + FENCE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            if int(file.read() or 0) != self._number:
                raise stale(self._path)
            yield


def next_number(path: str) -> int:
    """Give the lease at a path its next number and return it. Waits for a writer that is just renaming a file."""
    with Path(path + FENCE).open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        number = int(file.read() or 0) + 1
        file.seek(0)
        file.truncate()
        file.write(b"%d" % number)
        file.flush()
        os.fsync(file.fileno())
        return number


class Files:
    """Files of a folder. A file is written under a temporary name, flushed to disk, and then renamed."""

    def read(self, path: str) -> pa.Buffer:
        """Return the content of a file as a memory map."""
        if Path(path).stat().st_size == 0:  # no map can be empty
            return pa.py_buffer(b"")
        with pa.memory_map(path) as source:
            return source.read_buffer()

    def write(self, path: str, data: bytes | pa.Buffer, fence: Fence | None = None) -> None:
        """Write a file completely or not at all. The fence holds while it is renamed."""
        folder, name = os.path.split(path)
        Path(folder).mkdir(parents=True, exist_ok=True)
        temporary = Path(folder, f".{name[:200]}.{secrets.token_hex(8)}{TEMPORARY}")
        try:
            with temporary.open("xb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            with fence.holding() if fence else nullcontext():
                temporary.replace(path)
        except BaseException:
            with suppress(OSError):  # the first error is the one to say
                temporary.unlink(missing_ok=True)
            raise

    def kind(self, path: str) -> Literal["file", "folder"] | None:
        """Return what is at a path."""
        try:
            found = Path(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return "folder" if (found.st_mode & 0o170000) == 0o040000 else "file"

    def has(self, path: str) -> bool:
        """Say whether a file is at a path."""
        return self.kind(path) == "file"

    def names(self, path: str) -> list[str]:
        """Return the names of files and folders in a folder."""
        try:
            return [entry.name for entry in Path(path).iterdir()]
        except FileNotFoundError:
            return []

    def walk(self, path: str) -> Iterator[Entry]:
        """Yield all files below a folder. Links are files: what they lead to is never followed."""
        for folder, folders, names in os.walk(path):
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for name in (*names, *links):
                file = Path(folder, name)
                with suppress(FileNotFoundError):  # deleted in between
                    found = file.lstat()
                    yield Entry(str(file.relative_to(path)), found.st_size, found.st_mtime)

    def delete(self, paths: Sequence[str]) -> None:
        """Delete files. Those that are absent are no error."""
        for path in paths:
            Path(path).unlink(missing_ok=True)

    def delete_folder(self, path: str) -> None:
        """Delete a folder with everything in it, if it exists."""
        if Path(path).exists():
            shutil.rmtree(path)

    def fence(self, path: str, number: int) -> Fence:
        """Return the fence of the holder that got the lease at a path with this number."""
        return FileFence(path, number)
