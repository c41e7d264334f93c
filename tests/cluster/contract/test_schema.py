"""The contract at the store's door."""

from typing import Any

import pyarrow as pa
import pytest

from gristmill.cluster.contract.errors import SchemaError
from gristmill.cluster.contract.sample import Message, seed, to_table
from gristmill.cluster.contract.schema import ITEMS, SAMPLES, check, vectors
from gristmill.cluster.store.store import Store

ROW: dict[str, Any] = {
    "id": "a",
    "parents": [],
    "messages": [{"role": "user", "content": "x", "train": True}],
    "tools": None,
    "method": "seed",
    "round": 0,
    "scores": [],
    "tags": [],
    "dropped": None,
    "origin": None,
}
ORIGIN = {"run": "r", "step": "s", "model": "m", "seed": 1, "prompt_tokens": 1, "reply_tokens": 1, "finish": "stop"}


def table(**columns: object) -> pa.Table:
    return pa.Table.from_pylist([{**ROW, **columns}], schema=SAMPLES)


@pytest.mark.parametrize(
    "columns",
    [
        {"id": None},
        {"method": None},
        {"messages": None},
        {"messages": [None]},
        {"messages": [{"role": None, "content": "x", "train": True}]},
        {"messages": [{"role": "user", "content": "x", "train": None}]},
        {"messages": [{"role": "assistant", "train": True, "tool_calls": [{"name": None, "arguments": "{}"}]}]},
        {"parents": ["a", None]},
        {"scores": [("judge", None)]},
        {"tags": [("language", None)]},
        {"origin": {**ORIGIN, "model": None}},
    ],
)
def test_a_null_is_refused_at_any_depth_and_its_column_named(columns: dict[str, object]) -> None:
    with pytest.raises(SchemaError, match=rf"here: column {next(iter(columns))}.* has 1 nulls"):
        check(table(**columns), SAMPLES, "here")


def test_the_nulls_that_mean_something_pass() -> None:
    silent = {"role": "assistant", "content": None, "train": True, "tool_calls": [{"name": "f", "arguments": "{}"}]}
    rows = [ROW, {**ROW, "dropped": "rule: short", "origin": ORIGIN, "messages": [silent]}]
    both = pa.Table.from_pylist(rows, schema=SAMPLES)
    assert check(both, SAMPLES) is both


def test_nulls_are_found_in_any_chunk_and_behind_a_slice() -> None:
    good, bad = table(), table(tags=[("a", None)])
    with pytest.raises(SchemaError, match="tags"):
        check(pa.concat_tables([good, bad]), SAMPLES)
    with pytest.raises(SchemaError, match="tags"):
        check(pa.concat_tables([good, bad]).combine_chunks().slice(1), SAMPLES)


def test_other_columns_and_types_are_named() -> None:
    seeds = to_table([seed([Message("user", "x")])])
    with pytest.raises(SchemaError, match=r"columns are .* must be"):
        check(seeds.drop_columns(["tags"]), SAMPLES)
    with pytest.raises(SchemaError, match="column round is int64, must be int16"):
        check(seeds.set_column(5, "round", pa.array([0], pa.int64())), SAMPLES)


def test_vectors_have_one_length_and_no_null() -> None:
    schema = vectors(2, pa.float16())
    one = {"id": ["a"], "script": ["Latin"], "unknown": [0.0]}
    ok = pa.table({**one, "vector": pa.array([[0.5, 1.0]], schema.field("vector").type)}, schema)
    assert check(ok, schema) is ok
    with pytest.raises(SchemaError, match="vector"):
        check(ok, vectors(2))
    lost = pa.table({**one, "vector": pa.array([None], schema.field("vector").type)}, schema)
    with pytest.raises(SchemaError, match="vector has 1 nulls"):
        check(lost, schema)


def test_a_sound_slice_of_a_table_with_a_null_elsewhere_passes() -> None:
    rows = [
        {
            "id": n * 32,
            "parents": [],
            "messages": [],
            "method": "seed",
            "round": 0,
            "scores": [("a", value)],
            "tags": [],
        }
        for n, value in (("1", None), ("2", 1.0), ("3", 2.0))
    ]
    table = pa.Table.from_pylist(rows, schema=SAMPLES)
    with pytest.raises(SchemaError, match="scores"):
        check(table, SAMPLES)
    assert check(table.slice(1), SAMPLES).num_rows == 2


def test_items_pass_the_door_of_the_store_and_a_column_of_another_type_does_not(store: Store) -> None:
    row = dict.fromkeys(ITEMS.names, "x") | {"value": None}
    table = pa.Table.from_pylist([row, {**row, "value": 0.5}], schema=ITEMS)
    shard = store.commit_shard("evaluate-1", "shard-00000", table)
    assert store.read_shard("evaluate-1", shard).equals(table)
    wrong = table.set_column(5, "value", pa.array([1, 2], pa.int64()))
    with pytest.raises(SchemaError, match="column value is int64, must be double"):
        store.commit_shard("evaluate-1", "shard-00001", wrong)
