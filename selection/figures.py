"""The figures of the select job."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gristmill.cluster.jobs.figures import Figures


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """The figures of one step."""

    kind: str
    rows: int
    """Number of samples that came in."""
    kept: int
    seconds: float
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Number of dropped samples for each reason."""
    figures: Mapping[str, int | float | str] = field(default_factory=dict)
    """Further figures of this step, by name; see `Choice.figures`."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A dropped sample and the sample that it lost to."""

    step: str
    id: str
    text: str
    to: str
    to_text: str
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Topic:
    """A group of samples that mean similar things."""

    name: str
    rows: int
    kept: int = 0
    examples: tuple[str, ...] = ()
    """Ids of the samples nearest to the centre."""


@dataclass(frozen=True, kw_only=True)
class UnknownScript:
    """A script that the encoder does not know; samples in this script are not compared by meaning."""

    model: str
    script: str
    rows: int
    unknown: float
    """Share of a sample's tokens that the encoder does not know, 0 to 1, as a mean over these samples."""


@dataclass(frozen=True, kw_only=True)
class SelectFigures(Figures):
    """The figures of `[select]`."""

    input_rows: int
    """Rows of the input, including those that were dropped before."""
    dropped: int
    embedded: int
    """Number of texts that this execution embedded."""
    samples_per_s: float
    embed_seconds: float | None = None
    steps: tuple[StepFigures, ...] = ()
    pairs: tuple[Pair, ...] = ()
    topics: tuple[Topic, ...] = ()
    unknown_scripts: tuple[UnknownScript, ...] = ()
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The same measures of three choices of equal size: the chosen samples, random samples, and the longest answers."""
    parts: int = 0
    """Number of parts of the datasets that tasks of Ray read; 0 if one process on one machine read all samples."""
