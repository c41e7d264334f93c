"""The figures of the generate and the review job."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gristmill.cluster.jobs.figures import Figures


@dataclass(frozen=True, kw_only=True)
class GenerateFigures(Figures):
    """Results of `[generate]`; `tokens` counts the tokens of replies."""

    drafts: int
    """Number of drafts."""
    acceptance: float
    """Share of the rows that passed every filter, including the rows after the target was met."""
    tokens_per_kept: float
    """Prompt and reply tokens per kept row."""
    engine_start_s: float
    engine_seconds_per_kept: float
    prefix_cache_hit_rate: float
    """Share of the prompt tokens that the engine's cache already had."""
    cost: float | None = None
    """Money, in the currency of the prices."""
    cost_per_kept: float | None = None
    by_round: tuple[Mapping[str, float], ...] = ()
    """What the steps measured at the beginning of each round; `round` is the number of the round."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows by drop reason, the most frequent first."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Kept rows by label, for methods that give each label a share."""
    notes: tuple[str, ...] = ()
    """What filters could not judge, and why."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of two annotators."""

    first: str
    second: str
    rows: int
    """Samples that both labelled."""
    agree: float
    """Share of these samples with the same answer."""
    kappa: float | None = None
    """Cohen's kappa."""


@dataclass(frozen=True, kw_only=True)
class ReviewFigures(Figures):
    """Results of `[review]`."""

    dropped: int
    queued: int
    """Samples that wait for people."""
    verdicts: int
    bad_verdicts: int
    people: int
    disputed: int
    """Samples about which people disagree."""
    settled_by_people: int
    labels: Mapping[str, int] = field(default_factory=dict)
    """Samples by label."""
    accuracy: Mapping[str, float] = field(default_factory=dict)
    """Share of right answers of each annotator; people's answers count as right."""
    accuracy_by_gold: Mapping[str, float] = field(default_factory=dict)
    agreement: tuple[Agreement, ...] = ()
    fleiss_kappa: Mapping[str, float] = field(default_factory=dict)
    """Fleiss' kappa by group: annotators, people."""
    krippendorff_alpha: Mapping[str, float] = field(default_factory=dict)
    calibration_error: float | None = None
