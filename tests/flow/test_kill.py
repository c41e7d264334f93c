"""`kill -9` of the driver in the middle of the real engine's work; the same command again goes on behind it."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cluster.ledger import read_lines
from cluster.store import Store
from tests.flow.test_quickstart import GRISTMILL, RECIPE, gristmill
from tests.invariants import check_dataset

pytestmark = pytest.mark.flow

SETTINGS = ["--set", "generate.target=20", "--set", "generate.shard_size=8", "--set", "generate.rounds=1"]


def test_a_killed_driver_loses_no_committed_shard(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "runs"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    command = [GRISTMILL, "generate", RECIPE, *SETTINGS]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 240
        while not (folders := [n for n in store.names() if n.startswith("generate-")]) or not (
            before := store.committed(folders[0], "raw-")
        ):
            assert driver.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "no shard in four minutes"
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
    (name,) = folders
    assert not store.complete(name)
    assert "stopped" in gristmill(tmp_path, "show").stdout

    rows_before = {
        row["id"]: row for shard in before.values() for row in store.read_shard(name, shard).to_pylist()
    }  # fmt: skip
    said = gristmill(tmp_path, "generate", RECIPE, *SETTINGS).stderr
    assert "Traceback" not in said
    (seeds,) = [n for n in store.names() if n.startswith("ingest-")]
    rows = {row.id: row for row in check_dataset(store, name, seeds)}
    assert sum(1 for row in rows.values() if row.dropped is None) == 20
    for row_id, row in rows_before.items():
        assert [tuple(m) for m in rows[row_id].messages] == [(m["role"], m["content"]) for m in row["messages"]]
    (run,) = store.names("runs")
    planned = [line for line in read_lines(store, f"runs/{run}") if '"shards_planned"' in line]
    assert len(planned) >= 2
    assert json.loads(planned[1])["committed"] >= len(before), "a committed shard was made again"
