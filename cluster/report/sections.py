"""The parts that a job adds to the summary and the report: lines, tiles, stages of the funnel, sections."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, NamedTuple, TypeVar

from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.report.material import Material

F = TypeVar("F", bound=Figures)


@dataclass(frozen=True, slots=True)
class Tile:
    """One number at the top of the page."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart: a Plotly figure with a title and a sentence."""

    title: str
    figure: Mapping[str, Any]
    note: str = ""
    wide: bool = False
    zooms: bool = False
    """Whether the reader can move and zoom in it; one chart of the page has this."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text cells."""

    columns: Sequence[tuple[str, str]]
    """Head and kind of each column. A kind is empty (words), `num`, `mono`, `lines` (line breaks are kept) or `clip`
    (cut)."""
    rows: Sequence[Sequence[str]]
    note: str = ""
    tall: bool = False
    """Whether the table may be long, so that it scrolls inside a window of its own."""
    fixed: Sequence[int] = ()
    """Widths of the columns in per cent, where they must not follow from the text."""
    narrow: bool = False
    """Whether the table is only as wide as its text."""


@dataclass(frozen=True, slots=True)
class Section:
    """Charts and tables under one heading."""

    title: str
    lead: str
    panels: Sequence[Panel]
    tables: Sequence[Table] = ()


class Stage(NamedTuple):
    """One bar of the funnel."""

    label: str
    left: int
    """Samples that are left."""
    colour: str


class Presentation(Generic[F]):
    """The parts of one job for the summary and the report, all optional. The page does not know the job."""

    def summary(self, figures: F) -> Iterable[str]:
        """Return lines for the summary at the end of a run."""
        del figures
        return ()

    def tiles(self, material: Material, figures: F) -> Iterable[Tile]:
        """Return numbers for the top of the page."""
        del material, figures
        return ()

    def flow(self, left: int, material: Material, figures: F) -> Iterable[Stage]:
        """Return stages of the funnel, beginning from the samples that are `left`."""
        del left, material, figures
        return ()

    def sections(self, material: Material, figures: F) -> Iterable[Section]:
        """Return sections of the page."""
        del material, figures
        return ()

    def score_note(self, settings: Mapping[str, Any], score: str) -> str:
        """Return a note for readers on the chart of a score."""
        del settings, score
        return ""

    def examples(self, figures: F) -> Iterable[str]:
        """Return the ids of samples that the sections show."""
        del figures
        return ()


def presentation_of(pointer: str) -> Presentation[Any]:
    """Return the presentation of a job."""
    module, _, name = pointer.partition(":")
    found: Presentation[Any] = getattr(import_module(module), name)()
    return found


def kinds_of(reasons: Counter[str]) -> Counter[str]:
    """Count drops by the step, whose name is before the colon."""
    kinds: Counter[str] = Counter()
    for reason, count in reasons.items():
        kinds[reason.partition(":")[0]] += count
    return kinds


def stages(left: int, reasons: Counter[str], steps: Sequence[Any], colour: str, last: str = "") -> Iterator[Stage]:
    """Yield the samples left after each step of a recipe.

    Drops that no step made come first, and those of the kind `last` come at the end.
    """
    order = {str(step.get("kind")): place for place, step in enumerate(steps) if isinstance(step, dict)}
    if last:
        order[last] = len(order)
    kinds = kinds_of(reasons)
    for kind in sorted(kinds, key=lambda kind: (order.get(kind, -1), kind)):
        left -= kinds[kind]
        yield Stage(f"after {kind}", left, colour)
