"""The generate job: turns seeds, documents or nothing into a dataset of exactly as many new samples as asked for."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.ingest import Source
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.jobs.job import Job, Plan, Run, Work
from gristmill.cluster.models import names as models
from gristmill.cluster.models.encoder import Embedding, OpenEncoder, open_embedding
from gristmill.cluster.models.engine import Engine, engine_need
from gristmill.cluster.store.store import Store
from gristmill.generation.contracts import MAIN, EachInput, Filter, GenerateStep, HistoryFilter, Method, Snapshot
from gristmill.generation.engines.actors import OpenEngine, open_engine
from gristmill.generation.figures import GenerateFigures
from gristmill.generation.filters import AnyFilter
from gristmill.generation.filters.answer_kind import AnswerKind
from gristmill.generation.filters.judge.filter import Judge
from gristmill.generation.filters.language import Language
from gristmill.generation.filters.length import Length
from gristmill.generation.filters.novelty import Novelty
from gristmill.generation.filters.on_topic.filter import OnTopic
from gristmill.generation.filters.refusal import Refusal
from gristmill.generation.filters.repetition import Repetition
from gristmill.generation.filters.seed_label import SeedLabel
from gristmill.generation.filters.standalone import Standalone
from gristmill.generation.forecast import forecast, measured
from gristmill.generation.methods import AnyMethod
from gristmill.generation.methods.self_instruct.method import SelfInstruct
from gristmill.generation.pipeline.dispatch import Actors, Dispatch
from gristmill.generation.pipeline.driver import Driver, sweep
from gristmill.generation.pipeline.frames import frames_of
from gristmill.generation.pipeline.plan import MIN_SHARD, Pipeline, ShardSequence
from gristmill.generation.pipeline.settle import MARGIN, Progress, quotas_of
from gristmill.generation.pipeline.snapshots import Snapshots
from gristmill.generation.pipeline.worker import Place

DRAFTS_PER_SAMPLE = 20
"""The job gives up after this many drafts per sample of the target, unless the recipe sets `max_drafts`."""
DRIVER_S, DRIVER_BYTES, DRIVER_BYTES_EACH = 64e-6, 240 * 2**20, 27
DRIVER_BASIS = "the driver takes 0.064 ms of a core and 27 bytes a draft, and 240 MiB (benchmarks/overhead.json)"
"""Cost of the driver, of 10,240 and of 100,096 drafts with the default filters on an engine that answers at once."""
SHARDS_AT_LEAST = 4
"""Smallest number of shards of a small job, so that the last shard is not most of the job."""


Guard = Standalone | AnswerKind | OnTopic | SeedLabel
GUARDS: Mapping[str, type[Guard]] = {
    "standalone": Standalone,
    "on_topic": OnTopic,
    "answer_kind": AnswerKind,
    "seed_label": SeedLabel,
}
"""Filters that are on by default for the methods that need them."""
TEXTS_PER_CPU_S = 60
"""Texts of twenty words that the builtin encoder encodes per second on one core, eight at once; measured."""


def default_filters(methods: Sequence[Method]) -> tuple[AnyFilter, ...]:
    """Return the filters of a recipe that names no filters.

    A guard judges only the samples of the methods that need it.
    """
    need = {kind: tuple(method.kind for method in methods if kind in method.guards) for kind in GUARDS}
    guards = (GUARDS[kind](methods=tuple(dict.fromkeys(kinds))) for kind, kinds in need.items() if kinds)
    return (Length(), Language(), Repetition(), Refusal(), *guards, Novelty(), Judge())


class Generate(Job):
    """`[generate]`: draft new samples, filter them, and keep exactly as many as asked for."""

    name: ClassVar[str] = "generate"
    figures: ClassVar[type[Figures]] = GenerateFigures
    presentation: ClassVar[str] = "gristmill.generation.report:GeneratePresentation"
    example: ClassVar[Mapping[str, Any]] = {"input": "seeds.jsonl", "target": 100}
    not_identity: ClassVar[frozenset[str]] = frozenset({"input", "documents", "max_drafts"})

    documents: Source | None = None
    """Texts to draw from, in addition to the seeds or instead of them, for `grounded`, `annotate` and others."""
    target: int | Literal["all"] = 100
    """Number of kept samples, met exactly; or `"all"`: each input is used once, however many samples are kept."""
    engine: Engine = Field(default_factory=Engine)
    """The model that drafts, answers and judges, and its resources."""
    engines: dict[str, Engine] = Field(default_factory=dict)
    """Other models, each with its own actors. A step uses one by naming it as its `engine`; no name may be `main`."""
    encoder: Embedding = Embedding()
    """The model that embeds texts, for steps that compare meanings. It is loaded only if a step needs it."""
    methods: tuple[AnyMethod, ...] = Field(default=(SelfInstruct(),), min_length=1)
    """Ways to make samples. Each gets a share of the draws in proportion to its weight."""
    filters: tuple[AnyFilter, ...] = Field(default_factory=lambda data: default_filters(data.get("methods", ())))
    """Filters that a sample must pass. Within a stage they run in this order. Filters that ask a model run last. The
    default filters are `length`, `language`, `repetition`, `refusal`, `novelty`, `judge`, and the guards that a method
    needs: `standalone` and `answer_kind` for `grounded`, `evol_instruct`, `self_instruct`, `persona` and `taxonomy`;
    `on_topic` and `seed_label` for `targeted`; `seed_label` for `annotate`."""
    shard_size: int = Field(default=64, gt=0)
    """Largest number of draws in one shard. A shard is the unit of work, retry and resume."""
    rounds: int = Field(default=4, gt=0)
    """Number of rounds into which the expected draws are divided. A round draws from the rows kept up to the round
    before the last."""
    prior: float = Field(default=0.4, gt=0)
    """Expected share of the draws that are kept. It is used until the job has measured the share."""
    max_drafts: int | None = Field(default=None, gt=0)
    """Number of drafts after which the job gives up; 20 times the target by default."""
    seed: int = 0
    """Seed of all random streams. Another seed gives other samples."""

    @model_validator(mode="after")
    def _sound(self) -> "Generate":
        kinds = list(dict.fromkeys(method.kind for method in self.methods))
        for place, step in enumerate(self.filters):
            unknown = [kind for kind in step.methods if kind not in kinds]
            if unknown:
                legal = f"must be among those of generate.methods ({', '.join(kinds)})"
                raise ValueError(f"filters[{place}].methods: {unknown[0]!r} is no method of this job, {legal}")
        names = [(step.title(), kind) for step in self.filters for kind in kinds if step.judges(kind)]
        twice = sorted({name for name, kind in names if names.count((name, kind)) > 1})
        if twice:
            apart = "filters of one kind must differ in `rubric`, `name` or `methods`"
            raise ValueError(f"filters: {', '.join(twice)} appears twice, must appear once; {apart}")
        return self

    @field_validator("target", mode="before")
    @classmethod
    def _wanted(cls, value: object) -> object:
        if value != "all" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError('must be a whole number above 0, or "all"')
        return value

    @field_validator("engines")
    @classmethod
    def _none_is_main(cls, value: dict[str, Engine]) -> dict[str, Engine]:
        if MAIN in value:
            raise ValueError(f"{MAIN!r} is the name of [generate.engine], must be another name")
        return value

    @property
    def most_drafts(self) -> float:
        """Number of drafts after which no further shard begins."""
        if self.max_drafts is not None:
            return self.max_drafts
        return math.inf if self.target == "all" else DRAFTS_PER_SAMPLE * self.target

    @property
    def judging(self) -> tuple[Filter | HistoryFilter, ...]:
        """The filters that have rows to judge. A `HistoryFilter` needs a method that makes its own instructions."""
        new = {method.kind for method in self.methods if method.instructs}
        return tuple(step for step in self.filters if isinstance(step, Filter) or any(map(step.judges, new)))

    def sources(self) -> dict[str, Source]:
        """Return the job's input data by role, such as `documents`."""
        return super().sources() | ({"documents": self.documents} if self.documents else {})

    def check(self, base: Path) -> list[str]:
        """Return the problems with models, inputs and names of engines."""
        del base
        problems = []
        for name, engine in {"engine": self.engine, **{f"engines.{n}": e for n, e in self.engines.items()}}.items():
            missing = "" if engine.endpoint else models.missing(engine.model)
            problems += [f"{name}.model: {engine.model}: {missing}"] if missing else []
        for n, method in enumerate(self.methods):
            problems += self._check_method(f"methods[{n}]", method)
        for n, step in enumerate(self.filters):
            problems += self._check_step(f"filters[{n}]", step)
        missing = models.missing(self.encoder.model) if any(step.embeds for step in self.judging) else ""
        problems += [f"encoder.model: {self.encoder.model}: {missing}"] if missing else []
        return problems

    def _check_method(self, where: str, method: Method) -> list[str]:
        have = {"seeds": self.input, "documents": self.documents}
        problems = self._check_step(where, method)
        if method.feeds and not any(have[name] for name in method.feeds):
            keys = " or ".join("generate.input" if name == "seeds" else "generate.documents" for name in method.feeds)
            problems.append(f"{where}: {method.kind} has nothing to draw from, must have {keys}")
        if self.target == "all" and not isinstance(method, EachInput):
            walks = "must be a method that takes its inputs one by one, or generate.target a number"
            problems.append(f"{where}: {method.kind} draws without end, {walks}")
        return problems

    def _check_step(self, where: str, step: GenerateStep) -> list[str]:
        missing = {model: models.missing(model) for model in step.models()}
        problems = [f"{where}.model: {model}: {problem}" for model, problem in missing.items() if problem]
        for name in step.engines():
            if name != MAIN and name not in self.engines:
                known = ", ".join(self.engines) or "none"
                problems.append(f"{where}: engine {name!r} is unknown, must be one of [generate.engines] ({known})")
        return problems

    def plan(self, store: Store, work: Work) -> Plan:
        """Return the expected drafts, shards and tokens, and the resources."""
        expected, wanted = self._wanted_of(store, work)
        local = [engine for engine in (self.engine, *self.engines.values()) if not engine.endpoint]
        actors = sum(engine.actors for engine in local)
        each = [engine_need("generate.engine", engine, actors) for engine in local]
        plan = Plan(self.name, work.output, samples=expected, actors=self.engine.actors)
        plan.cpus, plan.gpus = max((n.cpus for n in each), default=0.0), max((n.gpus for n in each), default=0.0)
        plan.shards = -(-expected // self._size(expected))
        rates = measured(store, self.engine, self.judging)
        plan.tokens, plan.process_s, notes = forecast(self.methods, self.judging, self.engine, rates, expected)
        plan.spreads = not self.engine.endpoint
        plan.driver_s, plan.driver_bytes = expected * DRIVER_S, DRIVER_BYTES + expected * DRIVER_BYTES_EACH
        plan.bases.append(DRIVER_BASIS)
        plan.kept = round(expected * min(1.0, self.prior)) if self.target == "all" else self.target
        if store.complete(work.output):
            plan.state = "done"
        elif store.exists(work.output):
            plan.state = "continues"
            plan.notes.append(f"{len(store.committed(work.output))} shards are committed")
        plan.notes.append(f"{wanted}, {self.prior:.0%} of the drafts expected to pass")
        plan.notes += [*notes, *(_memory(engine) for engine in local), *self._embedding(expected)]
        sets = [step.kind for step in self.filters if isinstance(step, HistoryFilter)]
        known = dict.fromkeys(method.kind for method in self.methods if not method.instructs)
        if sets and known:
            plan.notes.append(f"{', '.join(sets)}: not for {', '.join(known)}, whose instructions are the input's own")
        return plan

    def _embedding(self, expected: int) -> list[str]:
        """Return a line about the cost of the steps that embed each text, if there are any."""
        kinds = dict.fromkeys(step.kind for step in (*self.methods, *self.judging) if step.embeds)
        if not kinds:
            return []
        held = models.memory(self.encoder.model, ("float32",)) or "as much as it has"
        cost = f"each text is encoded once, about {expected / TEXTS_PER_CPU_S / 60:,.1f} minutes of a core in all"
        where = f"{self.encoder.model} in each worker holds {held}"
        return [f"{', '.join(kinds)}: {where}; {cost} with the builtin encoder and short texts"]

    def _wanted_of(self, store: Store, work: Work) -> tuple[int, str]:
        """Return (the expected number of drafts, the target in words); 0 drafts if the number is not known yet."""
        if self.target != "all":
            return self._expected(), f"{self.target} samples to keep"
        name = work.inputs.get("documents", work.inputs.get("samples", ""))
        if not name or not store.complete(name):
            return 0, "every input once, counted when it is ingested"
        return len(self.methods) * store.manifest(name).kept, "every input once"

    def make(self, run: Run, work: Work) -> GenerateFigures:
        """Make the dataset on the engines that the recipe names; see `Job.make`."""
        return self.make_on(run, work, open_engine, open_embedding)

    def make_on(self, run: Run, work: Work, opens: OpenEngine, encodes: OpenEncoder) -> GenerateFigures:
        """Make the dataset on worker actors that open their engines and encoders with these functions."""
        pipeline, place = self.pipeline(run.id), self.place(run.store, work, run.logs)
        schedule = self.schedule(run.store, work)
        with Actors(run, place, pipeline, (opens, encodes), schedule.size) as actors:
            figures = self.drive(run, work, actors)
        sweep(run.store, work.output)  # a worker may have written until it was ended
        return figures

    def pipeline(self, run: str) -> Pipeline:
        """Return everything that is needed to make the rows."""
        return Pipeline(run, {MAIN: self.engine, **self.engines}, self.methods, self.judging, self.encoder, self.seed)

    def progress(self) -> Progress:
        """Return the state before the first shard: the target, and when to give up."""
        given = frozenset(method.kind for method in self.methods if not method.instructs)
        target = None if self.target == "all" else self.target
        steps = self.pipeline("").step
        quotas = quotas_of([(steps(place), method) for place, method in enumerate(self.methods)], target)
        frames = frames_of(self.methods)
        return Progress(target, self.judging, given, frames, quotas, self.prior, self.most_drafts)

    def place(self, store: Store, work: Work, logs: str | None) -> Place:
        """Return the folders that workers read and write."""
        return Place(store, work.output, work.inputs.get("samples"), work.inputs.get("documents"), logs)

    def schedule(self, store: Store, work: Work) -> ShardSequence:
        """Return the sequence of shards.

        Raises:
            JobError: when an input has no kept row.
        """
        given = Snapshots(store, work.output, work.inputs.get("samples"), work.inputs.get("documents"))
        for role, rows in {"samples": given.seeds, "documents": given.documents}.items():
            if role in work.inputs and not len(rows):
                name = work.inputs[role]
                raise JobError(f"generate: {name} has no kept row, must have at least one; see its drop reasons")
        limits = None
        if self.target == "all":
            snapshot = Snapshot(0, given.seeds, given.documents)
            limits = [len(method.inputs(snapshot)) for method in self.methods if isinstance(method, EachInput)]
        expected = sum(limits) if limits else self._expected()
        size = self._size(expected)
        rounds = max(1, math.ceil(expected / size / self.rounds)) if self._learns() else sys.maxsize
        return ShardSequence([method.weight for method in self.methods], size, rounds, limits)

    def _learns(self) -> bool:
        """Return whether any step depends on what earlier rounds have kept."""
        filters = (isinstance(f, HistoryFilter) or f.prepares() for f in self.judging)
        return any(method.learns for method in self.methods) or any(filters)

    def _expected(self) -> int:
        """Return the expected number of draws for a target that is a number."""
        assert isinstance(self.target, int)
        return math.ceil(self.target / self.prior * MARGIN)

    def _size(self, expected: int) -> int:
        """Return the number of draws in a shard: fewer in a small job, and if possible a multiple of the groups."""
        fewer = max(MIN_SHARD, math.ceil(expected / SHARDS_AT_LEAST / len(self.methods)))
        group = max(method.group for method in self.methods)
        return min(self.shard_size, -(-fewer // group) * group)

    def drive(self, run: Run, work: Work, dispatch: Dispatch) -> GenerateFigures:
        """Make the dataset with the given dispatch, and return its figures.

        Raises:
            JobError: when an input has no kept row.
            RunError: when `max_drafts` are drawn before the target is met.
        """
        driver = Driver(self, self.progress(), run, work, dispatch, self.schedule(run.store, work))
        with run.screen.bar("generate", self.target if isinstance(self.target, int) else None) as bar:
            driver.run(bar)
        return driver.finish(self.engine)


def _memory(engine: Engine) -> str:
    """Return a line about the memory of one engine process, as far as it is known without loading the model."""
    types = ("bfloat16", "float32") if engine.dtype == "auto" else (engine.dtype,)
    held = models.memory(engine.model, types) or "as much as the model has"
    why = " (the machine decides)" if engine.dtype == "auto" else ""
    return f"{engine.model}: an engine holds weights, {held}{why}, and on a CPU {engine.kv_cache_gib} GiB of cache"
