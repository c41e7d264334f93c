"""Verdicts as columns, and the tables that they make."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa

from gristmill.cluster.contract.sample import Message, Sample, from_table, to_table
from gristmill.cluster.contract.schema import SAMPLES
from gristmill.cluster.store.store import Store
from gristmill.selection.contracts import Choice, View
from gristmill.selection.data.parts import parts_of
from gristmill.selection.data.samples import open_samples
from gristmill.selection.outcome.decisions import NO_TEXT, Decisions, merge_maps
from tests.selection.made import made, put, view_of


def test_new_entries_stand_among_the_old_ones_by_name_and_take_their_place() -> None:
    kind = SAMPLES.field("scores").type
    old = [[("b", 1.0), ("d", 2.0)], [], [("a", 3.0)], [("d", 4.0)]]
    column = pa.chunked_array([pa.array(old[:2], kind), pa.array(old, kind).slice(2)])
    new = {
        "c": pa.array([9.0, None, 8.0, None]),
        "d": pa.array([None, 7.0, None, 6.0]),
        "e": pa.array([None] * 4, pa.float32()),
    }
    told = merge_maps(column, new)
    assert told.type == kind
    assert told.to_pylist() == [[("b", 1), ("c", 9), ("d", 2)], [("d", 7)], [("a", 3), ("c", 8)], [("d", 6)]]


def test_nothing_new_changes_nothing() -> None:
    kind = SAMPLES.field("tags").type
    column = pa.chunked_array([pa.array([[("b", "1")], []], kind)])
    assert merge_maps(column, {}).to_pylist() == column.to_pylist()
    assert merge_maps(pa.chunked_array([], kind), {}).to_pylist() == []


def test_what_is_written_is_what_was_decided(store: Store) -> None:
    samples = [made(f"question {n}", judge=n) for n in range(7)]
    silent = Sample("e" * 32, (Message("system", "You are terse."),))
    before = made("gone already", dropped="length: 1 word")
    put(store, "generate-x", [*samples[:3], silent, *samples[3:], before], 3)
    pool, quiet = open_samples(parts_of(store, "generate-x"), "generate-x")
    view = View(pool, np.arange(7))
    assert quiet == 1
    decisions = Decisions(pool)
    first, second, third = (int(np.searchsorted(pool.ids, samples[n].id.encode())) for n in (0, 1, 2))
    reason, lost_to, score = np.full(7, -1), np.zeros(7, "S32"), np.full(7, np.nan, np.float32)
    reason[first], lost_to[first], score[first] = 0, pool.ids[second], 0.25
    turns = (("user", "question"), ("assistant", "fine"))
    decisions.enter(view, Choice(reason, ("exact: copy",), lost_to, {"distance": score}, cut={third: turns}))
    decisions.tag("topic", [None if n % 2 else "rivers" for n in range(7)])
    shards = decisions.write(store, "select-x", 4)
    rows = [s for shard in shards for s in from_table(store.read_shard("select-x", shard))]
    assert [s.id for s in rows] == [*(s.id for s in samples[:3]), silent.id, *(s.id for s in samples[3:])]
    assert [shard.rows for shard in shards] == [4, 4]
    by_id = {s.id: s for s in rows}
    lost = by_id[samples[0].id]
    assert (lost.dropped, lost.tags["lost_to"], lost.scores) == (
        "exact: copy",
        samples[1].id,
        {"judge": 0, "distance": 0.25},
    )
    assert by_id[silent.id].dropped == NO_TEXT
    assert by_id[samples[2].id].messages == tuple(Message(*turn) for turn in turns)
    assert [s.id for s in rows if s.tags.get("topic") == "rivers"] == [
        s.id for s in rows if s.id.encode() in pool.ids[::2]
    ]
    untouched = next(s for s in samples[3:] if s.id.encode() in pool.ids[1::2])
    assert to_table([by_id[untouched.id]]) == to_table([untouched])


def test_what_is_kept_of_shortened_texts_has_a_name_of_its_own() -> None:
    names: list[str] = []

    def memo(name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        names.append(name)
        return make()

    view = view_of([made(f"question {n}") for n in range(4)])
    for rows, cut in (
        (range(4), {}),
        (range(4), {2: (("user", "left"),)}),
        (range(4), {2: (("user", "less"),)}),
        (range(2), {}),
        (range(2), {2: (("user", "left"),)}),
    ):
        pool = replace(view.samples, memo=memo, cut=cut)
        View(pool, np.array(rows)).memo("keys", lambda: np.zeros(1))
    assert names[0] == "keys"
    assert len(set(names[:4])) == 4
    assert names[4] == names[3], "a text outside of the view is shortened"
