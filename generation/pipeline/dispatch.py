"""Dispatch: worker actors get enough shards to keep each engine full. Actors start when they are first needed."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, Self

from gristmill.cluster.contract.errors import GristmillError
from gristmill.cluster.jobs.job import Run
from gristmill.cluster.models import dtypes
from gristmill.cluster.models.encoder import OpenEncoder, choose_dtype
from gristmill.cluster.models.engine import Abilities, Engine, start
from gristmill.cluster.runtime.calls import Calls, RayCalls
from gristmill.cluster.runtime.deaths import lowerable
from gristmill.cluster.runtime.pool import Pool
from gristmill.cluster.runtime.resources import call
from gristmill.cluster.store.store import Shard
from gristmill.generation.contracts import MAIN
from gristmill.generation.engines.actors import OpenEngine, host
from gristmill.generation.engines.endpoint.engine import find_abilities
from gristmill.generation.engines.placement import Placement
from gristmill.generation.engines.watch import SILENCE_S, Watch
from gristmill.generation.pipeline.plan import ENCODER, Pipeline, RawShard, ShardReport, engine_setting
from gristmill.generation.pipeline.quarantine import Quarantine
from gristmill.generation.pipeline.worker import Place, Worker

AHEAD = 2.0
"""Draws in flight on an engine, as a multiple of its batch. Replies of equal length all end at the same time, so a
complete batch must be waiting then. With 1.25, a job of such replies was 9 % slower than the raw engine."""
LEAST_SHARDS = 3
"""Smallest number of shards in flight on an engine. With two shards of the size of its batch, the engine is idle for 3
to 5 % of the time, when shards end."""

Feed = Callable[[], tuple[RawShard, Sequence[Shard]] | None]
Done = Callable[[RawShard, ShardReport], bool]
Tick = Callable[[dict[str, float]], None]


class Dispatch(Protocol):
    """Anything that makes raw shards and commits them, in any order: `Actors`, or a plain loop in tests."""

    @property
    def engine_start_s(self) -> float:
        """Seconds that the slowest engine took to start."""
        ...

    def __call__(self, feed: Feed, done: Done, tick: Tick) -> None:
        """Return when the feed gives no more shards and all are committed, or when `done` returns True for a shard.

        The feed gives a shard together with the settled shards that it may draw from.
        """
        ...


def probe_once(engine: Engine) -> Abilities:
    """Return what the server of an endpoint can do."""
    return asyncio.run(find_abilities(engine))


class _Piece(NamedTuple):
    """The message to a worker: a shard, and a Ray reference to the settled shards that it draws from."""

    shard: RawShard
    settled: Any

    def __str__(self) -> str:
        return str(self.shard)


class Actors:
    """The worker actors of one job, and the actors of its other engines; `with Actors(…) as actors: actors(…)`."""

    calls: Calls = RayCalls()
    """The calls of the worker actors."""

    def __init__(
        self, run: Run, place: Place, pipeline: Pipeline, open_: tuple[OpenEngine, OpenEncoder], size: int
    ) -> None:
        """Start nothing yet, because all shards may be committed already. `size` is the number of draws of a shard."""
        self._run, self._place, self._pipeline, self._open = run, place, pipeline, open_
        self._engine = pipeline.engines[MAIN]
        batch = self._engine.max_in_flight if self._engine.endpoint else self._engine.max_num_seqs
        self._in_flight = max(LEAST_SHARDS, math.ceil(AHEAD * batch / size))
        self._placement = Placement(pipeline.engines, run.wait_s)
        self._quarantine = Quarantine(pipeline, place)
        self._watch = Watch(run.logs, run.screen.say)
        self._pool: Pool[_Piece, ShardReport] | None = None
        self._others: dict[str, list[Any]] = {}
        self._settled: tuple[int, Any] = (-1, None)
        self._spawned = 0
        self._told = False
        self._done: Done = lambda shard, report: False

    @property
    def engine_start_s(self) -> float:
        """Seconds that the slowest engine took to start."""
        return self._watch.engine_start_s

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End the actors and return their resources."""
        self._end(*exc)
        for handle in (handle for handles in self._others.values() for handle in handles):
            self.calls.end(handle)
        self._placement.remove()

    def __call__(self, feed: Feed, done: Done, tick: Tick) -> None:
        """Make the shards of the feed; call `done` after each is committed, and `tick` with the stats every second.

        Raises:
            JobError: when the cluster has no room for the engines.
            RunError: when an engine cannot start, or actors die again and again.
        """
        first = feed()
        if first is None:
            return
        self._done = done
        ahead = [first]
        self._start().run(
            lambda: self._boxed(ahead.pop() if ahead else feed()),
            lambda piece, report: self._finished(piece.shard, report),
            lambda: tick(self._look()),
        )
        self._end()  # what is still in the making is not needed

    def _end(self, *exc: object) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.__exit__(*exc)

    def _start(self) -> Pool[_Piece, ShardReport]:
        """Start all engines at once, with resources that are reserved for all of them."""
        self._prepare()
        local = () if self._engine.endpoint else ("kv_cache_gib", "max_num_seqs")
        self._pool = Pool(
            self._spawn,
            self._call,
            self._engine.actors,
            self._in_flight,
            split=lambda piece: [piece._replace(shard=half) for half in self._quarantine.cut(piece.shard)],
            give_up=self._given_up,
            job="generate",
            lower=lowerable("generate.engine", self._engine, *local, "actors"),
            wait_s=self._run.wait_s,
            say=self._run.screen.say,
            calls=self.calls,
        )
        return self._pool.__enter__()

    def _prepare(self) -> None:
        """Reserve the resources, find the types of the models, and start the engines that have actors of their own."""
        self._placement.reserve()
        self._resolve()
        for name, engine in self._pipeline.engines.items():
            if name != MAIN and not engine.endpoint:
                self._others[name] = [self._other(name, n) for n in range(engine.actors)]

    def _resolve(self) -> None:
        """Find the type in which each model computes, on the machine where its first engine will run, and print it."""
        pipeline = self._pipeline
        here = {engine_setting(name): name for name, engine in pipeline.engines.items() if not engine.endpoint}
        settings = {setting: pipeline.engines[name].dtype for setting, name in here.items()}
        settings[ENCODER] = pipeline.encoder.compute_dtype

        def choose_one(setting: str) -> dtypes.DTypeChoice:
            need = self._placement.need(here.get(setting, MAIN), 0)  # the encoder runs with the main engine
            if setting == ENCODER:
                return call(choose_dtype, need, pipeline.encoder)
            return call(dtypes.choose, need, pipeline.engines[here[setting]].model)

        found = dtypes.keep(self._run.store, self._place.output, settings, choose_one)
        known = {setting: value.dtype for setting, value in found.items()}
        self._pipeline = replace(pipeline, dtypes=known, abilities=self._probed())
        for setting in here:
            self._run.screen.say(f"generate.{setting}: {found[setting].dtype}, {found[setting].reason}")

    def _probed(self) -> dict[str, Abilities]:
        """Return what the servers of the endpoints can do. They are asked once, from the machine of one worker.

        Raises:
            GristmillError: when a server does not answer, or knows neither the key nor the model.
        """
        import ray

        unknown = [(n, e) for n, e in self._pipeline.engines.items() if e.endpoint and e.abilities is None]
        need = self._placement.need(MAIN, 0)  # the workers of the main engine ask the other endpoints
        try:
            return {name: call(probe_once, need, engine) for name, engine in unknown}
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, GristmillError):
                raise error.cause from error
            raise

    def _look(self) -> dict[str, float]:
        """Return the figures of the actors; print the engine's resolved settings once."""
        total = self._watch.look()
        if self._watch.facts and not self._told:
            self._told = True
            said = ", ".join(f"{name} {value}" for name, value in self._watch.facts.items())
            self._run.screen.say(f"generate: engine with {said}")
        return total

    def _boxed(self, given: tuple[RawShard, Sequence[Shard]] | None) -> _Piece | None:
        """Return the message for a shard of the feed. The settled shards of a round go into Ray's store only once."""
        if given is None:
            return None
        shard, settled = given
        if self._settled[0] != len(settled):
            self._settled = (len(settled), self._share(list(settled)))
        return _Piece(shard, self._settled[1])

    def _other(self, name: str, number: int) -> Any:  # noqa: ANN401 - a handle of Ray's
        engine, called = self._pipeline.engine(name), f"engine-{name}-{number}"
        handle = start(engine, self._run.logs, called, self._placement.need(name, number))
        self._watch.begin(called, handle, called, engine.hang_s, restarts=True)
        return handle

    def _share(self, settled: list[Shard]) -> Any:  # noqa: ANN401 - a reference of Ray's
        import ray

        return ray.put(settled)

    def _shared(self, reference: Any) -> Sequence[Shard]:  # noqa: ANN401 - a reference of Ray's
        import ray

        found: Sequence[Shard] = ray.get(reference)
        return found

    def _call(self, actor: Any, piece: _Piece) -> Any:  # noqa: ANN401 - a handle and a reference of Ray's
        return actor.make.remote(piece.shard, piece.settled)

    def _spawn(self, place: int) -> Any:  # noqa: ANN401 - a handle of Ray's
        name = f"generate-{place}" if self._spawned < self._engine.actors else f"generate-{place}-{self._spawned}"
        self._spawned += 1
        need = self._placement.need(MAIN, place)
        handle = host(Worker, self._engine, need, self._pipeline, self._place, self._open, self._others, name)
        hang_s = max(self._engine.hang_s, SILENCE_S) if self._engine.endpoint else self._engine.hang_s
        self._watch.begin(place, handle, name, hang_s)
        return handle

    def _finished(self, shard: RawShard, report: ShardReport) -> bool:
        whole = self._quarantine.join(shard, report)
        return self._done(*whole) if whole else False

    def _given_up(self, piece: _Piece, error: Exception) -> bool:
        """Commit the draw that ended two engines as a dropped row."""
        del error  # the pool has logged it
        report = self._quarantine.drop(piece.shard, self._shared(piece.settled), "engine: took two engines down")
        return self._finished(piece.shard, report)
