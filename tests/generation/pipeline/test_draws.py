"""Draws and rows: parents, shards, rounds, several drafts of one draw, seeds of requests. No Ray here."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.encoder import Embedding
from gristmill.cluster.models.engine import Engine, Reply
from gristmill.cluster.store.store import Store
from gristmill.generation.contracts import MAIN, Draft, EachInput, Method, Snapshot
from gristmill.generation.methods.self_instruct.method import SelfInstruct
from gristmill.generation.pipeline.plan import Pipeline, RawShard, ShardSequence, draws
from gristmill.generation.pipeline.rows import BoundAsk, Context, Usage
from gristmill.generation.pipeline.streams import stream
from tests.fakes import ScriptedEngine
from tests.generation.ground import WORK, ground, job, with_seeds
from tests.invariants import check_dataset, samples_of

POOL = tuple(Sample(id=f"s{n}", messages=(Message("user", f"Write line number {n}"),)) for n in range(40))


def test_draws_share_parents_in_groups() -> None:
    pipeline = Pipeline("r", {MAIN: Engine()}, (SelfInstruct(group=4),), (), Embedding(), 0)
    made = list(draws(pipeline, RawShard(0, 0, 0, 100, 400), Snapshot(0, POOL)))
    assert [draw.ordinal for draw in made] == list(range(100, 500))
    assert all(draw.parents == made[4 * (n // 4)].parents for n, draw in enumerate(made))
    assert len({tuple(p.id for p in draw.parents) for draw in made}) > 90
    assert made == list(draws(pipeline, RawShard(0, 0, 0, 100, 400), Snapshot(0, POOL)))
    assert made[50:60] == list(draws(pipeline, RawShard(9, 0, 0, 150, 10), Snapshot(0, POOL)))


def test_a_stream_is_that_of_its_parts_from_whatever_it_is_asked_first() -> None:
    late, soon = stream(7, "parents", 0, 3), ids.stream(7, "parents", 0, 3)
    assert late.sample(range(100), 5) == soon.sample(range(100), 5)
    assert (late.random(), late.choice("abc"), late.getrandbits(64)) == (
        soon.random(),
        soon.choice("abc"),
        soon.getrandbits(64),
    )
    assert stream(7, "parents", 0, 4).random() != stream(7, "parents", 0, 3).random()


def test_shards_follow_the_weights_at_every_length() -> None:
    shards = list(islice(ShardSequence([3.0, 1.0], size=10, round_shards=4), 400))
    for length in range(1, 400):
        taken = [shard.draws for shard in shards[:length] if shard.method == 0]
        assert abs(sum(taken) - 7.5 * length) <= 10
    for method in (0, 1):
        own = [shard for shard in shards if shard.method == method]
        assert [shard.first for shard in own] == [10 * n for n in range(len(own))]
    assert [shard.place for shard in shards] == list(range(400))


def test_a_round_sees_what_was_settled_until_the_one_before_the_last() -> None:
    schedule = ShardSequence([1.0], size=10, round_shards=4)
    assert [schedule.settled_before(round_) for round_ in range(5)] == [0, 0, 4, 8, 12]


def test_each_input_is_drawn_once_when_all_are_asked_for() -> None:
    shards = list(ShardSequence([1.0, 1.0], size=8, round_shards=2, limits=[20, 5]))
    drawn = {m: [o for s in shards if s.method == m for o in range(s.first, s.first + s.draws)] for m in (0, 1)}
    assert drawn == {0: list(range(20)), 1: list(range(5))}


class Echo(EachInput):
    """Says each input again; fails on one of them."""

    kind: str = "echo"

    async def expand(self, parents: Sequence[Sample], ask: Any, rng: Any) -> list[Draft]:
        text = parents[0].instruction
        if "sea" in text:
            raise ValueError(text)
        return [Draft((Message("user", f"Again: {text}"), Message("assistant", "Yes.")))]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_all_inputs_once_and_a_step_that_raises_is_a_dropped_row(store: Store) -> None:
    generate = job(target="all", filters=[]).model_copy(update={"methods": (Echo(),)})
    figures = ground(with_seeds(store), generate)
    rows = check_dataset(store, WORK.output, "seeds")
    assert sorted(row.parents[0] for row in rows) == sorted(row.id for row in samples_of(store, "seeds")[:-1])
    assert [row.dropped for row in rows if row.dropped] == ["echo: failed: ValueError"]
    assert (figures.rows, figures.kept) == (9, 8)


class Twins(Method):
    """Makes three drafts and keeps the one with the longest answer."""

    kind: str = "twins"

    async def expand(self, parents: Sequence[Sample], ask: Any, rng: Any) -> list[Draft]:
        return [Draft((Message("user", f"{parents[0].instruction}? {rng.random()}"),)) for _ in range(3)]

    def choose(self, rows: Sequence[Sample]) -> Sequence[Sample]:
        best = max(rows, key=lambda row: len(row.answer))
        return [row if row is best else row.drop("twins: not the best") for row in rows]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_a_method_chooses_among_the_rows_of_a_draw(store: Store) -> None:
    generate = job(target=5, filters=[]).model_copy(update={"methods": (Twins(),)})
    ground(with_seeds(store), generate)
    rows = check_dataset(store, WORK.output, "seeds")
    assert len(rows) % 3 == 0
    for n in range(0, len(rows), 3):
        chosen = [row for row in rows[n : n + 3] if row.dropped in (None, "target: surplus")]
        assert len(chosen) <= 1
    assert sum(row.dropped == "twins: not the best" for row in rows) >= len(rows) // 2


def ask_of(sample: str) -> BoundAsk:
    pipeline = Pipeline("r", {MAIN: Engine()}, (SelfInstruct(),), (), Embedding(), 0)
    return BoundAsk(Context(pipeline, {MAIN: ScriptedEngine(Engine())}, never), Usage(sample))


async def never(texts: Sequence[str]) -> Any:
    raise AssertionError(texts)


def test_the_seed_of_a_request_follows_from_the_sample_and_the_call() -> None:
    question = [Message("user", "Say something")]

    def said(sample: str, calls: int) -> list[str]:
        ask = ask_of(sample)
        return [asyncio.run(ask(question, max_tokens=9)).text for _ in range(calls)]

    assert said("a", 3) == said("a", 3)
    assert len({*said("a", 2), *said("b", 2)}) == 4


def test_a_shared_request_is_asked_once_and_the_first_pays() -> None:
    first, second = ask_of("a"), ask_of("b")
    second = replace(second, context=first.context)
    question = [Message("user", "Say something")]

    async def both() -> list[Reply]:
        return list(
            await asyncio.gather(*(ask.shared(question, max_tokens=9, temperature=1.0) for ask in (first, second)))
        )

    replies = asyncio.run(both())
    assert replies[0] == replies[1]
    assert first.usage.tally.reply_tokens > 0 == second.usage.tally.reply_tokens
    engine = first.context.engines[MAIN]
    assert isinstance(engine, ScriptedEngine) and engine.asked == 1
