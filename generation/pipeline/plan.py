"""Shards of draws: which method makes which draws, and in which order. Both follow from the recipe."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.models.dtypes import DType
from gristmill.cluster.models.encoder import Embedding
from gristmill.cluster.models.engine import Abilities, Engine
from gristmill.generation.contracts import MAIN, Filter, HistoryFilter, Method, Snapshot
from gristmill.generation.pipeline.frames import Frames, frames_of
from gristmill.generation.pipeline.streams import stream

MIN_SHARD = 8
ENCODER = "encoder"
"""Name of the encoder's setting."""


def engine_setting(name: str) -> str:
    """Return the name of an engine's setting in the recipe."""
    return "engine" if name == MAIN else f"engines.{name}"


@dataclass(frozen=True)
class Pipeline:
    """Everything that is needed to make the rows of a job."""

    run: str
    engines: Mapping[str, Engine]
    """Engines by name. The first is the generating engine, `MAIN`."""
    methods: tuple[Method, ...]
    filters: tuple[Filter | HistoryFilter, ...]
    encoder: Embedding
    seed: int
    dtypes: Mapping[str, DType] = field(default_factory=dict)
    """Type in which each model computes, by the name of its setting. A model has no entry until its type is known."""
    abilities: Mapping[str, Abilities] = field(default_factory=dict)
    """What the server of each endpoint can do, by the name of the engine. There is no entry until it is known."""

    def engine(self, name: str) -> Engine:
        """Return the settings with which an engine is opened: the recipe's settings, and facts found at the start."""
        known = {"dtype": self.dtypes.get(engine_setting(name)), "abilities": self.abilities.get(name)}
        found = {setting: value for setting, value in known.items() if value}
        return self.engines[name].model_copy(update=found) if found else self.engines[name]

    @cached_property
    def frames(self) -> Frames:
        """The texts that the methods' templates put around instructions."""
        return frames_of(self.methods)

    @property
    def opened_encoder(self) -> Embedding:
        """The settings with which the encoder is opened."""
        known = self.dtypes.get(ENCODER)
        return self.encoder.model_copy(update={"compute_dtype": known}) if known else self.encoder

    def step(self, place: int) -> str:
        """Return the fingerprint for the ids of a method's rows.

        It covers everything that decides its requests and answers.
        """
        method = self.methods[place]
        return ids.digest(method.fingerprint(), self.engines[method.engine_name()].fingerprint(), self.seed, place)


@dataclass(frozen=True, slots=True)
class RawShard:
    """A unit of work: draws of one method with consecutive ordinals."""

    place: int
    """Place of the shard among all shards of the job. The final shard with the same place gets its rows."""
    round: int
    method: int
    """Place of the method among the pipeline's methods."""
    first: int
    """Ordinal of the shard's first draw, among all draws of its method."""
    draws: int
    part: bool = False
    """Whether this is only a part of the shard with this place, because the shard was cut."""

    def __str__(self) -> str:
        """Return the name under which the shard's rows are committed before they are settled."""
        return f"raw-{self.place:05d}" + (f".{self.first}+{self.draws}" if self.part else "")

    @property
    def final(self) -> str:
        """Name of the final shard that gets the rows."""
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
    """Counts of rows and tokens, and the cost in money. `kept` is counted before settling."""

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
    """What a worker reports to the driver about a committed shard."""

    seconds: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)
    """Figures that steps reported when they prepared for the shard's round."""
    notes: tuple[str, ...] = ()
    """Notes for people from steps that prepared for the shard's round."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw: its method, its parents, and its ordinal among the method's draws."""

    method: Method
    parents: tuple[Sample, ...]
    ordinal: int
    step: str
    """Fingerprint of the method, as in the row's id."""

    @property
    def id(self) -> str:
        """Id of the first row of this draw."""
        return ids.made_id(self.step, [parent.id for parent in self.parents], self.ordinal)

    @property
    def turn(self) -> int:
        """The turn that was given to the method's `draw`."""
        return self.ordinal // self.method.group


def draws(pipeline: Pipeline, shard: RawShard, snapshot: Snapshot) -> Iterator[Draw]:
    """Yield the draws of a shard; the parents depend only on the seed, the ordinals and the snapshot."""
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
    """The sequence of a job's shards. It is endless, or finite if each method has a limit of draws."""

    weights: Sequence[float]
    size: int
    """Largest number of draws of a shard."""
    round_shards: int
    """Number of shards of a round."""
    limits: Sequence[int] | None = None
    """Largest number of draws of each method, in the order of the weights."""

    def __iter__(self) -> Iterator[RawShard]:
        """Yield the shards in order. Each shard goes to the method that is furthest below its share of the draws."""
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
        """Return how many settled shards a round uses: all shards of the rounds up to the round before the last.

        So a round can begin while the round before it is still in the making, and no engine waits for the slowest row.
        """
        return max(0, round_ - 1) * self.round_shards
