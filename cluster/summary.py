"""Text for people: the summary of a run, the listing of a store, the plan of a recipe, samples to read."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cluster.job import Plan
from cluster.ledger import JobState, RunState, state
from cluster.sample import Sample
from cluster.store import Manifest, Store

STAGE = ("rows in", "kept", "prompt tokens", "tokens", "seconds", "tokens/s")
"""What the summary and the report say of a job."""


def state_of(store: Store, run_id: str) -> RunState:
    """Return the state of a run as its ledger tells it."""
    return state(store, f"runs/{run_id}")


def run_lines(store: Store, run_id: str) -> Iterator[str]:
    """Yield what a run came to: rows, tokens, seconds and rates per job, losses, and where everything lies."""
    run = state_of(store, run_id)
    if run.state != "done":
        yield f"{run_id}: {run.state}{f', {run.error}' if run.error else ''}"
    rows: list[tuple[str, ...]] = [("job", "state", "shards", *STAGE)]
    for name, job in run.jobs.items():
        shards = f"{job.shards_done}/{job.shards}" if job.shards else ""
        rows.append((name, "reused" if job.reused else job.state, shards, *stage(job.figures)))
    yield from _aligned(rows)
    figures = run.jobs["evaluate"].figures if "evaluate" in run.jobs else {}
    if "loss_before" in figures:
        before, after = figures["loss_before"], figures["loss_after"]
        interval = f" (95 % interval of the difference {figures['ci_low']:+.4f} to {figures['ci_high']:+.4f})"
        yield f"held-out loss {before:.4f} -> {after:.4f}{interval}"
    if run.jobs.get("generate", JobState()).figures.get("tokens_per_kept"):
        yield _cost_line(run.jobs["generate"].figures)
    if "review" in run.jobs:
        yield from _review_lines(run.jobs["review"].figures)
    yield ""
    for name, job in run.jobs.items():
        yield f"{name:9} {store.at(job.output)}"
    if store.exists("runs", run_id, "report.html"):
        yield f"{'report':9} {store.at('runs', run_id, 'report.html')}"


def _cost_line(figures: Mapping[str, Any]) -> str:
    """Return what a kept sample cost in tokens, in seconds of an engine and, where there are prices, in money."""
    money = f", {figures['cost_per_kept']:.6f} in money" if "cost_per_kept" in figures else ""
    spent = f"{figures['tokens_per_kept']:,.0f} tokens and {figures['engine_seconds_per_kept']:.2f} engine seconds"
    return f"a kept sample took {spent}{money}"


def _review_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield how far the annotators agree, how often each is right by what people say, and how many samples wait."""
    alpha = figures.get("krippendorff_alpha", {}).get("annotators")
    said = [f"Krippendorff's alpha of the annotators {alpha:.3f}"] if alpha is not None else []
    said += [f"{name} right {share:.0%}" for name, share in figures.get("accuracy", {}).items()]
    if "queued" in figures:
        yield "; ".join([*said, f"{figures['queued']} samples wait for people"])


def dataset_lines(manifest: Manifest, figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a dataset or model holds and what it was made from."""
    counts = f"{manifest.rows:,} rows, {manifest.kept:,} kept, {len(manifest.shards)} files"
    yield f"{manifest.name}: {manifest.kind}, {counts}"
    facts = {f"from {role}": folder for role, folder in manifest.inputs.items()} | dict(manifest.metadata)
    for name, value in (facts | dict(figures)).items():
        yield f"  {name}: {value}"
    yield "  settings:"
    yield from (f"    {line}" for line in json.dumps(manifest.settings, indent=1, ensure_ascii=False).splitlines())


def stage(figures: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of `STAGE` for one job's figures; `tokens` are those written by the model, or trained on."""
    tokens, rate = figures.get("reply_tokens", figures.get("tokens")), figures.get("reply_tokens_per_s")
    numbers = (
        figures.get("rows"),
        figures.get("kept"),
        figures.get("prompt_tokens"),
        tokens,
        figures.get("seconds"),
        figures.get("tokens_per_s", rate),
    )
    return tuple("" if n is None else f"{n:,.1f}" if isinstance(n, float) else f"{n:,}" for n in numbers)


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield a table, its first row the heads; columns of numbers stand to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [any(column[1:]) and not any(any(c.isalpha() for c in cell) for cell in column[1:]) for column in columns]
    for row in rows:
        cells = (f"{c:>{w}}" if r else f"{c:<{w}}" for c, w, r in zip(row, widths, right, strict=True))
        yield "  ".join(cells).rstrip()


def plan_lines(plans: Sequence[Plan]) -> Iterator[str]:
    """Yield the plan of a recipe as a table with notes."""
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


def listing(store: Store, run_ids: Sequence[str]) -> dict[str, Any]:
    """Return the runs and complete datasets of a store with state and counts, as JSON values."""
    states = {run_id: state_of(store, run_id) for run_id in run_ids}
    whole, damaged = store.entries()
    return {
        "runs": [
            {
                "run": run_id,
                "state": run.state,
                "started": run.started,
                "attempts": run.attempts,
                "jobs": {name: job.state for name, job in run.jobs.items()},
            }
            for run_id, run in states.items()
        ],
        "datasets": [
            {"dataset": m.name, "kind": m.kind, "rows": m.rows, "kept": m.kept, "shards": len(m.shards)} for m in whole
        ],
        "damaged": damaged,
    }


def listing_lines(value: dict[str, Any]) -> Iterator[str]:
    """Yield a listing as tables."""
    if value["runs"]:
        rows = [("run", "state", "started", "attempts", "jobs")]
        rows += [
            (
                r["run"],
                r["state"],
                time.strftime("%Y-%m-%d %H:%M", time.localtime(r["started"])),
                str(r["attempts"]),
                ", ".join(f"{name} {state}" for name, state in r["jobs"].items()),
            )
            for r in value["runs"]
        ]
        yield from _aligned(rows)
        yield ""
    rows = [("dataset", "kind", "rows", "kept", "shards")]
    rows += [(d["dataset"], d["kind"], f"{d['rows']:,}", f"{d['kept']:,}", str(d["shards"])) for d in value["datasets"]]
    yield from _aligned(rows)
    yield from value["damaged"]


def sample_lines(sample: Sample) -> Iterator[str]:
    """Yield one sample readably: where it comes from, its scores, its conversation, its drop reason."""
    scores = "  ".join(f"{name} {value:.3g}" for name, value in sorted(sample.scores.items()))
    tags = "  ".join(f"{name}={value}" for name, value in sorted(sample.tags.items()))
    facts = [sample.id, sample.method, f"round {sample.round}", *filter(None, (scores, tags))]
    yield "─" * 100
    yield "  ".join(facts)
    if sample.parents:
        yield f"parents  {' '.join(sample.parents)}"
    if sample.dropped:
        yield f"dropped  {sample.dropped}"
    for role, content in sample.messages:
        yield f"[{role}]"
        yield from (f"    {line}" for line in content.splitlines() or [""])
