"""A generate job that is killed and run again: the same bytes, and nothing made twice. No Ray here."""

from pathlib import Path

import pytest

from gristmill.cluster.jobs.job import Run
from gristmill.cluster.store.store import Store
from tests.generation.ground import WORK, Loop, a_run, contents, ground, job, with_seeds
from tests.invariants import check_dataset


class Interrupt(BaseException):
    """Stands for the kill of the driver."""


class FragileStore(Store):
    """A store whose process is killed before write number `writes`, counted over all files."""

    def __init__(self, uri: str, writes: int) -> None:
        super().__init__(uri)
        self.writes = writes

    def write_bytes(self, data: bytes, *names: str) -> None:
        self.writes -= 1
        if self.writes < 0:
            raise Interrupt
        super().write_bytes(data, *names)

    def delete(self, *names: str) -> None:
        self.writes -= 1
        if self.writes < 0:
            raise Interrupt
        super().delete(*names)


def test_killed_at_any_write_and_run_again_the_dataset_is_byte_equal(tmp_path: Path) -> None:
    whole = with_seeds(Store(str(tmp_path / "whole")))
    ground(whole)
    kills = 0
    while True:
        uri = str(tmp_path / f"killed-{kills}")
        store = with_seeds(Store(uri))
        try:
            ground(FragileStore(uri, kills))
        except Interrupt:
            kills += 1
        else:
            break
        if not store.complete(WORK.output):
            ground(store)
            assert contents(store) == contents(whole)
            check_dataset(store, WORK.output, "seeds")
    assert kills > 12


def test_killed_at_every_second_write_it_still_ends_equal(tmp_path: Path) -> None:
    whole = with_seeds(Store(str(tmp_path / "whole")))
    ground(whole)
    uri = str(tmp_path / "killed")
    store = with_seeds(Store(uri))
    attempts = 0
    while not store.complete(WORK.output):
        attempts += 1
        try:
            ground(FragileStore(uri, 2 + attempts % 3))
        except Interrupt:
            assert attempts < 200, "it never ends"
    assert attempts >= 5
    names = [name for name in contents(store) if name.endswith(".arrow")]
    assert {n: contents(store)[n] for n in names} == {n: contents(whole)[n] for n in names}


def test_committed_shards_are_not_made_again(store: Store) -> None:
    generate, run = job(), a_run(with_seeds(store))
    first = Loop(killed_after(run, 1), generate)
    with pytest.raises(Interrupt):
        generate.drive(run, WORK, first)
    committed = {name.replace("shard", "raw") for name in store.committed(WORK.output)}
    again = Loop(run, generate)
    generate.drive(run, WORK, again)
    assert committed
    assert not committed & set(again.made)


def killed_after(run: Run, shards: int) -> Run:
    assert run.store.local is not None
    return Run(run.id, FragileStore(str(run.store.local), 2 * shards), run.ledger, run.screen, run.logs)
