"""A server of an object store: S3's requests on objects, in memory, with conditional writes, counts and faults.

It knows what a store of ours asks: PUT (`If-None-Match: *`, `If-Match`), GET, HEAD, DELETE, the deletion of several
objects, and lists. It checks no signature.
"""

import hashlib
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

BUCKET = "grain"


class Objects(ThreadingHTTPServer):
    """The objects of one bucket by key, the requests so far by method, and the share of requests that fail."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.objects: dict[str, tuple[bytes, str, datetime]] = {}
        self.requests: Counter[str] = Counter()
        self.log: list[str] = []
        self.failing = 0.0
        self.denied = False
        self.random = random.Random(0)
        self.hold: Callable[[str, str], bool] = lambda method, key: False
        self.held, self.go = threading.Event(), threading.Event()
        self._versions = 0

    @property
    def uri(self) -> str:
        """The URI of a store on the server, with the server's address and some credentials in it."""
        return f"s3://key:secret@{BUCKET}/runs?scheme=http&endpoint_override=127.0.0.1:{self.server_address[1]}"

    def put(self, key: str, data: bytes) -> str:
        """Store an object and return its tag."""
        self._versions += 1
        tag = f'"{hashlib.md5(data).hexdigest()}-{self._versions}"'
        self.objects[key] = (data, tag, datetime.now(UTC))
        return tag

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that were killed."""


class _Handler(BaseHTTPRequestHandler):
    server: Objects
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet: two would wait 40 ms for each other

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def _answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        if self._lost:  # it is done, but the client never hears of it
            self.close_connection = True
            return
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.get("Content_Length", "") or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, code: int, name: str) -> None:
        self._answer(code, f"<Error><Code>{name}</Code><Message>{name}</Message></Error>".encode())

    def _serve(self) -> None:
        self._lost = False
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server = self.server
        with server.lock:
            server.requests[self.command] += 1
            server.log.append(f"{self.command} {key or parts.query}")
            fault = server.random.choice(("503", "closed", "lost")) if server.random.random() < server.failing else ""
        if fault == "503":
            self._error(503, "SlowDown")
            return
        if fault == "closed":
            self.close_connection = True
            return
        if server.hold(self.command, key):  # it is on its way for long
            server.held.set()
            server.go.wait(20)
        self._lost = fault == "lost"
        if server.denied:
            self._error(403, "AccessDenied")
            return
        if bucket != BUCKET:
            self._error(404, "NoSuchBucket")
            return
        with server.lock:
            getattr(self, f"_{self.command.lower()}")(key, query, body)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _serve  # noqa: N815 - the names that the class calls

    def _put(self, key: str, query: dict[str, str], body: bytes) -> None:
        del query
        there = self.server.objects.get(key)
        new = self.headers.get("If-None-Match") == "*"
        tag = self.headers.get("If-Match")
        if (new and there) or (tag and (there is None or there[1] != tag)):
            self._error(412, "PreconditionFailed")
        else:
            self._answer(200, ETag=self.server.put(key, body))

    def _head(self, key: str, query: dict[str, str], body: bytes) -> None:
        self._get(key, query, body)

    def _get(self, key: str, query: dict[str, str], body: bytes) -> None:
        del body
        if not key:
            self._list(query)
            return
        there = self.server.objects.get(key)
        if there is None:
            self._error(404, "NoSuchKey")
            return
        data, tag, when = there
        size = {"Content_Length": str(len(data))} if self.command == "HEAD" else {}
        self._answer(200, data, ETag=tag, Last_Modified=format_datetime(when, usegmt=True), **size)

    def _list(self, query: dict[str, str]) -> None:
        prefix, cut, most = query.get("prefix", ""), query.get("delimiter"), int(query.get("max-keys", 1000))
        after = query.get("continuation-token") or query.get("start-after") or ""
        found, folders = [], dict[str, None]()
        for key in sorted(self.server.objects):
            inside = key[len(prefix) :]
            if not key.startswith(prefix) or key <= after:
                continue
            if cut and cut in inside:
                folders[prefix + inside.split(cut)[0] + cut] = None
                continue
            found.append(key)
        more = len(found) > most
        found = found[:most]
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{when:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
            f"<ETag>{escape(tag)}</ETag><Size>{len(data)}</Size></Contents>"
            for key in found
            for data, tag, when in [self.server.objects[key]]
        )
        entries += "".join(f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>" for key in folders)
        if more:
            entries += f"<NextContinuationToken>{escape(found[-1])}</NextContinuationToken>"
        page = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{entries}</ListBucketResult>"
        self._answer(200, page.encode())

    def _delete(self, key: str, query: dict[str, str], body: bytes) -> None:
        del query, body
        self.server.objects.pop(key, None)
        self._answer(204)

    def _post(self, key: str, query: dict[str, str], body: bytes) -> None:
        assert not key and "delete" in query
        names = re.findall(r"<Key>(.*?)</Key>", body.decode())
        for name in map(unescape, names):
            self.server.objects.pop(name, None)
        said = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
        self._answer(200, f"<DeleteResult>{said}</DeleteResult>".encode())


@contextmanager
def serving() -> Iterator[Objects]:
    """Serve an empty bucket while the block runs."""
    with Objects() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
