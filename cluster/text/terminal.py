"""Text of strangers on a terminal: characters that could steer it are escaped."""

import re

_STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Matches control characters, except tab and line feed, and characters that turn the direction of a text. With them, a
text can clear the screen, write to the clipboard, or look like another one (CVE-2021-42574). Half a surrogate pair, as
in names of files that are no UTF-8, cannot be printed."""


def visible(text: str) -> str:
    """Return a text in which characters that steer a terminal are escaped as in JSON. So JSON stays the same value."""
    return _STEERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text) if not text.isprintable() else text
