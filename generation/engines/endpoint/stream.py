"""Streamed answers (server-sent events), joined to the answer that the server would have sent without streaming."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

TEXTS = ("content", "reasoning", "reasoning_content")


@dataclass
class _Call:
    """A tool call that comes in parts."""

    id: Any = None
    name: list[Any] = field(default_factory=list)
    arguments: list[Any] = field(default_factory=list)

    def whole(self) -> dict[str, Any]:
        parts = [part for part in self.arguments if part is not None]
        texts = all(isinstance(part, str) for part in parts)  # some servers send an object, in one part
        function = {"name": "".join(filter(_is_text, self.name)), "arguments": "".join(parts) if texts else parts[-1]}
        return {**({} if self.id is None else {"id": self.id}), "type": "function", "function": function}


class Stream:
    """One streamed answer. It takes bytes and returns the body of a chat completion."""

    def __init__(self) -> None:
        """Begin without any part."""
        self._rest = b""
        self._data: list[bytes] = []
        self._texts: dict[str, list[Any]] = {}
        self._calls: dict[object, _Call] = {}
        self._logprobs: list[Any] = []
        self._finish: Any = None
        self._body: dict[str, Any] = {}
        self.chunks = 0
        """Number of chunks with content."""
        self.damaged = False

    def feed(self, raw: bytes) -> None:
        """Add the next bytes; lines may be cut anywhere."""
        *lines, self._rest = (self._rest + raw).split(b"\n")
        for line in lines:
            self._line(line.rstrip(b"\r"))

    def body(self) -> dict[str, Any] | None:
        """Return the answer as one chat completion, or None when the stream ended before the answer was complete."""
        self._line(self._rest.rstrip(b"\r"))
        self._line(b"")
        self._rest = b""
        if "error" in self._body:
            return self._body
        if self._finish is None or self.damaged:
            return None
        message = {"role": "assistant", **{name: _joined(parts) for name, parts in self._texts.items()}}
        if self._calls:
            message["tool_calls"] = [call.whole() for call in self._calls.values()]
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": self._finish}
        if self._logprobs:
            choice["logprobs"] = {"content": self._logprobs}
        return {**self._body, "choices": [choice], "chunks": self.chunks}

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif not line and self._data:  # an empty line ends an event; other fields and comments do not matter
            data, self._data = b"\n".join(self._data), []
            if data.strip() != b"[DONE]":
                self._event(data)

    def _event(self, data: bytes) -> None:
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            self.damaged = True
            return
        if event.get("error"):
            self._body["error"] = event["error"]
        self._body |= {key: event[key] for key in ("id", "model", "usage") if event.get(key)}
        choices = event.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            self._choice(choices[0])

    def _choice(self, choice: Mapping[str, Any]) -> None:
        self._finish = choice.get("finish_reason") or self._finish
        if choice.get("error"):
            self._body["error"] = choice["error"]
        logprobs = choice.get("logprobs")
        told = logprobs.get("content") if isinstance(logprobs, dict) else None
        self._logprobs += told if isinstance(told, list) else ()
        delta = choice.get("delta") or choice.get("message")
        if not isinstance(delta, dict):
            return
        said = False
        for name in TEXTS:
            if delta.get(name):
                said = True
                self._texts.setdefault(name, []).append(delta[name])
        for call in _tables(delta.get("tool_calls")):
            said = True
            self._call(call)
        self.chunks += said

    def _call(self, part: Mapping[str, Any]) -> None:
        """Add a part of a call. Parts of one call have the same index; without an index they come one after another."""
        key = part.get("index")
        if not isinstance(key, int):
            key = f"call {len(self._calls) - (0 if part.get('id') or not self._calls else 1)}"
        call = self._calls.setdefault(key, _Call())
        call.id = part.get("id") or call.id
        function = part.get("function")
        if isinstance(function, dict):
            call.name.append(function.get("name"))
            call.arguments.append(function.get("arguments"))


def _joined(parts: list[Any]) -> Any:  # noqa: ANN401 - JSON from outside
    """Return the parts as one text, or as one list if some parts are lists."""
    if all(isinstance(part, str) for part in parts):
        return "".join(parts)
    return [item for part in parts for item in (part if isinstance(part, list) else [part])]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _tables(value: Any) -> Iterator[Mapping[str, Any]]:  # noqa: ANN401 - JSON from outside
    yield from (item for item in (value if isinstance(value, list) else ()) if isinstance(item, dict))
