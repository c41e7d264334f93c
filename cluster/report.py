"""The report of a run: reads its ledger and whatever its jobs have completed, and writes one self-contained page."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cluster import report_charts as charts
from cluster import report_selection
from cluster.report_material import Material, material_of
from cluster.report_page import Page, Panel, Section, Table, Tile
from cluster.sample import Sample
from cluster.store import Store
from cluster.summary import STAGE, stage

MAX_POINTS = 3_000
MAX_TABLE = 500
MAX_REASONS = 14
MAX_TEXT = 4_000
SNIPPET = 160
LAST = {"target": 1 << 30, "review": (1 << 30) + 1}
"""Place in the funnel of what is dropped behind every step of a recipe."""


def write(store: Store, run_id: str) -> str:
    """Write `report.html` into the folder of a run and return its path.

    The page shows what is there: jobs that have not run leave their sections out.

    Raises:
        StoreError: when there is no such run.
    """
    material = material_of(store, run_id)
    report = Page(
        title=str(material.recipe.get("name", run_id)),
        badge=material.state.state,
        facts=list(_facts(material)),
        error=material.state.error,
        tiles=list(_tiles(material)),
        sections=[
            *_jobs(material),
            *_agreement(material.figures.get("review", {})),
            *_flow(material),
            *_rounds(material),
            *report_selection.sections(material),
            *_quality(material),
            *_map(store, material),
            *_training(store, material),
        ],
        samples=_table(material),
        num_samples=material.rows,
    )
    store.write_bytes(report.html().encode(), "runs", run_id, "report.html")
    return store.at("runs", run_id, "report.html")


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


def _tiles(material: Material) -> Iterator[Tile]:
    manifests, figures = material.manifests, material.figures
    last = manifests.get("select") or manifests.get("review") or manifests.get("generate")
    if last:
        yield Tile("samples kept", f"{last.kept:,}", f"of {material.rows:,} made or read")
    if "generate" in manifests:
        made, surplus = manifests["generate"], material.before["target: surplus"]
        spare = f", {surplus:,} of them more than were wanted" if surplus else ""
        accepted = made.kept + surplus
        yield Tile("acceptance", f"{accepted / max(1, made.rows):.0%}", f"{accepted:,} of {made.rows:,} drafts{spare}")
    tokens = {name: _tokens(f) for name, f in figures.items()}
    if sum(tokens.values()):
        most = ", ".join(f"{name}\u00a0{_short(n)}" for name, n in tokens.items() if n)
        yield Tile("tokens", _short(sum(tokens.values())), most)
    losses = figures.get("evaluate", {})
    if "loss_before" in losses and "loss_after" in losses:
        before, after = float(losses["loss_before"]), float(losses["loss_after"])
        yield Tile("held-out loss", f"{before:.3f} → {after:.3f}", f"{after - before:+.3f} nats per token")
    elif figures.get("train", {}).get("holdout_loss") is not None:
        yield Tile("held-out loss", f"{figures['train']['holdout_loss']:.3f}", "after training")
    seconds = sum(float(f.get("seconds") or 0) for f in figures.values())
    if seconds:
        yield Tile("time in jobs", _duration(seconds), f"{len(manifests)} of {len(material.state.jobs)} jobs complete")


def _tokens(figures: Mapping[str, Any]) -> int:
    return int(figures.get("tokens") or (figures.get("prompt_tokens") or 0) + (figures.get("reply_tokens") or 0))


def _short(number: int) -> str:
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (10_000, "k")):
        if number >= size:
            return f"{number / (1000 if unit == 'k' else size):.1f}\u00a0{unit}"
    return f"{number:,}"


def _jobs(material: Material) -> Iterator[Section]:
    lines = []
    for name, job in material.state.jobs.items():
        shards = f"{job.shards_done}/{job.shards}" if job.shards else ""
        cells = stage(material.figures.get(name, {}))
        lines.append((name, "reused" if job.reused else job.state, shards, *cells, job.output))
    columns = (("job", ""), ("state", ""), ("shards", "num"), *((head, "num") for head in STAGE), ("output", "mono"))
    if lines:
        yield Section("Jobs", "", (), (Table(columns, lines),))


# -- sections -----------------------------------------------------------------------------------------------------


def _kinds(reasons: Counter[str]) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for reason, count in reasons.items():
        kinds[reason.partition(":")[0]] += count
    return kinds


def _ordered(kinds: Counter[str], steps: Sequence[Any]) -> list[tuple[str, int]]:
    """Return kinds with counts in the order of the recipe's steps, the methods' before them, the target's behind."""
    order = [str(step.get("kind")) for step in steps if isinstance(step, dict)]
    places = {**LAST, **{kind: place for place, kind in enumerate(order)}}
    return sorted(kinds.items(), key=lambda item: (places.get(item[0], -1), item[0]))


def _funnel(material: Material) -> Iterator[tuple[str, int, str]]:
    """Yield (label, samples left, colour) from the seeds to what was trained on."""
    jobs = material.recipe.get("jobs", {})
    generate = jobs.get("generate") or {}
    ingest = material.manifests.get("ingest")
    if ingest and "generate" in material.manifests:
        yield "seeds", ingest.kept, charts.SEEDS
    left = material.rows
    if left:
        yield "drafts" if "generate" in material.manifests else "samples read", left, charts.REFUSED
    for kind, count in _ordered(_kinds(material.before), generate.get("filters") or []):
        left -= count
        yield f"after {kind}", left, charts.REFUSED
    steps = material.figures.get("select", {}).get("steps")
    if steps:
        left = steps[0]["in"]
    for kind, count in _selected(material, steps):
        left -= count
        yield f"after {kind}", left, charts.SELECTED_OUT
    if material.rows:
        yield "kept", left, charts.KEPT
    train = material.figures.get("train", {})
    if "kept" in train and "holdout" in train:
        yield "trained on", train["kept"], charts.KEPT
        yield "held out", train["holdout"], charts.KEPT


def _selected(material: Material, steps: Sequence[Mapping[str, Any]] | None) -> list[tuple[str, int]]:
    """Return what each step of selection dropped: as the job tells it, else by the reasons of the rows."""
    if steps:
        return [(str(step["kind"]), int(step["in"]) - int(step["kept"])) for step in steps]
    select = material.recipe.get("jobs", {}).get("select") or {}
    return _ordered(_kinds(material.selection), select.get("steps") or [])


def _flow(material: Material) -> Iterator[Section]:
    steps = list(_funnel(material))
    if not steps:
        return
    top = max(1, material.rows)
    labels, values, colours = zip(*steps, strict=True)
    texts = [f"{n:,}" if label == "seeds" else f"{n:,}  ({n / top:.0%})" for label, n, _ in steps]
    panels = [Panel("Funnel", charts.bars(labels, values, colours, texts), "Samples left after each step.")]
    reasons = [(r, n, charts.REFUSED) for r, n in material.before.items()]
    reasons += [(r, n, charts.SELECTED_OUT) for r, n in material.selection.items()]
    reasons.sort(key=lambda entry: (-entry[1], entry[0]))
    if reasons:
        rest = sum(n for _, n, _ in reasons[MAX_REASONS:])
        shown = reasons[:MAX_REASONS] + ([("other reasons", rest, charts.GRID)] if rest else [])
        labels, values, colours = zip(*shown, strict=True)
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


def _rounds(material: Material) -> Iterator[Section]:
    """Yield the figures that steps of generation leave of each round: shares in one chart, counts in another."""
    rounds = material.figures.get("generate", {}).get("by_round") or []
    names = sorted({name for figures in rounds for name in figures} - {"round"})
    shares = [n for n in names if all(0 <= figures.get(n, 0) <= 1 for figures in rounds)]
    others = [n for n in names if n not in shares]
    panels = [
        Panel(title, charts.by_round(rounds, chosen), "", wide=not (shares and others))
        for title, chosen in (("Shares", shares), ("Numbers", others))
        if chosen
    ]
    if panels:
        yield Section("Round by round", "What the steps of generation measured when each round began.", panels)


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
            _told_of(material, name),
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
    yield Section("Lengths", legend + " The last bar holds all that is longer.", panels)


def _told_of(material: Material, score: str) -> str:
    """Return what one must know to read a score's chart."""
    if score != "novelty":
        return ""
    filters = (material.recipe.get("jobs", {}).get("generate") or {}).get("filters") or []
    floor = next((1 - min(f["exact_from"], f.get("max_similarity", 1)) for f in filters if "exact_from" in f), None)
    if not floor:
        return ""
    return f"{floor:g} stands for {floor:g} and more: how much farther the nearest instruction is, is not looked for."


def _map(store: Store, material: Material) -> Iterator[Section]:
    select = material.manifests.get("select")
    roles = (
        {role: select.metadata[role] for role in ("vectors", "seed_vectors") if role in select.metadata}
        if select
        else {}
    )
    fates: list[str] = []
    texts: list[str] = []
    blocks: list[Any] = []
    for role, folder in roles.items():
        known = material.samples if role == "vectors" else material.seeds
        for table in store.scan(folder):
            places = [n for n, name in enumerate(table["id"].to_pylist()) if name in known][: MAX_POINTS - len(fates)]
            found = [known[name] for name in table["id"].take(pa.array(places, pa.int64())).to_pylist()]
            fates += [material.fates[s.id] if role == "vectors" else "seed" for s in found]
            texts += [s.instruction or s.answer for s in found]
            blocks.append(_matrix(table)[places])
    if not fates:
        return
    points, share = charts.flat_2d(np.concatenate(blocks))
    note = (
        f"Each dot is a sample, near ones mean similar things; the two main axes of the embedding ({share:.0%} of its "
        f"variance). {len(fates):,} shown. Drag to move, scroll to zoom, point to read."
    )
    yield Section("Map of meanings", note, [Panel("", charts.map_2d(points, fates, texts), wide=True, zooms=True)])


def _matrix(table: pa.Table) -> Any:  # noqa: ANN401 - [n, d] float32
    width = table.schema.field("vector").type.list_size
    flat = [chunk.flatten().to_numpy() for chunk in table["vector"].chunks]
    return np.concatenate([np.empty(0, np.float32), *flat]).astype(np.float32).reshape(-1, width)


def _training(store: Store, material: Material) -> Iterator[Section]:
    panels = []
    train, measured = material.manifests.get("train"), material.figures.get("evaluate", {})
    if train and store.exists(train.name, "metrics.jsonl"):
        lines = store.read_bytes(train.name, "metrics.jsonl").decode().splitlines()
        journal = [m for m in (json.loads(line) for line in lines if line.strip()) if "step" in m]
        panels.append(Panel("Loss while training", charts.loss_curve(journal), f"{len(journal)} optimizer steps."))
    if "loss_before" in measured and "loss_after" in measured:
        low, high = measured.get("ci_low"), measured.get("ci_high")
        note = "The same held-out samples through the base model and the tuned one."
        if low is not None and high is not None:
            note += f" 95 % interval of the change: {low:+.4f} to {high:+.4f} nats per token."
        figure = charts.before_after(measured["loss_before"], measured["loss_after"], low, high)
        panels.append(Panel("Before and after", figure, note))
    replies = _replies(store, material)
    columns = tuple((head, "clip") for head in ("held-out instruction", "the tuned model says", "held-out answer"))
    tables = (Table(columns, replies, fixed=(33, 34, 33)),) if replies else ()
    if panels or tables:
        yield Section("Training", "", panels, tables)


def _agreement(figures: Mapping[str, Any]) -> Iterator[Section]:
    heads = ("samples", "agree", "Cohen's kappa", "Fleiss' kappa", "Krippendorff's alpha")
    lines = list(_agreements(figures))
    if lines:
        columns = (("who", ""), *((head, "num") for head in heads))
        yield Section("Agreement on labels", "", (), (Table(columns, lines),))


def _agreements(figures: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield a line for each two annotators, for each group of them, and for how often each is right by people."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    for pair in figures.get("agreement", []):
        who, rows = f"{pair['first']} and {pair['second']}", f"{pair['rows']:,}"
        yield who, rows, f"{pair['agree']:.0%}", number(pair.get("kappa")), "", ""
    fleiss, alpha = figures.get("fleiss_kappa", {}), figures.get("krippendorff_alpha", {})
    for group in sorted({*fleiss, *alpha}):
        yield f"all {group}", "", "", "", number(fleiss.get(group)), number(alpha.get(group))
    settled = f"{figures.get('settled_by_people', 0):,}"
    for name, share in figures.get("accuracy", {}).items():
        yield f"{name}, right by what people say", settled, f"{share:.0%}", "", "", ""


def _replies(store: Store, material: Material) -> list[tuple[str, str, str]]:
    """Return what the tuned model answered in its smoke test, from `evaluation.json`."""
    measured = material.manifests.get("evaluate")
    if measured is None or not store.exists(measured.name, "evaluation.json"):
        return []
    told = store.read_json(measured.name, "evaluation.json").get("smoke", [])
    return [(t["prompt"][:MAX_TEXT], t["reply"][:MAX_TEXT], t["reference"][:MAX_TEXT]) for t in told]


# -- table of samples ---------------------------------------------------------------------------------------------


def _table(material: Material) -> list[dict[str, Any]]:
    """Return up to `MAX_TABLE` samples as JSON values, half of them kept where there are as many."""
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
        "turns": [[m.role, m.content[:MAX_TEXT]] for m in sample.messages],
        "method": sample.method,
        "round": sample.round,
        "scores": {name: round(value, 4) for name, value in sorted(sample.scores.items())},
        "tags": dict(sorted((k, v) for k, v in sample.tags.items() if k != "lost_to")),
        "reason": sample.dropped or "",
        "parents": [snippet(name) for name in sample.parents],
        "lost_to": snippet(sample.tags["lost_to"]) if "lost_to" in sample.tags else None,
        "origin": {n: getattr(origin, n) for n in type(origin).__slots__} if origin else {},
    }
