"""The server of the page: the standard library's, on loopback, with a token.

- It listens on 127.0.0.1 alone. A request whose `Host` is no name of this machine is refused, because a page of another
  site can let its own name lead to 127.0.0.1 (DNS rebinding).
- Each request for data must have the token in the header `Authorization`. The address that the terminal shows has it
  after `#`, so that it is in no request line and in no log. Other pages cannot send that header.
- The files of the page are in the package and hold no data. The policy in the headers lets the browser load nothing
  else, and run no script that a text of a sample might bring.
"""

import getpass
import hmac
import json
import logging
import re
import secrets
import sys
import threading
import webbrowser
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gristmill.cluster.contract.errors import BusyError, GristmillError, JobError
from gristmill.cluster.contract.gate import GateError, unicode
from gristmill.cluster.store.store import Store
from gristmill.cluster.ui import scan
from gristmill.cluster.ui.api import Api, MissingError

log = logging.getLogger(__name__)
HOST = "127.0.0.1"
LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?")
"""Matches the `Host` of a request that was meant for this machine. Through a tunnel of ssh the port is another one."""
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
FILES |= {f"/{name}.js": (f"{name}.js", "text/javascript") for name in ("page", "list", "detail", "run", "make")}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MAX_BODY = 64 << 20
"""Most bytes of a request."""
IDLE_S = 60.0
"""Seconds after which a silent connection is closed."""


class Server(ThreadingHTTPServer):
    """The server of one store. Each connection has a thread."""

    daemon_threads = True

    def __init__(self, store: Store, port: int, by: str, cache: Path | None = None) -> None:
        """Listen on a port; 0 takes a free one.

        Raises:
            JobError: if the port is in use.
        """
        self.token = secrets.token_urlsafe(24)
        self.api = Api(store, by, cache)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            said = f"--port {port}: cannot be listened on ({error}), must be free; --port 0 takes a free one"
            raise JobError(said) from error

    @property
    def address(self) -> str:
        """The address of the page, with the token."""
        return f"http://{HOST}:{self.server_address[1]}/#token={self.token}"

    def server_close(self) -> None:
        """Close the sockets, and let other processes decide about the datasets."""
        super().server_close()
        self.api.close()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as in the standard library
        """Log an error in the thread of a connection. A connection that the browser closed is none."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            log.exception("a request could not be answered")


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def version_string(self) -> str:
        return "gristmill"

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)

    def _answer(self, act: Callable[[], Mapping[str, Any] | None]) -> None:
        """Check the request, and send the value of the action as JSON. An action that sent something has none."""
        if not LOOPBACK.fullmatch(self.headers.get("Host", "")):
            self._fail(
                HTTPStatus.MISDIRECTED_REQUEST, "the Host of the request is no name of this machine, must be one"
            )
            return
        try:
            value = act()
        except MissingError as error:
            self._fail(HTTPStatus.NOT_FOUND, str(error))
        except BusyError as error:
            self._fail(HTTPStatus.CONFLICT, str(error))
        except JobError as error:
            self._fail(HTTPStatus.BAD_REQUEST, str(error))
        except GristmillError as error:
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        except ConnectionError:  # the browser closed it
            self.close_connection = True
        except OSError as error:  # a full disk, a folder that may not be written
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        else:
            if value is not None:
                self._send(
                    HTTPStatus.OK, json.dumps(value, ensure_ascii=False, allow_nan=False).encode(errors="replace")
                )

    def _get(self) -> Mapping[str, Any] | None:
        path, _, query = self.path.partition("?")
        if path in FILES:
            name, kind = FILES[path]
            data = (files("gristmill.cluster.ui") / "page" / name).read_bytes()
            self._send(HTTPStatus.OK, data, kind)
            return None
        if not self._allowed(path):
            return None
        return self.server.api.get(path, query)

    def _post(self) -> Mapping[str, Any] | None:
        path = urlsplit(self.path).path
        if not self._allowed(path):
            return None
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length) or int(length) > MAX_BODY:
            self._fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request must have at most {MAX_BODY} bytes")
            return None
        return self.server.api.post(path, self.rfile.read(int(length)).decode(errors="replace"))

    def _allowed(self, path: str) -> bool:
        """Check the path and the token, and send the refusal."""
        given = self.headers.get("Authorization", "").encode(errors="replace")
        if not hmac.compare_digest(given, f"Bearer {self.server.token}".encode()):
            self._fail(
                HTTPStatus.UNAUTHORIZED, "the token is missing or wrong; open the address that the terminal shows"
            )
            return False
        return True

    def _fail(self, status: HTTPStatus, said: str) -> None:
        self.close_connection = True  # the body of the request may be unread
        self._send(status, json.dumps({"error": said}, ensure_ascii=False).encode(errors="replace"))

    def _send(self, status: HTTPStatus, data: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def serve(store: Store, port: int, by: str, say: Callable[[str], None], *, browser: bool = False) -> None:
    """Serve the page of a store until a signal arrives: `gristmill ui`.

    Args:
        store: the store.
        port: a free port; 0 takes any.
        by: name of the person who decides; empty for the login name.
        say: prints a line.
        browser: whether to open the page in the browser.

    Raises:
        JobError: if the port is in use, or the name cannot be stored.
    """
    try:
        person = unicode(by or _login(), "--by")
    except GateError as error:
        raise JobError(str(error)) from error
    server = Server(store, port, person)
    try:
        say(f"ui: {store.uri} at {server.address}")
        say("ui: only this machine can reach it; Ctrl-C ends it")
        sys.stdout.flush()  # in a pipe, the address would wait for more lines
        threading.Thread(target=scan.prepare, daemon=True, name="scan").start()
        if browser:
            threading.Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
        server.serve_forever()
    except KeyboardInterrupt:
        say("ui: ended")
    finally:
        server.server_close()


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        return "person"
