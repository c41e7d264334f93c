"""Datasets of short chats, and a folder that the tests of a module share."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from gristmill.cluster.contract.sample import Message, Sample, seed, to_table
from gristmill.cluster.store.store import Manifest, Store


def chats(count: int) -> list[Sample]:
    """Short conversations in English and Chinese, of several lengths, every fifth of two turns."""
    rows = []
    for n in range(count):
        ask, say = (
            (f"请把 {n} 加一", f"得到 {n + 1}。")
            if n % 3 == 0
            else (f"What follows {n}?", f"It is {n + 1}. " * (1 + n % 4))
        )
        turns = [Message("user", ask), Message("assistant", say.strip())]
        if n % 5 == 0:
            turns += [Message("user", "And then?"), Message("assistant", f"{n + 2}")]
        rows.append(seed(turns))
    return rows


def dataset(store: Store, rows: Sequence[Sample], name: str = "select-000000000000") -> str:
    """Commit the rows as a dataset and return its name."""
    shard = store.commit_shard(name, "shard-00000", to_table(rows))
    store.commit(Manifest(name, "samples", "select", "0" * 32, {}, {}, (shard,)))
    return name


@pytest.fixture
def samples(store: Store) -> str:
    """Name of a dataset of sixty kept chats and one dropped one in the test's store."""
    rows = chats(61)
    return dataset(store, [*rows[:60], rows[60].drop("length: too short")])


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what the tests of a module share."""
    return tmp_path_factory.mktemp("shelf")
