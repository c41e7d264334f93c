"""The generate job: seeds into a dataset of exactly `target` new samples, each drop kept with its reason."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from cluster import models
from cluster.engine import Engine, resources
from cluster.errors import JobError, RunError
from cluster.job import Job, Plan, Run, Work
from cluster.progress import Bar
from cluster.sample import Sample, from_table
from cluster.store import Store
from generation.dispatch import Actors, Dispatch
from generation.engine import VllmEngine
from generation.filters import AnyFilter
from generation.filters.judge import Judge
from generation.filters.language import Language
from generation.filters.length import Length
from generation.filters.novelty import Novelty
from generation.filters.refusal import Refusal
from generation.filters.repetition import Repetition
from generation.methods import AnyMethod
from generation.methods.self_instruct import SelfInstruct
from generation.rounds import Progress, close, next_shards, num_draws
from generation.worker import Mill, OpenEngine, RawShard, ShardReport, Tally

log = logging.getLogger(__name__)

DRAFTS_PER_SAMPLE = 20
"""Drafts that a kept sample may cost before the job gives up, when the recipe does not say."""
TOKENS_PER_DRAFT = 650
"""Prompt and reply tokens of all calls made for one draft; measured with Self-Instruct and the judge."""


class Generate(Job):
    """`[generate]`: draft new samples from the seeds, filter them, and keep exactly as many as asked for."""

    name: ClassVar[str] = "generate"
    not_identity: ClassVar[frozenset[str]] = frozenset({"input", "max_drafts"})

    target: int = Field(default=100, gt=0)
    """Kept samples wanted, exactly."""
    engine: Engine = Field(default_factory=Engine)
    """The model that drafts, answers and judges, and what it runs on."""
    methods: tuple[AnyMethod, ...] = Field(default=(SelfInstruct(),), min_length=1)
    """Ways to make samples; each gets its weight's share of the draws."""
    filters: tuple[AnyFilter, ...] = (Length(), Language(), Repetition(), Refusal(), Novelty(), Judge())
    """What a sample must pass; within a stage they run in this order, those that ask the model last."""
    shard_size: int = Field(default=64, gt=0)
    """Draws of one shard, the unit of work, retry and resume. An engine holds two shards."""
    rounds: int = Field(default=2, gt=0)
    """Rounds aimed at; each takes machine-made demonstrations from those before it. More follow until the target."""
    prior: float = Field(default=0.4, gt=0, le=1)
    """Share of drafts expected to be kept, until there is a measured one."""
    max_drafts: int | None = Field(default=None, gt=0)
    """Drafts after which no further round begins; 20 times the target by default."""
    seed: int = 0
    """Another seed gives other samples."""

    @model_validator(mode="after")
    def _one_filter_of_a_kind(self) -> "Generate":
        kinds = [step.kind for step in self.filters]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if twice:
            raise ValueError(f"filters: {', '.join(twice)} stands twice, must stand once")
        return self

    def check(self, base: Path) -> list[str]:
        """Return what is wrong with the model and the prompts."""
        del base
        missing = models.missing(self.engine.model)
        problems = [f"generate.engine.model is {self.engine.model!r}: {missing}"] if missing else []
        for n, method in enumerate(self.methods):
            problems += _placeholders(f"generate.methods[{n}].prompts", method.prompts, ("{count}",))
        for n, step in enumerate(self.filters):
            if isinstance(step, Judge):
                problems += _placeholders(f"generate.filters[{n}].rubrics", step.rubrics, ())
        return problems

    def plan(self, store: Store, work: Work) -> Plan:
        """Say how many drafts and shards are expected, on what, at how many tokens."""
        expected = num_draws(self.target, 0, 0, 1, self.prior)
        cpus, gpus = resources(self.engine)
        plan = Plan(self.name, work.output, samples=expected, actors=self.engine.actors, cpus=cpus, gpus=gpus)
        plan.shards = -(-expected // self.shard_size)
        plan.tokens, plan.kept = expected * TOKENS_PER_DRAFT, self.target
        if store.complete(work.output):
            plan.state = "done"
        elif store.exists(work.output):
            plan.state = "continues"
            plan.notes.append(f"{len(store.committed(work.output, 'raw-'))} shards are committed")
        plan.notes.append(f"{self.target} samples to keep, {self.prior:.0%} of the drafts expected to pass")
        return plan

    def make(self, run: Run, work: Work) -> dict[str, Any]:
        """Make the dataset on vLLM actors; see `Job.make`."""
        return self.make_on(run, work, VllmEngine)

    def make_on(self, run: Run, work: Work, open_engine: OpenEngine) -> dict[str, Any]:
        """Make the dataset on worker actors whose engine `open_engine` opens."""
        with Actors(run, work.output, self.mill(run), open_engine) as actors:
            return self.grind(run, work, actors)

    def mill(self, run: Run) -> Mill:
        """Return what all rows are made with."""
        return Mill(run.id, self.engine, self.methods, self.filters, self.seed)

    def grind(self, run: Run, work: Work, dispatch: Dispatch) -> dict[str, Any]:
        """Make the dataset on whatever `dispatch` has raw shards made by, and return its figures.

        Raises:
            JobError: when no seed is kept.
            RunError: when `max_drafts` are drawn and the target is not met.
        """
        grinding = _Grinding(self, run, work, dispatch)
        with run.screen.bar("generate", self.target) as bar:
            while len(grinding.progress.kept) < self.target:
                grinding.round(bar)
        return grinding.finish()


class _Grinding:
    """One execution of the job: rounds until the target is met, then the manifest."""

    def __init__(self, job: Generate, run: Run, work: Work, dispatch: Dispatch) -> None:
        self._job, self._run, self._work, self._dispatch = job, run, work, dispatch
        self.progress = Progress(_seeds(run.store, work.inputs["samples"]), job.filters)
        self._made = Tally()  # by this execution
        self._round = Tally()
        self._begin = time.monotonic()
        self._making_s = 0.0

    def round(self, bar: Bar) -> None:
        """Make, settle and commit one round."""
        job, store, output, progress = self._job, self._run.store, self._work.output, self.progress
        self._refuse_endless()
        left = job.rounds - progress.rounds
        draws = num_draws(job.target, len(progress.kept), progress.draws, left, job.prior)
        shards = next_shards(progress, draws, job.shard_size)
        raw, final = store.committed(output, prefix="raw-"), store.committed(output)
        todo = [shard for shard in shards if str(shard) not in raw and shard.final not in final]
        planned = len(progress.shards) + len(shards)
        self._run.ledger.append("shards_planned", job=job.name, shards=planned, committed=planned - len(todo))
        self._round = Tally()
        begin = time.monotonic()
        self._dispatch(todo, progress.snapshot(), self._done, lambda stats: self._show(bar, stats))
        self._making_s += time.monotonic() - begin
        close(progress, store, output, shards, job.target)
        bar.update(len(progress.kept), f"{len(progress.kept)} of {progress.rows} drafts kept")

    def finish(self) -> dict[str, Any]:
        """Delete the raw shards, commit the manifest, and return the figures."""
        store, output, job = self._run.store, self._work.output, self._job
        for name in store.names(output):  # the final shards all stand, so nothing needs them any more
            if name.startswith("raw-"):
                store.delete(output, name)
        manifest = job.manifest(self._work, "samples", self.progress.shards)
        figures = self._figures()
        store.commit(manifest, figures)
        return figures

    def _refuse_endless(self) -> None:
        """Raise when the drafts are spent."""
        progress, target = self.progress, self._job.target
        limit = self._job.max_drafts or DRAFTS_PER_SAMPLE * target
        if progress.draws < limit:
            return
        kept = len(progress.kept)
        reasons = ", ".join(f"{why} ({n})" for why, n in progress.reasons.most_common(3))
        raise RunError(
            f"generate: {kept} of {target} samples kept after {progress.draws} drafts (acceptance "
            f"{kept / progress.draws:.1%}), the limit is {limit}; most were dropped by: {reasons}. Loosen these "
            "filters, use a larger model, or raise generate.max_drafts: the drafts are kept and the job continues"
        )

    def _done(self, shard: RawShard, report: ShardReport) -> None:
        """Count a committed shard and write it to the ledger."""
        for tally in (self._made, self._round):
            tally.add(report)
        facts = {"rows": report.rows, "kept": report.kept, "seconds": round(report.seconds, 1)}
        self._run.ledger.append("shard_done", job=self._job.name, shard=str(shard), **facts)
        log.info("%s: %d rows, %d kept, %.1f s", shard, report.rows, report.kept, report.seconds)

    def _show(self, bar: Bar, stats: Mapping[str, float]) -> None:
        """Update the bar from the committed shards of the round and the stats of those in the making."""
        kept = len(self.progress.kept) + self._round.kept + int(stats.get("kept", 0))
        rows = self.progress.rows + self._round.rows + int(stats.get("rows", 0))
        note = f"{kept} of {rows} drafts kept ({kept / max(1, rows):.0%})"
        if stats:
            note += (
                f", {stats['reply_tokens_per_s']:.0f} tokens/s, {stats['running']:.0f} running, "
                f"{stats['waiting']:.0f} waiting, {stats['cached_tokens'] / max(1, stats['prompt_tokens']):.0%} cached"
            )
        else:
            note = "starting the engine" if not rows else note
        bar.update(min(kept, self._job.target), note)

    def _figures(self) -> dict[str, Any]:
        progress, made = self.progress, self._made
        making_s = max(0.0, self._making_s - self._dispatch.engine_start_s)
        return {
            "rows": progress.rows,
            "kept": len(progress.kept),
            "drafts": progress.draws,
            "rounds": progress.rounds,
            "acceptance": round((len(progress.kept) + progress.reasons["target: surplus"]) / progress.rows, 4),
            "prompt_tokens": progress.prompt_tokens,
            "reply_tokens": progress.reply_tokens,
            "seconds": round(time.monotonic() - self._begin, 1),
            "engine_start_s": self._dispatch.engine_start_s,
            "reply_tokens_per_s": round(made.reply_tokens / making_s, 1) if making_s else 0.0,
            "prefix_cache_hit_rate": round(made.cached_tokens / max(1, made.prompt_tokens), 4),
            **{f"dropped by {why}": n for why, n in progress.reasons.most_common()},
        }


def _seeds(store: Store, dataset: str) -> tuple[Sample, ...]:
    """Return the kept rows of the seed dataset."""
    kept = tuple(sample for table in store.scan(dataset) for sample in from_table(table) if sample.dropped is None)
    if not kept:
        raise JobError(f"generate.input: {dataset} has no kept row, must have at least one seed; see its drop reasons")
    return kept


def _placeholders(where: str, prompts: Mapping[str, str], wanted: Sequence[str]) -> list[str]:
    """Return what is wrong with prompts by language."""
    problems = (
        [] if "en" in prompts else [f"{where}: has no prompt for `en`, must have one; other languages fall back to it"]
    )
    for language, prompt in prompts.items():
        absent = [name for name in wanted if name not in prompt]
        if absent:
            problems.append(f"{where}.{language}: lacks {', '.join(absent)}, must contain it")
    return problems
