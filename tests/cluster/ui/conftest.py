"""A store with two datasets of hostile and ordinary samples, and its page on a free port."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from gristmill.cluster.contract.sample import Message, Origin, Sample, ToolCall, seed, to_table
from gristmill.cluster.store.store import Manifest, Store
from gristmill.cluster.ui.server import Server

NASTY = "<img src=x onerror=\"document.title='owned'\"> <script>document.title='owned'</script> \u202e & \x1b[2J"
SEEDS = [
    seed([Message("user", f"Name {what}"), Message("assistant", f"{what} it is")]) for what in ("a river", "a lake")
]
ORIGIN = Origin("night-1", "self_instruct", "scripted", 7, 10, 5, "stop")


def made(number: int, text: str, answer: str, dropped: str | None = None, **more: Any) -> Sample:
    more = {"parents": (SEEDS[number % 2].id,), "method": "self_instruct", **more}
    messages = (Message("user", text), Message("assistant", answer))
    return Sample(f"{number:032x}", messages, round=1, dropped=dropped, origin=ORIGIN, **more)


ROWS = [
    made(1, "列举三条河流", "长江、黄河、珠江", scores={"judge": 4.5, "weight": 2.0}, tags={"topic": "地理"}),
    made(2, NASTY, "No.", scores={"judge": 3.5}, tags={"topic": "<b>code</b>"}),
    made(3, "Name three RIVERS", "Elbe, Oder, Rhine", scores={"judge": 3.0}, tags={"topic": "geography"}),
    made(4, "Name", "Elbe", "length: 1 word, must be at least 3", method="persona"),
    made(5, "Name three rivers", "Elbe, Oder", f"exact: copy of {3:032x}", scores={"judge": 2.0}),
    made(6, "Rain?", "Yes.", "length: 2 words, must be at least 3", method="persona"),
    Sample(f"{7:032x}", (Message("user", "Weather?"), Message("assistant", None, "I must ask.",
           (ToolCall("c1", "weather", '{"city":"Köln"}'),))), (f"{3:032x}",), "evol_instruct", 2),
]  # fmt: skip


def put(store: Store, name: str, rows: list[Sample], inputs: dict[str, str], size: int = 3) -> None:
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    shards = tuple(store.commit_shard(name, f"shard-{n:05d}", to_table(part)) for n, part in enumerate(parts))
    store.commit(Manifest(name, "samples", name.split("-", maxsplit=1)[0], "f" * 32, inputs, {}, shards))


@pytest.fixture
def filled(store: Store) -> Store:
    put(store, "ingest-1", SEEDS, {})
    put(store, "generate-1", ROWS, {"samples": "ingest-1"})
    return store


@dataclass
class Page:
    """A running server, as a browser sees it."""

    server: Server

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def ask(self, path: str, body: object = None, headers: Any = None, **asked: Any) -> tuple[int, Any]:
        """Return the status and the JSON value of an answer."""
        url = self.address + path + ("?" + urlencode(asked) if asked else "")
        data = None if body is None else json.dumps(body).encode() if not isinstance(body, bytes) else body
        sent = {"Authorization": f"Bearer {self.server.token}"} if headers is None else headers
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, sent), timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def get(self, path: str, **asked: Any) -> Any:
        """Return the value of an answer that must be good. It waits for an index."""
        for _ in range(100):
            status, value = self.ask(path, **asked)
            if status != 400 or "index is being built" not in value["error"]:
                break
        assert status == 200, value
        return value

    def rows(self, **asked: object) -> list[int]:
        """Return the numbers of the samples that a query finds."""
        found = self.get("/api/rows", dataset="generate-1", **asked)
        assert found["total"] == len(found["rows"])
        return [int(row["id"], 16) for row in found["rows"]]

    def decide(self, row: int, verdict: str | None, **more: object) -> tuple[int, Any]:
        self.get("/api/rows", dataset="generate-1")
        return self.ask("/api/decide", {"dataset": "generate-1", "row": row, "verdict": verdict, **more})


@pytest.fixture
def page(filled: Store, tmp_path: Path) -> Iterator[Page]:
    server = Server(filled, 0, "Mei", tmp_path / "cache")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield Page(server)
    server.shutdown()
    thread.join()
    server.server_close()
