"""The select job: it embeds the kept samples of a dataset, and selectors choose among them, one after another."""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import RunError
from gristmill.cluster.io.ingest import Source
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.jobs.job import Job, Plan, Run, Work
from gristmill.cluster.models import names as models
from gristmill.cluster.models.encoder import Embedding
from gristmill.cluster.runtime.resources import Need, await_room
from gristmill.cluster.store.store import Store
from gristmill.selection.contracts import Choice, Deduplicator, Selector, VectorsOf, View
from gristmill.selection.data.columns import Int, Part
from gristmill.selection.data.matrix import Matrix
from gristmill.selection.data.memo import memo_of
from gristmill.selection.data.parts import AHEAD, Parts, Tasks, parts_of
from gristmill.selection.data.samples import Samples, Turns, open_samples
from gristmill.selection.data.vectors import matrix_of, scripts_of
from gristmill.selection.embedding.actors import OpenEncoder, RowChoice, embed, encoding, folder
from gristmill.selection.embedding.encoders import open_encoder, prepare_encoder
from gristmill.selection.figures import Pair, SelectFigures, StepFigures, Topic, UnknownScript
from gristmill.selection.outcome.breaker import check_losses
from gristmill.selection.outcome.compare import Labels, compare
from gristmill.selection.outcome.decisions import Decisions
from gristmill.selection.outcome.pairs import pairs
from gristmill.selection.outcome.topics import topics
from gristmill.selection.selectors import AnySelector
from gristmill.selection.selectors.exact import Exact
from gristmill.selection.selectors.minhash import MinHash
from gristmill.selection.selectors.semantic import Semantic

logger = logging.getLogger(__name__)


class Select(Job):
    """`[select]`: choose which of the kept samples stay.

    The output has the kept samples of the input, each kept or dropped by a selector. The dropped samples of the input
    stay in the input dataset, which the manifest names. So input rows = rows dropped before + kept + dropped here.
    """

    name: ClassVar[str] = "select"
    figures: ClassVar[type[Figures]] = SelectFigures
    presentation: ClassVar[str] = "gristmill.selection.report:SelectPresentation"
    chooses: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {"input": "samples.jsonl"}
    upstream: ClassVar[tuple[str, ...]] = ("review", "generate")
    not_identity: ClassVar[frozenset[str]] = Job.not_identity | {"distributed"}

    encoder: Embedding = Embedding()
    """The model that makes the vectors; it is loaded only if a step needs them."""
    part: Part = "instruction"
    """The part of a conversation that is embedded. `instruction` is all user turns, `answer` all assistant turns,
    `conversation` both, and `chat` every turn with its role."""
    steps: tuple[AnySelector, ...] = Field(default=(Exact(), MinHash(), Semantic()), min_length=1)
    """The selectors, in the order in which they run. Each chooses among the samples that the selector before it
    kept."""
    seed: int = 0
    """Seed of the random draws of selectors, of topics and of the random baseline."""
    topics: int = Field(default=0, ge=0)
    """Number of topics that the samples are grouped into, for the report and for steps that use the tag `topic`. 0
    means one topic for each 20 samples, from 2 to 24 topics. There are topics only if a step needs vectors and there
    are at least 20 samples."""
    embed_dropped: int = Field(default=500, ge=0)
    """Number of samples that were dropped before selection and are embedded too, for the map in the report."""
    distributed: bool | None = None
    """Whether tasks of Ray read the samples and compare their texts, on all cores of the cluster, near the shards. If
    false, one process on this machine does this. The choice of samples is the same, byte for byte. By default tasks are
    used if the input has at least 2,000,000 samples."""
    shard_rows: int = Field(default=2048, gt=0)
    """Number of samples in one shard, both of the vectors and of the output. If the job is killed during the embedding,
    each actor loses at most the work of one shard."""

    @property
    def wanted(self) -> VectorsOf:
        """The encoder of the job, and the part of the conversation that it reads."""
        return VectorsOf(self.encoder, self.part)

    @property
    def embeds(self) -> bool:
        """Whether any step needs the job's own vectors."""
        return any(self.wanted in (step.wants(self.wanted), step.wants_beside(self.wanted)) for step in self.steps)

    def uses_ray(self, store: Store, work: Work) -> bool:
        """Say whether a step needs vectors, which actors of Ray make, or tasks of Ray read the samples."""
        encodes = any(
            step.encodes() or step.wants(self.wanted) or step.wants_beside(self.wanted) for step in self.steps
        )
        return self.embeds or encodes or self.by_tasks(work.num_samples(store))

    def by_tasks(self, num: int) -> bool:
        """Say whether tasks of Ray read the samples, if there are `num` of them."""
        return num >= TASK_ROWS if self.distributed is None else self.distributed

    def check(self, base: Path) -> list[str]:
        """Return a line for each encoder whose model is missing."""
        del base
        found = [w for step in self.steps for w in (step.wants(self.wanted), step.wants_beside(self.wanted)) if w]
        found += [self.wanted for step in self.steps if step.encodes()]
        names = list(dict.fromkeys(w.encoder.model for w in found))
        problems = [(name, models.missing(name)) for name in names]
        return [f"encoder.model: {name}: {problem}" for name, problem in problems if problem]

    def sources(self) -> dict[str, Source]:
        """Return the datasets that come from outside: the samples, and those that steps compare the samples with."""
        beside = {
            f"steps.{n}.{name}": source for n, step in enumerate(self.steps) for name, source in step.sources().items()
        }
        return super().sources() | beside

    def needs(self, outputs: Mapping[str, str]) -> dict[str, str]:
        """Return the seeds as a further input, because the map in the report shows seeds together with samples."""
        return {"seeds": outputs["ingest"]} if self.embeds and "ingest" in outputs else {}

    def plan(self, store: Store, work: Work) -> Plan:
        """Return the plan: how many samples come in, how many can stay, and the estimated cost of the steps."""
        once = int(any(step.encodes() for step in self.steps))
        plan = Plan("select", work.output, actors=self.encoder.actors if self.embeds else once)
        plan.cpus, plan.gpus = (self.encoder.cpus or 0) * plan.actors, (self.encoder.gpus or 0) * plan.actors
        plan.notes.append(" -> ".join(step.kind for step in self.steps))
        samples = work.inputs["samples"]
        plan.samples = plan.kept = work.num_samples(store)
        plan.shards = -(-plan.samples // self.shard_rows)
        seconds, peak = 0.0, 0
        for step in self.steps:
            cost = step.cost(plan.kept, DIM)
            seconds, peak = seconds + cost.cpu_s, max(peak, cost.peak_bytes)
            plan.kept = step.most(plan.kept)
        plan.driver_s, plan.driver_bytes = 0.0 if self.embeds else seconds, DRIVER_BYTES + peak
        plan.bases.append(
            "the cost of each step, as `plan` says it, and 624 MiB of the driver (benchmarks/at_size.json)"
        )
        plan.notes.append(
            f"steps: about {seconds:,.0f} s of one core and {peak / 2**30:.1f} GiB, without the embedding"
        )
        if self.embeds and store.exists(self._vectors(samples)):
            plan.state = "continues"
        if store.complete(work.output):
            plan.state = "done"
        return plan

    def make(self, run: Run, work: Work) -> SelectFigures:
        """Embed the samples, choose among them, and write the output."""
        return Selecting(self, run, work, open_encoder).make()

    def _vectors(self, samples: str) -> str:
        return folder(samples, self.wanted, RowChoice(self.embed_dropped), shard_rows=self.shard_rows)[0]


TASK_ROWS = 2_000_000
"""By default, tasks of Ray read the samples if there are at least so many."""
DIM = 384
"""Number of dimensions that plans assume for a vector: that of the default encoder."""
MIN_TOPIC_ROWS = 20
"""With fewer samples than this there are no topics."""
DRIVER_BYTES = 624 * 2**20
"""Memory of the driver without rows: a job of `quality` had a peak of 625 MiB with 10^5 rows, and of 634 with 10^6."""
NOT_COMPARED = "not compared by meaning"
"""Name of the topic of samples in a script that the encoder does not know."""


class Selecting:
    """One execution of the select job."""

    def __init__(self, settings: Select, run: Run, work: Work, open_encoder: OpenEncoder) -> None:
        """Take the arguments of every job, and the function that opens an encoder."""
        self.settings, self.run, self.work, self.open = settings, run, work, open_encoder
        self.samples = work.inputs["samples"]
        self.tasks = self._tasks()
        self.parts = 0
        self.embedded, self.embed_seconds = 0, None if not settings.embeds else 0.0
        self.steps, self.pairs, self.topics = list[StepFigures](), list[Pair](), list[Topic]()
        self.unknown_scripts = list[UnknownScript]()
        self.metadata: dict[str, str] = {}
        self.decisions: Decisions

    def make(self) -> SelectFigures:
        """Write the output dataset and return the figures."""
        begin = time.monotonic()
        store, settings = self.run.store, self.settings
        pool, silent = open_samples(self._parts(self.samples), self.samples)
        self.scores, self.tags, self.cut = dict(pool.scores), dict[str, Any](), dict[int, Turns]()
        memo = memo_of(store, self.samples)
        pool = replace(pool, scores=self.scores, given=self.tags, cut=self.cut, memo=memo)
        self.decisions = Decisions(pool)
        everything = View(pool, np.arange(len(pool.ids)))
        if settings.embeds:
            everything = replace(everything, vectors=self._vectors(pool))
            self._topics(everything)
            self.embed_seconds = round(time.monotonic() - begin, 2)
        view = everything
        with self.run.screen.bar("select", total=len(settings.steps)) as bar:
            for place, step in enumerate(settings.steps):
                view = self._step(place, step, view)
                bar.update(place + 1, f"{step.kind}: {len(view):,} left", figures={"samples_left": len(view)})
        baselines = self._describe(everything, view)
        shards = self.decisions.write(store, self.work.output, settings.shard_rows)
        seconds = time.monotonic() - begin
        rows = len(pool.ids) + silent
        figures = SelectFigures(
            rows=rows,
            kept=len(view),
            input_rows=store.manifest(self.samples).rows,
            dropped=rows - len(view),
            embedded=self.embedded,
            embed_seconds=self.embed_seconds,
            seconds=round(seconds, 2),
            samples_per_s=round(rows / max(seconds, 1e-9), 1),
            steps=tuple(self.steps),
            pairs=tuple(self.pairs),
            topics=tuple(self.topics),
            unknown_scripts=tuple(self.unknown_scripts),
            baselines=baselines,
            parts=self.parts,
        )
        store.commit(settings.manifest(self.work, "samples", shards, self.metadata), figures.to_json())
        return figures

    def _tasks(self) -> Tasks | None:
        """Return the tasks of Ray that read the samples, or None if this process reads them.

        Raises:
            BusyError: if no core of the cluster gets free.
        """
        if not self.settings.by_tasks(self.run.store.manifest(self.samples).kept):
            return None
        import ray

        if not ray.is_initialized():
            return None
        await_room("select", [Need(1.0)], self.run.wait_s)
        return Tasks(AHEAD * max(1, round(ray.cluster_resources().get("CPU", 1))))

    def _parts(self, dataset: str) -> Parts:
        parts = parts_of(self.run.store, dataset, self.tasks)
        if self.tasks is not None:
            self.parts += len(parts)
            self.run.screen.say(
                f"select: tasks of Ray read {dataset} in {len(parts)} parts, {self.tasks.num} at a time"
            )
        return parts

    def _vectors(self, pool: Samples) -> Matrix:
        """Embed the samples, and the seeds if the job has them as an input; return the vectors of the samples."""
        settings, wanted = self.settings, self.settings.wanted
        roles = {"vectors": self.samples}
        if self.work.inputs.get("seeds", self.samples) != self.samples:
            roles["seed_vectors"] = self.work.inputs["seeds"]
        sources = {s: RowChoice(settings.embed_dropped if role == "vectors" else 0) for role, s in roles.items()}
        folders = self._embed(sources, wanted)
        self.metadata = {role: folders[samples] for role, samples in roles.items()}
        return self._matrix(self.metadata["vectors"], pool, wanted)

    def _matrix(self, name: str, pool: Samples, wanted: VectorsOf, rows: Int | None = None) -> Matrix:
        """Return the vectors of samples, and log a warning for each script that the encoder does not know."""
        matrix = matrix_of(self.run.store, name, pool, wanted.encoder.fingerprint(), rows)
        readable, unknown = scripts_of(self.run.store, name, pool.ids if rows is None else pool.ids[rows])
        for script in unknown:
            found = UnknownScript(
                model=wanted.encoder.model, script=script.name, rows=script.rows, unknown=script.unknown
            )
            if found not in self.unknown_scripts:
                self.unknown_scripts.append(found)
                logger.warning("%s", unknown_script(found))
        return replace(matrix, readable=readable if unknown else None, encoder=wanted.encoder.model)

    def _embed(self, sources: Mapping[str, RowChoice], wanted: VectorsOf) -> dict[str, str]:
        folders, embedded = embed(self.run, sources, wanted, self.open, shard_rows=self.settings.shard_rows)
        self.embedded += embedded
        return folders

    def _step(self, place: int, step: Selector, view: View) -> View:
        if not len(view):  # nothing to choose from, nothing to embed
            self._note(step, view, Choice(np.empty(0, np.int64)), 0.0)
            return view
        begin = time.monotonic()
        seen = self._prepared(place, step, view)
        choice = step.pick(seen, ids.stream("select", self.settings.seed, place, step.fingerprint()))
        self._note(step, seen, choice, time.monotonic() - begin)
        if isinstance(step, Deduplicator):
            problem = check_losses(step, seen, choice)
            if problem:
                path = self._stopped(problem)
                raise RunError(f"select.steps.{place} ({step.kind}): {problem}; {path} has the pairs")
        self.decisions.enter(seen, choice)
        self.scores |= self.decisions.scores
        self.cut |= self.decisions.cut
        logger.info("%s: %d in, %d dropped", step.kind, len(view), int((~choice.kept).sum()))
        return view.take(choice.kept)

    def _prepared(self, place: int, step: Selector, view: View) -> View:
        """Return the view, together with the vectors and the other datasets that a step asks for."""
        mine, theirs = step.wants(self.settings.wanted), step.wants_beside(self.settings.wanted)
        mine, theirs = (w and prepare_encoder(w, view, self._models) for w in (mine, theirs))
        if mine is not None and mine != self.settings.wanted:
            view = replace(view, vectors=self._vectors_of(view, mine))
        beside = {name: self._beside(f"steps.{place}.{name}", theirs) for name in step.sources()}
        like = [self.metadata["vectors"]] if "vectors" in self.metadata else []
        encode = encoding(self.run, self.settings.wanted, self.open, like) if step.encodes() else None
        return replace(view, beside=beside, encode=encode)

    def _vectors_of(self, view: View, wanted: VectorsOf) -> Matrix:
        """Embed only the samples of this view, with an encoder that a step brings itself, and return their vectors."""
        whole = len(view) == len(view.samples.ids)
        choice = RowChoice() if whole else RowChoice(only=tuple(name.decode() for name in view.ids.tolist()))
        name = self._embed({self.samples: choice}, wanted)[self.samples]
        rows = None if whole else view.rows
        return self._matrix(name, view.samples, wanted, rows)

    def _models(self) -> Path:
        """Return the folder that holds the models that steps train."""
        return self.run.store.folder(f"index-{self.samples}")

    def _beside(self, role: str, wanted: VectorsOf | None) -> View:
        store, dataset = self.run.store, self.work.inputs[role]
        pool, _ = open_samples(self._parts(dataset), dataset)
        pool = replace(pool, memo=memo_of(store, dataset))
        view = View(pool, np.arange(len(pool.ids)))
        if wanted is None:
            return view
        name = self._embed({dataset: RowChoice()}, wanted)[dataset]
        return replace(view, vectors=self._matrix(name, pool, wanted))

    def _note(self, step: Selector, view: View, choice: Choice, seconds: float) -> None:
        """Add the figures and the pairs of a step to those of the job."""
        gone = choice.reason[~choice.kept]
        counts = np.bincount(gone, minlength=len(choice.reasons))
        self.steps.append(
            StepFigures(
                kind=step.kind,
                rows=len(view),
                kept=int(choice.kept.sum()),
                seconds=round(seconds, 2),
                reasons={r: int(c) for r, c in zip(choice.reasons, counts, strict=True) if c},
                figures=dict(choice.figures),
            )
        )
        self.pairs += pairs(step, view, choice)

    def _stopped(self, problem: str) -> str:
        """Write the problem, the figures and the pairs of a stopped job to a file, and return its path."""
        name = "stopped.json"
        seen = {"steps": [asdict(step) for step in self.steps], "pairs": [asdict(pair) for pair in self.pairs]}
        self.run.store.write_json({"problem": problem, **seen}, "runs", self.run.id, name)
        return self.run.store.at("runs", self.run.id, name)

    def _topics(self, view: View) -> None:
        if len(view) < MIN_TOPIC_ROWS:
            return
        part = view.take(view.known)
        if not len(part):
            return
        every = np.ones(len(part), np.bool_)
        found, named = topics(part, every, num=self.settings.topics or None, seed=self.settings.seed)
        labels = np.full(len(view), NOT_COMPARED, object)
        labels[view.known] = named
        if len(part) < len(view):
            found.append({"name": NOT_COMPARED, "rows": len(view) - len(part), "kept": 0, "examples": ()})
        self.decisions.tag("topic", labels.tolist())
        self.tags["topic"] = self.decisions.tags["topic"]
        self.topics = [Topic(**{**topic, "examples": tuple(topic["examples"])}) for topic in found]

    def _describe(self, everything: View, view: View) -> dict[str, dict[str, float]]:
        """Compare the chosen samples with random and long ones, and count the kept samples of each topic."""
        kept = np.zeros(len(everything), np.bool_)
        kept[view.rows] = True
        labels = None
        if self.topics:
            codes, names = everything.tags("topic")
            labels = Labels("topics", codes)
            left = np.bincount(codes[kept], minlength=len(names))
            self.topics = [replace(topic, kept=int(left[names.index(topic.name)])) for topic in self.topics]
        stream = ids.stream("compare", self.settings.seed)
        return compare(everything, kept, stream, labels)


def unknown_script(found: UnknownScript) -> str:
    """Return the line for the terminal about samples in a script that the encoder does not know."""
    return (
        f"select.encoder.model: {found.model} does not know the script {found.script}: {found.unknown:.0%} of the "
        f"tokens of {found.rows:,} samples are unknown to it, and nothing compares them by meaning; set a model that "
        f"knows it, such as {models.E5}"
    )
