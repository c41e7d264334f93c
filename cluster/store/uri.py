"""Names of places: URIs as file systems take them, and paths with `~` in them."""

from pathlib import Path
from urllib.parse import quote


def ascii_uri(uri: str) -> str:
    """Return a URI with characters that are not allowed in it, such as Chinese ones, percent-encoded."""
    return quote(uri, safe="%:/?#@!$&'()*+,;=~")


def expanded(name: str) -> Path:
    """Return a path with `~` replaced by the home folder.

    The home of an unknown user stays as written, and is not found.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)
