"""The worker actor: it has one engine, and makes the rows of shards."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import StoreError
from gristmill.cluster.contract.sample import Sample, to_table
from gristmill.cluster.models import names as models
from gristmill.cluster.models.encoder import UNKNOWN, Embedding, Encoder, OpenEncoder
from gristmill.cluster.runtime.log import to_file
from gristmill.cluster.store.store import Shard, Store
from gristmill.cluster.text.scripts import script_of
from gristmill.generation.contracts import MAIN, Filter, GenerateStep, HistoryFilter, Snapshot
from gristmill.generation.engines.actors import LiveEngine, OpenEngine, RemoteEngine
from gristmill.generation.pipeline.frames import Unframed, unframed
from gristmill.generation.pipeline.metrics import Metrics
from gristmill.generation.pipeline.plan import Pipeline, RawShard, ShardReport, Tally
from gristmill.generation.pipeline.row_log import RowLog, delete_logs
from gristmill.generation.pipeline.rows import BoundAsk, Context, Rows, Usage
from gristmill.generation.pipeline.snapshots import KNOWN_ROUNDS, Snapshots
from gristmill.generation.prompting.batches import Batches

log = logging.getLogger(__name__)
KNOWN_TEXTS = 1024
"""Number of texts with vectors that a worker keeps. Fewer texts than this are in the making at once."""


class Embedder:
    """One encoder for all rows of a worker. Texts that arrive while it works are encoded together in the next batch.

    The last vectors are kept, because several filters look at the same text.
    """

    def __init__(self, settings: Embedding, open_encoder: OpenEncoder) -> None:
        """Open the encoder later, at the first text."""
        self._settings, self._open = settings, open_encoder
        self._encoder: Encoder | None = None
        self._batches = Batches(self._encode)
        self._known: dict[str, NDArray[np.float32]] = {}
        self._scripts = set[str]()

    def notes(self) -> list[str]:
        """Return a note for each script of a text that the encoder does not know."""
        return [
            f"encoder.model: {self._settings.model} does not know the script {script}, in which nothing is compared by "
            f"meaning; set a model that knows it, such as {models.E5}"
            for script in sorted(self._scripts)
        ]

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, [texts, d]; NaN for a text in a script that the encoder does not know."""
        if len(texts) != 1:
            return await self._batches.of(texts)
        if texts[0] not in self._known:
            vectors = await self._batches.of(texts)
            while len(self._known) >= KNOWN_TEXTS:
                del self._known[next(iter(self._known))]
            self._known[texts[0]] = vectors
        return self._known[texts[0]]

    def _encode(self, groups: Sequence[Sequence[str]]) -> list[NDArray[np.float32]]:
        self._encoder = self._encoder or self._open(self._settings)
        texts = [text for group in groups for text in group]
        vectors = self._encoder.encode(texts)
        unread = np.flatnonzero(self._encoder.unknown(texts) > UNKNOWN)
        if len(unread):
            vectors[unread] = np.nan
            self._scripts.update(script_of(texts[place]) for place in unread)
        return np.split(vectors, np.cumsum([len(texts) for texts in groups])[:-1])


@dataclass(frozen=True)
class Place:
    """The folders that a worker reads and writes."""

    store: Store
    output: str
    seeds: str | None
    documents: str | None
    logs: str | None


class RowMaker:
    """The maker of a worker's rows: it turns shards into committed rows, on running engines."""

    def __init__(
        self, pipeline: Pipeline, place: Place, engines: Mapping[str, LiveEngine], open_encoder: OpenEncoder
    ) -> None:
        """Take the engines by name; nothing is read yet."""
        self._pipeline, self._place = pipeline, place
        self._snapshots = Snapshots(place.store, place.output, place.seeds, place.documents)
        self._embedder = Embedder(pipeline.opened_encoder, open_encoder)
        self._context = Context(pipeline, engines, self._embedder.embed)
        self._sets = [(step, step.memory()) for step in pipeline.filters if isinstance(step, HistoryFilter)]
        self._remembered = 0
        self._prepared: dict[int, dict[int, asyncio.Task[Any]]] = {}  # by the `id` of the step and the round
        self._tallies: dict[str, Tally] = {}
        self._total = Counter[str]()

    async def make(self, shard: RawShard, settled: Sequence[Shard]) -> ShardReport:
        """Make and commit one raw shard, drawn from the inputs and the settled shards.

        Raises:
            StoreError: if the dataset is complete. So a worker that was thought to be dead leaves no file in it.
        """
        begin = time.monotonic()
        await asyncio.to_thread(self._refuse_complete)
        snapshot = await asyncio.to_thread(self._snapshots.at, shard.round, settled)
        self._remember(snapshot)
        steps: list[GenerateStep] = [self._pipeline.methods[shard.method], *self._pipeline.filters]
        prepared = {id(step): await self._prepare(step, snapshot) for step in steps}
        async with await asyncio.to_thread(RowLog, self._place.store, self._place.output, shard.place) as finished:
            rows = Rows(self._context, snapshot, prepared, self._sets, finished)
            self._tallies[str(shard)] = tally = rows.tally
            made = await rows.of_shard(shard)
            await asyncio.to_thread(self._commit, shard, made)
        del self._tallies[str(shard)]
        self._total.update({"rows": tally.rows, "kept": tally.kept})
        self._total.update(f"dropped by {row.dropped}" for row in made if row.dropped)
        notes = dict.fromkeys(note for step in steps for note in step.notes(prepared[id(step)]))
        said = (*notes, *self._embedder.notes())
        report = ShardReport(seconds=time.monotonic() - begin, figures=_figures(steps, prepared), notes=said)
        report.add(tally)
        log.info("%s: %d rows, %d kept, %.1f s", shard, tally.rows, tally.kept, report.seconds)
        return report

    def counts(self) -> dict[str, float]:
        """Return the finished rows of shards in the making, and the counts of each shard, such as `kept raw-00007`.

        The counts are by shard, so that the driver can leave out a shard whose report it already has.
        """
        counts: dict[str, float] = {"rows": sum(tally.rows for tally in self._tallies.values())}
        for shard, tally in self._tallies.items():
            counts |= {f"{name} {shard}": getattr(tally, name) for name in ("rows", "kept", "reply_tokens")}
        return counts

    def totals(self) -> dict[str, float]:
        """Return the numbers of rows, of kept rows and of drops by reason, in all shards that this maker committed."""
        return dict(self._total)

    def _commit(self, shard: RawShard, made: Sequence[Sample]) -> None:
        store, output = self._place.store, self._place.output
        self._refuse_complete()
        store.commit_shard(output, str(shard), to_table(made))
        if not shard.part:  # the other parts of a shard that was cut need its log
            delete_logs(store, output, shard.place)

    def _refuse_complete(self) -> None:
        store, output = self._place.store, self._place.output
        if store.local is not None and store.complete(output):  # each look at an object is a request
            raise StoreError(f"{output}: is complete, must be in the making; this worker was given up, and ends")

    def _remember(self, snapshot: Snapshot) -> None:
        """Add a round's snapshot to the histories. A later snapshot begins with all samples of an earlier snapshot."""
        before, end = len(snapshot.seeds), len(snapshot.seeds) + len(snapshot.made)
        if not self._sets:
            return
        for place in range(self._remembered, end):
            sample = snapshot.seeds[place] if place < before else snapshot.made[place - before]
            new = unframed(sample, self._pipeline.frames)
            for _, memory in self._sets:
                memory.add(new)
        self._remembered = max(self._remembered, end)

    async def _prepare(self, step: GenerateStep, snapshot: Snapshot) -> Any:  # noqa: ANN401 - the step's own
        """Return the value that a step prepared for a round.

        It is prepared once for all shards of the round on this worker.
        """
        rounds = self._prepared.setdefault(id(step), {})
        if snapshot.round not in rounds:
            earlier = max((r for r in rounds if r < snapshot.round), default=None)
            before = None if earlier is None else rounds[earlier]
            rounds[snapshot.round] = asyncio.create_task(self._prepared_by(step, snapshot, before))
            for old in [r for r in rounds if r <= snapshot.round - KNOWN_ROUNDS and r != earlier]:
                del rounds[old]
        return await rounds[snapshot.round]

    async def _prepared_by(self, step: GenerateStep, snapshot: Snapshot, before: Any) -> Any:  # noqa: ANN401
        usage = Usage(ids.digest("prepare", step.fingerprint(), snapshot.round))
        ask = BoundAsk(self._context, usage, (), step.engine_name())
        if isinstance(step, Filter) and step.unframed:
            snapshot = replace(snapshot, seeds=Unframed(snapshot.seeds, self._pipeline.frames))
        return await step.prepare(snapshot, await before if before else None, ask)


def _figures(steps: Sequence[GenerateStep], prepared: Mapping[int, Any]) -> dict[str, float]:
    """Return the figures of prepared steps, by `kind name`."""
    found = ((step.kind, step.figures(prepared[id(step)])) for step in steps)
    return {f"{kind} {name}": float(value) for kind, figures in found for name, value in figures.items()}


class Worker:
    """A `RowMaker` with an engine of its own, as an actor: `ready`, `make`, `stats`."""

    def __init__(
        self,
        pipeline: Pipeline,
        place: Place,
        open_: tuple[OpenEngine, OpenEncoder],
        others: Mapping[str, Sequence[Any]],
        name: str,
    ) -> None:
        """Begin to start the engine.

        Args:
            pipeline: everything that is needed to make the rows.
            place: the folders to read and write.
            open_: functions that open the generating engine and the encoder.
            others: handles of the actors of other engines, by name. Engines at endpoints have none and are opened here.
            name: name of this actor and of its log file.
        """
        to_file(place.logs, name)
        open_engine, open_encoder = open_
        self._engine = open_engine(pipeline.engine(MAIN))
        engines: dict[str, LiveEngine] = {MAIN: self._engine}
        for other in (name for name in pipeline.engines if name != MAIN):
            handles = others.get(other)
            engines[other] = RemoteEngine(handles, other) if handles else open_engine(pipeline.engine(other))
        self._engines = engines
        self._maker = RowMaker(pipeline, place, engines, open_encoder)
        self._metrics = Metrics(job=place.output, actor=name)

    async def ready(self) -> dict[str, Any]:
        """Return facts of the engine's start, once all engines have started."""
        facts = [await engine.ready() for engine in self._engines.values()]
        return facts[0]

    async def make(self, shard: RawShard, settled: Sequence[Shard]) -> ShardReport:
        """Make and commit one raw shard."""
        await self.ready()
        return await self._maker.make(shard, settled)

    async def stats(self) -> dict[str, float]:
        """Return the engine's stats with the counts of the shards in the making."""
        stats = self._engine.stats()
        self._metrics.update({**stats, **self._maker.totals()})
        return {**stats, **self._maker.counts()}
