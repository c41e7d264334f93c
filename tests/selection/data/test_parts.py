"""Parts of a dataset: the same work in this process and in tasks of Ray, whatever the parts and the tasks."""

import random
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.store.store import Store
from gristmill.selection.contracts import View
from gristmill.selection.data.parts import Parts, Tasks, parts_of
from gristmill.selection.data.samples import open_samples
from gristmill.selection.job import Select
from gristmill.selection.selectors.balance import Balance
from gristmill.selection.selectors.exact import Exact
from gristmill.selection.selectors.longest import Longest
from gristmill.selection.selectors.minhash import MinHash
from gristmill.selection.selectors.quality import Quality
from tests.selection.made import made, put, run_of, work_for
from tests.selection.test_job import bytes_of, refuses, select

WORDS = ["river", "bread", "moon", "tax", "glass", "horse", "winter", "seven", "market", "河流", "面包", "月亮", "税收"]


def rows(num: int) -> list[Sample]:
    """Return strangers, and equal and nearly equal copies of a third of them."""
    rng, found = random.Random(0), list[Sample]()
    for n in range(num):
        text = " ".join(rng.choices(WORDS, k=14)) + f" {rng.randrange(10**6)}"
        if n % 3 == 0 and n:
            text = rng.choice(found).instruction
            text = text.upper() if n % 2 else f"please {text}"
        found.append(made(text, f"answer {' '.join(rng.choices(WORDS, k=20))} {n}", judge=n % 5))
    return found


def squares(values: np.ndarray, factor: int) -> np.ndarray:
    found: np.ndarray = values * values * factor
    return found


def halves(values: np.ndarray, factor: int) -> list[np.ndarray]:
    return [values[values % 2 == 0] * factor, values[values % 2 == 1] * factor]


def total(pieces: list[np.ndarray], further: int) -> int:
    return int(sum(piece.sum() for piece in pieces)) + further


def raises(values: np.ndarray) -> None:
    raise JobError(f"made: {len(values)} values, must be none")


VALUES = [np.arange(5), np.arange(5, 7), np.arange(0), np.arange(7, 20)]


def results(parts: Parts) -> list[object]:
    """Return what each kind of work gives, as plain values."""
    factors = [(n,) for n in range(len(VALUES))]
    mapped = [found.tolist() for found in parts.map(squares, factors)]
    held = [found.tolist() for found in parts.hold(squares, factors).map(partial(squares, factor=1))]
    swapped = parts.exchange(halves, 2, factors)
    return [mapped, held, list(swapped.map(total, [(1,), (2,)])), list(swapped.hold(total, [(1,), (2,)]).map(str))]


def test_work_in_this_process_gives_what_the_functions_say() -> None:
    mapped, held, totals, held_totals = results(Parts.of(VALUES))
    assert mapped == [(values**2 * n).tolist() for n, values in enumerate(VALUES)]
    assert held == [(values**4 * n * n).tolist() for n, values in enumerate(VALUES)]
    even = sum(int(values[values % 2 == 0].sum()) * n for n, values in enumerate(VALUES))
    odd = sum(int(values[values % 2 == 1].sum()) * n for n, values in enumerate(VALUES))
    assert totals == [even + 1, odd + 2] and held_totals == [str(even + 1), str(odd + 2)]


@pytest.mark.ray
def test_tasks_give_the_same_and_pass_on_what_is_raised(ray_session: None) -> None:
    here = results(Parts.of(VALUES))
    for num in (1, 2, 3):
        assert results(Parts.of(VALUES, Tasks(num))) == here
    with pytest.raises(JobError, match="5 values"):
        list(Parts.of(VALUES, Tasks(2)).map(raises))


@pytest.mark.ray
@pytest.mark.long
def test_a_task_whose_process_dies_again_and_again_is_one_line(ray_session: None) -> None:
    with pytest.raises(RunError, match="a task that reads samples") as raised:
        list(Parts.of([9], Tasks(1)).map(dies))
    assert "\n" not in str(raised.value)


def dies(code: int) -> None:
    import os

    os._exit(code)


def test_shards_are_joined_to_parts_and_large_ones_stay_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = put(store, "generate-x", rows(60), shard_rows=10)
    whole = pa.concat_tables(store.scan(samples))
    monkeypatch.setattr("gristmill.selection.data.parts.PART_ROWS", 25)
    parts = parts_of(store, samples)
    tables = [value.pieces[0](["id"]) for value in parts.values]
    assert [len(table) for table in tables] == [20, 20, 20]
    assert pa.concat_tables(tables)["id"] == whole["id"]
    monkeypatch.setattr("gristmill.selection.data.parts.PART_BYTES", 1)
    assert len(parts_of(store, samples)) == 6


@pytest.mark.ray
def test_the_same_samples_make_the_same_output_in_one_process_and_by_tasks(
    ray_session: None, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = rows(600)
    steps = (Exact(), MinHash(), Quality(budget=0.95), Longest(budget=0.9), Balance(by="method", budget=300))
    found: list[dict[str, bytes]] = []
    cuts = ((600, None, 0, 20), (90, 40, 1, 4), (37, 100, 2, 3), (90, 200, 3, 8))
    for num, (shard_rows, part_rows, tasks, split) in enumerate(cuts):
        if part_rows:
            monkeypatch.setattr("gristmill.selection.data.parts.PART_ROWS", part_rows)
        monkeypatch.setattr("gristmill.selection.duplicates.bands.SPLIT_ROWS", 1 << split)
        monkeypatch.setattr("gristmill.selection.duplicates.bands.GROUP", 50 * (num + 1))
        monkeypatch.setattr("gristmill.selection.duplicates.copies.TEXTS", 30 * (num + 1))
        monkeypatch.setattr("gristmill.selection.job.AHEAD", tasks)
        other = Store(str(tmp_path / f"store-{num}"))
        settings = Select(steps=steps, shard_rows=64, distributed=bool(tasks))
        work = work_for(settings, put(other, "generate-x", everything, shard_rows=shard_rows))
        figures = select(settings, run_of(other, tmp_path), work, refuses)
        assert (figures.parts > 1) == bool(tasks)
        assert figures.steps[0].kept < 560 and figures.steps[1].kept < figures.steps[0].kept - 20
        made_ = bytes_of(other, work.output)
        del made_["manifest.json"]  # it has the setting
        found.append(made_)
    assert len(found[0]) == 10
    assert all(one == found[0] for one in found[1:])


def test_a_view_finds_its_rows_by_id_and_its_ids_by_row(store: Store) -> None:
    samples = put(store, "generate-x", [made(f"question {n}") for n in range(6)])
    pool, _ = open_samples(parts_of(store, samples), samples)
    view = View(pool, np.array([1, 3, 4]))
    assert view.ids_of(np.array([2, -1, 0])).tolist() == [pool.ids[4], b"", pool.ids[1]]
    assert view.find(pool.ids[[4, 0, 1]]).tolist() == [0, 2]
    assert view.find(np.array([b"absent"], "S32")).tolist() == []
    assert View(pool, np.empty(0, np.int64)).find(pool.ids).tolist() == []
