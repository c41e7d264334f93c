"""The figures of the generate and the review job."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gristmill.cluster.jobs.figures import Figures


@dataclass(frozen=True, kw_only=True)
class GenerateFigures(Figures):
    """What `[generate]` came to; `tokens` are those of replies."""

    drafts: int
    """Drafts that were drawn."""
    acceptance: float
    """Share of the rows that were kept, or would have been but for the target."""
    tokens_per_kept: float
    """Prompt and reply tokens for one kept row."""
    engine_start_s: float
    engine_seconds_per_kept: float
    prefix_cache_hit_rate: float
    """Share of the prompt tokens that were in the engine's cache."""
    cost: float | None = None
    """Money, in the currency of the prices."""
    cost_per_kept: float | None = None
    by_round: tuple[Mapping[str, float], ...] = ()
    """What steps measured when a round began, with its number as `round`."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows by drop reason, most first."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two annotators agree."""

    first: str
    second: str
    rows: int
    """Samples of which both said something."""
    agree: float
    """Share of them with the same answer."""
    kappa: float | None = None
    """Cohen's kappa."""


@dataclass(frozen=True, kw_only=True)
class ReviewFigures(Figures):
    """What `[review]` came to."""

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
    """Share of right answers of each annotator, by what people say."""
    accuracy_by_gold: Mapping[str, float] = field(default_factory=dict)
    agreement: tuple[Agreement, ...] = ()
    fleiss_kappa: Mapping[str, float] = field(default_factory=dict)
    """By group: annotators, people."""
    krippendorff_alpha: Mapping[str, float] = field(default_factory=dict)
    calibration_error: float | None = None
