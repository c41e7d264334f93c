"""The connection to an OpenAI-compatible endpoint: a window limits the calls, and silent or failed calls are repeated.

The client is aiohttp's: with 256 calls in flight it takes 0.35 ms of CPU a call, where httpx takes 7 to 12 ms.
"""

import asyncio
import json
import logging
import math
import random
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from gristmill.cluster.contract import gate
from gristmill.cluster.contract.errors import EngineError, JobError
from gristmill.cluster.contract.secrets import without_key
from gristmill.generation.engines.endpoint.progress import ANSWER_S, Call, Progress, TimeoutEstimate
from gristmill.generation.engines.endpoint.stream import Stream
from gristmill.generation.engines.endpoint.window import Window

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)

RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504, 520, 522, 524, 529})
SLOW_DOWN = frozenset({408, 429, 503, 504, 529})
"""Status codes that mean that too many calls are in flight."""
COMPLETIONS = ("chat/completions", "completions")
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
"""Parameters of a call that ask for an answer in parts."""
SILENT, CUT = "nothing came for", "the stream ended before the answer did"
FOR_ALL = frozenset({401, 403, 404, 405})
"""Status codes with two meanings. Before the first call is served, they concern the key, the address or the model.
After that they concern one call, such as a prompt that a moderation refuses."""
REFUSALS_IN_ROW = 50
"""After this many of these status codes in a row, with no call served between them, they concern every call again."""
GIVEN_UP_IN_ROW = 3
"""After this many calls given up because of server errors, with no call served between, the server counts as down."""
WORDS = {
    "rate_limit": 429,
    "overloaded": 529,
    "unavailable": 503,
    "timeout": 504,
    "server_error": 500,
    "internal": 500,
}
"""Status codes for errors that servers name with a word instead of a code."""


class CutError(Exception):
    """An error for a stream that ended before the answer was complete."""


@dataclass(frozen=True)
class Patience:
    """Limits on how long and how often a call is tried."""

    attempts: int = 8
    first_s: float = 0.5
    """Bound on the wait before the second attempt. It doubles with each attempt. The wait is drawn between 0 and the
    bound."""
    longest_s: float = 60.0
    """Longest wait between two attempts; a wait that the server asks for may be as long as `in_all_s`."""
    hang_s: float = 300.0
    """Longest silence of a server, after which a call is given up and tried again."""
    in_all_s: float = 900.0
    """Seconds of silence and of waiting after which no further attempt begins."""

    def backoff(self, attempt: int) -> float:
        """Return the seconds to wait after the n-th attempt (from 1), drawn uniformly between 0 and the bound."""
        return random.uniform(0, min(self.longest_s, self.first_s * 2 ** (attempt - 1)))


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a call: a JSON body, or why the server refused it."""

    status: int
    body: Mapping[str, Any] = field(default_factory=dict)
    refusal: str = ""
    """What the server says about a call that it refuses for good; empty when it served the call."""
    param: str = ""
    """Name of the refused parameter, if the server names one."""
    code: str = ""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that the header `Retry-After` asks for (a number or an HTTP date), or None without it."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


class Connection:
    """Calls to one endpoint. `post` and `get` raise only errors that every other call would meet too."""

    def __init__(self, base: str, key: str, key_name: str, limit: int, patience: Patience) -> None:
        """Prepare the settings; the client is made in the event loop that uses it."""
        self.base, self._key, self._key_name = base.rstrip("/"), key, key_name
        self.window, self.pace, self.patience = Window(limit), TimeoutEstimate(), patience
        self.progress = Progress(patience.hang_s, self._lives)
        self.streams = True
        """Whether streams have been complete so far."""
        self.retries = self.answers = 0
        self._served_at, self._served, self._refused, self._given_up = 0.0, False, 0, 0
        self._client: aiohttp.ClientSession | None = None

    async def get(self, path: str) -> Answer:
        """Return the answer to a GET, with the same attempts as `post`."""
        return await self._try("GET", path, None, 0)

    async def post(self, path: str, payload: Mapping[str, Any], max_tokens: int = 0) -> Answer:
        """Return the answer to a POST.

        Raises:
            JobError: when the quota is used up, or when the endpoint refuses the key or lacks the model: before it has
                served any call, or for many calls in a row.
            EngineError: when the endpoint served no call at all while this call was tried.
        """
        return await self._try("POST", path, payload, max_tokens)

    async def close(self) -> None:
        """Close the connections."""
        await self.progress.close()
        if self._client is not None:
            await self._client.close()

    async def _try(self, method: str, path: str, payload: Mapping[str, Any] | None, max_tokens: int) -> Answer:
        begin, silences, spent_s, why = time.monotonic(), 0, 0.0, ""
        for attempt in range(1, self.patience.attempts + 1):
            longest_s = self.pace.longest(max_tokens) * 2**silences
            answer, why, wait, silent_s = await self._once(method, path, payload, longest_s)
            if answer is not None:
                return answer
            silences += why.startswith(SILENT)
            if why == CUT:
                payload = self._unstreamed(payload)
            seconds = max(wait or 0.0, self.patience.backoff(attempt))
            spent_s += silent_s + seconds
            if spent_s > self.patience.in_all_s or attempt == self.patience.attempts:
                break
            self.retries += 1
            await asyncio.sleep(seconds)
        self._given_up += 1
        alone = self._served and why[:1].isdigit() and self._given_up < GIVEN_UP_IN_ROW  # the server is alive
        if self._served_at > begin or alone:  # other calls were served, so the cause is this call
            return Answer(0, refusal=f"the endpoint did not serve this call: {why}")
        raise EngineError(f"endpoint {self.base}: {why}, {attempt} times in a row; see whether it is up")

    async def _once(
        self, method: str, path: str, payload: Mapping[str, Any] | None, longest_s: float
    ) -> tuple[Answer | None, str, float | None, float]:
        """Return (the answer, "", None, 0), or (None, why to try again, the wait that the server asks for, silence).

        The silence is the number of seconds between the last part of an answer and the end of the call.
        """
        import aiohttp

        cuts = await self.window.enter()
        call: Call | None = None
        try:
            await self.window.resumed()
            streamed = "stream" in (payload or ())
            async with (
                self.progress.watched(longest_s, streamed=streamed) as call,
                self._connected().request(method, self._url(path), json=payload) as reply,
            ):
                raw, body = await self._received(reply, call)
            return *self._read(path, reply.status, reply.headers, raw, body, cuts), time.monotonic() - call.heard
        except TimeoutError:
            self.window.cut(cuts)
            silent_s = time.monotonic() - call.heard if call else 0.0
            return None, f"{SILENT} {silent_s:.0f} s", None, silent_s
        except CutError:
            return None, CUT, None, time.monotonic() - call.heard if call else 0.0
        except aiohttp.ClientPayloadError as error:  # the connection ended within an answer
            why = CUT if call and call.streamed else f"{type(error).__name__} ({error})"
            return None, why, None, time.monotonic() - call.heard if call else 0.0
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            must = "must be http://host:port/v1"
            raise JobError(f"generate.engine.endpoint is {self.base!r}: no address; {must}") from error
        except (aiohttp.ClientError, OSError) as error:
            return None, f"{type(error).__name__} ({error})", None, time.monotonic() - call.heard if call else 0.0
        finally:
            self.window.leave()

    async def _received(self, reply: "aiohttp.ClientResponse", call: Call) -> tuple[bytes, dict[str, Any] | None]:
        """Return the bytes of an answer (none for a stream) and its JSON object, or None if it is not one.

        Raises:
            CutError: when a stream ended before the answer was complete.
        """
        self.progress.hear(call)
        if reply.content_type == "text/event-stream" and reply.status < 300:
            stream = Stream()
            async for part in reply.content.iter_any():
                self.progress.hear(call)
                stream.feed(part)
            body = stream.body()
            if body is None:
                raise CutError
            return b"", without_key(body, self._key)
        raw = bytearray()
        async for part in reply.content.iter_any():
            self.progress.hear(call)
            raw += part
        whole: bytes = without_key(bytes(raw), self._key)
        return whole, _body(whole)

    def _unstreamed(self, payload: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the call without streaming. The server ends streams too early, so no later call is streamed."""
        if self.streams:
            log.warning("the endpoint ends a stream before the answer is whole, answers come as a whole from now on")
        self.streams = False
        return {name: value for name, value in (payload or {}).items() if name not in STREAMED}

    async def _lives(self) -> bool:
        """Return whether the server answers a request for its list of models.

        This call does not count in the window.
        """
        import aiohttp

        try:
            async with asyncio.timeout(min(ANSWER_S, self.patience.hang_s)):
                async with self._connected().request("GET", self._url("models")) as reply:
                    return reply.status < 500
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            log.info("the endpoint does not say that it lives: %s", f"{type(error).__name__} ({error})")
            return False

    def _read(
        self,
        path: str,
        status: int,
        headers: Mapping[str, str],
        raw: bytes,
        body: Mapping[str, Any] | None,
        cuts: int,
    ) -> tuple[Answer | None, str, float | None]:
        self.answers += 1
        if status < 300:
            if body is None:
                return None, "an answer that is not a JSON object", None
            status = inner_status(body) or status
        if status < 300 and body is not None:
            self.window.grow()
            self._served_at = time.monotonic()
            if path in COMPLETIONS:  # many servers show their list of models without a key
                self._served, self._refused, self._given_up = True, 0, 0
            return Answer(status, body), "", None
        error = _error(status, body, raw)
        self._refuse(path, error)
        broken = path == "models" and status == 500  # `transformers serve` answers so if there is no cache of a hub
        if broken or (status not in RETRIED and status < 500):
            self._served_at = time.monotonic()
            return error, "", None
        wait = retry_after(headers, time.time())
        if status in SLOW_DOWN:
            self.window.cut(cuts)
            if wait:
                self.window.pause(min(wait, self.patience.longest_s))
        return None, f"{status} {error.refusal}"[:200], wait

    def _refuse(self, path: str, error: Answer) -> None:
        """Raise an error for an answer that every other call would get too."""
        if error.code == "insufficient_quota":
            raise JobError(f"endpoint {self.base}: {error.refusal[:160]}; the quota of this key is spent")
        if error.status not in FOR_ALL:
            return
        self._refused += 1
        if self._served and self._refused < REFUSALS_IN_ROW:
            return
        said = f"{error.status} {error.refusal[:120]}" + (f", {self._refused} times in a row" if self._served else "")
        if error.status in (401, 403):
            have = "set, but not accepted" if self._key else "not set"
            raise JobError(
                f"endpoint {self.base}: refuses the key ({said}); the environment variable {self._key_name} is {have}, "
                "and must hold one where the workers run"
            )
        if path in COMPLETIONS:  # other routes may be absent
            must = "must be the base URL of an OpenAI-compatible server, such as http://host:8000/v1, with this model"
            raise JobError(f"generate.engine.endpoint is {self.base!r}: {path} answers {said}; {must}")

    def _url(self, path: str) -> str:
        """Return the URL of a path.

        A path that begins with a slash is relative to the server, not to its version folder.
        """
        if not path.startswith("/"):
            return f"{self.base}/{path}"
        return self.base.removesuffix("/v1") + path

    def _connected(self) -> "aiohttp.ClientSession":
        import aiohttp

        if self._client is None:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            self._client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self.window.limit + 1, socket_factory=_kept_alive),
                timeout=aiohttp.ClientTimeout(total=None),
                headers=headers,
                trust_env=True,
            )
        return self._client


def _kept_alive(address: "aiohttp.AddrInfoType") -> socket.socket:
    """Return a socket that notices within three minutes when the machine at its other end is gone."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def _body(raw: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a reply, or None when there is none."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError too
        return None
    return value if isinstance(value, dict) else None


def _inner(body: Mapping[str, Any]) -> object:
    """Return the error in a body, or in its first choice, where OpenRouter puts the error of a cut reply."""
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return body.get("error") or (first.get("error") if isinstance(first, dict) else None)


def inner_status(body: Mapping[str, Any]) -> int:
    """Return the status code of an error in a successful answer: 0 for none, 400 for an error without a code."""
    error = _inner(body)
    said = error if isinstance(error, dict) else {}
    for value in (said.get("code"), said.get("status"), said.get("type")):
        text = str(value).lower()
        if re.fullmatch("[45][0-9][0-9]", text):
            return int(text)
        found = next((status for word, status in WORDS.items() if word in text), 0)
        if found:
            return found
    return 400 if error else 0


def _error(status: int, body: Mapping[str, Any] | None, raw: bytes) -> Answer:
    """Return an error with its text, which may come in OpenAI's form, in FastAPI's form or in any other."""
    said = _inner(body or {}) or body
    said = {"message": said} if isinstance(said, str) else said
    said = said if isinstance(said, dict) else {}
    text = said.get("message") or said.get("detail") or raw[:300].decode(errors="replace") or "refused"
    param, code = said.get("param") or "", said.get("code") or ""
    text, param, code = (gate.unicode(str(part), repair=True) for part in (text, param, code))
    return Answer(status, refusal=" ".join(text.split()), param=param, code=code)
