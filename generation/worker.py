"""One shard of draws into rows: every row is a coroutine of its own, and all of them share the engine's batch."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol, Unpack

from cluster import ids
from cluster.engine import Engine, Reply, Request
from cluster.log import to_file
from cluster.sample import Message, Origin, Sample, to_table
from cluster.store import Store
from generation.contracts import Draft, Filter, Memory, Method, Sampling, SetFilter, Stage

log = logging.getLogger(__name__)


class LiveEngine(Protocol):
    """What a worker needs of an engine: `generation.engine.VllmEngine`, or a fake one in tests."""

    async def ready(self) -> dict[str, Any]:
        """Return facts of the start, once it has started."""
        ...

    async def ask(self, request: Request) -> Reply:
        """Return the reply to one request."""
        ...

    def stats(self) -> Mapping[str, float]:
        """Return `running`, `waiting` and counters."""
        ...


OpenEngine = Callable[[Engine], LiveEngine]


@dataclass(frozen=True)
class Mill:
    """What all rows of a job are made with."""

    run: str
    engine: Engine
    methods: tuple[Method, ...]
    filters: tuple[Filter | SetFilter, ...]
    seed: int

    def step(self, method: Method) -> str:
        """Return the fingerprint that goes into a row's id: all that decides what the model is asked and answers."""
        return ids.digest(method.fingerprint(), self.engine.fingerprint(), self.seed)


@dataclass(frozen=True)
class Snapshot:
    """What a round draws its parents from: the seeds, and what the rounds before it have kept."""

    round: int
    seeds: tuple[Sample, ...]
    made: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class RawShard:
    """A piece of work: draws with consecutive ordinals."""

    round: int
    place: int
    """Of the shard among all of the job; its rows end up in the final shard of the same place."""
    first: int
    """Ordinal of its first draw."""
    draws: int

    def __str__(self) -> str:
        """Return the name under which its rows are committed before the round is settled."""
        return f"raw-{self.round:02d}-{self.place:05d}"

    @property
    def final(self) -> str:
        """Name of the shard that its rows end up in."""
        return f"shard-{self.place:05d}"


@dataclass(slots=True)
class Tally:
    """Counts over rows; kept is before the round is settled."""

    rows: int = 0
    kept: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    reply_tokens: int = 0

    def add(self, other: "Tally") -> None:
        """Add the counts of another tally."""
        self.rows += other.rows
        self.kept += other.kept
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.reply_tokens += other.reply_tokens


@dataclass(slots=True)
class ShardReport(Tally):
    """What a worker tells the driver of a shard that it has committed."""

    seconds: float = 0.0


@dataclass
class BoundAsk:
    """`Ask` for one sample: seeds follow from its id and the number of the call, tokens are counted."""

    engine: LiveEngine
    id: str
    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    reply_tokens: int = 0
    finish: str = ""

    async def __call__(self, messages: Sequence[Message], *, max_tokens: int, **sampling: Unpack[Sampling]) -> Reply:
        """Return the reply to the next request made for this sample."""
        seed = ids.request_seed(self.id, self.calls)
        self.calls += 1
        reply = await self.engine.ask(Request(tuple(messages), max_tokens, seed, **sampling))
        self.prompt_tokens += reply.prompt_tokens
        self.cached_tokens += reply.cached_tokens
        self.reply_tokens += reply.reply_tokens
        if not sampling.get("choices"):
            self.finish = reply.finish  # of the conversation's last turn, not of a grade
        return reply


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw: its method, its parents, its ordinal in the job."""

    method: Method
    parents: tuple[Sample, ...]
    ordinal: int
    step: str
    """Fingerprint that goes into the row's id."""


def draws(mill: Mill, shard: RawShard, snapshot: Snapshot) -> list[Draw]:
    """Return the draws of a shard: methods by weight, parents by group, both a function of seed and ordinals alone."""
    weights = [method.weight for method in mill.methods]
    chosen = [
        (ids.stream(mill.seed, "method", ordinal).choices(range(len(weights)), weights)[0], ordinal)
        for ordinal in range(shard.first, shard.first + shard.draws)
    ]
    made: list[Draw] = []
    for which, drawn in groupby(sorted(chosen), key=lambda pair: pair[0]):
        method, ordinals = mill.methods[which], [ordinal for _, ordinal in drawn]
        step = mill.step(method)
        for start in range(0, len(ordinals), method.group):
            group = ordinals[start : start + method.group]
            parents = method.draw(snapshot.seeds, snapshot.made, ids.stream(mill.seed, "parents", which, group[0]))
            made.extend(Draw(method, parents, ordinal, step) for ordinal in group)
    return sorted(made, key=lambda draw: draw.ordinal)


@dataclass
class Rows:
    """The making of rows: from draws through drafts and verdicts, on one engine."""

    mill: Mill
    engine: LiveEngine
    memories: Sequence[tuple[SetFilter, Memory]]
    tally: Tally = field(default_factory=Tally)

    async def of_shard(self, shard: RawShard, snapshot: Snapshot) -> list[Sample]:
        """Return the rows of a shard in the order of their ordinals, at least one for each draw."""
        made = await asyncio.gather(*(self.of_draw(draw) for draw in draws(self.mill, shard, snapshot)))
        return [row for rows in made for row in rows]

    async def of_draw(self, draw: Draw) -> list[Sample]:
        """Return the rows of one draw; the first has the id that is known before the model is called."""
        parents = [parent.id for parent in draw.parents]
        sample_id = ids.made_id(draw.step, parents, draw.ordinal)
        ask = BoundAsk(self.engine, sample_id)
        rng = ids.stream(self.mill.seed, "expand", sample_id)
        drafts = await draw.method.expand(draw.parents, ask, rng)
        drafts = drafts or [Draft(dropped=f"{draw.method.kind}: no draft")]
        others = (ids.made_id(f"{draw.step}/{n}", parents, draw.ordinal) for n in range(1, len(drafts)))
        asks = [ask, *(BoundAsk(self.engine, other) for other in others)]
        return list(await asyncio.gather(*(self._row(draw, d, a) for d, a in zip(drafts, asks, strict=True))))

    async def _row(self, draw: Draw, draft: Draft, ask: BoundAsk) -> Sample:
        sample = Sample(
            id=ask.id,
            messages=draft.messages,
            parents=tuple(parent.id for parent in draw.parents),
            method=draw.method.kind,
            round=1 + max((parent.round for parent in draw.parents), default=-1),
            tags=draft.tags,
            dropped=draft.dropped,
        )
        sample = await self._judged(sample, "instruction", ask)
        if sample.dropped is None and not draft.complete:
            draft = await draw.method.answer(draft, ask)
            sample = replace(sample, messages=draft.messages, tags=draft.tags, dropped=draft.dropped)
        sample = await self._judged(await self._judged(sample, "sample", ask), "model", ask)
        self._count(sample, ask)
        origin = Origin(
            run=self.mill.run,
            step=draw.step,
            model=self.mill.engine.model,
            seed=ids.request_seed(ask.id, 0),
            prompt_tokens=ask.prompt_tokens,
            reply_tokens=ask.reply_tokens,
            finish=ask.finish,
        )
        return replace(sample, origin=origin)

    async def _judged(self, sample: Sample, stage: Stage, ask: BoundAsk) -> Sample:
        """Return the sample with the verdicts of one stage, up to the first drop."""
        for step in self.mill.filters:
            if sample.dropped is not None:
                return sample
            if isinstance(step, Filter):
                verdict = await step.judge(sample, ask) if stage in step.stages else None
            else:
                memory = next(memory for owner, memory in self.memories if owner is step)
                verdict = step.compare(sample, memory) if stage == "instruction" else None
            if verdict is not None:
                sample = replace(sample, scores={**sample.scores, **verdict.scores}, dropped=verdict.dropped)
        return sample

    def _count(self, sample: Sample, ask: BoundAsk) -> None:
        kept = int(sample.dropped is None)
        self.tally.add(Tally(1, kept, ask.prompt_tokens, ask.cached_tokens, ask.reply_tokens))


class Worker:
    """An engine and the rows that are made on it, as an actor: `ready`, `make`, `stats`."""

    def __init__(
        self, mill: Mill, store: Store, output: str, open_engine: OpenEngine, logs: tuple[str | None, str]
    ) -> None:
        """Begin to start the engine; output of this process goes to the log file `logs` (folder, name)."""
        to_file(*logs)
        self._mill, self._store, self._output = mill, store, output
        self._engine = open_engine(mill.engine)
        self._sets = [(step, step.memory()) for step in mill.filters if isinstance(step, SetFilter)]
        self._remembered = 0
        self._tallies: dict[str, Tally] = {}

    async def ready(self) -> dict[str, Any]:
        """Return facts of the engine's start, once it has started."""
        return await self._engine.ready()

    async def make(self, shard: RawShard, snapshot: Snapshot) -> ShardReport:
        """Make and commit one raw shard."""
        begin = time.monotonic()
        await self._engine.ready()
        self._remember(snapshot)
        rows = Rows(self._mill, self._engine, self._sets)
        self._tallies[str(shard)] = tally = rows.tally
        made = await rows.of_shard(shard, snapshot)
        await asyncio.to_thread(self._store.commit_shard, self._output, str(shard), to_table(made))
        del self._tallies[str(shard)]
        seconds = time.monotonic() - begin
        log.info(
            "%s: %d rows, %d kept, %d reply tokens, %.1f s", shard, tally.rows, tally.kept, tally.reply_tokens, seconds
        )
        report = ShardReport(seconds=seconds)
        report.add(tally)
        return report

    async def stats(self) -> dict[str, float]:
        """Return the engine's stats with rows done and kept of the shards in the making."""
        own = {"rows": sum(t.rows for t in self._tallies.values()), "kept": sum(t.kept for t in self._tallies.values())}
        return {**self._engine.stats(), **own}

    def _remember(self, snapshot: Snapshot) -> None:
        """Bring the memories up to a round's snapshot; a later snapshot begins with the earlier one."""
        known = (*snapshot.seeds, *snapshot.made)
        for sample in known[self._remembered :]:
            for _, memory in self._sets:
                memory.add(sample)
        self._remembered = len(known)
