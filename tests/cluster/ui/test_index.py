"""The index finds what a plain loop over the samples finds."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from gristmill.cluster.contract.errors import StoreError
from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.store.store import Store
from gristmill.cluster.ui import build as building
from gristmill.cluster.ui.build import BINS, OTHER, build
from gristmill.cluster.ui.index import Index, Query
from gristmill.cluster.ui.indexes import Indexes
from gristmill.cluster.ui.scan import MAX_NEEDLE, PADDING, WIDTH, containing
from tests.cluster.store.test_store import flip
from tests.cluster.ui.conftest import ROWS, made, put

WORDS = ("Elbe", "river", "数据", "模型", "ÄRGER", "a", "aab", "aaab", "🙂", "x" * 70)


def indexed(store: Store, folder: Path, rows: list[Sample], size: int = 3) -> Index:
    put(store, "generate-1", rows, {}, size)
    folder.mkdir()
    build(store, "generate-1", folder, lambda done: None)
    return Index(folder)


@pytest.mark.parametrize(
    "needle", ["a", "ab", "aab", "数据", "据模", "x" * 64, "x" * 65, "elbe river", "🙂a", "nowhere"]
)
def test_the_scan_finds_what_python_finds(needle: str) -> None:
    draw = Random(needle)
    rows = ["".join(draw.choices([word.lower() for word in WORDS], k=draw.randrange(9))).encode() for _ in range(400)]
    rows += [needle.encode(), b"", needle.encode()[:-1], needle.encode()[1:], b"y" * (WIDTH - 1) + needle.encode()]
    ends = np.cumsum([0, *map(len, rows)])
    text = np.frombuffer(b"".join(rows) + needle.encode() * 2 + b"\0" * PADDING, np.uint8)  # the end is no row's
    ends.flags.writeable = False  # as that of an index: the loop is compiled once
    chosen = np.array([n % 7 != 0 for n in range(len(rows))])
    found = containing(text, ends, chosen, needle.encode())
    assert found.tolist() == [bool(chosen[n]) and needle.encode() in row for n, row in enumerate(rows)]


def test_queries_find_what_a_loop_finds(store: Store, tmp_path: Path) -> None:
    draw = Random(1)
    rows = [
        made(
            n,
            " ".join(draw.choices(WORDS, k=4)),
            draw.choice(WORDS),
            draw.choice([None, None, "length: 3 words", "exact: copy of " + "a" * 32, "exact: other"]),
            method=draw.choice(["persona", "seed"]),
            scores={"judge": float(draw.randrange(5))} if draw.random() < 0.7 else {},
            tags={"topic": draw.choice("abc"), "only": str(n)},
        )
        for n in range(500)
    ]
    index = indexed(store, tmp_path / "index", rows, 120)
    assert index.num_rows == 500
    assert "only" not in index.offered()["tags"], "500 values are no filter"

    def same(query: Query, wanted: list[int]) -> None:
        assert index.find(query).tolist() == wanted
        assert index.find(query).tolist() == wanted  # from memory

    def where(test: object) -> list[int]:
        return [n for n, row in enumerate(rows) if test(row)]  # type: ignore[operator]

    same(Query(), list(range(500)))
    same(Query(words="ÄRger"), where(lambda row: "ÄRGER" in row.instruction + row.answer))
    same(Query(words="only=77"), where(lambda row: row.tags["only"].startswith("77")))
    same(Query(state="dropped"), where(lambda row: row.dropped))
    same(Query(reason="exact"), where(lambda row: row.dropped and row.dropped.startswith("exact")))
    same(Query(reason="exact: copy of another sample"), where(lambda row: row.dropped and "copy" in row.dropped))
    same(Query(method="seed", tag=("topic", "b")), where(lambda row: (row.method, row.tags["topic"]) == ("seed", "b")))
    same(Query(score="judge", low=2, high=3), where(lambda row: 2 <= row.scores.get("judge", -1) <= 3))
    same(Query(words="数据", state="kept", score="judge"),
         where(lambda row: "数据" in row.instruction + row.answer and not row.dropped and row.scores))  # fmt: skip
    same(Query(decided=(3, 5), state="kept"), where(lambda row: int(row.id, 16) in (3, 5) and not row.dropped))
    for none in (
        Query(method="se"),
        Query(tag=("topic", "z")),
        Query(tag=("none", "a")),
        Query(score="none"),
        Query(reason="exac"),
    ):
        same(none, [])
    for ascending in (True, False):
        key = {n: row.scores.get("judge") for n, row in enumerate(rows)}
        sign = 1 if ascending else -1
        wanted = sorted(key, key=lambda n: (key[n] is None, sign * (key[n] or 0), n))
        same(Query(sort="judge", ascending=ascending), wanted)
    assert index.samples([499, 0, 250]) == [rows[499], rows[0], rows[250]]


def test_counts_of_words_and_ranges_of_scores(store: Store, tmp_path: Path) -> None:
    offered = indexed(store, tmp_path / "index", ROWS).offered()
    assert offered["method"] == [["self_instruct", 3, 1], ["persona", 0, 2], ["evol_instruct", 1, 0]]
    assert offered["reason"] == [["length: … word, must be at least …", 0, 1], ["exact: copy of another sample", 0, 1],
                                 ["length: … words, must be at least …", 0, 1]]  # fmt: skip
    assert offered["tags"]["topic"] == [["地理", 1, 0], ["<b>code</b>", 1, 0], ["geography", 1, 0]]
    judge = offered["scores"]["judge"]
    assert (judge["low"], judge["high"], sum(judge["kept"]), sum(judge["dropped"]), len(judge["kept"])) == (
        2,
        4.5,
        3,
        1,
        BINS,
    )


def test_relatives_are_found_by_id(store: Store, tmp_path: Path) -> None:
    index = indexed(store, tmp_path / "index", ROWS, 2)
    assert index.rows_of([ROWS[4].id, "unknown", ROWS[0].id]) == {ROWS[0].id: 0, ROWS[4].id: 4}
    parent = ROWS[0].parents[0]
    assert index.children_of([parent], 10) == [n for n, row in enumerate(ROWS) if parent in row.parents]
    assert index.children_of([parent], 2) == [0, 2]
    assert index.children_of([ROWS[2].id], 10) == [6]


@pytest.mark.parametrize("words", ["köln", "weather", "I MUST ask", "地理", f"{7:032x}", "must be at least 3"])
def test_calls_thoughts_tags_ids_and_reasons_are_searched(words: str, store: Store, tmp_path: Path) -> None:
    assert len(indexed(store, tmp_path / "index", ROWS).find(Query(words=words)))


def test_too_many_words_become_one_and_too_many_tags_none(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "MOST_WORDS", 2)
    monkeypatch.setattr(building, "MOST_NAMES", 1)
    index = indexed(store, tmp_path / "index", ROWS)
    assert [word for word, *_ in index.offered()["method"]] == ["self_instruct", "persona", OTHER]
    assert index.find(Query(method=OTHER)).tolist() == [6]
    assert list(index.offered()["scores"]) == ["judge"]


def test_empty_datasets_and_too_long_words(store: Store, tmp_path: Path) -> None:
    index = indexed(store, tmp_path / "index", [Sample("a", (Message("user", ""),))])
    assert index.find(Query(words="x" * (MAX_NEEDLE + 1))).tolist() == []
    assert index.find(Query(words="y" * MAX_NEEDLE)).tolist() == []
    put(store, "empty-1", [], {})
    (tmp_path / "none").mkdir()
    build(store, "empty-1", tmp_path / "none", lambda done: None)
    empty = Index(tmp_path / "none")
    for query in (Query(), Query(words="a"), Query(state="kept", sort="judge")):
        assert empty.find(query).tolist() == []
    assert (empty.rows_of(["a"]), empty.children_of(["a"], 5), empty.samples([])) == ({}, [], [])


def wait(indexes: Indexes, name: str) -> Index:
    while not isinstance(found := indexes.get(name), Index):
        pass
    return found


def test_an_index_is_built_once_and_again_when_it_is_damaged(filled: Store, tmp_path: Path) -> None:
    first = wait(Indexes(filled, tmp_path / "cache"), "generate-1")
    [folder] = (tmp_path / "cache").iterdir()
    before = folder.stat().st_ino
    assert folder.stat().st_mode & 0o777 == 0o700, "samples are for their owner alone"
    assert wait(Indexes(filled, tmp_path / "cache"), "generate-1").facts == first.facts
    assert folder.stat().st_ino == before
    (folder / "facts.json").write_text("{")
    (folder / "text.bin").write_bytes(b"")
    again = wait(Indexes(filled, tmp_path / "cache"), "generate-1")
    assert again.facts == first.facts
    assert again.find(Query(words="elbe")).tolist() == [2, 3, 4]


def test_an_altered_dataset_is_refused_in_words_and_leaves_nothing(filled: Store, tmp_path: Path) -> None:
    flip(filled.folder("generate-1") / "shard-00001.arrow")
    indexes = Indexes(filled, tmp_path / "cache")
    with pytest.raises(StoreError, match="does not match its digest"):
        wait(indexes, "generate-1")
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_processes_may_build_the_same_index(filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(store: Store, name: str, folder: Path, progress: Callable[[int], None]) -> None:
        monkeypatch.undo()
        wait(Indexes(filled, tmp_path / "other"), name)
        [theirs] = (tmp_path / "other").iterdir()
        theirs.rename(tmp_path / "cache" / theirs.name)  # the other process was faster
        build(store, name, folder, progress)

    monkeypatch.setattr("gristmill.cluster.ui.indexes.build", slow)
    assert wait(Indexes(filled, tmp_path / "cache"), "generate-1").num_rows == len(ROWS)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_old_indexes_are_deleted(filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    indexes = Indexes(filled, tmp_path / "cache")
    wait(indexes, "generate-1")
    (tmp_path / "cache/.killed.1.tmp").mkdir()
    (tmp_path / "cache/.running.2.tmp").mkdir()
    os.utime(tmp_path / "cache/.killed.1.tmp", (0, time.time() - 100_000))
    indexes.sweep()
    assert [folder.name[:8] for folder in sorted((tmp_path / "cache").iterdir())] == [".running", "generate"]
    monkeypatch.setattr("gristmill.cluster.ui.indexes.UNUSED_S", -1)
    monkeypatch.setattr("gristmill.cluster.ui.indexes.ORPHAN_S", -1)
    indexes.sweep()
    assert list((tmp_path / "cache").iterdir()) == []
