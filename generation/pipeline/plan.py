"""Shards of draws: which method draws what in which order, all of it a function of the recipe alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.models.dtypes import DType
from gristmill.cluster.models.encoder import Embedding
from gristmill.cluster.models.engine import Engine
from gristmill.generation.contracts import MAIN, Filter, HistoryFilter, Method, Snapshot
from gristmill.generation.pipeline.streams import stream

MIN_SHARD = 8
ENCODER = "encoder"
"""Name of the encoder's setting."""


def engine_setting(name: str) -> str:
    """Return the name of an engine's setting in the recipe."""
    return "engine" if name == MAIN else f"engines.{name}"


@dataclass(frozen=True)
class Pipeline:
    """What all rows of a job are made with."""

    run: str
    engines: Mapping[str, Engine]
    """By name; the generating one is `MAIN`, and the first."""
    methods: tuple[Method, ...]
    filters: tuple[Filter | HistoryFilter, ...]
    encoder: Embedding
    seed: int
    dtypes: Mapping[str, DType] = field(default_factory=dict)
    """What each model computes in, by the name of its setting, where that is known."""

    def engine(self, name: str) -> Engine:
        """Return the settings with which an engine is opened: those of the recipe, with the type that `auto` became."""
        known = self.dtypes.get(engine_setting(name))
        return self.engines[name].model_copy(update={"dtype": known}) if known else self.engines[name]

    @property
    def opened_encoder(self) -> Embedding:
        """The settings with which the encoder is opened."""
        known = self.dtypes.get(ENCODER)
        return self.encoder.model_copy(update={"compute_dtype": known}) if known else self.encoder

    def step(self, place: int) -> str:
        """Return the fingerprint that goes into the ids of a method's rows: what decides its asks and answers."""
        method = self.methods[place]
        return ids.digest(method.fingerprint(), self.engines[method.engine_name()].fingerprint(), self.seed, place)


@dataclass(frozen=True, slots=True)
class Goal:
    """What the driver works towards, and when it gives up."""

    target: int | None
    """Kept rows wanted of the whole job; None for as many as there are."""
    prior: float
    """Share of the drafts expected to be kept, until there is a measured one."""
    most_drafts: float
    """Drafts after which no further shard begins."""
    filters: tuple[Filter | HistoryFilter, ...]
    """The filters that have rows to judge."""
    given: frozenset[str]
    """Methods whose instructions are the input's own."""
    engine: Engine
    """The generating engine, for the figures."""


@dataclass(frozen=True, slots=True)
class RawShard:
    """A piece of work: draws of one method with consecutive ordinals."""

    place: int
    """Of the shard among all of the job; its rows end up in the final shard of the same place."""
    round: int
    method: int
    """Place of the method among the pipeline's."""
    first: int
    """Ordinal of its first draw among the method's."""
    draws: int
    part: bool = False
    """Whether it is a cut of the shard of this place."""

    def __str__(self) -> str:
        """Return the name under which its rows are committed before they are settled."""
        return f"raw-{self.place:05d}" + (f".{self.first}+{self.draws}" if self.part else "")

    @property
    def final(self) -> str:
        """Name of the shard that its rows end up in."""
        return f"shard-{self.place:05d}"

    def halves(self) -> "list[RawShard]":
        """Return the shard cut in two, or itself when it is a single draw."""
        half = self.draws // 2
        if not half:
            return [self]
        rest = replace(self, first=self.first + half, draws=self.draws - half, part=True)
        return [replace(self, draws=half, part=True), rest]


@dataclass(slots=True)
class Tally:
    """Counts over rows; kept is before they are settled."""

    rows: int = 0
    kept: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    reply_tokens: int = 0
    cost: float = 0.0

    def add(self, other: "Tally") -> None:
        """Add the counts of another tally."""
        for name in Tally.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class ShardReport(Tally):
    """What a worker tells the driver of a shard that it has committed."""

    seconds: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)
    """What steps found when they prepared for the shard's round."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw: its method, its parents, its ordinal among the method's draws."""

    method: Method
    parents: tuple[Sample, ...]
    ordinal: int
    step: str
    """Fingerprint that goes into the row's id."""

    @property
    def id(self) -> str:
        """Id of its first row."""
        return ids.made_id(self.step, [parent.id for parent in self.parents], self.ordinal)


def draws(pipeline: Pipeline, shard: RawShard, snapshot: Snapshot) -> Iterator[Draw]:
    """Yield the draws of a shard; parents are a function of the seed, the ordinals and the snapshot alone."""
    method, step = pipeline.methods[shard.method], pipeline.step(shard.method)
    turn = -1
    parents: tuple[Sample, ...] = ()
    for ordinal in range(shard.first, shard.first + shard.draws):
        if ordinal // method.group != turn:
            turn = ordinal // method.group
            parents = method.draw(snapshot, turn, stream(pipeline.seed, "parents", shard.method, turn))
        yield Draw(method, parents, ordinal, step)


@dataclass(frozen=True)
class ShardSequence:
    """The endless sequence of a job's shards; finite when each method has so many draws and no more."""

    weights: Sequence[float]
    size: int
    """Draws of a shard."""
    round_shards: int
    """Shards of a round."""
    limits: Sequence[int] | None = None
    """Draws of each method in all."""

    def __iter__(self) -> Iterator[RawShard]:
        """Yield the shards in order; each goes to the method that is furthest below its weight."""
        taken = [0] * len(self.weights)
        limits: Sequence[float] = self.limits or [math.inf] * len(self.weights)
        place = 0
        while open_ := [m for m in range(len(taken)) if taken[m] < limits[m]]:
            method = min(open_, key=lambda m: (taken[m] + self.size) / self.weights[m])
            draws = int(min(self.size, limits[method] - taken[method]))
            yield RawShard(place, place // self.round_shards, method, taken[method], draws)
            taken[method] += draws
            place += 1

    def settled_before(self, round_: int) -> int:
        """Return how many shards a round sees settled: those of the rounds until the one before the last.

        So a round can begin while the one before it is still being made, and no engine waits for its slowest row.
        """
        return max(0, round_ - 1) * self.round_shards
