"""Charts of the report. Each function makes a Plotly figure, which is a JSON value, from numbers and words."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Figure = dict[str, Any]

KEPT, SELECTED_OUT, REFUSED, SEEDS, INK, GRID = "#2c6e8f", "#d9923b", "#b8bcc4", "#3f4a5a", "#2b3440", "#e9ecf0"
COLOURS = {"kept": KEPT, "dropped in selection": SELECTED_OUT, "dropped before selection": REFUSED, "seed": SEEDS}
"""Colour of each fate of a sample. It is the same in every chart."""
MEASURES = (KEPT, SELECTED_OUT, SEEDS, "#7a9e3f", "#a3547b")
"""Colours of the measures in one chart."""
SIZES = {"kept": 7, "dropped in selection": 11, "dropped before selection": 7, "seed": 8}
"""Diameters of the dots on the map in pixels, by fate. The dot of a sample dropped in selection is larger, so that it
is seen as a ring around the dot of its kept copy."""
FONT = "system-ui, -apple-system, 'Segoe UI', 'Noto Sans', 'Noto Sans CJK SC', 'PingFang SC', sans-serif"
BINS = 24
LABEL_CHARS = 42
HOVER_CHARS, HOVER_LINE = 240, 60


def figure(traces: Sequence[Figure], height: int, **layout: object) -> Figure:
    """Return a figure in the style of the page.

    `height` is in pixels. `layout` replaces keys of the style's layout, and keys of the tables in it.
    """
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "automargin": True,
        "fixedrange": True,
        "ticks": "",
        "linecolor": GRID,
    }
    style: Figure = {
        "height": height,
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 16, "t": 8, "b": 36},
        "showlegend": False,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        "hoverlabel": {
            "bgcolor": "#ffffff",
            "bordercolor": "#c9ced6",
            "font": {"family": FONT, "size": 12, "color": INK},
        },
        "xaxis": dict(axis),
        "yaxis": dict(axis),
        "barmode": "overlay",
        "bargap": 0.06,
    }
    for key, value in layout.items():
        style[key] = {**style[key], **value} if isinstance(value, dict) and key in style else value
    return {"data": list(traces), "layout": style}


def bars(labels: Sequence[str], values: Sequence[float], colours: Sequence[str], texts: Sequence[str]) -> Figure:
    """Return a chart of horizontal bars, from top to bottom. The text of each bar is at its end."""
    shown = [label if len(label) <= LABEL_CHARS else label[: LABEL_CHARS - 1] + "…" for label in labels]
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(labels))),
        "x": list(values),
        "text": list(texts),
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": list(colours)},
        "customdata": [html.escape(label) for label in labels],
        "hovertemplate": "%{customdata}: %{text}<extra></extra>",
    }
    top = max([*values, 1])
    ticks = {"tickvals": list(range(len(labels))), "ticktext": [html.escape(s) for s in shown]}
    return figure(
        [trace],
        60 + 30 * len(labels),
        xaxis={"range": [0, top * 1.4], "showgrid": False, "showticklabels": False},
        yaxis={"autorange": "reversed", "showgrid": False, "ticksuffix": "  ", **ticks},
        margin={"l": 8, "r": 8, "t": 4, "b": 8},
    )


def histograms(values: Mapping[str, NDArray[np.float64]], title: str, *, clip: bool = False) -> Figure:
    """Return overlaid histograms of one number, one histogram for each fate.

    A bar shows its share of the samples of the fate in percent, so that fates of different sizes can be compared.

    Args:
        values: numbers by fate. A fate without numbers is left out.
        title: text under the axis.
        clip: whether the last bar has all numbers above the 98th percentile.
    """
    groups = {fate: found[np.isfinite(found)] for fate, found in values.items()}
    every = np.concatenate([*groups.values(), np.empty(0)])
    low, high = (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)
    if clip and len(every):
        high = float(np.percentile(every, 98))
    if high <= low:
        low, high = low - 0.5, low + 0.5
    edges = np.linspace(low, high, BINS + 1)
    traces = []
    for fate, found in groups.items():
        if not len(found):
            continue
        counts, _ = np.histogram(np.clip(found, low, high), edges)
        shares = 100 * counts / len(found)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": fate,
                "x": np.repeat(edges, 2).round(6).tolist(),  # a staircase: up at each left edge, level to the right one
                "y": [0, *np.repeat(shares, 2).round(3).tolist(), 0],
                "customdata": [0, *np.repeat(counts, 2).tolist(), 0],
                "line": {"color": COLOURS[fate], "width": 1.8},
                "fill": "tozeroy",
                "fillcolor": COLOURS[fate] + "2e",
                "hovertemplate": f"{fate}: %{{customdata}} samples (%{{y:.1f}} %)<extra></extra>",
            }
        )
    return figure(
        traces,
        210,
        xaxis={"title": {"text": html.escape(title), "font": {"size": 13}}, "showgrid": False},
        yaxis={"ticksuffix": " %", "nticks": 4},
        margin={"l": 8, "r": 8, "t": 8, "b": 44 if title else 24},
    )


def map_2d(points: NDArray[np.float64], fates: Sequence[str], texts: Sequence[str]) -> Figure:
    """Return a scatter plot of [n, 2] points, coloured by fate. The text of a point appears under the pointer."""
    traces = []
    for fate in ("dropped before selection", "dropped in selection", "kept", "seed"):  # the rarest on top
        rows = [row for row, f in enumerate(fates) if f == fate]
        if not rows:
            continue
        traces.append(
            {
                "type": "scattergl" if len(points) > 5000 else "scatter",
                "mode": "markers",
                "name": f"{fate} ({len(rows)})",
                "x": points[rows, 0].round(4).tolist(),
                "y": points[rows, 1].round(4).tolist(),
                "text": [hover(texts[row]) for row in rows],
                "hovertemplate": f"%{{text}}<br><i>{fate}</i><extra></extra>",
                "marker": {
                    "color": COLOURS[fate],
                    "size": SIZES[fate],
                    "opacity": 0.85 if fate in ("kept", "seed") else 0.7,
                    "symbol": "diamond" if fate == "seed" else "circle",
                    "line": {"color": "#ffffff", "width": 0.7},
                },
            }
        )
    blank = {"showticklabels": False, "showgrid": True, "fixedrange": False, "title": {"text": ""}}
    return figure(
        traces,
        520,
        showlegend=True,
        hovermode="closest",
        dragmode="pan",
        xaxis=blank,
        yaxis=blank,
        margin={"l": 4, "r": 4, "t": 8, "b": 4},
    )


def hover(text: str) -> str:
    """Return a text to show under the pointer. It is cut, broken into lines, and escaped for HTML.

    A line without spaces, as in Chinese, is broken too.
    """
    cut = text if len(text) <= HOVER_CHARS else text[: HOVER_CHARS - 1] + "…"
    lines: list[str] = []
    for line in cut.splitlines():
        rest = line
        while len(rest) > HOVER_LINE:
            space = rest.rfind(" ", HOVER_LINE // 2, HOVER_LINE)
            stop = space if space > 0 else HOVER_LINE
            lines.append(rest[:stop])
            rest = rest[stop:].lstrip()
        lines.append(rest)
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def loss_curve(journal: Sequence[Mapping[str, Any]], unit: str = "token") -> Figure:
    """Return a chart of the training loss by step, and of the held-out loss if it was measured.

    `journal` has the lines of `metrics.jsonl`; `unit` is what a loss is of.
    """
    every = [(m["step"], m["loss"]) for m in journal if "step" in m and m.get("loss") is not None]
    held = [(m["step"], m["holdout_loss"]) for m in journal if "step" in m and m.get("holdout_loss") is not None]
    traces = [_curve("training", every, KEPT)]
    if held:
        traces.append(_curve("held out", held, SELECTED_OUT, dotted=True))
    return _by_step(traces, f"loss, nats per {unit}")


def measure_curves(journal: Sequence[Mapping[str, Any]]) -> Figure:
    """Return a chart of the measures on held-out rows by step, from the lines of `metrics.jsonl` that have some."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in journal:
        for name, value in line["measures"].items():
            found.setdefault(name, []).append((line["step"], value))
    curves = enumerate(found.items())
    traces = [_curve(name, points, MEASURES[n % len(MEASURES)], dotted=True) for n, (name, points) in curves]
    return _by_step(traces, "held-out samples")


def _curve(name: str, points: Sequence[tuple[int, float]], colour: str, *, dotted: bool = False) -> Figure:
    style: Figure = {"mode": "lines" if len(points) > 1 else "markers", "line": {"color": colour, "width": 2}}
    if dotted:
        style = {"mode": "lines+markers", "line": {**style["line"], "dash": "dot"}}
        style["marker"] = {"size": 9, "color": colour}
    steps, values = ([point[n] for point in points] for n in (0, 1))
    shown = f"step %{{x}}, {html.escape(name)}: %{{y:.4f}}<extra></extra>"
    return {"type": "scatter", "name": name, "x": steps, "y": values, "hovertemplate": shown, **style}


def _by_step(traces: Sequence[Figure], what: str) -> Figure:
    return figure(
        traces,
        320,
        showlegend=True,
        xaxis={"title": {"text": "optimizer step", "font": {"size": 13}}},
        yaxis={"title": {"text": what, "font": {"size": 13}}},
        margin={"l": 8, "r": 16, "t": 8, "b": 48},
    )


def before_after(before: float, after: float, low: float | None, high: float | None, unit: str = "token") -> Figure:
    """Return a chart of the held-out loss of the base model and of the tuned model: two dots joined by a line.

    `low` and `high` are the ends of the interval of after - before. The interval is drawn around the tuned model's dot.
    `unit` is what a loss is of.
    """
    error = {}
    if low is not None and high is not None:
        spread = {"array": [0, max(0.0, before + high - after)], "arrayminus": [0, max(0.0, after - before - low)]}
        error = {"error_x": {"type": "data", "symmetric": False, "thickness": 1.6, "width": 7, "color": KEPT, **spread}}
    trace = {
        "type": "scatter",
        "mode": "markers+lines+text",
        "x": [before, after],
        "y": ["base", "tuned"],
        "text": [f"{before:.4f}", f"{after:.4f}"],
        "textposition": "top center",
        "marker": {"size": 13, "color": [SEEDS, KEPT]},
        "line": {"color": "#c9ced6", "width": 1.5},
        "hovertemplate": f"%{{y}}: %{{x:.4f}} nats per {unit}<extra></extra>",
        **error,
    }
    return figure(
        [trace],
        190,
        xaxis={"title": {"text": f"held-out loss, nats per {unit}", "font": {"size": 13}}},
        yaxis={"showgrid": False, "ticksuffix": "  ", "range": [1.6, -0.6]},
        margin={"l": 8, "r": 24, "t": 24, "b": 48},
    )


def intervals(
    names: Sequence[str], values: Sequence[tuple[float, float | None, float | None]], what: str = "lift"
) -> Figure:
    """Return a chart with a dot and its interval for each name, and a line at 0.

    `values` are (value, low, high). If `low` or `high` is None, the interval has no such end. `what` is the title of
    the axis.
    """
    ends = [(v if low is None else low, v if high is None else high) for v, low, high in values]
    colours = [KEPT if low > 0 else REFUSED if high < 0 else SEEDS for low, high in ends]
    error = {
        "type": "data",
        "symmetric": False,
        "thickness": 1.6,
        "width": 7,
        "array": [high - v for (v, _, _), (_, high) in zip(values, ends, strict=True)],
        "arrayminus": [v - low for (v, _, _), (low, _) in zip(values, ends, strict=True)],
    }
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [value for value, _, _ in values],
        "y": [hover(name) for name in names],
        "marker": {"size": 12, "color": colours},
        "error_x": error,
        "hovertemplate": "%{y}: %{x:+.3f}<extra></extra>",
    }
    return figure(
        [trace],
        70 + 44 * len(names),
        xaxis={
            "title": {"text": what, "font": {"size": 13}},
            "rangemode": "tozero",
            "zeroline": True,
            "zerolinewidth": 1.5,
        },
        yaxis={"showgrid": False, "autorange": "reversed", "ticksuffix": "  ", "automargin": True},
        margin={"l": 8, "r": 24, "t": 8, "b": 48},
    )


def flat_2d(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """Return the first two principal components of [n, d] vectors, [n, 2], and their share of the variance, 0 to 1.

    The signs of the components are fixed, so that the same vectors always give the same points.
    """
    rows = vectors.astype(np.float64)
    if len(rows) < 2:
        return np.zeros((len(rows), 2)), 1.0
    centred = rows - rows.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    top = axes[:, ::-1][:, :2]
    top = top * np.sign(top[np.abs(top).argmax(axis=0), range(top.shape[1])])  # an axis has no sign of its own
    points = np.zeros((len(rows), 2))
    points[:, : top.shape[1]] = centred @ top
    return points, float(values[-2:].sum() / max(values.sum(), 1e-12))


def lost_share(rows: int, kept: int) -> float:
    """Return the share of the rows that were dropped, from 0 to 1."""
    return 1 - kept / max(1, rows)


def topic_map(topics: Sequence[tuple[str, int, int]], examples: Sequence[Sequence[str]]) -> Figure:
    """Return a treemap of topics. The area is the number of samples, the colour the share of dropped ones.

    Args:
        topics: (name, rows, kept rows) of each topic.
        examples: texts of each topic, which appear under the pointer.
    """
    notes = [f"{rows:,} samples<br>{lost_share(rows, kept):.0%} dropped" for _, rows, kept in topics]
    trace = {
        "type": "treemap",
        "ids": [str(place) for place in range(len(topics))],
        "labels": [html.escape(name) for name, _, _ in topics],
        "parents": [""] * len(topics),
        "values": [rows for _, rows, _ in topics],
        "text": notes,
        "textinfo": "label+text",
        "textposition": "middle center",
        "customdata": ["<br>".join(f"· {hover(text)}" for text in texts) for texts in examples],
        "hovertemplate": "<b>%{label}</b><br>%{text}<br>%{customdata}<extra></extra>",
        "marker": {
            "colors": [lost_share(rows, kept) for _, rows, kept in topics],
            "colorscale": [[0, "#e7eef2"], [1, SELECTED_OUT]],
            "cmin": 0,
            "cmax": max([0.01, *(lost_share(rows, kept) for _, rows, kept in topics)]),
            "line": {"color": "#ffffff", "width": 2},
            "pad": {"t": 0, "l": 0, "r": 0, "b": 0},
        },
        "tiling": {"pad": 2},
        "pathbar": {"visible": False},
        "textfont": {"size": 13, "color": INK},
    }
    return figure([trace], 420, margin={"l": 0, "r": 0, "t": 0, "b": 0})


def by_round(rounds: Sequence[Mapping[str, float]], names: Sequence[str]) -> Figure:
    """Return a line chart of the named figures over the rounds of a job. A line skips rounds without its figure."""
    colours = (KEPT, SELECTED_OUT, SEEDS, REFUSED)
    traces = []
    for place, name in enumerate(names):
        known = [r for r in rounds if r.get(name) is not None]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name.replace("_", " "),
                "x": [r["round"] for r in known],
                "y": [r[name] for r in known],
                "line": {"color": colours[place % len(colours)], "width": 2},
                "marker": {"size": 8},
                "hovertemplate": "round %{x}: %{y:.4g}<extra></extra>",
            }
        )
    return figure(
        traces,
        280,
        showlegend=True,
        xaxis={"title": {"text": "round", "font": {"size": 13}}, **({"dtick": 1} if len(rounds) <= 12 else {})},
        margin={"l": 8, "r": 16, "t": 8, "b": 48},
    )
