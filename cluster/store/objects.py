"""A store in an object store: S3, Google Cloud Storage or Azure Blob Storage, through the package `obstore`.

A request that the server did not answer, or answered with "try again", is sent again, here and nowhere else. Several
processes share the objects without locks: a file under a fence is created only if it is absent, and replaced only if
it is the one that was seen while the lease was held. So a process that lost its lease replaces nothing of the next
holder, however late its request arrives.
"""

import configparser
import errno
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa

from gristmill.cluster.store.backend import Entry, Fence, NoAnswerError, stale
from gristmill.cluster.store.uri import UriError

T = TypeVar("T")
SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "az")
TRY_S = 60.0
"""Seconds in which a request is sent again, before the server counts as one that does not answer."""
SILENT_TRY_S = 1.0
"""The same for a server that did not answer the request before, so that a run that fails for this reason ends soon."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Pause after the first failed request, and the longest pause. Each pause is twice the one before, half of it drawn at
random, so that many workers do not come back at once."""
CHECK_S = 0.5
"""Seconds for which a process relies on the last look at its lease. This saves a request for each second file of a
shard. What the manifest lists is safe without any look; see the head of this file. A file that lands in a folder that
another process has completed is deleted again by its writer (`Store.write_bytes`)."""
MOST_TURNS = 10
"""Number of times that a file is written again because another process has written it in between."""
_STATUS = re.compile(r"status code: (\d{3})")
_AGAIN = ("", "408", "409", "429", "500", "502", "503", "504")
_FORBIDDEN = ("401", "403")


class Objects:
    """The objects of one bucket or container."""

    def __init__(self, client: Any, name: str) -> None:  # noqa: ANN401 - a store of obstore, which may be absent
        """Take a client of obstore, and the URI of the bucket without credentials."""
        self.name = name
        self._client = client
        self._silent = False

    @classmethod
    def from_uri(cls, uri: str) -> tuple["Objects", str]:
        """Return the bucket of a URI, and the path in it.

        Raises:
            UriError: if the package is absent, or the URI has parts that are not known.
        """
        try:
            from obstore import store as kinds
            from obstore.exceptions import BaseError
        except ImportError:
            raise UriError("needs the package obstore, which is not installed; install gristmill[objects]") from None
        scheme = uri.partition("://")[0].lower()
        try:
            parts = urlsplit(uri.replace("#", "%23"))
            options = dict(parse_qsl(parts.query, keep_blank_values=True))
            make = _s3 if scheme == "s3" else _of_url
            client, name = make(kinds, uri, parts.netloc, options)
        except (BaseError, ValueError, TypeError) as error:
            if isinstance(error, UriError):
                raise
            said = str(error).splitlines()[0]
            raise UriError(f"cannot be reached ({said}); check the URI and the credentials") from None
        return cls(client, name), unquote(parts.path).strip("/")

    # -- reading --------------------------------------------------------------------------------------------------

    def read(self, path: str) -> pa.Buffer:
        """Return the content of an object."""
        import obstore

        return pa.py_buffer(self._ask(lambda: obstore.get(self._client, path).bytes()))

    def tagged(self, path: str) -> tuple[bytes, dict[str, Any], float]:
        """Return the content of an object, its version for `swap`, and the server's time of its writing."""
        import obstore

        def ask() -> tuple[bytes, dict[str, Any], float]:
            found = obstore.get(self._client, path)
            return bytes(found.bytes()), _version(found.meta), found.meta["last_modified"].timestamp()

        return self._ask(ask)

    def kind(self, path: str) -> Literal["file", "folder"] | None:
        """Return what is at a path. A folder is the beginning of the path of some object."""
        import obstore

        if path and self.has(path):
            return "file"
        folder = f"{path}/" if path else ""
        found = self._ask(lambda: next(iter(obstore.list(self._client, folder or None, chunk_size=1)), []))
        return "folder" if found else None

    def has(self, path: str) -> bool:
        """Say whether an object is at a path."""
        import obstore

        try:
            self._ask(lambda: obstore.head(self._client, path))
        except FileNotFoundError:
            return False
        return True

    def names(self, path: str) -> list[str]:
        """Return the names of objects and folders in a folder."""
        import obstore

        found = self._ask(lambda: obstore.list_with_delimiter(self._client, path or None))
        paths = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
        return [name for each in paths if (name := each.rstrip("/").rpartition("/")[2])]

    def walk(self, path: str) -> Iterator[Entry]:
        """Yield all objects below a folder."""
        import obstore

        pages = self._ask(lambda: obstore.list(self._client, path or None).collect())
        start = len(path) + 1 if path else 0
        for one in pages:
            yield Entry(one["path"][start:], one["size"], one["last_modified"].timestamp())

    # -- writing --------------------------------------------------------------------------------------------------

    def write(self, path: str, data: bytes | pa.Buffer, fence: Fence | None = None) -> None:
        """Write an object. Under a fence, nothing that another holder of the lease has written is replaced."""
        if fence is None:
            self._put(path, data, "overwrite")
            return
        mode: Any = "create"
        for _ in range(MOST_TURNS):
            with fence.holding(anew=mode != "create"):
                if self._put(path, data, mode) is not None:
                    return
            mode = self._seen(path) or "create"
        raise NoAnswerError(f"{path} was written {MOST_TURNS} times by others in between")

    def swap(self, path: str, data: bytes, version: dict[str, Any] | None) -> dict[str, Any] | None:
        """Replace an object that still has this version, or create an absent one if this is None.

        Returns:
            its new version, or None if it was not written because it has another version.
        """
        return self._put(path, data, version or "create")

    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects, up to 1,000 in one request where the server can."""
        import obstore

        def ask() -> None:
            try:
                obstore.delete(self._client, list(paths))
            except FileNotFoundError:  # some servers say so of absent ones, and it may be the first of several
                for path in paths if len(paths) > 1 else ():
                    self.delete([path])

        if paths:
            self._ask(ask)

    def delete_folder(self, path: str) -> None:
        """Delete all objects below a folder."""
        self.delete([f"{path}/{entry.path}" for entry in self.walk(path)])

    def fence(self, path: str, number: int) -> Fence:
        """Return the fence of the holder that got the lease at a path with this number."""
        return ObjectFence(self, path, number)

    def _put(self, path: str, data: bytes | pa.Buffer, mode: Any) -> dict[str, Any] | None:  # noqa: ANN401
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            return _version(self._ask(lambda: obstore.put(self._client, path, memoryview(data).cast("B"), mode=mode)))
        except (AlreadyExistsError, PreconditionError):
            return None
        except FileNotFoundError as error:
            if isinstance(mode, dict):  # the object was deleted in between
                return None
            raise OSError(f"there is no bucket {self.name}, or it may not be seen") from error

    def _seen(self, path: str) -> dict[str, Any] | None:
        """Return the version of an object for `_put`, or None if it is absent."""
        import obstore

        try:
            return _version(self._ask(lambda: obstore.head(self._client, path)))
        except FileNotFoundError:
            return None

    def _ask(self, request: Callable[[], T]) -> T:
        """Send a request, again and again while it fails for a reason that may pass."""
        from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PreconditionError

        end, pause = time.monotonic() + (SILENT_TRY_S if self._silent else TRY_S), FIRST_PAUSE_S
        while True:
            try:
                answer = request()
            except (AlreadyExistsError, PreconditionError):
                raise
            except BaseError as error:
                if not isinstance(error, GenericError) or not _may_pass(error):
                    raise self._refused(error) from None
                if time.monotonic() + pause > end:
                    self._silent = True
                    raise NoAnswerError(_first(error)) from None
            else:
                self._silent = False
                return answer
            time.sleep(pause * (1 + random.random()) / 2)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _refused(self, error: Exception) -> OSError:
        """Return the error for a request that the server refuses."""
        if type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError") or _status(error) in _FORBIDDEN:
            return PermissionError(errno.EACCES, f"the server refuses the credentials: {_first(error)}")
        if _status(error) == "404":
            return OSError(f"there is no bucket {self.name}, or it may not be seen")
        return OSError(_first(error))


class ObjectFence:
    """The fence of a lease in an object store: the lease is looked at before a file is written."""

    def __init__(self, objects: Objects, path: str, number: int) -> None:
        """Take the path of the lease, and the number that this holder got."""
        self._objects, self._path, self._number = objects, path, number
        self._looked = float("-inf")

    @contextmanager
    def holding(self, *, anew: bool = True) -> Iterator[None]:
        """Raise `BusyError` if another process has got the lease since. Without `anew`, the last look may do.

        If the block took longer than a look lasts, it is raised after the block too: the process may have been stopped
        between its look and its request.
        """
        if anew or time.monotonic() - self._looked > CHECK_S:
            self._look()
        yield
        if time.monotonic() - self._looked > CHECK_S:
            self._look()

    def _look(self) -> None:
        now = time.monotonic()
        try:
            number = number_of(bytes(self._objects.read(self._path)))
        except FileNotFoundError:
            number = 0
        if number != self._number:
            raise stale(self._path)
        self._looked = now


def number_of(lease: bytes) -> int:
    """Return the number in the content of a lease: the digits of its first line."""
    first = lease.split(b"\n", 1)[0]
    return int(first) if first.isdigit() else 0


_CLIENT: dict[str, Any] = {"timeout": timedelta(seconds=300), "connect_timeout": timedelta(seconds=10)}
_ONCE: dict[str, Any] = {"max_retries": 0}  # `Objects._ask` sends again


def _of_url(kinds: Any, uri: str, place: str, options: dict[str, str]) -> tuple[Any, str]:  # noqa: ANN401
    """Return the client of a bucket or container that is not of S3, and its URI."""
    scheme = uri.partition("://")[0].lower().replace("gcs", "gs")
    if options:
        raise UriError(f"cannot be reached ({min(options)!r} is no option, {scheme} has none)")
    _require_bucket(place)
    name = f"{scheme}://{place}"
    return kinds.from_url(name, client_options=_CLIENT, retry_config=_ONCE), name


def _require_bucket(name: str) -> None:
    if not re.fullmatch(r"[^\s\0/]+", name):
        raise UriError("cannot be reached (it names no bucket, must be as s3://bucket/folder)")


def _s3(kinds: Any, uri: str, place: str, options: dict[str, str]) -> tuple[Any, str]:  # noqa: ANN401
    """Return the client of an S3 bucket, and its URI. The options are those of Arrow's URIs."""
    user, _, bucket = place.rpartition("@")
    key, _, secret = user.partition(":")
    if not user and "@" in uri.partition("?")[0]:
        raise UriError("cannot be reached (key and secret must be percent-encoded, as `quote` of Python does it)")
    _require_bucket(bucket)
    known = {"region", "scheme", "endpoint_override", "force_virtual_addressing", "allow_bucket_creation"}
    if unknown := sorted(set(options) - known):
        raise UriError(f"cannot be reached ({unknown[0]!r} is no option, must be one of {', '.join(sorted(known))})")
    settings: dict[str, Any] = {"client_options": dict(_CLIENT), "retry_config": _ONCE}
    settings |= _profile() if not user and "AWS_ACCESS_KEY_ID" not in os.environ else {}
    if user:
        settings |= {"access_key_id": unquote(key), "secret_access_key": unquote(secret)}
    region = options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    settings["region"] = region or settings.get("region") or "us-east-1"
    endpoint = options.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL_S3")
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        scheme = options.get("scheme", "https")
        endpoint = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
        settings |= {"endpoint": endpoint}
        settings["client_options"]["allow_http"] = endpoint.startswith("http://")
    if options.get("force_virtual_addressing", "").lower() in ("1", "true"):
        settings["virtual_hosted_style_request"] = True
    return kinds.S3Store(bucket, **settings), f"s3://{bucket}"


def _profile() -> dict[str, str]:
    """Return the credentials of the user's AWS profile, as far as the files of AWS's command line have them."""
    name = os.environ.get("AWS_PROFILE", "default")
    home = Path("~/.aws").expanduser()
    found: dict[str, str] = {}
    places = {
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", str(home / "credentials")): name,
        os.environ.get("AWS_CONFIG_FILE", str(home / "config")): name if name == "default" else f"profile {name}",
    }
    for file, section in places.items():
        read = configparser.RawConfigParser()
        try:
            read.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise UriError(f"{file}: cannot be read ({str(error).splitlines()[0]}), must be as AWS writes it") from None
        if read.has_section(section):
            found |= {key: value for key, value in read.items(section) if key in _OF_PROFILE}
    return {_OF_PROFILE[key]: value for key, value in found.items()}


_OF_PROFILE = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "region": "region",
}


def _version(meta: Any) -> dict[str, Any]:  # noqa: ANN401 - obstore's ObjectMeta
    return {name: meta[name] for name in ("e_tag", "version") if meta[name] is not None}


def _status(error: Exception) -> str:
    """Return the HTTP status in an error of obstore, or "" if no answer came."""
    found = _STATUS.search(str(error))
    return found[1] if found else ""


def _may_pass(error: Exception) -> bool:
    """Say whether the same request may succeed later."""
    return _status(error) in _AGAIN


def _first(error: Exception) -> str:
    """Return the first line of an error of obstore. Further lines repeat it."""
    return str(error).splitlines()[0].partition(": <")[0]
