"""Names of places: URIs as file systems take them, and paths with a home in them."""

from pathlib import Path
from urllib.parse import quote


def ascii_uri(uri: str) -> str:
    """Return a URI with the characters that it may not hold as they are, such as Chinese ones, in percent form."""
    return quote(uri, safe="%:/?#@!$&'()*+,;=~")


def expanded(name: str) -> Path:
    """Return a path with `~` for a home; that of a user who is not known stays as it is, and is not found then."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)
