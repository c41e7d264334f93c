"""What the summary and the report show about the generate job and the review job."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from gristmill.cluster.report import charts
from gristmill.cluster.report.material import Material
from gristmill.cluster.report.sections import Panel, Presentation, Section, Stage, Table, Tile, stages
from gristmill.generation.figures import GenerateFigures, ReviewFigures

SURPLUS = "target: "
"""Prefix of the drop reason of a row that passed all filters after the target was met."""


class GeneratePresentation(Presentation[GenerateFigures]):
    """Acceptance, cost of a kept sample, funnel of the filters, and what steps measured in each round."""

    def summary(self, figures: GenerateFigures) -> Iterator[str]:
        """Yield the tokens, engine seconds and money of a kept sample, or the reasons why no sample is kept."""
        money = f", {figures.cost_per_kept:.6f} in money" if figures.cost_per_kept is not None else ""
        work = f"{figures.tokens_per_kept:,.0f} tokens and {figures.engine_seconds_per_kept:.2f} engine seconds"
        if not figures.kept and figures.dropped:
            reasons = ", ".join(f"{count:,} {why}" for why, count in figures.dropped.items())
            yield f"no sample is kept; dropped: {reasons}"
        elif figures.tokens_per_kept:
            yield f"a kept sample took {work}{money}"
        yield from figures.notes
        if figures.labels:
            yield f"kept by label: {', '.join(f'{name} {count:,}' for name, count in figures.labels.items())}"

    def tiles(self, material: Material, figures: GenerateFigures) -> Iterator[Tile]:
        """Yield the acceptance; rows above the target count as accepted."""
        reasons = material.reasons.get("generate", Counter())
        surplus = sum(count for why, count in reasons.items() if why.startswith(SURPLUS))
        spare = f", {surplus:,} of them more than were wanted" if surplus else ""
        accepted = figures.kept + surplus
        share = f"{accepted / max(1, figures.rows):.0%}"
        yield Tile("acceptance", share, f"{accepted:,} of {figures.rows:,} drafts{spare}")

    def flow(self, left: int, material: Material, figures: GenerateFigures) -> Iterator[Stage]:
        """Yield the number of samples left after each filter."""
        del figures
        filters = material.settings("generate").get("filters") or []
        reasons = material.reasons.get("generate")
        if reasons:
            yield from stages(left, reasons, filters, charts.REFUSED, last="target")

    def sections(self, material: Material, figures: GenerateFigures) -> Iterator[Section]:
        """Yield the figures of steps by round: shares in one chart, counts in another."""
        del material
        rounds = figures.by_round
        names = sorted({name for found in rounds for name in found} - {"round"})
        shares = [n for n in names if all(0 <= found.get(n, 0) <= 1 for found in rounds)]
        others = [n for n in names if n not in shares]
        panels = [
            Panel(title, charts.by_round(rounds, chosen), "", wide=not (shares and others))
            for title, chosen in (("Shares", shares), ("Numbers", others))
            if chosen
        ]
        if panels:
            yield Section("Round by round", "What the steps of generation measured when each round began.", panels)

    def score_note(self, settings: Mapping[str, Any], score: str) -> str:
        """Explain from which score on the filter novelty does not measure how far texts are apart."""
        if score != "novelty":
            return ""
        filters = settings.get("filters") or []
        floor = next((1 - min(f["exact_from"], f.get("max_similarity", 1)) for f in filters if "exact_from" in f), None)
        if not floor:
            return ""
        return f"{floor:g} means {floor:g} or more: how much farther the nearest instruction is, is not looked for."


class ReviewPresentation(Presentation[ReviewFigures]):
    """Agreement of the annotators, accuracy of each, and the number of samples that wait for people."""

    def summary(self, figures: ReviewFigures) -> Iterator[str]:
        """Yield the agreement, the accuracy of annotators by people's answers, and the number of waiting samples."""
        alpha = figures.krippendorff_alpha.get("annotators")
        found = [f"Krippendorff's alpha of the annotators {alpha:.3f}"] if alpha is not None else []
        found += [f"{name} right {share:.0%}" for name, share in figures.accuracy.items()]
        yield "; ".join([*found, f"{figures.queued} samples wait for people"])

    def flow(self, left: int, material: Material, figures: ReviewFigures) -> Iterator[Stage]:
        """Yield the number of samples left after uncertain ones are dropped."""
        del figures
        reasons = material.reasons.get("review")
        if reasons:
            yield from stages(left, reasons, (), charts.REFUSED)

    def sections(self, material: Material, figures: ReviewFigures) -> Iterator[Section]:
        """Yield a table of who agrees with whom."""
        del material
        heads = ("samples", "agree", "Cohen's kappa", "Fleiss' kappa", "Krippendorff's alpha")
        lines = list(_agreements(figures))
        if lines:
            columns = (("who", ""), *((head, "num") for head in heads))
            yield Section("Agreement on labels", "", (), (Table(columns, lines),))


def _agreements(figures: ReviewFigures) -> Iterator[tuple[str, ...]]:
    """Yield a line for each pair of annotators, for each group, and for the accuracy of each annotator."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    for pair in figures.agreement:
        yield f"{pair.first} and {pair.second}", f"{pair.rows:,}", f"{pair.agree:.0%}", number(pair.kappa), "", ""
    fleiss, alpha = figures.fleiss_kappa, figures.krippendorff_alpha
    for group in sorted({*fleiss, *alpha}):
        yield f"all {group}", "", "", "", number(fleiss.get(group)), number(alpha.get(group))
    for name, share in figures.accuracy.items():
        yield f"{name}, right by what people say", f"{figures.settled_by_people:,}", f"{share:.0%}", "", "", ""
