"""The figures of the select job."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gristmill.cluster.jobs.figures import Figures


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """What one step did."""

    kind: str
    rows: int
    """Samples that came in."""
    kept: int
    seconds: float
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Dropped samples by reason."""
    figures: Mapping[str, int | float | str] = field(default_factory=dict)
    """What only this step measures."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A dropped sample and the one that it lost to."""

    step: str
    id: str
    text: str
    to: str
    to_text: str
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Samples that mean similar things."""

    name: str
    rows: int
    kept: int = 0
    examples: tuple[str, ...] = ()
    """Ids of the samples nearest to the middle."""


@dataclass(frozen=True, kw_only=True)
class SelectFigures(Figures):
    """What `[select]` came to."""

    input_rows: int
    """Rows of the input, those that came in dropped too."""
    dropped: int
    embedded: int
    """Texts that were embedded now, not before."""
    samples_per_s: float
    embed_seconds: float | None = None
    steps: tuple[StepFigures, ...] = ()
    pairs: tuple[Pair, ...] = ()
    topics: tuple[Topic, ...] = ()
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The same measures of what was chosen, of as many random samples, and of the longest answers."""
