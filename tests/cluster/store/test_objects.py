"""A store of objects holds the same as one of files, asks few requests, and bears what servers and networks do."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gristmill.cluster.contract.errors import BusyError, StoreError
from gristmill.cluster.contract.sample import Message, seed, to_table
from gristmill.cluster.store import objects as objects_module
from gristmill.cluster.store.store import Manifest, Store
from tests.fake_objects import Objects
from tests.invariants import check_clean

NAME = "made-1"
ROWS = to_table([seed([Message("user", f"question {n} 问题")]) for n in range(4)])


def fill(store: Store, shards: int = 3) -> Manifest:
    entries = [store.commit_shard(NAME, f"shard-{n:05d}", ROWS) for n in range(shards)]
    manifest = Manifest(NAME, "samples", "made", "f", {}, {}, tuple(entries))
    store.commit(manifest, {"rows": 12})
    return manifest


def test_objects_hold_what_files_hold(away: Store, store: Store, server: Objects) -> None:
    assert fill(away) == fill(store)
    assert away.read(NAME).equals(store.read(NAME)) and away.entries() == store.entries()
    assert away.names() == store.names() == [NAME] and away.names(NAME) == store.names(NAME)
    assert [entry.path for entry in away.walk()] == [entry.path for entry in store.walk()]
    assert away.exists(NAME) and not away.exists("made") and not away.exists(NAME, "shard-00000.json")
    assert away.at(NAME) == f"s3://grain/runs/{NAME}" and "secret" not in away.uri
    away.delete_folder(NAME)
    assert not server.objects and away.names() == []


def test_names_in_any_script_stay_as_they_are(server: Objects) -> None:
    store = Store(server.uri.replace("/runs", "/数据 100%25"))
    store.write_json({"a": 1}, "x#1", "ä ?.json")
    assert list(server.objects) == ["数据 100%/x#1/ä ?.json"]
    assert store.read_json("x#1", "ä ?.json") == {"a": 1} and store.names("x#1") == ["ä ?.json"]


def test_more_objects_than_one_answer_has_are_listed_and_deleted(away: Store, server: Objects) -> None:
    for number in range(1500):
        server.put(f"runs/many/{number:05d}", b"")
    server.put("runs/other/x", b"")
    assert len(away.names("many")) == len(away.walk("many")) == 1500
    away.delete_folder("many")
    assert list(server.objects) == ["runs/other/x"]


def test_one_request_in_five_fails_and_the_store_holds_the_same(away: Store, store: Store, server: Objects) -> None:
    server.failing = 0.2
    assert fill(away, 20) == fill(store, 20)
    assert away.read(NAME).equals(store.read(NAME))
    assert away.names(NAME) == store.names(NAME)


def test_a_server_that_does_not_answer_is_one_line(
    away: Store, server: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module, "TRY_S", 0.3)
    server.failing = 1.0
    for act in (lambda: fill(away), lambda: away.complete(NAME), away.names, away.walk):
        with pytest.raises(StoreError, match=r"^s3://grain/runs\S*: the server does not answer \(.*\), must") as caught:
            act()
        assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    nobody = Store(server.uri.replace(str(server.server_address[1]), "9"))
    with pytest.raises(StoreError, match="does not answer"):
        nobody.complete(NAME)


def test_refused_credentials_and_an_absent_bucket_are_one_line(away: Store, server: Objects) -> None:
    nowhere = Store(server.uri.replace("@grain/", "@elsewhere/"))
    acts: tuple[Callable[[], object], ...] = (lambda: fill(nowhere), nowhere.names, nowhere.walk, nowhere.exists)
    for act in acts:
        with pytest.raises(StoreError, match=r"cannot be used \(there is no bucket s3://elsewhere"):
            act()
    server.denied = True
    acts = (lambda: fill(away), away.names, lambda: away.read_bytes("x"))
    for act in acts:
        with pytest.raises(StoreError, match=r"may not be used \(.*refuses the credentials.*must be allowed"):
            act()


def test_a_missing_package_and_unknown_options_are_one_line(server: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="'surprise' is no option"):
        Store(f"{server.uri}&surprise=1")
    with pytest.raises(StoreError, match=r"'sig' is no option, abfs has none\)$"):
        Store("abfs://folder@account.dfs.core.windows.net/x?sig=hidden")
    for uri in ("s3://", "s3:///x", "gs://", "s3://b\0/x"):
        with pytest.raises(StoreError, match="it names no bucket, must be as"):
            Store(uri)
    assert Store("gcs://bucket/x").root == "gs://bucket/x"
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(StoreError, match=r"needs the package obstore.*install gristmill\[objects\]"):
        Store(server.uri)


def test_the_credentials_of_aws_files_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "credentials").write_text("[mine]\naws_access_key_id = a\naws_secret_access_key = b\n")
    (tmp_path / "config").write_text("[profile mine]\nregion = eu-north-1\noutput = json\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert objects_module._profile() == {"access_key_id": "a", "secret_access_key": "b", "region": "eu-north-1"}
    (tmp_path / "config").write_text("no ini file")
    with pytest.raises(StoreError, match="must be as AWS writes it"):
        Store("s3://grain/runs")


def lease_of(server: Objects, number: int) -> None:
    server.put(f"runs/.leases/{NAME}", f"{number}\n{{}}\n".encode())


def test_a_stale_writer_replaces_nothing(away: Store, server: Objects) -> None:
    lease_of(server, 1)
    old = away.with_fences({NAME: 1})
    old.write_bytes(b"of 1", NAME, "a")
    lease_of(server, 2)
    new = away.with_fences({NAME: 2})
    new.write_bytes(b"of 2", NAME, "a")
    with pytest.raises(BusyError, match="another process has got its lease"):
        old.write_bytes(b"late", NAME, "a")  # it looked just before, and meets the object of the next holder
    with pytest.raises(BusyError):
        away.with_fences({NAME: 1}).write_bytes(b"late", NAME, "b")
    assert away.read_bytes(NAME, "a") == b"of 2" and not away.exists(NAME, "b")


def on_its_way(server: Objects, write: Callable[[], object]) -> tuple[threading.Thread, list[BusyError]]:
    """Write in a thread until the server holds the request; return the thread, and the errors that it will have."""
    failed: list[BusyError] = []

    def write_late() -> None:
        try:
            write()
        except BusyError as error:
            failed.append(error)

    thread = threading.Thread(target=write_late)
    thread.start()
    assert server.held.wait(10)
    return thread, failed


@pytest.mark.parametrize("there", [False, True])
def test_a_request_that_arrives_late_replaces_nothing(away: Store, server: Objects, there: bool) -> None:
    """The holder has looked at its lease, and its request arrives after the next holder has written the same file."""
    lease_of(server, 1)
    old, new = away.with_fences({NAME: 1}), away.with_fences({NAME: 2})
    if there:
        old.write_bytes(b"first of 1", NAME, "a")
    puts = iter(range(99))
    server.hold = lambda method, key: method == "PUT" and key.endswith("/a") and next(puts) == there
    thread, failed = on_its_way(server, lambda: old.write_bytes(b"late", NAME, "a"))
    lease_of(server, 2)
    new.write_bytes(b"of 2", NAME, "a")
    server.go.set()
    thread.join()
    assert failed and away.read_bytes(NAME, "a") == b"of 2"


def test_a_request_that_arrives_after_the_end_leaves_no_file(
    away: Store, server: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder is stopped between its look and its request, and goes on after the next holder has completed all."""
    lease_of(server, 1)
    old, new = away.with_fences({NAME: 1}), away.with_fences({NAME: 2})
    server.hold = lambda method, key: method == "PUT" and key.endswith("shard-00007.arrow")
    thread, failed = on_its_way(server, lambda: old.commit_shard(NAME, "shard-00007", ROWS))
    lease_of(server, 2)
    fill(new)
    monkeypatch.setattr(objects_module, "CHECK_S", 0.0)  # that long ago was the look
    server.go.set()
    thread.join()
    assert failed and not away.exists(NAME, "shard-00007.arrow")
    check_clean(away, NAME)
