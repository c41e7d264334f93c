"""`gristmill clean` finds what nothing needs, deletes it when told to, and never touches what may be somebody's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.cli.main import main
from gristmill.cluster.contract.sample import Message, seed, to_table
from gristmill.cluster.jobs.clean import unneeded
from gristmill.cluster.store.lease import making
from gristmill.cluster.store.store import Manifest, Store
from gristmill.cluster.ui.decisions import Decision, Decisions
from gristmill.cluster.ui.edit import save
from tests.fake_objects import Objects, serving

ROWS = to_table([seed([Message("user", "question")])])
OLD, USED, PART = "select-0123456789ab", "ingest-0123456789ab", "generate-0123456789ab"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store in which a recipe ran."""
    folder = tmp_path_factory.mktemp("clean")
    rows = [{"text": f"a text about river {number % 4}", "label": "x"} for number in range(20)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "one.toml").write_text(
        f'name = "one"\nstore = "{folder}/runs"\n[select]\ninput = "rows.jsonl"\nsteps = [{{kind = "exact"}}]\n'
    )
    assert main(["run", str(folder / "one.toml"), "--quiet"]) == 0
    return folder


@pytest.fixture
def store(ran: Path, tmp_path: Path) -> Store:
    shutil.copytree(ran / "runs", tmp_path / "runs")
    return Store(str(tmp_path / "runs"))


def commit(store: Store, name: str, job: str = "select", **inputs: str) -> None:
    with making(store, name, say=pytest.fail) as held:
        shard = held.commit_shard(name, "shard-00000", ROWS)
        held.commit(Manifest(name, "samples", job, "f", inputs, {}, (shard,)))


def told(store: Store, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["clean", "--store", store.uri, "--json", *words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {one["folder"]: one for one in found["unneeded"]}


def plant(store: Store) -> None:
    """Put in what nothing needs, and beside it what may be somebody's."""
    commit(store, OLD, samples=USED)
    with making(store, PART, say=pytest.fail) as held:
        held.commit_shard(PART, "raw-00001", ROWS)
    store.write_bytes(b"12345", f"index-{OLD}", "x.2.npy")
    (selected,) = [name for name in store.names() if name.startswith("select-") and name != OLD]
    store.write_bytes(b"123", selected, "raw-00007.json")
    store.write_bytes(b"mine", selected, "notes.txt")
    for name in ("select-fedcba987654", "select-2024-backup", "index-2024", "my data"):  # without a manifest or lease
        store.write_bytes(b"mine", name, "shard-00000.arrow")


def test_a_store_after_a_run_has_nothing_to_delete(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", "--store", store.uri]) == 0
    assert capsys.readouterr().out == "nothing to delete\n"


def test_what_nothing_needs_is_listed_and_only_then_deleted(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    plant(store)
    before = store.walk()
    found = told(store, capsys)
    (selected,) = [name for name in found if name.startswith("select-") and name != OLD]
    assert set(found) == {OLD, PART, f"index-{OLD}", selected}
    assert found[selected]["files"] == ["raw-00007.json"] and found[selected]["bytes"] == 3
    assert found[f"index-{OLD}"]["bytes"] == 5 and found[OLD]["bytes"] == sum(e.bytes for e in store.walk(OLD))
    assert store.walk() == before, "it is dry by default"
    assert main(["clean", "--store", store.uri]) == 0
    assert "bytes in 4 places can be deleted; `gristmill clean --delete` does it" in capsys.readouterr().out
    assert told(store, capsys, "--delete") == found
    gone = {(folder, name) for folder, one in found.items() for name in one["files"]}
    left = [e.path for e in before if e.path.split("/")[0] not in set(found) - {selected}]
    assert [entry.path for entry in store.walk() if not entry.path.startswith(".leases")] == [
        path for path in left if tuple(path.split("/")) not in gone and not path.startswith(".leases")
    ]
    assert told(store, capsys) == {}


def test_what_a_run_names_anywhere_is_needed_with_its_inputs(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    commit(store, USED, "ingest")
    commit(store, OLD, samples=USED)
    vectors = "vectors-0123456789ab"
    commit(store, vectors, "embed", samples=USED)
    assert set(told(store, capsys)) == {USED, OLD, vectors}
    (run,) = store.names("runs")
    recipe = store.read_json("runs", run, "recipe.json")
    store.write_json({**recipe, "against": [f"/some/where/runs/{OLD}/*.arrow"]}, "runs", run, "recipe.json")
    assert told(store, capsys) == {}, "the dataset, what it was made from, and the vectors of that"


def test_what_a_person_decided_about_is_needed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    commit(store, USED, "ingest")
    commit(store, OLD, samples=USED)
    sample = seed([Message("user", "question")]).id
    save(store, OLD, {0: Decision(sample, 0, "rejected", "Ada")})
    assert told(store, capsys) == {}, "the dataset of the decisions, and what it was made from"
    decided = "select-00000000000a"
    commit(store, decided)
    assert set(told(store, capsys)) == {decided}
    decisions = Decisions(store, decided)
    decisions.put(Decision(sample, 0, "accepted", "Ada"))
    decisions.close()
    assert told(store, capsys) == {}, "before a dataset is made of them"


def test_what_a_process_makes_is_left_alone(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with making(store, OLD, say=pytest.fail) as held:
        held.commit_shard(OLD, "raw-00001", ROWS)
        assert told(store, capsys, "--delete") == {}
        assert len(held.committed(OLD, "raw-")) == 1


def test_a_run_that_cannot_be_read_is_one_line_and_nothing_is_deleted(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(store)
    store.write_bytes(b"{", "runs", "two", "recipe.json")
    before = store.walk()
    assert main(["clean", "--store", store.uri, "--delete"]) == 1
    assert "nothing was deleted, because it is not known what is needed" in capsys.readouterr().err
    assert store.walk() == before
    assert main(["clean", "--store", "nowhere"]) == 2


def test_temporary_files_of_a_run_that_has_ended_are_deleted(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = store.names("runs")
    store.write_bytes(b"1234", "runs", run, ".report.html.0123456789abcdef.tmp")
    assert told(store, capsys, "--delete")[f"runs/{run}"]["bytes"] == 4
    assert told(store, capsys) == {}


def test_an_object_store_is_cleaned_too(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        check_objects(server, capsys)


def check_objects(server: Objects, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(server.uri)
    commit(store, OLD)
    store.write_bytes(b"mine", "my data", "x")
    assert [one.folder for one in unneeded(store)] == [OLD]
    assert main(["clean", "--store", server.uri, "--delete"]) == 0
    assert store.names() == ["my data"] and "secret" not in capsys.readouterr().out
