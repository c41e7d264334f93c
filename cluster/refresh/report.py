"""The report of a line: one static page with its rounds side by side, their scores, decisions and models.

    <store>/lines/<line>/report.html

It follows from the records of the line and the figures of its evaluations, and is written again after each round.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gristmill.cluster.refresh.registry import Line, Round
from gristmill.cluster.report import charts
from gristmill.cluster.report.page import Page
from gristmill.cluster.report.sections import Panel, Section, Table, Tile

REPORT = "report.html"
BASE = "the base model"
MOST_SUITES = 8
"""Most suites that get a chart."""


def write(line: Line) -> str:
    """Write the report of a line and return its path."""
    rounds, aliases = line.rounds(), line.aliases()
    states = Counter(one.state for one in rounds)
    said = ", ".join(f"{count} {state}" for state, count in states.items())
    page = Page(
        title=line.name,
        badge="running" if states["open"] else "done",
        facts=(f"champion {aliases.champion or BASE}", f"before {aliases.previous or BASE}", f"{len(rounds)} rounds"),
        error="",
        tiles=[Tile("rounds", str(len(rounds)), said), *_alpha(line, rounds)],
        sections=[*_scores(line, rounds), _rounds(line, rounds), *_decisions(line, rounds), *_rollbacks(line)],
        samples=(),
        num_samples=0,
    )
    line.store.write_bytes(page.html().encode(errors="replace"), line.folder, REPORT)
    return line.store.at(line.folder, REPORT)


def _alpha(line: Line, rounds: Sequence[Round]) -> Iterator[Tile]:
    """Yield how much of the error that the gate allows is spent."""
    decided = [one for one in rounds if line.decision(one.number) is not None]
    rule: Mapping[str, Any] = decided[-1].tables["evaluate"]["gate"] if decided else {}
    if decided:
        horizon, alpha = int(rule.get("rounds", 1)), float(rule.get("alpha", 0.05))
        now = (len(decided) - 1) % horizon + 1
        note = f"{now} of {horizon} rounds of the horizon are decided"
        yield Tile("alpha spent", f"{alpha * now / horizon:.3g} of {alpha:g}", note)


def _scores(line: Line, rounds: Sequence[Round]) -> Iterator[Section]:
    """Yield the differences between challenger and champion, with intervals, and the values of both, by suite."""
    tables: dict[str, list[tuple[Round, Mapping[str, Any], Mapping[str, Any]]]] = {}
    for one in rounds:
        folder = one.outputs.get("evaluate", "")
        suites = line.store.figures(folder).get("suites", []) if folder and line.store.complete(folder) else []
        for suite in suites:
            both = suite["models"][:2]
            if len(both) == 2:
                tables.setdefault(suite["suite"], []).append((one, both[0], both[1]))
    panels = []
    for name, found in list(tables.items())[:MOST_SUITES]:
        values = [(new.get("difference") or 0.0, new.get("ci_low"), new.get("ci_high")) for _, _, new in found]
        names = [f"round {one.number}, {one.state}" for one, _, _ in found]
        panels.append(Panel(f"{name}: challenger minus champion", charts.intervals(names, values, "difference")))
        levels = [
            {"round": one.number, "champion": old["value"], "challenger": new["value"]} for one, old, new in found
        ]
        panels.append(Panel(f"{name}: mean value", charts.by_round(levels, ("champion", "challenger"))))
    if panels:
        lead = "Paired differences with 95 % intervals over families of items. They do not decide; the gate's tests do."
        yield Section("Scores", lead, panels)


def _rounds(line: Line, rounds: Sequence[Round]) -> Section:
    """Return the table of the rounds."""
    heads = ("round", "num"), ("key", ""), ("state", ""), ("why", ""), ("new rows", "num"), ("depth", "num")
    rows = []
    for one in rounds:
        decision = line.decision(one.number)
        why = "; ".join(decision.evidence.get("reasons", [])) if decision else ""
        known = one.rows and line.store.complete(one.rows)
        kept = f"{line.store.manifest(one.rows).kept:,}" if known else ""
        begun = f"began by alarm: {one.alarm}" if one.alarm else ""
        rows.append((str(one.number), one.key, one.state, "; ".join(filter(None, (why, begun))), kept, str(one.depth)))
    models = (("round", "num"), ("trained from", "mono"), ("rows written by", "mono"), ("new rows", "mono"),
              ("earlier rows", "mono"), ("challenger", "mono"))  # fmt: skip
    links = [
        (str(one.number), one.start or BASE, one.writer or BASE, one.rows, one.replayed, one.challenger)
        for one in rounds
    ]
    lead = "`gristmill lineage NAME` says what a model or dataset was made from, and what was made from it."
    return Section("Rounds", lead, (), (Table(heads, rows), Table(models, links, note="What each round is made of.")))


def _decisions(line: Line, rounds: Sequence[Round]) -> Iterator[Section]:
    """Yield the tests behind each decision."""
    heads = (("round", "num"), ("verdict", ""), ("suite", ""), ("margin", "num"), ("difference", "num"),
             ("families", "num"), ("p", "num"), ("level", "num"), ("shows", ""))  # fmt: skip
    rows = []
    for one in rounds:
        decision = line.decision(one.number)
        for each in decision.evidence.get("findings", []) if decision else ():
            assert decision is not None
            rows.append((
                str(one.number), decision.verdict, each["suite"], f"{each['margin']:+g}", f"{each['difference']:+.3f}",
                str(each["families"]), f"{each['p']:.2g}", f"{decision.evidence['level']:.2g}", each["says"],
            ))  # fmt: skip
    if rows:
        yield Section("Decisions", "The one-sided test of each suite against its margin.", (), (Table(heads, rows),))


def _rollbacks(line: Line) -> Iterator[Section]:
    """Yield the table of the rollbacks."""
    heads = (("after round", "num"), ("from", "mono"), ("to", "mono"), ("why", ""), ("rows put apart", "num"))
    rows = [
        (str(one.after), one.model, one.to or BASE, one.reason, f"{sum(map(len, one.quarantined.values())):,}")
        for one in line.rollbacks()
    ]
    if rows:
        yield Section("Rollbacks", "Rows that are put apart are not trained on again.", (), (Table(heads, rows),))
