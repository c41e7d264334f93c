"""What the report says of selection: its steps, the map of topics, pairs, and the choice beside baselines."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cluster import report_charts as charts
from cluster.report_material import Material
from cluster.report_page import Panel, Section, Table

MAX_PAIRS = 80
"""Shared out evenly among the steps."""
PAIRS_A_STEP = 10
"""Where the pairs come from the rows."""
MAX_EXAMPLE = 160
MAX_PAIR_TEXT = 600


def sections(material: Material) -> Iterator[Section]:
    """Yield a section for each of these that the select job has left figures of."""
    figures = material.figures.get("select", {})
    yield from _steps(figures.get("steps", []))
    yield from _topics(material, figures.get("topics", []))
    yield from _pairs(figures.get("pairs") or _lost(material))
    yield from _baselines(figures.get("baselines", {}))


def number(value: object) -> str:
    """Return a figure as people read it: thousands apart, small ones with three digits."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    whole = float(value).is_integer() and abs(value) < 1e15
    return f"{value:,.0f}" if whole or abs(value) >= 1000 else f"{value:.3g}"


def _steps(steps: Sequence[Mapping[str, Any]]) -> Iterator[Section]:
    if not steps:
        return
    rows = []
    for step in steps:
        gone = step["in"] - step["kept"]
        share = f"{gone / max(1, step['in']):.1%}"
        reasons = sorted(step.get("reasons", {}).items(), key=lambda item: (-item[1], item[0]))
        why = "\n".join(f"{reason.partition(': ')[2] or reason}: {count:,}" for reason, count in reasons)
        told = "\n".join(f"{name}: {number(value)}" for name, value in step.get("figures", {}).items())
        seconds = f"{step['seconds']:,.1f}" if "seconds" in step else ""
        rows.append((step["kind"], f"{step['in']:,}", f"{gone:,}", share, f"{step['kept']:,}", seconds, why, told))
    columns = (
        *(("step", ""), ("in", "num"), ("dropped", "num"), ("share", "num"), ("kept", "num"), ("seconds", "num")),
        *(("why", "lines"), ("figures", "lines")),
    )
    yield Section("Selection, step by step", "", (), (Table(columns, rows),))


def _topics(material: Material, topics: Sequence[Mapping[str, Any]]) -> Iterator[Section]:
    if not topics:
        return
    examples = [[_text(material, name)[:MAX_EXAMPLE] for name in topic.get("examples", [])] for topic in topics]
    rows = [
        (t["name"], f"{t['rows']:,}", f"{t['rows'] - t['kept']:,}", f"{charts.lost(t):.0%}", "\n".join(texts))
        for t, texts in zip(topics, examples, strict=True)
    ]
    columns = (("topic", ""), ("samples", "num"), ("dropped", "num"), ("share", "num"), ("examples", "lines"))
    lead = (
        "Groups of samples that mean similar things, each named by the words that set it apart. The larger the field, "
        "the more samples came in; the deeper its amber, the larger the share that selection dropped."
    )
    table = Table(columns, rows, note="The examples lie nearest to the middle of their topic.", tall=True)
    yield Section("Map of topics", lead, [Panel("", charts.topic_map(topics, examples), wide=True)], (table,))


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> Iterator[Section]:
    if not pairs:
        return
    rows: list[tuple[str, str, str, str]] = []
    taken: Counter[str] = Counter()
    most = max(1, MAX_PAIRS // len({pair["step"] for pair in pairs}))
    for pair in pairs:
        taken[pair["step"]] += 1
        if taken[pair["step"]] <= most:
            score = "" if pair.get("score") is None else number(pair["score"])
            winner = pair["to_text"] or pair["to"]
            rows.append((pair["step"], score, pair["text"][:MAX_PAIR_TEXT], winner[:MAX_PAIR_TEXT]))
    columns = (("step", ""), ("score", "num"), ("dropped", "clip"), ("because of", "clip"))
    lead = f"{len(rows):,} dropped samples, each beside the one that it lost to: here one sees whether a step is right."
    yield Section("Pairs", lead, (), (Table(columns, rows, tall=True, fixed=(16, 8, 38, 38)),))


def _lost(material: Material) -> list[dict[str, Any]]:
    """Return pairs from the rows that the report has read, a few of each step."""
    found: list[dict[str, Any]] = []
    taken: Counter[str] = Counter()
    for sample in material.samples.values():
        winner = sample.tags.get("lost_to", "")
        step = (sample.dropped or "").partition(":")[0]
        text = _text(material, winner) if winner and step else ""
        if text and text != winner and taken[step] < PAIRS_A_STEP:
            taken[step] += 1
            found.append({"step": step, "text": sample.instruction or sample.answer, "to": winner, "to_text": text})
    return sorted(found, key=lambda pair: str(pair["step"]))


def _text(material: Material, name: str) -> str:
    known = material.samples.get(name) or material.seeds.get(name) or material.examples.get(name)
    return (known.instruction or known.answer)[:MAX_PAIR_TEXT] if known else name


def _baselines(baselines: Mapping[str, Mapping[str, Any]]) -> Iterator[Section]:
    if not baselines:
        return
    names = list(baselines)
    measures = list(dict.fromkeys(measure for figures in baselines.values() for measure in figures))
    cells = [[number(baselines[n][m]) if m in baselines[n] else "" for n in names] for m in measures]
    rows = [(measure.replace("_", " "), *line) for measure, line in zip(measures, cells, strict=True)]
    columns = (("", ""), *((name, "num") for name in names))
    lead = (
        "What was chosen, beside as many samples drawn at random and the ones with the longest answers: a selection "
        "that cannot be told from these has not earned its cost."
    )
    yield Section("Beside the baselines", lead, (), (Table(columns, rows, narrow=True),))
