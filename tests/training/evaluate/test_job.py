"""Which samples are scored."""

import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.store.store import Manifest, Store
from gristmill.training.data import prepare as data
from gristmill.training.evaluate.held_out import NEAR, rows_of
from gristmill.training.job import Train
from tests.training.conftest import dataset
from tests.training.data.test_prepare import long_row, reworded


@pytest.fixture
def trained(store: Store, tiny: str) -> str:
    """A finished training of twenty rows, as far as its samples go; a copy of row 3 is a test sample."""
    inputs = {
        "samples": dataset(store, [long_row(n) for n in range(20)]),
        "test": dataset(store, [reworded(long_row(3))], "ingest-000000000001"),
    }
    data.prepare(store, "train-x", inputs, tiny, Train(model=tiny, validation=0.2))
    shard = store.shard("train-x", data.HOLDOUT)
    store.commit(Manifest("train-x", "model", "train", "f", inputs, {}, (shard,)))
    return "train-x"


def test_without_an_input_the_rows_held_out_are_scored(store: Store, trained: str) -> None:
    table, drops = rows_of(store, {"model": trained})
    [shard] = store.manifest(trained).shards
    assert table.equals(store.read_shard(trained, shard))
    assert table.num_rows == shard.rows > 0
    assert drops == {}


def test_samples_near_rows_trained_on_are_not_scored(store: Store, trained: str) -> None:
    used = data.trained_on(store, trained)["id"].to_pylist()
    left = {name for names in store.read_json(trained, data.LEFT_OUT).values() for name in names}
    held = data.held_out(store, trained)["id"].to_pylist()
    assert sorted([*used, *held, *left]) == sorted(long_row(n).id for n in range(20))
    assert long_row(3).id in left or long_row(3).id in held
    copied = next(n for n in range(20) if long_row(n).id in used)
    rows = [reworded(long_row(copied)), reworded(long_row(3)), long_row(50)]
    table, drops = rows_of(store, {"model": trained, "samples": dataset(store, rows, "ingest-000000000002")})
    assert table["id"].to_pylist() == [row.id for row in rows[1:]]
    assert drops == {NEAR: 1}
    with pytest.raises(JobError, match=f"none of 1 samples can be scored .*{NEAR}.* train.test"):
        rows_of(store, {"model": trained, "samples": dataset(store, rows[:1], "ingest-000000000003")})
