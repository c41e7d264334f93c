"""Shards to worker actors, two in flight on each, and what they tell of their progress; started when first needed."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, Self

from cluster.engine import resources
from cluster.errors import EngineError, RunError
from cluster.job import Run
from cluster.log import tail
from cluster.pool import Pool
from cluster.session import require
from generation.engine import environment
from generation.worker import Mill, OpenEngine, RawShard, ShardReport, Snapshot, Worker

Done = Callable[[RawShard, ShardReport], None]
Tick = Callable[[dict[str, float]], None]


class Dispatch(Protocol):
    """Has raw shards made and committed, in any order, by whatever there is: `Actors`, or a plain loop in tests."""

    engine_start_s: float

    def __call__(self, shards: Sequence[RawShard], snapshot: Snapshot, done: Done, tick: Tick) -> None:
        """Return when all shards are committed, having called `done` for each."""
        ...


class Actors:
    """The worker actors of one job; `with Actors(...) as actors: actors(shards, snapshot, done, tick)`."""

    def __init__(self, run: Run, output: str, mill: Mill, open_engine: OpenEngine) -> None:
        """Start nothing yet: a job whose shards are all committed needs no engine."""
        self._run, self._output, self._mill, self._open = run, output, mill, open_engine
        self._pool: Pool[RawShard, ShardReport] | None = None
        self._snapshot: Any = None
        self._spawned = 0
        self._starting: dict[int, Any] = {}
        self._asked: dict[int, Any] = {}
        self._stats: dict[int, dict[str, float]] = {}
        self.engine_start_s = 0.0

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End the actors."""
        if self._pool is not None:
            self._pool.__exit__(*exc)

    def __call__(self, shards: Sequence[RawShard], snapshot: Snapshot, done: Done, tick: Tick) -> None:
        """Make the shards of one round, calling `done` as each is committed and `tick` with the stats every second.

        Raises:
            RunError: when an engine cannot start, or a shard has taken several actors down.
        """
        import ray

        if not shards:
            return
        self._snapshot = ray.put(snapshot)
        if self._pool is None:
            self._pool = Pool(self._spawn, self._call, self._mill.engine.actors)
            self._pool.__enter__()
        self._pool.run(shards, done, partial(self._tick, tick))

    def _spawn(self, place: int) -> Any:  # noqa: ANN401 - a handle of Ray's
        import ray

        cpus, gpus = resources(self._mill.engine)
        require("generate.engine", cpus * self._mill.engine.actors, gpus * self._mill.engine.actors)
        name = f"generate-{place}" if self._spawned < self._mill.engine.actors else f"generate-{place}-{self._spawned}"
        self._spawned += 1
        remote: Any = ray.remote(Worker)
        actor = remote.options(
            num_cpus=cpus,
            num_gpus=gpus,
            runtime_env={"env_vars": environment(self._mill.engine, cpus, gpus)},
        )
        handle = actor.remote(self._mill, self._run.store, self._output, self._open, (self._run.logs, name))
        self._starting[place] = (handle.ready.remote(), name)
        self._asked.pop(place, None)
        self._stats.pop(place, None)
        return handle

    def _call(self, actor: Any, shard: RawShard) -> Any:  # noqa: ANN401 - a handle of Ray's
        return actor.make.remote(shard, self._snapshot)

    def _tick(self, tick: Tick) -> None:
        """Collect what the actors have answered and ask again, never waiting for one."""
        import ray

        assert self._pool is not None
        for place, (ref, name) in list(self._starting.items()):
            if ray.wait([ref], timeout=0)[0]:
                del self._starting[place]
                self._started(ref, name)
        for place, actor in enumerate(self._pool.actors):
            if place in self._starting:
                continue
            if place in self._asked and ray.wait([self._asked[place]], timeout=0)[0]:
                try:
                    self._stats[place] = ray.get(self._asked.pop(place))
                except ray.exceptions.RayActorError:  # the pool hears of it with the shard
                    self._stats.pop(place, None)
            if place not in self._asked:
                self._asked[place] = actor.stats.remote()
        total: dict[str, float] = {}
        for stats in self._stats.values():
            for name, value in stats.items():
                total[name] = total.get(name, 0.0) + value
        tick(total)

    def _started(self, ref: Any, name: str) -> None:  # noqa: ANN401 - a reference of Ray's
        import ray

        try:
            facts = ray.get(ref)
        except ray.exceptions.RayActorError:  # killed while it started: the pool starts another
            return
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, EngineError) else error
            last = tail(self._run.logs, name, 1)
            raise RunError(f"generate: {cause}; see {name}.log in {self._run.logs} ({last})") from error
        self.engine_start_s = max(self.engine_start_s, float(facts.get("engine_start_s", 0.0)))
