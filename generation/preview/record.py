"""Preview: a few samples made exactly as the job makes them, with all prompts and replies. Nothing is kept.

The samples come from the job's first draws. The job's own code makes them on the job's own engines, in a folder that is
deleted afterwards. The comparison with other new samples and the target do not run, because they need complete rounds.
"""

import asyncio
import inspect
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, runtime_checkable

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import GristmillError, RunError
from gristmill.cluster.contract.sample import Message, Sample, from_table
from gristmill.cluster.io import ingest
from gristmill.cluster.jobs.job import Work
from gristmill.cluster.jobs.recipe import Recipe
from gristmill.cluster.models.encoder import OpenEncoder, open_embedding
from gristmill.cluster.models.engine import Engine, Reply, Request, Score
from gristmill.cluster.runtime.deaths import advice, deaths, ended, out_of_memory
from gristmill.cluster.runtime.log import tail, to_file
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.runtime.session import session
from gristmill.cluster.store.store import Store
from gristmill.generation.contracts import MAIN
from gristmill.generation.engines.actors import EngineActor, LiveEngine, OpenEngine, RemoteEngine, host, open_engine
from gristmill.generation.engines.placement import Placement
from gristmill.generation.job import Generate
from gristmill.generation.pipeline.plan import Pipeline, RawShard, ShardSequence
from gristmill.generation.pipeline.worker import Place, RowMaker

MOST_CALLS = 1000
"""Largest number of calls that are assigned to one sample."""


@dataclass(frozen=True)
class ModelCall:
    """One call of a model: the prompt and the reply."""

    model: str
    request: Request
    reply: Reply
    prompt: str
    """The prompt in the chat template if the engine can show it, else the turns with their roles."""


@dataclass(frozen=True)
class SampleTrace:
    """A sample with the calls that made it, in order."""

    sample: Sample
    calls: tuple[ModelCall, ...]


@dataclass(frozen=True)
class Preview:
    """The samples of a job's first draws, and the calls that belong to no single sample."""

    samples: tuple[SampleTrace, ...]
    shared: tuple[ModelCall, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the engine reported about its start."""


@runtime_checkable
class Renders(Protocol):
    """An engine that can show the prompt that the model sees."""

    def render(self, request: Request) -> Any:  # noqa: ANN401 - a string, or an awaitable of one
        """Return the prompt."""


class Recorder:
    """An engine that records each request with its reply."""

    def __init__(self, engine: LiveEngine, model: str) -> None:
        """Wrap an engine."""
        self._engine, self._model = engine, model
        self.calls: list[ModelCall] = []

    async def ready(self) -> dict[str, Any]:
        """Return facts of the engine's start."""
        return await self._engine.ready()

    async def ask(self, request: Request) -> Reply:
        """Return the engine's reply."""
        await self._engine.ready()
        prompt = self._engine.render(request) if isinstance(self._engine, Renders) else turns(request)
        prompt = await prompt if inspect.isawaitable(prompt) else prompt
        reply = await self._engine.ask(request)
        self.calls.append(ModelCall(self._model, request, reply, str(prompt)))
        return reply

    def stats(self) -> Mapping[str, float]:
        """Return the engine's counters."""
        return self._engine.stats()


def turns(request: Request) -> str:
    """Return a request as its turns with their roles, for engines that do not show the prompt."""
    scored = request.text if isinstance(request, Score) else ""
    said = [*request.messages, Message(request.role, request.prefix + scored)]
    return "\n".join(f"[{turn.role}]\n{turn.said}" for turn in said)


class OtherActor(EngineActor):
    """One of the job's other engines, with a record of its calls."""

    def __init__(self, engine: Engine, opens: OpenEngine, logs: str | None, name: str) -> None:
        """Begin to start the engine."""
        to_file(logs, name)
        self._engine = self._recorder = Recorder(opens(engine), engine.model)

    async def calls(self) -> list[ModelCall]:
        """Return the calls of this engine."""
        return self._recorder.calls


class MakerActor:
    """The generating engine and the row maker on it, with a record of all calls."""

    def __init__(
        self, pipeline: Pipeline, place: Place, opens: tuple[OpenEngine, OpenEncoder], others: Mapping[str, Any]
    ) -> None:
        """Begin to start the engine; `others` are the handles of the other engines' actors."""
        to_file(place.logs, "preview")
        self._recorders = {
            name: Recorder(opens[0](settings), settings.model)
            for name, settings in pipeline.engines.items()
            if name not in others
        }
        self._engines: dict[str, LiveEngine] = {name: RemoteEngine([handle]) for name, handle in others.items()}
        self._engines.update(self._recorders)
        self._maker = RowMaker(pipeline, place, self._engines, opens[1])

    async def ready(self) -> dict[str, Any]:
        """Return facts of the generating engine's start, once all have started."""
        facts = await asyncio.gather(*(engine.ready() for engine in self._engines.values()))
        return dict(zip(self._engines, facts, strict=True))[MAIN]

    async def make(self, shards: Sequence[RawShard]) -> None:
        """Make and commit all the shards at once."""
        await asyncio.gather(*(self._maker.make(shard, ()) for shard in shards))

    async def calls(self) -> list[ModelCall]:
        """Return the calls of this actor's engines."""
        return [call for recorder in self._recorders.values() for call in recorder.calls]


def preview(
    recipe: Recipe,
    work: Work,
    n: int,
    screen: Screen,
    opens: tuple[OpenEngine, OpenEncoder] = (open_engine, open_embedding),
) -> Preview:
    """Return the samples of a generate job's first `n` draws with their calls.

    Raises:
        JobError: when an input cannot be read or has no kept row, or the cluster has no room.
        RunError: when an engine cannot start.
    """
    job, ground = recipe.jobs["generate"], recipe.ground
    assert isinstance(job, Generate)
    with tempfile.TemporaryDirectory(prefix="gristmill-preview-") as folder:
        store = Store(folder)
        for source in job.sources().values():
            ingest.ingest(store, source, screen)
        shards = first_draws(job, store, work, n)
        screen.say(f"starting Ray and {job.engine.endpoint or job.engine.model}")
        with session(ground.address, ground.num_cpus, ground.num_gpus):
            calls, facts = _make(job, job.place(store, work, f"{folder}/logs"), shards, opens, ground.wait_s)
        tables = (store.read_shard(work.output, store.shard(work.output, str(shard))) for shard in shards)
        rows = [row for table in tables for row in from_table(table)]
    return assign_calls(rows, calls, facts)


def first_draws(job: Generate, store: Store, work: Work, n: int) -> list[RawShard]:
    """Return `n` shards with a single draw each: the first draws of every method, in proportion to the weights."""
    limits = job.schedule(store, work).limits
    return list(islice(ShardSequence([method.weight for method in job.methods], 1, n + 1, limits), n))


def _make(
    job: Generate, place: Place, shards: Sequence[RawShard], opens: tuple[OpenEngine, OpenEncoder], wait_s: float
) -> tuple[list[ModelCall], dict[str, Any]]:
    """Make the shards on one actor for each engine; return the calls, and facts about the engine's start."""
    import ray

    pipeline = job.pipeline("preview")
    engines = {name: engine.model_copy(update={"actors": 1}) for name, engine in pipeline.engines.items()}
    pipeline = Pipeline(pipeline.run, engines, pipeline.methods, pipeline.filters, pipeline.encoder, pipeline.seed)
    placement = Placement(engines, wait_s)
    placement.reserve()
    try:
        others = {
            name: host(OtherActor, engine, placement.need(name, 0), engine, opens[0], place.logs, f"engine-{name}")
            for name, engine in engines.items()
            if name != MAIN and not engine.endpoint
        }
        maker = host(MakerActor, engines[MAIN], placement.need(MAIN, 0), pipeline, place, opens, others)
        facts = _fetch(maker.ready.remote(), place.logs)
        _fetch(maker.make.remote(shards), place.logs)
        calls = [call for actor in (maker, *others.values()) for call in _fetch(actor.calls.remote(), place.logs)]
        for actor in (maker, *others.values()):
            ray.kill(actor)
    finally:
        placement.remove()
    return calls, facts


def _fetch(ref: Any, logs: str | None) -> Any:  # noqa: ANN401 - of an actor's method
    """Return an actor's answer.

    Raises:
        GristmillError: the error that the actor raised.
        RunError: when the actor died; the message has the end of its log.
    """
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, GristmillError) else RunError(f"preview: {error}")) from error
    except deaths() as error:
        if out_of_memory(error):
            lower = "generate.engine.kv_cache_gib or max_num_seqs"
            raise RunError(f"preview: {ended('the engine', error)}; {advice(lower)}") from error
        raise RunError(f"preview: the engine's process died; the end of its log: {tail(logs, 'preview')}") from error


def assign_calls(rows: Sequence[Sample], calls: Sequence[ModelCall], facts: Mapping[str, Any]) -> Preview:
    """Return the samples with their calls. Calls are found by seed: the n-th call of a sample has the seed of (id, n).

    A scored text has no seed of its own. It belongs to the sample that contains it.
    """
    by_seed: dict[int, list[ModelCall]] = defaultdict(list)
    scores: list[tuple[str, ModelCall]] = []
    for call in calls:
        if isinstance(call.request, Score):
            scores.append((call.request.text, call))
        else:
            by_seed[call.request.seed].append(call)
    samples = []
    for row in rows:
        own = [call for n in range(MOST_CALLS) for call in by_seed.pop(ids.request_seed(row.id, n), ())]
        said = [bool(text) and any(text in message.text for message in row.messages) for text, _ in scores]
        own += [call for (_, call), its in zip(scores, said, strict=True) if its]
        scores = [one for one, its in zip(scores, said, strict=True) if not its]
        samples.append(SampleTrace(row, tuple(own)))
    left = [call for calls in by_seed.values() for call in calls]
    return Preview(tuple(samples), (*left, *(call for _, call in scores)), facts)
