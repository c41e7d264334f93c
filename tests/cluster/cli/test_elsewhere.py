"""`show`, `head`, `export` and `report` from another machine: another folder and name, without recipe and inputs."""

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gristmill.cluster.cli.main import main

RECIPE = """name = "mill"
[select]
input = "rows.jsonl"
steps = [{kind = "exact"}, {kind = "balance", by = "label", budget = 6}]
"""


@pytest.fixture(params=["folder", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store that several machines reach: a shared folder, and a bucket of a server from `moto[server]`."""
    if request.param == "folder":
        yield str(tmp_path / "shared" / "runs")
        return
    if shutil.which("moto_server") is None:
        pytest.skip("moto_server is not on the path (`pip install moto[server]` elsewhere)")
    from tests.proof.s3 import started

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = started(port)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        yield "s3://grain/runs"
    finally:
        server.kill()
        server.wait()


def test_what_a_run_made_is_read_from_another_machine(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    rows = [{"text": f"评论 {number}", "label": str(number % 2)} for number in range(20)]
    (here / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (here / "mill.toml").write_text(f'store = "{uri}"\n{RECIPE}', encoding="utf-8")
    monkeypatch.chdir(here)
    assert main(["run", "mill.toml", "--quiet"]) == 0
    monkeypatch.chdir(there)
    monkeypatch.setattr(socket, "gethostname", lambda: "another-machine")
    monkeypatch.setenv("HOME", str(there))
    shutil.rmtree(here)

    def said(*words: str) -> str:
        capsys.readouterr()
        assert main([*words, "--store", uri]) == 0, words
        return capsys.readouterr().out

    (run,) = json.loads(said("show", "--json"))["runs"]
    assert run["state"] == "done" and run["progress"] is None
    shown = json.loads(said("show", run["run"], "--json"))
    assert (shown["exit_code"], shown["heartbeat"], shown["jobs"]["select"]["state"]) == (0, None, "done")
    assert "mill-" in said("show") and "select" in said("show", "mill")
    assert said("head", "mill", "-n", "3").count("[user]") == 3
    assert "dropped  balance" in said("head", "mill", "--dropped")
    assert said("export", "mill", "out.jsonl").startswith("6 rows of select-")
    assert len((there / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 6
    written = said("report", "mill").strip()
    assert written.endswith("report.html")
    assert not (there / "runs").exists(), "nothing is written beside the store"
