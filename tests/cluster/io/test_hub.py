"""Exports to a repository of the hub: a server on the loopback address answers as the hub's API does."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.export import export
from gristmill.cluster.io.ingest import Source, ingest, read
from gristmill.cluster.store.store import Store
from tests.cluster.io.sources import lines, put, source

TOKEN = "hf_" + "a" * 34


class Hub(ThreadingHTTPServer):
    """Repositories by name, and the files in them; only the token that it knows may write."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Keep the terminal quiet."""

    def do_GET(self) -> None:
        repo = self.path.removeprefix("/api/datasets/").partition("?")[0]
        if repo not in self.server.private:
            self.say(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        files = [{"rfilename": name} for name in self.server.files[repo]]
        self.say(200, {"id": repo, "private": self.server.private[repo], "siblings": files})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.say(401, {"error": "Invalid credentials in Authorization header"})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.server.private.setdefault(repo, asked.get("visibility") == "private")
            self.server.files.setdefault(repo, {".gitattributes": b""})
            self.say(200, {"url": f"{self.server.url}/datasets/{repo}"})
        elif path == "/api/validate-yaml":
            self.say(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self.say(200, {"files": files})
        elif path.endswith("/commit/main"):
            repo = path.removeprefix("/api/datasets/").removesuffix("/commit/main")
            entries = [json.loads(line) for line in body.splitlines()]
            for entry in entries:
                if entry["key"] == "header":
                    self.server.commits.append(entry["value"]["summary"])
                else:
                    self.server.files[repo][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"{self.server.url}/datasets/{repo}/commit/{'0' * 40}"
            self.say(200, {"commitUrl": url, "commitOid": "0" * 40, "hookOutput": ""})
        else:
            self.say(404, {"error": f"the fake hub knows no {path}"})

    def say(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, word in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, word)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub", reason="the client of the hub is not installed")
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def name(store: Store, tmp_path: Path) -> str:
    rows = ({"question": f"Question {n}?", "answer": "yes"} for n in range(3))
    return ingest(store, source(put(tmp_path, "in.jsonl", lines(*rows))))


def test_a_repository_is_made_private_and_gets_the_folder_in_one_commit(
    hub: Hub, store: Store, name: str, tmp_path: Path
) -> None:
    assert export(store, name, "hf://datasets/me/river").rows == 3
    assert hub.private == {"me/river": True} and hub.commits == [f"Export {name}"]
    files = hub.files["me/river"]
    assert set(files) == {".gitattributes", "README.md", "croissant.json", "data/train-00000.jsonl"}
    assert "## Settings" in files["README.md"].decode()
    back = read(Source(path=(str(put(tmp_path, "back.jsonl", files["data/train-00000.jsonl"])),)))
    assert [sample.instruction for sample in back] == [f"Question {n}?" for n in range(3)]
    with pytest.raises(JobError, match="hf://datasets/me/river: is not empty, must be absent or empty"):
        export(store, name, "hf://datasets/me/river/", "parquet")


def test_a_public_repository_is_written_only_where_that_was_asked_for(hub: Hub, store: Store, name: str) -> None:
    hub.private["me/open"], hub.files["me/open"] = False, {}
    with pytest.raises(JobError, match="me/open: is public, must be private; make it so, or add --public"):
        export(store, name, "hf://datasets/me/open")
    assert hub.files["me/open"] == {}
    export(store, name, "hf://datasets/me/open", "parquet", public=True)
    assert "data/train-00000.parquet" in hub.files["me/open"]
    export(store, name, "hf://datasets/me/shown", public=True)
    assert hub.private["me/shown"] is False


def test_a_hub_without_a_token_is_refused_before_anything_is_made(
    hub: Hub, store: Store, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no token"))
    with pytest.raises(JobError, match="no token of the hub is set, must be one that may write; log in with `hf auth"):
        export(store, name, "hf://datasets/me/river")
    assert hub.private == {}


def test_what_the_hub_refuses_is_said_in_words(
    hub: Hub, store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "b" * 34)
    with pytest.raises(JobError, match=r"hf://datasets/me/river: cannot be written .*401"):
        export(store, name, "hf://datasets/me/river")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(JobError, match="hf://datasets/me/river: cannot be written"):
        export(store, name, "hf://datasets/me/river")


@pytest.mark.parametrize(
    "target", ["hf://me/river", "hf://datasets/river", "hf://datasets/me/river/out.jsonl", "hf://"]
)
def test_a_uri_that_names_no_repository_is_refused(target: str, store: Store, name: str) -> None:
    with pytest.raises(JobError, match="is no repository of datasets, must be hf://datasets/OWNER/NAME"):
        export(store, name, target)


def test_only_a_repository_can_be_public(store: Store, name: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="is no repository of the hub, must be one to be public"):
        export(store, name, tmp_path / "out.jsonl", public=True)
