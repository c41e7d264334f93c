"""The parts that a job adds to the summary and to the report: lines, tiles, stages of the funnel, and sections."""

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
    """One chart: a Plotly figure with a title and a note."""

    title: str
    figure: Mapping[str, Any]
    note: str = ""
    wide: bool = False
    zooms: bool = False
    """Whether the reader can move and zoom the chart. Only one chart of the page can have this."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text cells."""

    columns: Sequence[tuple[str, str]]
    """(head, kind) of each column. The kind is empty for words, `num` for numbers, or `mono` for a font of fixed width.
    `lines` keeps line breaks, and `clip` cuts long texts."""
    rows: Sequence[Sequence[str]]
    note: str = ""
    tall: bool = False
    """Whether the table may be long. Then it scrolls inside its own frame."""
    fixed: Sequence[int] = ()
    """Widths of the columns in percent. If it is empty, the texts decide the widths."""
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
    """Number of samples that are left."""
    colour: str


class Presentation(Generic[F]):
    """The parts of one job in the summary and the report. All are optional. Only this class knows the job's figures."""

    def summary(self, figures: F) -> Iterable[str]:
        """Return lines for the summary at the end of a run."""
        del figures
        return ()

    def tiles(self, material: Material, figures: F) -> Iterable[Tile]:
        """Return tiles with numbers for the top of the page."""
        del material, figures
        return ()

    def flow(self, left: int, material: Material, figures: F) -> Iterable[Stage]:
        """Return stages of the funnel. `left` is the number of samples before the first of them."""
        del left, material, figures
        return ()

    def sections(self, material: Material, figures: F) -> Iterable[Section]:
        """Return sections of the page."""
        del material, figures
        return ()

    def score_note(self, settings: Mapping[str, Any], score: str) -> str:
        """Return a note for readers about the chart of a score."""
        del settings, score
        return ""

    def examples(self, figures: F) -> Iterable[str]:
        """Return the ids of samples that the sections show."""
        del figures
        return ()


def presentation_of(pointer: str) -> Presentation[Any]:
    """Return the presentation of a job, whose class is given as `module:class`."""
    module, _, name = pointer.partition(":")
    found: Presentation[Any] = getattr(import_module(module), name)()
    return found


def kinds_of(reasons: Counter[str]) -> Counter[str]:
    """Count dropped samples by the step that dropped them, which is the part of the reason before the colon."""
    kinds: Counter[str] = Counter()
    for reason, count in reasons.items():
        kinds[reason.partition(":")[0]] += count
    return kinds


def stages(left: int, reasons: Counter[str], steps: Sequence[Any], colour: str, last: str = "") -> Iterator[Stage]:
    """Yield a stage for each step of a recipe that dropped samples, with the number of samples left after it.

    Stages for drops that no step made come first. The stage of the kind `last` comes at the end.
    """
    order = {str(step.get("kind")): place for place, step in enumerate(steps) if isinstance(step, dict)}
    if last:
        order[last] = len(order)
    kinds = kinds_of(reasons)
    for kind in sorted(kinds, key=lambda kind: (order.get(kind, -1), kind)):
        left -= kinds[kind]
        yield Stage(f"after {kind}", left, colour)
