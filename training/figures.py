"""The figures of the jobs `[lift]`, `[train]` and `[evaluate]`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gristmill.cluster.jobs.figures import Figures
from gristmill.training.gate.rule import Decision

ENOUGH_FAMILIES = 30
"""Smallest number of families for which an interval is shown without a warning."""


def mixed(sources: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a note on each dataset of a mixture."""
    for one in sources:
        times = one["epoch_rows"] / one["packed_rows"] if one["packed_rows"] else 0.0
        yield f"{one['name']}: {one['samples']} samples, {one['share']:.1%} of an epoch, {times:.2f} times each"


@dataclass(frozen=True, kw_only=True)
class TrainFigures(Figures):
    """Results of `[train]`.

    `kept` is the number of samples that were trained on. `tokens` is the number of tokens in all steps.
    """

    version: ClassVar[int] = 2

    holdout: int
    """Number of held-out samples."""
    families: int
    """Number of families of the held-out samples."""
    relatives: int = 0
    """Number of held-out samples that share a parent with a sample that was trained on."""
    left_out: int = 0
    """Number of samples left out of training because they are related to held-out or test samples. `dropped` includes
    them."""
    dropped: int
    drop_reasons: Mapping[str, int] = field(default_factory=dict)
    packed_rows: int
    packing_seconds: float | None = None
    steps: int
    precision: str
    notes: Mapping[str, int] = field(default_factory=dict)
    """Number of changes that fit samples to the chat template or the length, by kind of change."""
    task: str = "causal_lm"
    """Kind of the task. A task with a head has its loss for each text, token or window."""
    labels: tuple[str, ...] = ()
    """The labels of the head."""
    mixture: tuple[Mapping[str, Any], ...] = ()
    """If several datasets are trained on, of each its `name`, `samples`, `tokens`, `packed_rows`, its packed rows in an
    epoch (`epoch_rows`), and its `share` of the epoch."""
    separation: str = "positions"
    """How packed samples were kept apart; `gristmill.training.loop.separation` lists the ways."""
    trained_tokens: int
    """Number of tokens in all steps that counted in the loss."""
    step_seconds: float
    loss_first: float | None = None
    """Loss of the first step, in nats per `unit`; the other losses have the same unit."""
    loss_last: float | None = None
    holdout_loss: float | None = None
    unit: str = "token"
    """What the losses are of: a token, a text or a window."""
    metric: str = "loss"
    """What decided on the end of training, the weights and the settings: the held-out loss or one of `measures`."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """Measures of the finished model on the held-out samples."""
    starts: int
    """Number of times that the workers were started."""
    stopped_early: bool = False
    """Whether training ended early because `metric` had not become better."""
    kept_step: int | None = None
    """Optimizer step from which the weights of the finished model are."""
    merged_difference: float | None = None
    """Largest absolute difference between a logit of the base model with the adapter and the same logit of the merged
    model. None without an adapter."""
    batches_left_out: int = 0
    """Number of batches that were left out because their loss or gradients were not finite."""
    steps_skipped: int = 0
    """Number of steps in which no weight changed, because gradients in fp16 overflowed."""
    untracked: Mapping[str, int] = field(default_factory=dict)
    """Number of steps that a tracker did not get, by tracker, if there are any."""
    trials: int = 0
    """Number of trials of the search for settings; 0 without a search."""
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the best trial, with which the model was trained, by their dotted names."""
    fold_losses: tuple[float, ...] = ()
    """Held-out loss of each fold of the cross-validation, in nats per `unit`; empty without one."""
    fold_measures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Measures of each fold, by name."""


@dataclass(frozen=True, kw_only=True)
class ModelFigures:
    """The results of one model in a suite, compared with the results of the base model."""

    model: str
    value: float
    """Mean value of the items that every model could be asked; higher is better."""
    low: float | None = None
    """Lower end of the 95 % interval of `value` over families. None if there is only one family, or if all families
    have the same value."""
    high: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    """Measures that are computed over all items together, such as `macro_f1` or `bleu`."""
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """95 % intervals of the measures, from bootstrap draws of families; none with fewer than 20 families."""
    difference: float | None = None
    """Mean of the paired differences from the base model; None for the base model itself."""
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    """p-value of the hypothesis that there is no difference. If all changes have the same size, it is that of McNemar's
    test, else that of the interval."""
    p_adjusted: float | None = None
    """`p`, adjusted over all suites by Holm's procedure."""
    better: int = 0
    """Number of items with a higher value than the base model has."""
    worse: int = 0
    detectable: float | None = None
    """Smallest true difference that such items detect with a probability of 80 %."""
    needed: int | None = None
    """Number of families needed to detect the suite's `effect` with a probability of 80 %."""
    unfit: bool = False
    """Whether the suite's judge failed its test, so that there is no verdict."""

    @property
    def verdict(self) -> str:
        """The verdict of the comparison with the base model; empty for the base model."""
        if self.difference is None:
            return ""
        if self.unfit:
            return "no verdict"
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
    """Name of the dataset that holds the items."""
    kind: str
    role: str
    made: bool
    """Whether a model made the items."""
    items: int
    """Number of items that every model could be asked."""
    families: int
    unasked: int
    """Number of items that some model could not be asked. They are left out for all models."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Number of rows that could not become items, by reason."""
    contaminated: int = 0
    """Number of items that are near copies of a row that the model was trained on."""
    leaks: int = 0
    """Number of rows trained on that are near copies of an item."""
    effect: float
    """Smallest difference that the suite should be able to show."""
    unfit: str = ""
    """The reason why the suite's judge cannot be believed; empty if it can, or if there is no judge."""
    models: tuple[ModelFigures, ...]
    """Figures of each model, the base model first."""

    @property
    def undecided(self) -> str:
        """Why there is no verdict on some model: a judge that failed, or too few items; else empty."""
        if self.unfit:
            return self.unfit
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
    """Results of `[evaluate]`. Losses are in nats per `unit` of the held-out samples, before and after training."""

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
    """Kind of the interval: `bootstrap`, `student` or `none`; see `training.evaluate.statistics`."""
    families: int
    """Number of families of the scored samples. The interval is over families."""
    families_better: int
    families_worse: int
    sign_p: float
    """p-value of the sign test over families."""
    detectable: float | None = None
    """Smallest true difference that such samples detect with a probability of 80 %."""
    precision: str
    unit: str = "token"
    """What the losses are of: a token, a text or a window."""
    measures_before: Mapping[str, float] = field(default_factory=dict)
    """Measures of the base model's answers to the held-out samples, with a head that is not trained. Empty for a causal
    language model."""
    measures_after: Mapping[str, float] = field(default_factory=dict)
    """Measures of the tuned model's answers to the held-out samples."""
    smoke_replies: int
    smoke_ok: int
    """Number of replies that are not empty and that the model ended by itself."""
    seconds_by_part: Mapping[str, float] = field(default_factory=dict)
    suites: tuple[SuiteFigures, ...] = ()
    decision: Decision | None = None
    """What the gate decided; None without a gate."""

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
        """A warning that the interval has too few families to be reliable; empty if it has enough."""
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

    All accuracies are the probe's, on test items that were not used to choose the recommended arm.
    """

    items: int
    """Number of test items on which the lift is measured."""
    validation_items: int
    """Number of test items that were used to choose the recommended arm."""
    arms: int
    recommended: str
    verdict: str
    """`helps`, `not shown`, `hurts`, `not confirmed` or `no arm helps`. `not shown`: the interval contains 0.
    `not confirmed`: fine-tuning gains nothing. With the last three verdicts, only the seeds are passed on."""
    features: str
    accuracy_seeds: float
    accuracy: float
    lift: float
    """Accuracy with the recommended arm minus that with the seeds alone."""
    ci_low: float | None = None
    """Lower end of the 95 % interval of the lift."""
    ci_high: float | None = None
    gap_share: float | None = None
    """`lift` divided by the lift of people's labels. None if there are no such labels, or if they show no lift."""
    tuned: str = ""
    """The arm that an encoder was fine-tuned on, to compare it with the seeds; empty if none was."""
    tuned_lift: float | None = None
    """Lift of the arm `tuned` over the seeds in a fine-tuned encoder, on the same items."""
    tuned_low: float | None = None
    """Lower end of the 95 % interval of `tuned_lift`."""
    tuned_high: float | None = None
    tuned_seconds: float | None = None
    """Wall time of the fine-tuning, a part of `seconds`. The probe took the rest."""
