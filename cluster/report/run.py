"""The report of a run: one self-contained page, made from the ledger and the finished outputs."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.io.account import account_rows
from gristmill.cluster.jobs.job import JOBS, job_class
from gristmill.cluster.jobs.state import STAGE, stage
from gristmill.cluster.report import charts
from gristmill.cluster.report.material import INGEST, MAX_ROWS, Material, material_of, read_examples
from gristmill.cluster.report.page import Page
from gristmill.cluster.report.sections import (
    Panel,
    Presentation,
    Section,
    Stage,
    Table,
    Tile,
    presentation_of,
    stages,
)
from gristmill.cluster.store.store import Store

MAX_TABLE = 500
MAX_REASONS = 14
MAX_TEXT = 4_000
SNIPPET = 160


def write(store: Store, run_id: str, max_rows: int = MAX_ROWS) -> str:
    """Write `report.html` into the folder of a run and return its path.

    The page has no sections for jobs that have not run. Distributions use the first `max_rows` samples.

    Raises:
        StoreError: if there is no such run.
    """
    material = material_of(store, run_id, max_rows)
    shown = [(presentation_of(job_class(name).presentation), material.figures[name]) for name in _jobs_of(material)]
    read_examples(material, {name for presentation, figures in shown for name in presentation.examples(figures)})
    report = Page(
        title=material.recipe.name or run_id,
        badge=material.state.state,
        facts=list(_facts(material)),
        error="\n".join(filter(None, [material.state.error, *material.problems])),
        tiles=[*_kept(material), *(t for p, f in shown for t in p.tiles(material, f)), *_spent(material)],
        sections=[
            *_jobs(material),
            *_flow(material, shown),
            *_quality(material),
            *(section for presentation, figures in shown for section in presentation.sections(material, figures)),
        ],
        samples=_table(material),
        num_samples=material.rows,
    )
    store.write_bytes(report.html().encode(errors="replace"), "runs", run_id, "report.html")
    return store.at("runs", run_id, "report.html")


def _jobs_of(material: Material) -> list[str]:
    """Return the jobs with figures, in the order in which a recipe runs them."""
    return [name for name in JOBS if name in material.figures]


# -- top of the page ----------------------------------------------------------------------------------------------


def _facts(material: Material) -> Iterator[str]:
    state = material.state
    yield material.run_id
    if state.started:
        yield f"started {time.strftime('%Y-%m-%d %H:%M', time.gmtime(state.started))} UTC"
        yield f"{_duration(state.ended - state.started)} to the last event"
    if state.attempts > 1:
        yield f"{state.attempts} attempts"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


def _kept(material: Material) -> Iterator[Tile]:
    last = next((m for name, m in reversed(_manifests(material).items()) if m.kind == "samples"), None)
    if last:
        yield Tile("samples kept", f"{last.kept:,}", f"of {material.rows:,} made or read")


def _manifests(material: Material) -> dict[str, Any]:
    return {name: material.manifests[name] for name in JOBS if name in material.manifests}


def _spent(material: Material) -> Iterator[Tile]:
    tokens = {name: figures.all_tokens for name, figures in material.figures.items()}
    if sum(tokens.values()):
        most = ", ".join(f"{name}\u00a0{_short(n)}" for name, n in tokens.items() if n)
        yield Tile("tokens", _short(sum(tokens.values())), most)
    seconds = sum(figures.seconds or 0 for figures in material.figures.values())
    if seconds:
        done = f"{len(material.manifests)} of {len(material.state.jobs)} jobs complete"
        yield Tile("time in jobs", _duration(seconds), done)


def _short(number: int) -> str:
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (10_000, "k")):
        if number >= size:
            return f"{number / (1000 if unit == 'k' else size):.1f}\u00a0{unit}"
    return f"{number:,}"


def _jobs(material: Material) -> Iterator[Section]:
    lines = []
    for name, job in material.state.jobs.items():
        shards = f"{job.shards_done}/{job.shards}" if job.shards else ""
        cells = stage(material.figures.get(name))
        lines.append((name, "reused" if job.reused else job.state, shards, *cells, job.output))
    columns = (("job", ""), ("state", ""), ("shards", "num"), *((head, "num") for head in STAGE), ("output", "mono"))
    if lines:
        yield Section("Jobs", "", (), (Table(columns, lines),))
    fates = account_rows(material.manifests[INGEST].metadata) if INGEST in material.manifests else []
    if fates:
        lead = "Columns of the input that did not become part of the samples under their own names."
        heads = (("what became of it", ""), ("column", "mono"), ("share of the rows", "num"))
        yield Section("Columns of the input", lead, (), (Table(heads, fates, narrow=True),))


# -- sections -----------------------------------------------------------------------------------------------------

JobResults = list[tuple[Presentation[Any], Any]]
"""Presentations of jobs, each with the job's figures."""


def _funnel(material: Material, shown: JobResults) -> Iterator[Stage]:
    """Yield the stages of the funnel, from the seeds to the samples that the model is trained on."""
    made = material.base in JOBS
    if made and INGEST in material.manifests:
        yield Stage("seeds", material.manifests[INGEST].kept, charts.SEEDS)
    left = material.rows
    if left:
        yield Stage("drafts" if made else "samples read", left, charts.REFUSED)
    if not made:
        for one in stages(left, material.reasons.get(material.base, Counter()), (), charts.REFUSED):
            left = one.left
            yield one
    kept = False
    for presentation, figures in shown:
        for one in presentation.flow(left, material, figures):
            if not kept and one.colour == charts.KEPT and material.rows:
                kept = True
                yield Stage("kept", left, charts.KEPT)
            left = one.left if one.colour != charts.KEPT else left
            yield one
    if material.rows and not kept:
        yield Stage("kept", left, charts.KEPT)


def _flow(material: Material, shown: JobResults) -> Iterator[Section]:
    steps = list(_funnel(material, shown))
    if not steps:
        return
    top = max(1, material.rows)
    labels, values, colours = zip(*steps, strict=True)
    texts = [f"{n:,}" if label == "seeds" else f"{n:,}  ({n / top:.0%})" for label, n, _ in steps]
    panels = [Panel("Funnel", charts.bars(labels, values, colours, texts), "Samples left after each step.")]
    reasons = [(r, n, charts.REFUSED) for r, n in material.reasons_of(chosen=False).items()]
    reasons += [(r, n, charts.SELECTED_OUT) for r, n in material.reasons_of(chosen=True).items()]
    reasons.sort(key=lambda entry: (-entry[1], entry[0]))
    if reasons:
        rest = sum(n for _, n, _ in reasons[MAX_REASONS:])
        most = reasons[:MAX_REASONS] + ([("other reasons", rest, charts.GRID)] if rest else [])
        labels, values, colours = zip(*most, strict=True)
        note = "Grey: before selection. Amber: in selection. Each dropped sample has one reason, the first."
        panels.append(
            Panel("Why samples were dropped", charts.bars(labels, values, colours, list(map(str, values))), note)
        )
    yield Section("From seeds to data", "", panels)


def _by_fate(material: Material, numbers: Mapping[str, float]) -> dict[str, Any]:
    groups: dict[str, list[float]] = {"dropped before selection": [], "dropped in selection": [], "kept": []}
    for name, number in numbers.items():
        groups[material.fates[name]].append(number)
    return {fate: np.array(found, np.float64) for fate, found in groups.items()}


def _quality(material: Material) -> Iterator[Section]:
    samples = material.samples.values()
    if not samples:
        return
    legend = "Share of the samples of each fate. Blue: kept. Amber: dropped in selection. Grey: dropped before."
    if material.rows > len(samples):
        legend += f" From the first {len(samples):,} of {material.rows:,} samples."
    names = sorted({name for s in samples for name in s.scores})
    panels = [
        Panel(
            name,
            charts.histograms(_by_fate(material, {s.id: s.scores[name] for s in samples if name in s.scores}), ""),
            _note(material, name),
        )
        for name in names[:8]
    ]
    if panels:
        yield Section("Scores", legend, panels)
    lengths = {"instruction": "characters of the instruction", "answer": "characters of the answer"}
    panels = []
    for part, title in lengths.items():
        numbers = {s.id: float(len(getattr(s, part))) for s in samples if getattr(s, part)}
        panels.append(Panel(part, charts.histograms(_by_fate(material, numbers), title, clip=True)))
    yield Section("Lengths", legend + " The last bar holds all longer ones.", panels)


def _note(material: Material, score: str) -> str:
    """Return the notes of all jobs about the chart of a score, as one text."""
    jobs = [name for name in JOBS if material.settings(name)]
    notes = (presentation_of(job_class(name).presentation).score_note(material.settings(name), score) for name in jobs)
    return " ".join(filter(None, notes))


# -- table of samples ---------------------------------------------------------------------------------------------


def _table(material: Material) -> list[dict[str, Any]]:
    """Return up to `MAX_TABLE` samples as JSON values. At least half of them are kept samples, if there are enough."""
    by_fate: dict[bool, list[Sample]] = {True: [], False: []}
    for sample in material.samples.values():
        by_fate[sample.dropped is None].append(sample)
    kept, dropped = by_fate[True], by_fate[False]
    room = max(MAX_TABLE // 2, MAX_TABLE - len(dropped))
    chosen = kept[:room]
    chosen += dropped[: MAX_TABLE - len(chosen)]
    return [_entry(material, sample) for sample in chosen]


def _entry(material: Material, sample: Sample) -> dict[str, Any]:
    def snippet(name: str) -> dict[str, str]:
        known = material.samples.get(name) or material.seeds.get(name)
        return {"id": name, "text": (known.instruction or known.answer)[:SNIPPET] if known else ""}

    origin = sample.origin
    return {
        "id": sample.id,
        "fate": material.fates[sample.id],
        "instruction": sample.instruction[:MAX_TEXT],
        "answer": sample.answer[:MAX_TEXT],
        "turns": [[m.role, m.said[:MAX_TEXT]] for m in sample.messages],
        "method": sample.method,
        "round": sample.round,
        "scores": {name: round(value, 4) for name, value in sorted(sample.scores.items())},
        "tags": dict(sorted((k, v) for k, v in sample.tags.items() if k != "lost_to")),
        "reason": sample.dropped or "",
        "parents": [snippet(name) for name in sample.parents],
        "lost_to": snippet(sample.tags["lost_to"]) if "lost_to" in sample.tags else None,
        "origin": {n: getattr(origin, n) for n in type(origin).__slots__} if origin else {},
    }
