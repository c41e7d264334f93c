"""Text for people: the summary of a run, the list of a store, the plan of a recipe, and samples."""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gristmill.cluster.contract.errors import StoreError
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.jobs.heartbeat import BEAT_OBJECT_S, Beat
from gristmill.cluster.jobs.job import JOBS, Plan, figures_class, job_class
from gristmill.cluster.jobs.scale import Size, bases, scale_lines
from gristmill.cluster.jobs.state import STAGE, beat_of, stage, state_of
from gristmill.cluster.report.sections import presentation_of
from gristmill.cluster.store.ledger import JobState
from gristmill.cluster.store.store import Manifest, Store

log = logging.getLogger(__name__)


def run_lines(store: Store, run_id: str) -> Iterator[str]:
    """Yield the results of a run: rows, tokens, seconds and rates of each job, losses, and the paths of the outputs."""
    run = state_of(store, run_id)
    if run.state != "done":
        yield f"{run_id}: {run.state}{f', {run.error}' if run.error else ''}"
    if run.state == "running":
        yield from beat_lines(beat_of(store, run_id), time.time())
    rows: list[tuple[str, ...]] = [("job", "state", "shards", *STAGE)]
    found = {name: _figures(name, job) for name, job in run.jobs.items()}
    for name, job in run.jobs.items():
        shards = f"{job.shards_done}/{job.shards}" if job.shards else ""
        rows.append((name, "reused" if job.reused else job.state, shards, *stage(found[name])))
    yield from _aligned(rows)
    for name, figures in found.items():
        if name in JOBS and figures is not None:
            yield from presentation_of(job_class(name).presentation).summary(figures)
    yield ""
    for name, job in run.jobs.items():
        yield f"{name:9} {store.at(job.output)}"
    if store.exists("runs", run_id, "report.html"):
        yield f"{'report':9} {store.at('runs', run_id, 'report.html')}"


def beat_lines(beat: Beat | None, now: float) -> Iterator[str]:
    """Yield what a running run does, when it last got further, and what it waits for.

    Args:
        beat: its last heartbeat.
        now: the time, in seconds since 1970.
    """
    if beat is None:
        yield "  no heartbeat yet"
        return
    step = beat.step
    count = f"{step.done:,}{f' of {step.total:,}' if step.total else ''}" if step.done or step.total else ""
    stage = step.stage or step.job
    doing = ", ".join(filter(None, (f"{stage}: {count}" if count else stage, step.note)))
    if doing:
        yield f"  {doing}"
    yield f"  last progress {_ago(now - step.progressed)}"
    for wait in beat.waiting:
        yield f"  waiting for {wait.what} since {time.strftime('%H:%M:%S', time.localtime(wait.since))}"
    if now - beat.time > SILENT * BEAT_OBJECT_S:
        yield f"  no heartbeat of process {beat.process} of {beat.machine} since {now - beat.time:,.0f} s: it hangs"


SILENT = 2
"""Number of heartbeats that may be missing, before a driver is said to hang."""


def _ago(seconds: float) -> str:
    """Return an age in words."""
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.1f} h ago"


def _figures(name: str, job: JobState) -> Figures | None:
    """Return the figures of a job, or None if it has none that this version can read."""
    try:
        return figures_class(name).read(job.figures) if job.figures else None
    except StoreError as error:
        log.warning("%s: %s", name, error)
        return None


def dataset_lines(manifest: Manifest, figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield the counts, sources, metadata, figures and settings of a dataset or model."""
    counts = f"{manifest.rows:,} rows, {manifest.kept:,} kept, {len(manifest.shards)} files"
    yield f"{manifest.name}: {manifest.kind}, {counts}"
    facts = {f"from {role}": folder for role, folder in manifest.inputs.items()} | dict(manifest.metadata)
    for name, value in (facts | dict(figures)).items():
        yield f"  {name}: {value}"
    yield "  settings:"
    yield from (f"    {line}" for line in json.dumps(manifest.settings, indent=1, ensure_ascii=False).splitlines())


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a table, whose first row is its header. Columns of numbers are aligned to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [any(column[1:]) and not any(any(c.isalpha() for c in cell) for cell in column[1:]) for column in columns]
    for row in rows:
        cells = (f"{c:>{w}}" if r else f"{c:<{w}}" for c, w, r in zip(row, widths, right, strict=True))
        yield "  ".join(cells).rstrip()


def plan_lines(plans: Sequence[Plan]) -> Iterator[str]:
    """Yield the lines of a recipe's plan: a table, then the notes of its jobs."""
    rows = [("job", "state", "samples", "shards", "actors", "CPU", "GPU", "tokens (about)", "output")]
    rows += [
        (
            p.job,
            p.state,
            *((f"{p.samples:,}", f"{p.shards:,}") if p.samples else ("?", "?")),  # not known before the run
            f"{p.actors}",
            f"{p.cpus:g}" if p.cpus or not p.actors else "all",
            f"{p.gpus:g}",
            f"{p.tokens:,}" if p.samples else "?",
            p.output,
        )
        for p in plans
    ]
    yield from _aligned(rows)
    for plan in plans:
        for note in plan.notes:
            yield f"{plan.job}: {note}"


SCHEMA = 1
"""Number of the form of what `show --json` prints. It grows when a key is renamed or taken away."""


def size_lines(plans: Sequence[Plan], size: Size) -> Iterator[str]:
    """Yield what the jobs take on a cluster of a size: a table, then where its numbers come from."""
    yield f"on {size.nodes} machines of {size.gpus} GPUs:"
    yield from _aligned([tuple(cells) for cells in scale_lines(plans, size)])
    yield from bases(plans, size)


def listing(store: Store, run_ids: Sequence[str]) -> dict[str, Any]:
    """Return the runs and the complete datasets of a store as JSON values, with their states and counts."""
    states = {run_id: state_of(store, run_id) for run_id in run_ids}
    beats = {run_id: beat_of(store, run_id) for run_id, run in states.items() if run.state == "running"}
    progress = {run_id: beat.step.progressed for run_id, beat in beats.items() if beat is not None}
    whole, damaged = store.entries()
    return {
        "schema": SCHEMA,
        "runs": [
            {
                "run": run_id,
                "state": run.state,
                "started": run.started,
                "attempts": run.attempts,
                "jobs": {name: job.state for name, job in run.jobs.items()},
                "progress": progress.get(run_id),
            }
            for run_id, run in states.items()
        ],
        "datasets": [
            {"dataset": m.name, "kind": m.kind, "rows": m.rows, "kept": m.kept, "shards": len(m.shards)} for m in whole
        ],
        "damaged": damaged,
    }


def listing_lines(value: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the tables that show the result of `listing`."""
    if value["runs"]:
        rows = [("run", "state", "last progress", "started", "attempts", "jobs")]
        rows += [
            (
                r["run"],
                r["state"],
                _ago(time.time() - r["progress"]) if r["progress"] else "",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(r["started"])),
                str(r["attempts"]),
                ", ".join(f"{name} {state}" for name, state in r["jobs"].items()),
            )
            for r in value["runs"]
        ]
        yield from _aligned(rows)
        yield ""
    datasets = [("dataset", "kind", "rows", "kept", "shards")]
    datasets += [
        (d["dataset"], d["kind"], f"{d['rows']:,}", f"{d['kept']:,}", str(d["shards"])) for d in value["datasets"]
    ]
    yield from _aligned(datasets)
    yield from value["damaged"]


def sample_lines(sample: Sample) -> Iterator[str]:
    """Yield one sample as lines for people: its origin, scores, tags, parents, drop reason, tools and conversation."""
    scores = "  ".join(f"{name} {value:.3g}" for name, value in sorted(sample.scores.items()))
    tags = "  ".join(f"{name}={value}" for name, value in sorted(sample.tags.items()))
    facts = [sample.id, sample.method, f"round {sample.round}", *filter(None, (scores, tags))]
    yield "─" * 100
    yield "  ".join(facts)
    if sample.parents:
        yield f"parents  {' '.join(sample.parents)}"
    if sample.dropped:
        yield f"dropped  {sample.dropped}"
    if sample.tools:
        yield f"tools    {sample.tools}"
    for turn in sample.messages:
        yield f"[{turn.role}]" if turn.train else f"[{turn.role}, context alone]"
        shown = (f"({turn.reasoning})" if turn.reasoning else "", turn.said, turn.parts or "")
        yield from (f"    {line}" for line in "\n".join(filter(None, shown)).splitlines() or [""])
