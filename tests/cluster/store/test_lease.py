"""Leases: one process at a time makes a dataset, the others wait for it, and no lease outlives its holder."""

import json
import multiprocessing as mp
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.store import lease
from gristmill.cluster.store.lease import making
from gristmill.cluster.store.store import Store
from tests.invariants import check_dataset

MAIN = "import sys; from gristmill.cluster.cli.main import main; sys.exit(main())"
RACES, RUNS = 2, 3


def holds(uri: str, names: list[str], told: Any, release: Any) -> None:
    with making(Store(uri), *names, say=lambda line: None):
        told.set()
        release.wait()


@pytest.fixture
def held(store: Store) -> Any:
    """Another process that holds the leases of `a` and `b`."""
    spawn = mp.get_context("spawn")
    told, release = spawn.Event(), spawn.Event()
    process = spawn.Process(target=holds, args=(store.uri, ["b", "a"], told, release))
    process.start()
    assert told.wait(60)
    yield process, release
    if process.exitcode is None:  # `set` would wait for ever for a process that was killed while it waited
        release.set()
    process.join()


def test_a_process_waits_says_so_and_goes_on_when_the_other_ends(store: Store, held: Any) -> None:
    process, release = held
    said: list[str] = []
    threading.Timer(1.0, release.set).start()
    begin = time.monotonic()
    with making(store, "a", say=said.append):
        assert time.monotonic() - begin > 0.5
    assert len(said) == 1 and said[0].startswith(
        f"waiting for a, which process {process.pid} of {socket.gethostname()} makes since "
    )
    with making(store, "c", say=said.append), making(store, "d", say=said.append):
        assert len(said) == 1, "other datasets are free"


def test_a_lease_ends_with_its_holder(store: Store, held: Any) -> None:
    process, _ = held
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with making(store, "a", "b", say=lambda line: None):
        written = json.loads((store.folder(lease.LEASES) / "a").read_text())
    assert written["process"] == os.getpid()


def test_runs_that_share_a_dataset_make_it_once(tmp_path: Path) -> None:
    """Recipes of other names with the same selection start together."""
    rows = [{"text": f"a text about river {number % 40}", "label": str(number % 3)} for number in range(200)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    shared = '[select]\ninput = "rows.jsonl"\nsteps = [{kind = "exact"}]\n'
    for race in range(RACES):
        uri = tmp_path / f"runs{race}"
        names = [f"r{number}" for number in range(RUNS)]
        for name in names:
            (tmp_path / f"{name}.toml").write_text(f'name = "{name}"\nstore = "{uri}"\n{shared}', encoding="utf-8")
        words = [[sys.executable, "-c", MAIN, "run", str(tmp_path / f"{name}.toml")] for name in names]
        started = [subprocess.Popen(w, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for w in words]
        said = [process.communicate(timeout=120)[0] for process in started]
        assert [process.returncode for process in started] == [0] * RUNS, said
        store = Store(str(uri))
        (selected,) = [manifest for manifest in store.entries()[0] if manifest.job == "select"]
        check_dataset(store, selected.name)
        ledgers = [store.read_bytes("runs", run, "ledger.jsonl").decode() for run in store.names("runs")]
        made = [e for text in ledgers for e in map(json.loads, text.splitlines()) if e["event"] == "job_started"]
        assert sorted(event["job"] for event in made) == ["ingest", "select"], "each dataset was made by one run"
