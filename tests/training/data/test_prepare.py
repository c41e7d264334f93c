"""The split is stable, the packing is made once, and bins come back as they were written."""

from dataclasses import replace

import numpy as np
import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message, seed, to_table
from gristmill.cluster.store.store import Shard, Store
from gristmill.training.data import prepare as data
from gristmill.training.job import Train
from tests.training.conftest import chats, dataset


def test_a_row_keeps_its_lot_when_the_dataset_grows() -> None:
    names = [s.id for s in chats(400)]
    few, many = data.held_out(names[:200], 0.1), data.held_out(names, 0.1)
    assert few.tolist() == many[:200].tolist()
    assert 0.05 < many.mean() < 0.16


def test_at_least_one_row_is_held_out_and_one_is_not() -> None:
    names = [s.id for s in chats(5)]
    assert data.held_out(names, 1e-9).sum() == 1
    assert data.held_out(names, 0.999999999).sum() == 4


def test_order_does_not_change_who_is_held_out() -> None:
    names = [s.id for s in chats(50)]
    held = dict(zip(names, data.held_out(names, 0.2), strict=True))
    again = dict(zip(names[::-1], data.held_out(names[::-1], 0.2), strict=True))
    assert held == again


def test_only_kept_rows_with_an_assistant_turn_are_used() -> None:
    rows = [*chats(3), chats(4)[3].drop("length: short"), seed([Message("user", "alone")])]
    table, drops = data.usable(to_table(rows))
    assert table.num_rows == 3
    assert drops == {"no assistant turn": 1}


def test_what_must_not_be_learnt_is_counted_by_its_reason() -> None:
    row = chats(1)[0]
    silent = tuple(turn._replace(train=False) for turn in row.messages)
    rows = [
        row,
        replace(row, scores={"preference": 1.0, "weight": 1.0}),
        replace(row, scores={"preference": 0.0}),
        replace(row, scores={"weight": 0.0}),
        replace(row, scores={"weight": 0.5}),
        replace(row, messages=silent),
    ]
    table, drops = data.usable(to_table(rows))
    assert table.num_rows == 2
    assert drops == {
        "rejected candidate": 1,
        "weight 0": 1,
        "weight other than 1": 1,
        "no assistant turn to train on": 1,
    }


def test_packing_counts_every_kept_row_and_is_made_once(store: Store, samples: str, tiny: str) -> None:
    job = Train(model=tiny, max_length=110)
    made = data.prepare(store, "train-x", samples, tiny, job)
    assert made.samples + made.holdout + sum(made.drops.values()) == 60
    assert made.drops["too long"] > 0
    before = {n: store.read_bytes("train-x", n) for n in store.names("train-x")}
    assert data.prepare(store, "train-x", samples, tiny, job) == made
    store.delete("train-x", data.PREPARED)
    assert data.prepare(store, "train-x", samples, tiny, job) == made
    assert {n: store.read_bytes("train-x", n) for n in store.names("train-x")} == before


def test_bins_come_back_whole_from_several_tables(store: Store, samples: str, tiny: str) -> None:
    data.prepare(store, "train-x", samples, tiny, Train(model=tiny, max_length=256))
    bins = data.Bins.open(store, "train-x", data.PACKED)
    made = store.read_json("train-x", data.PREPARED)
    table = store.read_shard("train-x", Shard(**made["shards"][data.PACKED][0]))
    assert made["trained_tokens"] == bins.trained.sum()
    split = data.Bins([table.slice(0, 2).combine_chunks(), table.slice(2).combine_chunks()])
    assert len(split) == len(bins) == table.num_rows > 3
    for place in range(len(bins)):
        assert split.column("input_ids", place).tolist() == table["input_ids"][place].as_py()
    batch = split.batch(np.array([3, 0]))
    assert batch["input_ids"].shape[0] == 2
    assert split.tokens(np.array([3, 0])) == int((batch["position_ids"] >= 0).sum()) - int(
        2 * batch["input_ids"].shape[1] - len(table["labels"][3]) - len(table["labels"][0])
    )
    assert (batch["labels"] != -100).sum() == split.trained[[3, 0]].sum()


def test_a_dataset_of_one_row_is_refused(store: Store, tiny: str) -> None:
    name = dataset(store, chats(1))
    with pytest.raises(JobError, match="holds 1 kept rows that can"):
        data.prepare(store, "train-x", name, tiny, Train(model=tiny))


def test_the_sweep_leaves_the_held_out_rows(store: Store, samples: str, tiny: str) -> None:
    data.prepare(store, "train-x", samples, tiny, Train(model=tiny))
    data.sweep(store, "train-x")
    assert store.names("train-x") == ["holdout.arrow", "holdout.json"]
