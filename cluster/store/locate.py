"""From the path or URI of a store to the backend that has its files."""

from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from gristmill.cluster.store.backend import Backend
from gristmill.cluster.store.files import Files
from gristmill.cluster.store.objects import SCHEMES, Objects
from gristmill.cluster.store.uri import UriError, file_system, folder_path


@dataclass(frozen=True)
class Location:
    """Where a store is."""

    backend: Backend
    local: Path | None
    """The folder, if it is in a local or mounted file system."""
    shown: str
    """The path or URI that people see. It has no credentials."""
    inside: str
    """The path for the backend."""


def locate(uri: str) -> Location:
    """Return where a store is. Nothing is read yet.

    Raises:
        UriError: if the URI is of no kind that a store may have, or lacks what is needed. Its text has no credentials.
    """
    scheme, mark, _ = uri.partition("://")
    if mark and scheme.lower() in SCHEMES:
        objects, prefix = Objects.from_uri(uri)
        return Location(objects, None, f"{objects.name}/{prefix}".rstrip("/"), prefix)
    if not mark:
        path = str(folder_path(uri))
    else:
        system, path = file_system(uri)
        if not isinstance(system, fs.LocalFileSystem):
            raise UriError(f"is of a kind without stores, must be a folder or one of {', '.join(SCHEMES)}")
    return Location(Files(), Path(path), path, path)
