"""When training ends early, and which weights are the best: both follow from the measurements so far."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

LOSS = "loss"
"""The metric that is the held-out loss. Any other metric is a measure of the task, from 0 to 1; higher is better."""


class Measured(NamedTuple):
    """What was measured on the held-out rows after a number of steps."""

    error: float
    """The held-out loss, or 1 minus the measure that is the metric. Lower is better."""
    step: int
    loss: float
    """The held-out loss."""
    measures: Mapping[str, float]
    """Measures of the task; none if only the loss was measured."""


def measured(lines: Sequence[Mapping[str, Any]], metric: str = LOSS) -> list[Measured]:
    """Return the measurements after the steps in a journal."""
    return [of_line(line, line["step"], metric) for line in lines if "holdout_loss" in line and "step" in line]


def of_line(line: Mapping[str, Any], step: int, metric: str) -> Measured:
    """Return the measurement in a line of a journal."""
    loss, measures = line["holdout_loss"], line.get("measures", {})
    return Measured(loss if metric == LOSS else 1 - measures.get(metric, math.nan), step, loss, measures)


def best(held: Sequence[Measured]) -> Measured:
    """Return the lowest error; of equal errors, the earliest. An error that is not a number counts as the highest."""
    return min(held, key=lambda one: (math.inf if math.isnan(one.error) else one.error, one.step))


def stale(held: Sequence[Measured]) -> int:
    """Return the number of measurements since the best one."""
    return len(held) - 1 - held.index(best(held)) if held else 0


def value(metric: str, error: float) -> float:
    """Return the value of a metric from its error."""
    return error if metric == LOSS else 1 - error


def said(metric: str, error: float) -> str:
    """Return an error in words, such as `held-out accuracy 0.9100`."""
    return f"held-out {metric} {value(metric, error):.4f}"
