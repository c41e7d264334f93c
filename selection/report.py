"""The part of the report about the select job: steps, topics, pairs, baselines, and the map of the vectors."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gristmill.cluster.report import charts
from gristmill.cluster.report.material import Material
from gristmill.cluster.report.sections import Panel, Presentation, Section, Stage, Table
from gristmill.selection.figures import Pair, SelectFigures, StepFigures, Topic, UnknownScript

MAX_POINTS = 3_000
"""Most points that the map shows."""
MAX_PAIRS = 80
"""Most pairs that the report shows; each step with pairs has the same share of them."""
MAX_EXAMPLE = 160
MAX_PAIR_TEXT = 600


class SelectPresentation(Presentation[SelectFigures]):
    """The select job in the report: a stage of the funnel for each step, and a section for each kind of figures."""

    def flow(self, left: int, material: Material, figures: SelectFigures) -> Iterator[Stage]:
        """Yield, for each step, a stage with the number of samples that are left after it."""
        del left, material
        for step in figures.steps:
            yield Stage(f"after {step.kind}", step.kept, charts.SELECTED_OUT)

    def sections(self, material: Material, figures: SelectFigures) -> Iterator[Section]:
        """Yield the sections that are not empty: steps, unknown scripts, topics, pairs, baselines and the map."""
        yield from _steps(figures.steps)
        yield from _unknown(figures.unknown_scripts)
        yield from _topics(material, figures.topics)
        yield from _pairs(figures.pairs)
        yield from _baselines(figures.baselines)
        yield from _map(material)

    def examples(self, figures: SelectFigures) -> set[str]:
        """Return the ids of the samples that are shown as examples of topics."""
        return {name for topic in figures.topics for name in topic.examples}


def number(value: object) -> str:
    """Return a figure as text: with commas at thousands, or with 3 significant digits for a fraction below 1,000."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    whole = float(value).is_integer() and abs(value) < 1e15
    return f"{value:,.0f}" if whole or abs(value) >= 1000 else f"{value:.3g}"


def _steps(steps: Sequence[StepFigures]) -> Iterator[Section]:
    if not steps:
        return
    rows = []
    for step in steps:
        gone = step.rows - step.kept
        share = f"{gone / max(1, step.rows):.1%}"
        reasons = sorted(step.reasons.items(), key=lambda item: (-item[1], item[0]))
        why = "\n".join(f"{reason.partition(': ')[2] or reason}: {count:,}" for reason, count in reasons)
        told = "\n".join(f"{name}: {number(value)}" for name, value in step.figures.items())
        numbers = (f"{step.rows:,}", f"{gone:,}", share, f"{step.kept:,}", f"{step.seconds:,.1f}")
        rows.append((step.kind, *numbers, why, told))
    columns = (
        *(("step", ""), ("in", "num"), ("dropped", "num"), ("share", "num"), ("kept", "num"), ("seconds", "num")),
        *(("why", "lines"), ("figures", "lines")),
    )
    yield Section("Selection, step by step", "", (), (Table(columns, rows),))


def _unknown(scripts: Sequence[UnknownScript]) -> Iterator[Section]:
    if not scripts:
        return
    rows = [(s.model, s.script, f"{s.rows:,}", f"{s.unknown:.0%}") for s in scripts]
    columns = (("encoder", ""), ("script", ""), ("samples", "num"), ("unknown tokens", "num"))
    lead = (
        "Samples in a script that the encoder does not know. No step compares them by meaning. Set an encoder that "
        "knows the script."
    )
    yield Section("Not compared by meaning", lead, (), (Table(columns, rows, narrow=True),))


def _topics(material: Material, topics: Sequence[Topic]) -> Iterator[Section]:
    if not topics:
        return
    examples = [[material.text(name)[:MAX_EXAMPLE] for name in topic.examples] for topic in topics]
    rows = [
        (t.name, f"{t.rows:,}", f"{t.rows - t.kept:,}", f"{charts.lost_share(t.rows, t.kept):.0%}", "\n".join(texts))
        for t, texts in zip(topics, examples, strict=True)
    ]
    columns = (("topic", ""), ("samples", "num"), ("dropped", "num"), ("share", "num"), ("examples", "lines"))
    lead = (
        "Groups of samples that mean similar things. Each is named by the words that distinguish it. A larger field "
        "has more samples of the input; a deeper amber means that selection dropped more of them."
    )
    table = Table(columns, rows, note="The examples are nearest to the centre of their topic.", tall=True)
    yield Section(
        "Map of topics",
        lead,
        [Panel("", charts.topic_map([(t.name, t.rows, t.kept) for t in topics], examples), wide=True)],
        (table,),
    )


def _pairs(pairs: Sequence[Pair]) -> Iterator[Section]:
    if not pairs:
        return
    rows: list[tuple[str, str, str, str]] = []
    taken: Counter[str] = Counter()
    most = max(1, MAX_PAIRS // len({pair.step for pair in pairs}))
    for pair in pairs:
        taken[pair.step] += 1
        if taken[pair.step] <= most:
            score = "" if pair.score is None else number(pair.score)
            winner = pair.to_text or pair.to
            rows.append((pair.step, score, pair.text[:MAX_PAIR_TEXT], winner[:MAX_PAIR_TEXT]))
    columns = (("step", ""), ("score", "num"), ("dropped", "clip"), ("because of", "clip"))
    lead = f"{len(rows):,} dropped samples, each with the sample that it lost to. They show whether a step is right."
    yield Section("Pairs", lead, (), (Table(columns, rows, tall=True, fixed=(16, 8, 38, 38)),))


def _baselines(baselines: Mapping[str, Mapping[str, Any]]) -> Iterator[Section]:
    if not baselines:
        return
    names = list(baselines)
    measures = list(dict.fromkeys(measure for figures in baselines.values() for measure in figures))
    cells = [[number(baselines[n][m]) if m in baselines[n] else "" for n in names] for m in measures]
    rows = [(measure.replace("_", " "), *line) for measure, line in zip(measures, cells, strict=True)]
    columns = (("", ""), *((name, "num") for name in names))
    lead = (
        "The chosen samples, next to as many random samples and to those with the longest answers. A selection that "
        "does not differ from these was not worth its cost."
    )
    yield Section("Compared with the baselines", lead, (), (Table(columns, rows, narrow=True),))


def _map(material: Material) -> Iterator[Section]:
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
        for table in material.store.scan(folder):
            places = [n for n, name in enumerate(table["id"].to_pylist()) if name in known][: MAX_POINTS - len(fates)]
            found = [known[name] for name in table["id"].take(pa.array(places, pa.int64())).to_pylist()]
            fates += [material.fates[s.id] if role == "vectors" else "seed" for s in found]
            texts += [s.instruction or s.answer for s in found]
            blocks.append(_matrix(table)[places])
    if not fates:
        return
    points, share = charts.flat_2d(np.concatenate(blocks))
    note = (
        f"Each dot is a sample; near dots mean similar things. The axes are the two main axes of the embedding, with "
        f"{share:.0%} of its variance. {len(fates):,} are shown. Drag to move, scroll to zoom, point to read."
    )
    yield Section("Map of meanings", note, [Panel("", charts.map_2d(points, fates, texts), wide=True, zooms=True)])


def _matrix(table: pa.Table) -> Any:  # noqa: ANN401 - [n, d] float32
    width = table.schema.field("vector").type.list_size
    flat = [chunk.flatten().to_numpy() for chunk in table["vector"].chunks]
    return np.concatenate([np.empty(0, np.float32), *flat]).astype(np.float32).reshape(-1, width)
