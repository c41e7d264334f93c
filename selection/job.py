"""The select job: embed the kept samples of a dataset, let selectors choose among them one after another."""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from cluster import ids, models
from cluster.encoder import Checkpoint, Embedding, OpenEncoder
from cluster.errors import SchemaError
from cluster.job import Job, Plan, Run, Work
from cluster.sample import Sample, from_table, to_table
from cluster.store import Shard, Store
from selection.contracts import Choice, View
from selection.embed import embed, folder, warning
from selection.selectors import AnySelector
from selection.selectors.exact import Exact
from selection.selectors.semantic import Semantic
from selection.texts import Part
from selection.vectors import open_vectors

logger = logging.getLogger(__name__)

NO_TEXT = "select: no text in the conversation"


class Select(Job):
    """`[select]`: which of the kept samples go on.

    The output holds the samples that came in kept, each kept or dropped by a selector; those that came in dropped stay
    in the input dataset, which the manifest names. So rows in = rows that were dropped before + kept + dropped here.
    """

    name: ClassVar[str] = "select"
    upstream: ClassVar[tuple[str, ...]] = ("review", "generate")

    encoder: Embedding = Embedding()
    """The model that makes the vectors; it is not loaded where no step needs them."""
    part: Part = "instruction"
    """What is embedded: all user turns, all assistant turns, or both; never the system prompt."""
    steps: tuple[AnySelector, ...] = Field(default=(Exact(), Semantic()), min_length=1)
    """The selectors, each choosing among the samples that the one before kept."""
    seed: int = 0
    """Start of the random streams of selectors that draw."""
    embed_dropped: int = Field(default=500, ge=0)
    """Samples dropped before selection that are embedded as well, for the report's map."""
    shard_rows: int = Field(default=2048, gt=0)
    """Samples of one shard, of the vectors and of the output: what a kill during the embedding can cost."""

    @property
    def embeds(self) -> bool:
        """Whether any step needs vectors."""
        return any(step.needs_vectors for step in self.steps)

    def check(self, base: Path) -> list[str]:
        """Return what is wrong with the encoder."""
        del base
        problem = models.missing(self.encoder.model) if self.embeds else ""
        return [f"encoder.model: {self.encoder.model}: {problem}"] if problem else []

    def needs(self, outputs: Mapping[str, str]) -> dict[str, str]:
        """Ask for the seeds, which the report's map shows beside what was made from them."""
        return {"seeds": outputs["ingest"]} if self.embeds and "ingest" in outputs else {}

    def plan(self, store: Store, work: Work) -> Plan:
        """Say how many samples would be embedded, and where."""
        plan = Plan("select", work.output, actors=self.encoder.actors if self.embeds else 0)
        plan.cpus, plan.gpus = (self.encoder.cpus or 0) * plan.actors, (self.encoder.gpus or 0) * plan.actors
        plan.notes.append(" -> ".join(step.kind for step in self.steps))
        samples = work.inputs["samples"]
        plan.samples = plan.kept = work.num_samples(store)
        plan.shards = -(-plan.samples // self.shard_rows)
        for step in self.steps:
            plan.kept = step.most(plan.kept)
        if self.embeds and store.exists(self._vectors(samples, self.embed_dropped)[0]):
            plan.state = "continues"
        if store.complete(work.output):
            plan.state = "done"
        return plan

    def make(self, run: Run, work: Work) -> dict[str, Any]:
        """Embed, choose, and write the choice."""
        return select(self, run, work, Checkpoint)

    def _vectors(self, samples: str, num_dropped: int) -> tuple[str, str]:
        return folder(samples, self.part, self.encoder, num_dropped=num_dropped, shard_rows=self.shard_rows)


@dataclass
class Decision:
    """What became of one sample in selection."""

    dropped: str | None
    lost_to: str | None
    scores: dict[str, float]


def select(settings: Select, run: Run, work: Work, open_encoder: OpenEncoder) -> dict[str, Any]:
    """Make the output of a select job; only the encoder is handed in beside what every job gets."""
    begin = time.monotonic()
    samples = work.inputs["samples"]
    view, decisions = _view(run.store, samples)
    figures: dict[str, Any] = {"rows": len(decisions), "input_rows": run.store.manifest(samples).rows, "embedded": 0}
    metadata: dict[str, str] = {}
    if settings.embeds:
        problem = warning(settings.encoder, view.texts(settings.part))
        if problem:
            run.screen.say(problem)
            logger.warning("%s", problem)
        metadata, figures["embedded"] = _embed_all(settings, run, work, open_encoder)
        vectors = open_vectors(run.store, metadata["vectors"], models.identity(settings.encoder.model))
        view = replace(view, vectors=vectors.aligned(view.ids))
        figures["embed_seconds"] = round(time.monotonic() - begin, 2)
    for place, step in enumerate(settings.steps):
        choice = step.pick(view, ids.stream("select", settings.seed, place, step.fingerprint()))
        _enter(decisions, view, choice)
        dropped = len(view) - int(choice.kept.sum())
        figures[f"dropped_{step.kind}"] = figures.get(f"dropped_{step.kind}", 0) + dropped
        logger.info("%s: %d in, %d dropped", step.kind, len(view), dropped)
        view = view.take(choice.kept)
    shards = _write(run.store, work.output, samples, decisions, settings.shard_rows)
    seconds = time.monotonic() - begin
    figures |= {"kept": len(view), "dropped": len(decisions) - len(view), "seconds": round(seconds, 2)}
    figures["samples_per_s"] = round(len(decisions) / max(seconds, 1e-9), 1)
    run.store.commit(
        settings.manifest(work, "samples", shards, metadata),
        figures,
    )
    return figures


def _view(store: Store, samples: str) -> tuple[View, dict[str, Decision]]:
    """Return the kept samples with text as a view, and a decision yet to be filled for every kept sample."""
    decisions: dict[str, Decision] = {}
    rows: list[Sample] = []
    for table in store.scan(samples):
        for sample in from_table(table):
            if sample.dropped is not None:
                continue
            if sample.id in decisions:
                raise SchemaError(f"{samples}: id {sample.id} stands twice, must be unique; make the dataset anew")
            has_text = any(content.strip() for role, content in sample.messages if role != "system")
            decisions[sample.id] = Decision(None if has_text else NO_TEXT, None, {})
            if has_text:
                rows.append(sample)
    names = sorted({name for sample in rows for name in sample.scores})
    scores = {name: np.array([s.scores.get(name, np.nan) for s in rows], np.float32) for name in names}
    return View([s.id for s in rows], [s.messages for s in rows], scores), decisions


def _embed_all(settings: Select, run: Run, work: Work, open_encoder: OpenEncoder) -> tuple[dict[str, str], int]:
    """Embed the samples, and the seeds where they are known; return the folders by role and the samples embedded."""
    roles = {"vectors": work.inputs["samples"]}
    if work.inputs.get("seeds", roles["vectors"]) != roles["vectors"]:
        roles["seed_vectors"] = work.inputs["seeds"]
    sources = {samples: settings.embed_dropped if role == "vectors" else 0 for role, samples in roles.items()}
    folders, embedded = embed(
        run, sources, settings.part, settings.encoder, open_encoder, shard_rows=settings.shard_rows
    )
    return {role: folders[samples] for role, samples in roles.items()}, embedded


def _enter(decisions: dict[str, Decision], view: View, choice: Choice) -> None:
    """Note what a selector said of the samples that it saw."""
    for row, name in enumerate(view.ids):
        decision = decisions[name]
        decision.dropped = choice.reasons.get(row)
        decision.lost_to = view.ids[choice.lost_to[row]] if row in choice.lost_to else None
        for score, values in choice.scores.items():
            if not np.isnan(values[row]):
                decision.scores[score] = float(values[row])


def _write(store: Store, output: str, samples: str, decisions: dict[str, Decision], rows: int) -> tuple[Shard, ...]:
    """Write the samples that came in kept, in their order, each with its decision; at least one shard, if empty."""
    shards: list[Shard] = []
    held: list[Sample] = []
    for sample in _decided(store, samples, decisions):
        held.append(sample)
        if len(held) == rows:
            shards.append(store.commit_shard(output, f"shard-{len(shards):05d}", to_table(held)))
            held = []
    if held or not shards:
        shards.append(store.commit_shard(output, f"shard-{len(shards):05d}", to_table(held)))
    return tuple(shards)


def _decided(store: Store, samples: str, decisions: dict[str, Decision]) -> Iterator[Sample]:
    for table in store.scan(samples):
        for sample in from_table(table):
            decision = decisions.get(sample.id)
            if decision is None:
                continue
            tags = {**sample.tags, "lost_to": decision.lost_to} if decision.lost_to else sample.tags
            yield replace(sample, scores={**sample.scores, **decision.scores}, tags=tags, dropped=decision.dropped)
