"""Names of places: URIs in the form that file systems accept, and paths that begin with `~`."""

from pathlib import Path
from urllib.parse import quote


def ascii_uri(uri: str) -> str:
    """Return a URI in which characters that no URI may have, such as Chinese ones, are percent-encoded."""
    return quote(uri, safe="%:/?#@!$&'()*+,;=~")


def expanded(name: str) -> Path:
    """Return a path with `~` replaced by the home folder.

    The path of an unknown user, such as `~nobody/data`, is returned unchanged.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)
