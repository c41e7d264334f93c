"""Where the files of a store are: in a folder (`files.py`) or in an object store (`objects.py`)."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import pyarrow as pa

from gristmill.cluster.contract.errors import BusyError, StoreError
from gristmill.cluster.contract.secrets import public_text

SHOWN = 300
"""Most characters of a path or of another system's message in an error."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def stale(path: str) -> BusyError:
    """Return the error of a process that has lost the lease at this path."""
    name = path.rpartition("/")[2]
    return BusyError(
        f"{name}: another process has got its lease, because this one did not answer in time, or because the folder is "
        "complete; nothing was written; run the same command again"
    )


class NoAnswerError(OSError):
    """The error for a server that did not answer, or that could not answer at present."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file below a folder: its path relative to the folder, its bytes, and when it was written."""

    path: str
    bytes: int
    modified: float
    """Seconds since 1970."""


class Fence(Protocol):
    """The right of a process to write the folder of a dataset; see `lease.py`."""

    def holding(self, *, anew: bool = True) -> AbstractContextManager[None]:
        """Raise `BusyError` if another process has got the lease since. Without `anew`, a look just before may do."""


class Backend(Protocol):
    """Files by path. A path is absolute, with `/` between its parts. Failures are `OSError`; `in_words` says them."""

    def read(self, path: str) -> pa.Buffer:
        """Return the content of a file."""

    def write(self, path: str, data: bytes | pa.Buffer, fence: Fence | None = None) -> None:
        """Write a file completely or not at all, and only if the fence still holds at the moment of writing."""

    def kind(self, path: str) -> Literal["file", "folder"] | None:
        """Return what is at a path."""

    def has(self, path: str) -> bool:
        """Say whether a file is at a path."""

    def names(self, path: str) -> list[str]:
        """Return the names of files and folders in a folder, in any order. An absent folder has none."""

    def walk(self, path: str) -> Iterator[Entry]:
        """Yield all files below a folder, in any order. An absent folder has none."""

    def delete(self, paths: Sequence[str]) -> None:
        """Delete files. Those that are absent are no error."""

    def delete_folder(self, path: str) -> None:
        """Delete a folder with everything in it, if it exists."""

    def fence(self, path: str, number: int) -> Fence:
        """Return the fence of the holder that got the lease at a path with this number."""


@contextmanager
def in_words(path: str) -> Iterator[None]:
    """Turn the errors of a file system or an object store into a `StoreError` of one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{path[:SHOWN]}: absent, must exist; make it with the job that writes it") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        said = public_text((str(error) or type(error).__name__).splitlines()[0])[:SHOWN]
        raise StoreError(f"{path[:SHOWN]}: {_problem(error, said)}") from error


def _problem(error: Exception, said: str) -> str:
    """Return what is, what must be, and what to do."""
    number = getattr(error, "errno", None)
    if isinstance(error, NoAnswerError):
        return f"the server does not answer ({said}), must answer; the same command goes on when it does"
    if number in FULL:
        return f"cannot be written, the disk is full ({said}); make room and run again, what is committed stays"
    if number in FORBIDDEN:
        return f"may not be used ({said}), must be allowed to this user; give the right, or name another store"
    return f"cannot be used ({said}); check the store, its disk and its rights"
