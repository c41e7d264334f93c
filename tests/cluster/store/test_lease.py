"""Leases: one process at a time makes a dataset, the others wait for it, and no lease outlives its holder."""

import json
import multiprocessing as mp
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.contract.errors import BusyError, StoreError
from gristmill.cluster.contract.sample import Message, seed, to_table
from gristmill.cluster.store import lease, ledger, objects
from gristmill.cluster.store.lease import making
from gristmill.cluster.store.store import LEASES, Manifest, Store
from tests.fake_objects import Objects
from tests.invariants import check_dataset

MAIN = "import sys; from gristmill.cluster.cli.main import main; sys.exit(main())"
RACES, RUNS = 1, 3
ROWS = to_table([seed([Message("user", "question")])])


def holds(store: Store, names: list[str], told: Any, release: Any, end: Any) -> None:
    """Hold leases until `release`, then write a file, and end with the class of the error as the last word."""
    with making(store, *names, say=lambda line: None) as held:
        told.set()
        release.wait()
        try:
            held.write_bytes(b"of the first", "a", "made")
        except BusyError as error:
            end.put(str(error))
        else:
            end.put("")


@pytest.fixture
def held(either: Store) -> Any:
    """Another process that holds the leases of `a` and `b`."""
    spawn = mp.get_context("spawn")
    told, release, end = spawn.Event(), spawn.Event(), spawn.Queue()
    process = spawn.Process(target=holds, args=(either, ["b", "a"], told, release, end))
    process.start()
    assert told.wait(60)
    yield process, release, end
    if process.exitcode is None:  # `set` would wait for ever for a process that was killed while it waited
        release.set()
    process.join()


def test_a_process_waits_says_so_and_goes_on_when_the_other_ends(either: Store, held: Any) -> None:
    process, release, end = held
    store, said = either, list[str]()
    threading.Timer(1.0, release.set).start()
    begin = time.monotonic()
    with making(store, "a", say=said.append):
        assert time.monotonic() - begin > 0.5
        assert store.read_bytes("a", "made") == b"of the first" and end.get(timeout=10) == ""
    assert len(said) == 1 and said[0].startswith(
        f"waiting for a, which process {process.pid} of {socket.gethostname()} makes since "
    )
    with making(store, "c", say=said.append), making(store, "d", say=said.append):
        assert len(said) == 1, "other datasets are free"


def test_a_lease_ends_with_its_holder(either: Store, held: Any) -> None:
    process, _, _ = held
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    begin = time.monotonic()
    with making(either, "a", "b", say=lambda line: None):
        written = either.read_bytes(LEASES, "a").decode()
    assert time.monotonic() - begin < 5, "the process was of this machine, which knows that it has ended"
    assert json.loads(written.splitlines()[-1])["process"] == os.getpid()


def test_a_process_that_was_stopped_has_lost_its_lease_and_writes_nothing(
    away: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LOOK_AT_OBJECT_S", 0.1)
    monkeypatch.setattr(lease, "LIFE_S", 1.0)
    spawn = mp.get_context("spawn")
    told, release, end = spawn.Event(), spawn.Event(), spawn.Queue()
    process = spawn.Process(target=holds, args=(away, ["a"], told, release, end))
    process.start()
    assert process.pid and told.wait(60)
    os.kill(process.pid, signal.SIGSTOP)
    said: list[str] = []
    with making(away, "a", say=said.append) as held:
        assert said and not away.exists("a")
        held.write_bytes(b"of the second", "a", "made")
    os.kill(process.pid, signal.SIGCONT)
    release.set()  # after that, because it waits until those who wait for it wake up
    assert end.get(timeout=30).startswith("a: another process has got its lease")
    process.join()
    assert away.read_bytes("a", "made") == b"of the second"


def test_each_holder_has_a_higher_number_and_older_ones_write_nothing(either: Store) -> None:
    stores = []
    for _ in range(3):
        with making(either, "a", say=lambda line: None) as held:
            held.write_bytes(b"x", "a", "made")
            pickle.loads(pickle.dumps(held)).write_bytes(b"y", "a", "by a worker")
            stores.append(held)
    for old in stores:
        with pytest.raises(BusyError, match="another process has got its lease, because this one did not answer"):
            pickle.loads(pickle.dumps(old)).write_bytes(b"late", "a", "late")
    assert either.names("a") == ["by a worker", "made"]
    either.write_bytes(b"x", "b", "of no lease")


def test_what_a_complete_dataset_has_left_from_its_making_is_deleted(either: Store) -> None:
    kept = ["figures.json", "manifest.json", "people.csv", "raw-notes.json", "shard-00000.arrow"]
    with making(either, "a", say=lambda line: None) as held:
        entry = held.commit_shard("a", "shard-00000", ROWS)
        held.commit(Manifest("a", "samples", "made", "f", {}, {}, (entry,)))
        held.commit_shard("a", "raw-00007", ROWS)  # by a worker, after the driver committed
        held.commit_shard("a", "raw-00007.0+4", ROWS)
        for name in ("people.csv", "raw-notes.json"):
            held.write_bytes(b"1", "a", name)
        if either.local:
            (either.local / "a/.shard-00000.arrow.0123.tmp").write_bytes(b"half")
    assert [entry.path for entry in either.walk("a")] == kept
    either.commit_shard("a", "raw-00009", ROWS)
    lease.tidy(either, "a")
    assert [entry.path for entry in either.walk("a")] == kept


def test_one_driver_executes_a_run(either: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.2)
    folder = "runs/one"
    either.write_json({}, folder, "recipe.json")
    assert not ledger._held(either, folder)
    with ledger.lock(either, folder):
        assert ledger._held(either, folder)
        with pytest.raises(BusyError, match="another process is executing this run"), ledger.lock(either, folder):
            pytest.fail("two drivers")
    assert not ledger._held(either, folder)
    with ledger.lock(either, folder):
        pass


def test_a_lease_is_renewed_and_found_again_when_answers_are_lost(
    away: Store, server: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    server.failing = 0.3
    with making(away, "a", say=lambda line: None) as held:
        for number in range(20):
            held.write_bytes(b"%d" % number, "a", f"{number}")
            time.sleep(0.02)
    assert len(away.names("a")) == 20


def test_a_server_that_is_down_in_the_middle_is_what_the_run_ends_with(
    away: Store, server: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "TRY_S", 0.5)
    monkeypatch.setattr(objects, "SILENT_TRY_S", 0.1)
    with (
        pytest.raises(StoreError, match=r"^s3://grain/runs/a/made: the server does not answer"),
        making(away, "a", say=pytest.fail) as held,
    ):
        server.failing = 1.0
        held.write_bytes(b"x", "a", "made")
    server.failing = 0.0
    monkeypatch.setattr(lease, "LIFE_S", 0.3)
    with making(away, "a", say=lambda line: None) as held:
        held.write_bytes(b"x", "a", "made")


def test_a_lease_that_nobody_renews_is_over_at_once_when_it_is_old(away: Store, server: Objects) -> None:
    server.put("runs/.leases/a", b"41\nof another version")
    data, tag, _ = server.objects["runs/.leases/a"]
    server.objects["runs/.leases/a"] = (data, tag, datetime.now(UTC) - timedelta(hours=1))
    with making(away, "a", say=pytest.fail):
        assert server.objects["runs/.leases/a"][0].startswith(b"42\n")


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
