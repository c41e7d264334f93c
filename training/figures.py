"""The figures of the lift, the train and the evaluate job."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from gristmill.cluster.jobs.figures import Figures

ENOUGH_FAMILIES = 30
"""Least number of families for an interval without a caveat."""


@dataclass(frozen=True, kw_only=True)
class TrainFigures(Figures):
    """Results of `[train]`; `kept` counts the samples trained on, `tokens` the tokens of all steps."""

    version: ClassVar[int] = 2

    holdout: int
    """Samples held out."""
    families: int
    """Families of the samples held out."""
    relatives: int = 0
    """Held-out samples that share a parent with a sample trained on."""
    left_out: int = 0
    """Samples that were left out of training because of held-out or test samples; they are among `dropped`."""
    dropped: int
    drop_reasons: Mapping[str, int] = field(default_factory=dict)
    packed_rows: int
    packing_seconds: float | None = None
    steps: int
    precision: str
    notes: Mapping[str, int] = field(default_factory=dict)
    """Number of changes that fit samples to the chat template or the length, by kind of change."""
    separation: str = "positions"
    """How packed samples were kept apart; `gristmill.training.loop.separation` lists the ways."""
    trained_tokens: int
    """Tokens that counted in the loss, in all steps."""
    step_seconds: float
    loss_first: float | None = None
    """Nats per token."""
    loss_last: float | None = None
    holdout_loss: float | None = None
    starts: int
    """Number of times that the workers were started."""
    stopped_early: bool = False
    """Whether training ended because the held-out loss did not fall any more."""
    kept_step: int | None = None
    """Step whose weights the model has."""
    merged_difference: float | None = None
    """Largest difference of a logit of adapter and base from that of the merged model; None without an adapter."""
    batches_left_out: int = 0
    """Batches that were left out because their loss or gradients were not finite."""


@dataclass(frozen=True, kw_only=True)
class ModelFigures:
    """The results of one model in a suite, and their difference from the base model's."""

    model: str
    value: float
    """Mean value of the items that all models could be asked about; higher is better."""
    low: float | None = None
    """Lower end of its 95 % interval over families; None where families do not differ, or there is one."""
    high: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    """Values of all items together, such as `macro_f1` or `bleu`."""
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """95 % intervals of those measures that are cheap to compute again, over draws of families."""
    difference: float | None = None
    """Mean of the paired differences to the base model; None for the base model itself."""
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    """p-value of no difference: McNemar's where all changes have one size, else that of the interval."""
    p_adjusted: float | None = None
    """The same, adjusted over all suites by Holm's procedure."""
    better: int = 0
    """Items with a higher value than the base model's."""
    worse: int = 0
    detectable: float | None = None
    """Smallest true difference that such items show in 80 % of all cases."""
    needed: int | None = None
    """Families that it takes to show the suite's `effect` in 80 % of all cases."""

    @property
    def verdict(self) -> str:
        """The verdict of the comparison with the base model; empty for the base model."""
        if self.difference is None:
            return ""
        if self.p_adjusted is None:
            return "one family says nothing about others"
        if self.p_adjusted >= 0.05:
            return "no difference shown"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True, kw_only=True)
class SuiteFigures:
    """Results of one suite."""

    suite: str
    folder: str
    """Dataset of its items."""
    kind: str
    role: str
    made: bool
    """Whether a model made the items."""
    items: int
    """Items that all models could be asked about."""
    families: int
    unasked: int
    """Items that some model could not be asked about, which are left out for all models."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows that are no items, by reason."""
    contaminated: int = 0
    """Items that are near copies of a row that the model was trained on."""
    leaks: int = 0
    """Rows trained on that are near copies of an item."""
    effect: float
    """Difference that the suite is to show."""
    models: tuple[ModelFigures, ...]
    """The base model first."""

    @property
    def undecided(self) -> str:
        """The reason why the suite cannot show whether a model differs by its effect; empty if it can."""
        open_ = [model for model in self.models if model.verdict not in ("better", "worse")]
        needed = max((model.needed or 0 for model in open_), default=0)
        if needed <= self.families:
            return ""
        shown = max(model.detectable or 0 for model in open_)
        least = f", it shows one of {shown:.3f} or more" if shown else ""
        return (
            f"{self.families} families of items are too few for a difference of {self.effect:g}{least}; "
            f"about {needed:,} are needed"
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateFigures(Figures):
    """Results of `[evaluate]`: nats per token of the held-out samples, before and after."""

    version: ClassVar[int] = 2  # the interval is over families

    loss_before: float
    loss_after: float
    perplexity_before: float
    perplexity_after: float
    difference: float
    ci_low: float | None = None
    """Lower end of the 95 % interval of the difference; None with one family."""
    ci_high: float | None = None
    interval: str
    """`bootstrap`, `student` or `none`, see `training.evaluate.statistics`."""
    families: int
    """Number of families of the samples, over which the interval is computed."""
    families_better: int
    families_worse: int
    sign_p: float
    """p-value of the sign test over families."""
    detectable: float | None = None
    """Smallest true difference that such samples would show in 80 % of all cases."""
    precision: str
    smoke_replies: int
    smoke_ok: int
    """Number of replies that are not empty and end by themselves."""
    seconds_by_part: Mapping[str, float] = field(default_factory=dict)
    suites: tuple[SuiteFigures, ...] = ()

    @property
    def verdict(self) -> str:
        """The verdict of the interval: better, worse, or no difference shown by these samples."""
        if self.ci_low is None or self.ci_high is None:
            return "one family says nothing about others"
        if self.ci_low <= 0 <= self.ci_high:
            smallest = f"; these samples show one of {self.detectable:.4f} or more" if self.detectable else ""
            return f"no difference shown{smallest}"
        return "better" if self.difference < 0 else "worse"

    @property
    def uncertain(self) -> str:
        """A sentence instead of the interval if it has too few families to be reliable; else empty."""
        if self.families >= ENOUGH_FAMILIES:
            return ""
        chance = f"p = {self.sign_p:.3f}" if self.sign_p >= 0.0005 else "p < 0.001"
        return (
            f"{self.rows} held-out samples of {self.families} families, below {ENOUGH_FAMILIES}, so the interval is a "
            f"rough one; the loss fell in {self.families_better} families and rose in {self.families_worse} "
            f"(sign test {chance})"
        )


@dataclass(frozen=True, kw_only=True)
class LiftFigures(Figures):
    """Results of `[lift]`.

    Accuracies are those of the probe on test items that had no part in the choice of the arm.
    """

    items: int
    """Number of test items on which the lift is measured."""
    validation_items: int
    """Number of test items by which the recommended arm was chosen."""
    arms: int
    recommended: str
    verdict: str
    """`helps`, `not shown` (the interval holds 0), `hurts`, `not confirmed` (fine-tuning gains nothing) or
    `no arm helps`; with the last three only the seeds are passed on."""
    features: str
    accuracy_seeds: float
    accuracy: float
    lift: float
    """Accuracy with the recommended arm minus that with the seeds alone."""
    ci_low: float | None = None
    """Lower end of the 95 % interval of the lift."""
    ci_high: float | None = None
    gap_share: float | None = None
    """Lift as a share of the lift of people's labels, if these are given and have a lift."""
    tuned: str = ""
    """The arm that was fine-tuned beside the seeds, where that was asked for."""
    tuned_lift: float | None = None
    """Its lift over the seeds in a fine-tuned encoder, on the same items."""
    tuned_low: float | None = None
    """Lower end of the 95 % interval of that lift."""
    tuned_high: float | None = None
