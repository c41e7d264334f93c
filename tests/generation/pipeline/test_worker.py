"""What a worker keeps: samples in Arrow, snapshots of rounds, what steps prepare, one encoder for all rows."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gristmill.cluster.contract.sample import Message, Sample, seed, to_table
from gristmill.cluster.models.encoder import Embedding
from gristmill.cluster.models.engine import Engine, Reply, Request, Score
from gristmill.cluster.store.store import Manifest, Shard, Store
from gristmill.generation.contracts import MAIN, Draft, Method, Snapshot
from gristmill.generation.pipeline.plan import Pipeline, RawShard
from gristmill.generation.pipeline.snapshots import PARSED_AT_ONCE, Snapshots, StoredSamples
from gristmill.generation.pipeline.worker import Embedder, Place, RowMaker
from tests.fakes import HashingEncoder, ScriptedEngine, open_hashing_encoder


def rows(first: int, number: int, dropped: int = 0) -> list[Sample]:
    made = [seed([Message("user", f"Question {n}")]) for n in range(first, first + number)]
    return [row.drop("test: no") if place < dropped else row for place, row in enumerate(made)]


def test_stored_samples_are_a_sequence_over_all_tables() -> None:
    given = rows(0, 3 * PARSED_AT_ONCE + 5)
    cuts: tuple[list[Sample], ...] = (given[:1], [], given[1 : PARSED_AT_ONCE + 2], given[PARSED_AT_ONCE + 2 :])
    stored = StoredSamples([to_table(cut) for cut in cuts])
    assert len(stored) == len(given)
    assert list(stored) == given
    assert [stored[n] for n in range(len(given))] == given
    assert stored[-1] == given[-1]
    assert stored[2:5] == given[2:5]
    with pytest.raises(IndexError, match="there are 197 samples"):
        stored[len(given)]
    assert len(StoredSamples()) == 0


def with_seeds(store: Store) -> Store:
    shard = store.commit_shard("seeds", "shard-00000", to_table(rows(0, 6, dropped=2)))
    store.commit(Manifest("seeds", "samples", "ingest", "f", {}, {}, (shard,)))
    return store


def settled(store: Store, number: int) -> list[Shard]:
    return [
        store.commit_shard("out", f"shard-{n:05d}", to_table(rows(100 * (n + 1), 4, dropped=n))) for n in range(number)
    ]


def test_a_snapshot_holds_the_inputs_and_exactly_the_settled_shards(store: Store) -> None:
    shards = settled(with_seeds(store), 3)
    snapshots = Snapshots(store, "out", "seeds", None)
    late, early = snapshots.at(3, shards), snapshots.at(2, shards[:1])
    assert (len(late.seeds), len(late.documents)) == (4, 0)
    assert (len(late.made), len(late.refused)) == (4 + 3 + 2, 3)
    assert (len(early.made), len(early.refused)) == (4, 0)
    assert list(late.made)[:4] == list(early.made)
    assert snapshots.at(3, shards) is late


class Studious(Method):
    """Counts how often it prepares, and shows what it was given."""

    kind: str = "studious"

    async def prepare(self, snapshot: Snapshot, before: Any, ask: Any) -> Any:
        await asyncio.sleep(0.01)
        return (*(before or ()), (snapshot.round, len(snapshot.made)))

    async def expand(self, parents: Sequence[Sample], ask: Any, rng: Random) -> list[Draft]:
        return [Draft((Message("user", str(ask.prepared)), Message("assistant", str(ask.turn))))]


def test_a_step_prepares_once_a_round_from_what_it_had_before(store: Store, tmp_path: Path) -> None:
    shards = settled(with_seeds(store), 2)
    pipeline = Pipeline("r", {MAIN: Engine()}, (Studious(),), (), Embedding(), 0)
    place = Place(store, "out", "seeds", None, None)
    maker = RowMaker(pipeline, place, {MAIN: ScriptedEngine(Engine())}, open_hashing_encoder)

    async def make() -> None:
        first, second = RawShard(0, 0, 0, 0, 3), RawShard(1, 0, 0, 3, 3)
        await asyncio.gather(maker.make(first, ()), maker.make(second, ()))
        await maker.make(RawShard(2, 1, 0, 6, 2), shards)

    asyncio.run(make())
    found = store.committed("out", prefix="raw-")
    said = {n: store.read_shard("out", entry)["messages"].to_pylist() for n, entry in found.items()}
    told = {n: [turns[0]["content"] for turns in rows_] for n, rows_ in said.items()}
    assert set(told["raw-00000"]) == set(told["raw-00001"]) == {"((0, 0),)"}
    assert set(told["raw-00002"]) == {"((0, 0), (1, 7))"}
    assert [turns[1]["content"] for turns in said["raw-00002"]] == ["6", "7"]


class Chatty(Method):
    """Asks three times for each row."""

    kind: str = "chatty"

    async def expand(self, parents: Sequence[Sample], ask: Any, rng: Random) -> list[Draft]:
        first = await ask([Message("user", "Begin")], max_tokens=9)
        second = await ask([Message("user", first.text)], max_tokens=9)
        await ask.score([Message("user", first.text)], second.text)
        return [Draft((Message("user", first.text), Message("assistant", second.text)))]


def test_requests_that_carry_a_row_on_go_before_those_that_begin_one(store: Store) -> None:
    class Recording(ScriptedEngine):
        async def ask(self, request: Request) -> Reply:
            onward.append((request.onward, isinstance(request, Score), request.messages[0].text == "Begin"))
            return await super().ask(request)

    onward: list[tuple[bool, bool, bool]] = []
    pipeline = Pipeline("r", {MAIN: Engine()}, (Chatty(),), (), Embedding(), 0)
    place = Place(with_seeds(store), "out", "seeds", None, None)
    maker = RowMaker(pipeline, place, {MAIN: Recording(Engine())}, open_hashing_encoder)
    asyncio.run(maker.make(RawShard(0, 0, 0, 0, 4), ()))
    assert sorted(onward) == 4 * [(False, False, True)] + 4 * [(True, False, False)] + 4 * [(True, True, False)]


class Counting(HashingEncoder):
    """Counts its calls."""

    calls = 0

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls += 1
        if "bad" in texts:
            raise ValueError("cannot read that")
        return super().encode(texts)


def test_texts_that_come_together_are_encoded_together() -> None:
    encoder = Counting()
    embedder = Embedder(Embedding(), lambda settings: encoder)

    async def ask() -> list[NDArray[np.float32]]:
        return list(await asyncio.gather(*(embedder.embed([f"text {n}", "other"]) for n in range(20))))

    found = asyncio.run(ask())
    assert encoder.calls == 1
    for n, vectors in enumerate(found):
        assert np.array_equal(vectors, HashingEncoder().encode([f"text {n}", "other"]))


def test_an_error_of_the_encoder_reaches_who_asked_and_the_next_one_is_served() -> None:
    embedder = Embedder(Embedding(), lambda settings: Counting())

    async def ask() -> Any:
        with pytest.raises(ValueError, match="cannot read that"):
            await embedder.embed(["bad"])
        return await embedder.embed(["good"])

    assert asyncio.run(ask()).shape == (1, 64)
