"""The lineage of a row: back to its seeds, and forward to everything that it went into."""

import json
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.cli.main import main
from gristmill.cluster.contract.errors import JobError, StoreError
from gristmill.cluster.contract.sample import Message, Origin, Sample, to_table
from gristmill.cluster.refresh import lineage
from gristmill.cluster.refresh.lineage import descendants, generations
from gristmill.cluster.store.store import Kind, Manifest, Store

WRITER = "train-0123456789ab"
HERE = {name: f"{name}-{'a' * 12}" for name in ("ingest", "generate", "select", "train", "evaluate")}


def row(number: int, *parents: int, dropped: str | None = None, model: str = "") -> Sample:
    origin = Origin("run", "step", model, 0, 1, 1, "stop") if model else None
    text = (Message("user", f"question {number}"), Message("assistant", "yes"))
    return Sample(name(number), text, tuple(map(name, parents)), "grounded", dropped=dropped, origin=origin)


def name(number: int) -> str:
    return f"{number:032x}"


def put(store: Store, folder: str, kind: Kind, inputs: dict[str, str], rows: list[Sample], **settings: Any) -> None:
    parts = [rows[start : start + 2] for start in range(0, len(rows), 2)]
    shards = tuple(store.commit_shard(folder, f"shard-{n:05d}", to_table(part)) for n, part in enumerate(parts))
    store.commit(Manifest(folder, kind, folder.split("-", maxsplit=1)[0], "f" * 32, inputs, settings, shards))


@pytest.fixture
def line(tmp_path: Path) -> Store:
    """Two seeds; rows made from them in the order that is the worst to read; a model, and what was done with it."""
    store = Store(str(tmp_path / "runs"))
    made = [row(14, 13, model="m"), row(13, 12, 2, model="m"), row(12, 1, model="m"), row(11, 2, model="m")]
    chosen = [row(14, 13, model="m"), row(13, 12, 2, dropped="minhash: a copy", model="m"), row(11, 2, model="m")]
    put(store, HERE["ingest"], "samples", {}, [row(1), row(2), row(3)])
    put(store, WRITER, "model", {"samples": HERE["ingest"]}, [], model="builtin:base")
    put(store, HERE["generate"], "samples", {"samples": HERE["ingest"]}, made, engine={"model": f"/x/{WRITER}/merged"})
    put(store, HERE["select"], "samples", {"samples": HERE["generate"]}, chosen)
    put(store, HERE["train"], "model", {"samples": HERE["select"]}, [], model=f"/x/{WRITER}/merged")
    put(store, HERE["evaluate"], "evaluation", {"model": HERE["train"]}, [])
    put(store, "generate-bbbbbbbbbbbb", "samples", {}, [row(21, 99)], engine={"model": f"/x/{HERE['train']}/merged"})
    store.write_json({"challenger": HERE["train"]}, "lines", "weekly", "decisions", "0001.json")
    store.write_json({"challenger": "another"}, "lines", "weekly", "decisions", "0002.json")
    return store


def test_each_id_is_in_one_generation() -> None:
    parents = {"a": ["b", "c", "c"], "b": ["c", "d"], "c": ["a"], "d": []}
    found = generations(["a"], lambda ids: [parent for one in ids for parent in parents[one]])
    assert list(found) == [["a"], ["b", "c"], ["d"]]
    assert list(generations("ab", lambda _: "cde", 2)) == [["a", "b"], ["c", "d"], ["e"]]


def test_descendants_are_found_whatever_the_order_of_rows_and_datasets(line: Store) -> None:
    everything = descendants(line, [name(1)])
    assert everything == {
        HERE["ingest"]: [name(1)],
        HERE["generate"]: [name(12), name(13), name(14)],
        HERE["select"]: [name(13), name(14)],
    }
    assert descendants(line, [name(77)]) == {}
    both = descendants(line, [name(1), name(2)])
    assert {folder: len(ids) for folder, ids in both.items()} == {
        HERE["ingest"]: 2, HERE["generate"]: 4, HERE["select"]: 3,
    }  # fmt: skip


def test_rows_that_came_back_from_a_file_are_descendants_too(line: Store) -> None:
    """An exported row that is read again keeps its id, but no manifest connects both datasets."""
    put(line, "ingest-000000000000", "samples", {}, [row(31, 14), row(32, 3)])
    assert descendants(line, [name(1)])["ingest-000000000000"] == [name(31)]


def test_the_lineage_of_a_row_goes_back_to_its_seeds_and_forward_to_decisions(line: Store) -> None:
    found = lineage.lineage(line, name(13))
    assert [[link.id for link in level] for level in found.generations] == [
        [name(13)], [name(12), name(2)], [name(1)],
    ]  # fmt: skip
    assert (found.generations[0][0].dataset, found.generations[0][0].model) == (HERE["generate"], "m")
    assert found.made_from == (HERE["ingest"], WRITER)
    assert found.rows == {HERE["generate"]: {"kept": 2, "dropped": 0}, HERE["select"]: {"kept": 1, "dropped": 1}}
    assert found.models == {HERE["train"]: {"samples": HERE["select"]}}
    assert found.evaluations == (HERE["evaluate"],)
    assert found.written == ("generate-bbbbbbbbbbbb",)
    assert found.decisions == ("lines/weekly/decisions/0001.json",)


def test_a_row_that_was_dropped_trains_no_model(line: Store) -> None:
    put(line, HERE["select"].replace("a", "c"), "samples", {}, [row(41, dropped="length: 1 word")])
    put(line, HERE["train"].replace("aaa", "ccc"), "model", {"samples": HERE["select"].replace("a", "c")}, [])
    assert lineage.lineage(line, name(41)).models == {}


def test_a_parent_that_is_gone_is_named(line: Store) -> None:
    found = lineage.lineage(line, name(21))
    assert [[(link.id, link.dataset) for link in level] for level in found.generations][1] == [(name(99), "")]
    assert any("in no complete dataset of this store" in text for text in lineage.lines(found))


def test_the_lineage_of_a_model_says_what_it_was_made_from_and_what_it_wrote(line: Store) -> None:
    found = lineage.lineage(line, WRITER)
    assert (found.generations, found.made_from) == ((), (HERE["ingest"],))
    assert {*found.rows} == {HERE["generate"], HERE["select"], "generate-bbbbbbbbbbbb"}
    assert {*found.models} == {WRITER, HERE["train"]}


def test_the_verb_prints_the_lineage(line: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lineage", name(13), "--store", line.uri]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"row\n  {name(13)}  {HERE['generate']}, grounded by m  question 13\nparents\n")
    assert main(["lineage", name(13)[:32], "--store", line.uri, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == {HERE["train"]: {"samples": HERE["select"]}}


def test_an_id_may_be_shortened_if_one_row_alone_begins_so(line: Store) -> None:
    put(line, "ingest-111111111111", "samples", {}, [Sample("feed" + "0" * 28, (Message("user", "x"),))])
    assert lineage.lineage(line, "feed00").id == "feed" + "0" * 28
    with pytest.raises(JobError, match="must be one"):
        lineage.lineage(line, "000000")
    with pytest.raises(JobError, match="no complete dataset has a row"):
        lineage.lineage(line, "abcdef")


def test_a_damaged_manifest_is_an_error_because_descendants_may_be_missing(line: Store) -> None:
    line.write_bytes(b"{}", HERE["select"], "manifest.json")
    with pytest.raises(StoreError, match="the lineage is not known"):
        descendants(line, [name(1)])
