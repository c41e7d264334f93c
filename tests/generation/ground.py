"""A small generate job on the scripted engine, without Ray: its recipe, its seeds, and the loop that makes it."""

import asyncio
from typing import Any

from gristmill.cluster.contract.sample import Message, seed, to_table
from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Manifest, Store
from gristmill.generation.engines.actors import OpenEngine
from gristmill.generation.figures import GenerateFigures
from gristmill.generation.job import Generate
from gristmill.generation.pipeline.dispatch import Done, Feed, Tick
from gristmill.generation.pipeline.worker import RowMaker
from tests.fakes import ScriptedEngine, open_hashing_encoder

TOPICS = ("age", "air", "bar", "end", "sea", "sun")
ENGLISH = [f"Write {n} lines about the {topic} of a town" for n, topic in enumerate(TOPICS)]
CHINESE = ["写一首关于春天的诗", "介绍一下你的家乡", "把这句话翻译成英文：你好"]
WORK = Work("generate-abc", "abc" * 11, {"samples": "seeds"})


def job(**settings: Any) -> Generate:
    return Generate.model_validate({"target": 12, "shard_size": 8, "filters": FILTERS, **settings})


FILTERS = [{"kind": "length"}, {"kind": "novelty"}, {"kind": "judge", "min_score": 2.5}]


def with_seeds(store: Store) -> Store:
    rows = [seed([Message("user", text), Message("assistant", "Well.")]) for text in ENGLISH + CHINESE]
    rows.append(seed([Message("user", "bad")], dropped="ingest: no answer"))
    shard = store.commit_shard("seeds", "shard-00000", to_table(rows))
    store.commit(Manifest("seeds", "samples", "ingest", "f", {}, {}, (shard,)))
    return store


def a_run(store: Store) -> Run:
    return Run("run-1", store, Ledger(store, "run-1"), Screen(quiet=True), None)


class Loop:
    """Makes what the feed gives one shard after another in this process, the last first if told so."""

    engine_start_s = 0.0

    def __init__(
        self, run: Run, generate: Generate, work: Work = WORK, opens: OpenEngine = ScriptedEngine, *,
        backwards: bool = False,
    ) -> None:  # fmt: skip
        self.run, self.made, self.backwards = run, list[str](), backwards
        pipeline, place = generate.pipeline(run.id), generate.place(run.store, work, None)
        engines = {name: opens(engine) for name, engine in pipeline.engines.items()}
        self.maker = RowMaker(pipeline, place, engines, open_hashing_encoder)

    def __call__(self, feed: Feed, done: Done, tick: Tick) -> None:
        with asyncio.Runner() as runner:
            while given := list(iter(feed, None)):
                for shard, settled in reversed(given) if self.backwards else given:
                    report = runner.run(self.maker.make(shard, settled))
                    self.made.append(str(shard))
                    tick({})
                    if done(shard, report):
                        return


def ground(store: Store, generate: Generate | None = None, *, backwards: bool = False) -> GenerateFigures:
    run, generate = a_run(store), generate or job()
    return generate.drive(run, WORK, Loop(run, generate, backwards=backwards))


def contents(store: Store) -> dict[str, bytes]:
    names = [n for n in store.names(WORK.output) if n != "figures.json"]
    return {name: store.read_bytes(WORK.output, name) for name in names}
