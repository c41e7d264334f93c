"""Every recipe of `examples/`, small, on one real vLLM engine and the real encoder.

It stands here and not in `flow/`, because a test there submits a job to a cluster of its own, and a second cluster on
the machine, as the one that these share, takes the port of its job agent.
"""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from gristmill.cluster.io import ingest
from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.jobs.recipe import open_recipe
from gristmill.cluster.models import engine as engines
from gristmill.cluster.models.encoder import Embedding, Encoder, open_embedding
from gristmill.cluster.models.engine import Engine
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.runtime.resources import Need
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Store
from gristmill.generation.engines.actors import RemoteEngine
from gristmill.generation.job import Generate
from gristmill.generation.pipeline.dispatch import Done, Feed, Tick
from gristmill.generation.pipeline.worker import RowMaker
from tests.invariants import check_dataset
from tests.test_examples import RECIPES

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ray_session")]

AT_ONCE = 8
"""Recipes under way at once: one alone leaves the engine's batch nearly empty."""
OWN_FLOW = {"quickstart"}
"""Recipes that a flow test of their own runs whole."""
SMALL = [path for path in RECIPES if path.stem not in OWN_FLOW]


_opening = Lock()


def encoder(settings: Embedding) -> Encoder:
    with _opening:
        return _encoder(settings)


@cache
def _encoder(settings: Embedding) -> Encoder:
    return open_embedding(settings)


@pytest.fixture(scope="module")
def actor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One engine for all recipes; their own settings of it decide speed, not what they are."""
    import ray

    logs = str(tmp_path_factory.mktemp("logs"))
    handle = engines.start(Engine(kv_cache_gib=1, max_num_seqs=64), logs, "examples", Need(1))
    yield handle
    ray.kill(handle)


class Loop:
    """Makes shards in this process, on an engine that is there already."""

    engine_start_s = 0.0

    def __init__(self, run: Run, work: Work, job: Generate, actor: Any) -> None:
        pipeline = job.pipeline(run.id)
        remote = dict.fromkeys(pipeline.engines, RemoteEngine([actor]))
        self.maker = RowMaker(pipeline, job.place(run.store, work, None), remote, encoder)

    def __call__(self, feed: Feed, done: Done, tick: Tick) -> None:
        with asyncio.Runner() as runner:
            while (given := feed()) is not None:
                report = runner.run(self.maker.make(*given))
                tick({})
                if done(given[0], report):
                    return


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, actor: Any) -> Iterator[dict[str, Future[None]]]:
    """Every recipe, several at once: the engine batches what they ask."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {path.stem: pool.submit(run_recipe, path, tmp_path_factory.mktemp(path.stem), actor) for path in SMALL}


@pytest.mark.parametrize("name", [path.stem for path in SMALL])
def test_a_recipe_makes_what_it_says(name: str, runs: dict[str, Future[None]]) -> None:
    runs[name].result()


def run_recipe(path: Path, folder: Path, actor: Any) -> None:
    recipe, works = open_recipe(path, [f"store={folder}"])
    store = Store(recipe.store)
    for job in recipe.jobs.values():
        for source in job.sources().values():
            ingest.ingest(store, source)
    run = Run("run", store, Ledger(store, "run"), Screen(quiet=True), None)
    if "generate" in recipe.jobs:
        generate = recipe.jobs["generate"]
        assert isinstance(generate, Generate)
        generated(generate, run, works["generate"], actor)
    if "review" in recipe.jobs:
        recipe.jobs["review"].make(run, works["review"])
        sources = [name for work in works.values() for name in work.inputs.values() if store.complete(name)]
        assert [row for row in check_dataset(store, works["review"].output, *sources) if row.dropped is None]


def generated(job: Generate, run: Run, work: Work, actor: Any) -> None:
    """Make the dataset of a recipe with a target of two, and check it."""
    if job.target != "all":
        job = job.model_copy(update={"target": 2})
    figures = job.drive(run, work, Loop(run, work, job, actor))
    rows = check_dataset(run.store, work.output, *work.inputs.values())
    kept = [row for row in rows if row.dropped is None]
    assert figures.kept == len(kept) == (job.target if job.target != "all" else len(kept))
    assert kept, figures
    assert not [row.dropped for row in rows if row.dropped and ": failed: " in row.dropped]
    assert {row.method for row in rows} <= {method.kind for method in job.methods}
    if any(step.kind == "instag" for step in job.filters):
        named = [(json.loads(row.tags["intents"]), row.scores["num_intents"]) for row in kept if "intents" in row.tags]
        assert named and all(len(names) == number for names, number in named)
