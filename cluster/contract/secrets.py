"""Credentials are kept out of everything that is written or shown: recipes, manifests, ledgers, logs and messages.

The one rule: a URI loses its user and password, and the parameters whose names are those of credentials; a table of
settings also loses the entries with such names. The rest stays, so a stored recipe can be run again by people who have
the credentials in their environment.
"""

import re
from collections.abc import Mapping
from typing import Any

SHORTEST = 16
"""Least number of characters of a key that is looked for in the answers of a server. Shorter ones, such as `EMPTY`,
are words that a text may hold for another reason."""
HIDDEN = "***"
"""Text instead of a key in the answer of a server."""

_NAME = re.compile(
    r"(?i)(api|access|account|secret|private|hf|hub|auth|session|security|shared)[_-]?(key|token)$"
    r"|password|passwd|passphrase|secret|credential|signature"
)
"""Matches the name of a setting that is a credential. `api_key_env`, which names a variable, is none."""
_PARAMETER = re.compile(r"(?i)(key|token|sig|sas|code|pwd|pass|auth|jwt)$")
"""Matches further names of credentials among the parameters of a URI, such as `sig` of Azure."""
_WHOLE = re.compile(r"(?s)([a-zA-Z][a-zA-Z0-9+.-]*)://(.+)")
_INSIDE = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]*)://([^\s'\"`<>|]+)")
"""Match a text that is a URI, which may hold spaces, and a URI inside a text."""
_USER = re.compile(r"([^\s/?#@:]*)(?:@|:(?!\d*(?:[/?#]|$))[^\s?#]*@)")
"""Matches user and password at the beginning of what follows `://`. The password may hold `/` and `@`, as keys of AWS
that nobody encoded do. A `:` with digits after it is a port."""
_NAMED = frozenset({"abfs", "abfss", "hdfs"})
"""Schemes in which the user is no credential, but the name of a container or of a person."""


def public_uri(uri: str) -> str:
    """Return a URI without user, password and parameters that are credentials. Any other text is returned unchanged."""
    found = _WHOLE.fullmatch(uri)
    return _stripped(found) if found else uri


def public_text(text: str) -> str:
    """Return a text in which each URI has the form of `public_uri`."""
    return _INSIDE.sub(_stripped, text) if "://" in text else text


def public_settings(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a JSON value without credentials: no entries with their names, and each URI as `public_uri` returns it."""
    if isinstance(value, str):
        return public_uri(value)
    if isinstance(value, Mapping):
        return {key: public_settings(inner) for key, inner in value.items() if not _NAME.search(str(key))}
    if isinstance(value, list | tuple):
        return [public_settings(inner) for inner in value]
    return value


def without_key(answer: Any, key: str) -> Any:  # noqa: ANN401 - bytes or any JSON value
    """Return the answer of a server without the key that it was sent, in case a message or a reply repeats it."""
    if len(key) < SHORTEST:
        return answer
    if isinstance(answer, bytes):
        return answer.replace(key.encode(), HIDDEN.encode())
    if isinstance(answer, str):
        return answer.replace(key, HIDDEN)
    if isinstance(answer, Mapping):
        return {name: without_key(inner, key) for name, inner in answer.items()}
    return [without_key(inner, key) for inner in answer] if isinstance(answer, list) else answer


def _stripped(found: re.Match[str]) -> str:
    scheme, rest = found.groups()
    user = _USER.match(rest)
    if user:
        kept_user = f"{user[1]}@" if scheme.lower() in _NAMED and user[1] else ""
        rest = kept_user + rest[user.end() :]
    place, mark, parameters = rest.partition("?")
    kept = [each for each in parameters.split("&") if not _secret(each.partition("=")[0])]
    named = (each.partition("=") for each in kept)
    query = "&".join(name + equals + public_uri(value) for name, equals, value in named)
    return f"{scheme}://{place}{mark if kept else ''}{query}"


def _secret(name: str) -> bool:
    return bool(_NAME.search(name) or _PARAMETER.search(name))
