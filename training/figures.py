"""The figures of the train and the evaluate job."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gristmill.cluster.jobs.figures import Figures


@dataclass(frozen=True, kw_only=True)
class TrainFigures(Figures):
    """Results of `[train]`; `kept` counts the samples trained on, `tokens` the tokens of all steps."""

    holdout: int
    """Samples held out."""
    dropped: int
    drop_reasons: Mapping[str, int] = field(default_factory=dict)
    packed_rows: int
    packing_seconds: float | None = None
    steps: int
    precision: str
    trained_tokens: int
    """Tokens that counted in the loss, in all steps."""
    step_seconds: float
    loss_first: float | None = None
    """Nats per token."""
    loss_last: float | None = None
    holdout_loss: float | None = None
    starts: int
    """Number of times that the workers were started."""


@dataclass(frozen=True, kw_only=True)
class EvaluateFigures(Figures):
    """Results of `[evaluate]`: nats per token of the held-out samples, before and after."""

    loss_before: float
    loss_after: float
    perplexity_before: float
    perplexity_after: float
    difference: float
    ci_low: float
    """Lower end of the 95 % interval of the difference."""
    ci_high: float
    precision: str
    smoke_replies: int
    smoke_ok: int
    """Number of replies that are not empty and end by themselves."""
    seconds_by_part: Mapping[str, float] = field(default_factory=dict)
