"""Names of places: URIs in the form that file systems accept, and paths that begin with `~`."""

from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from gristmill.cluster.contract.secrets import public_text


class UriError(ValueError):
    """The error for a URI of no known file system, or of one that does not answer. Its text has no credentials."""


def file_system(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URI, and the path on it.

    Raises:
        UriError: if the URI is of no known file system, or cannot be reached.
    """
    try:
        system, path = fs.FileSystem.from_uri(ascii_uri(uri))
    except (pa.ArrowException, OSError, ValueError) as error:
        # Arrow repeats the URI: without `from None` its credentials would be in a logged traceback
        said = public_text((str(error) or type(error).__name__).splitlines()[0])
        raise UriError(f"cannot be reached ({said}); check the URI and the credentials") from None
    return system, path


def ascii_uri(uri: str) -> str:
    """Return a URI in which characters that no URI may have, such as Chinese ones, are percent-encoded."""
    return quote(uri, safe="%:/?#@!$&'()*+,;=~")


def folder_path(name: str) -> Path:
    """Return the absolute path of a local folder, which need not exist.

    Raises:
        UriError: if it cannot be one, such as a name with NUL.
    """
    try:
        path = expanded(name).resolve()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise UriError(f"is no path of a folder ({error}), must be one, or a URI") from error
    return path


def expanded(name: str) -> Path:
    """Return a path with `~` replaced by the home folder.

    The path of an unknown user, such as `~nobody/data`, is returned unchanged.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)
