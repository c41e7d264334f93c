"""When training ends early, and which weights are the best: both follow from the held-out losses so far."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Measured(NamedTuple):
    """A held-out loss, and the number of steps after which it was measured."""

    loss: float
    step: int


def measured(lines: Sequence[Mapping[str, Any]]) -> list[Measured]:
    """Return the held-out losses of the steps in a journal."""
    return [Measured(line["holdout_loss"], line["step"]) for line in lines if "holdout_loss" in line and "step" in line]


def best(held: Sequence[Measured]) -> Measured:
    """Return the lowest loss; of equal losses, the earliest. A loss that is not a number counts as the highest."""
    return min(held, key=lambda one: (math.inf if math.isnan(one.loss) else one.loss, one.step))


def stale(held: Sequence[Measured]) -> int:
    """Return the number of measurements since the best one."""
    return len(held) - 1 - held.index(best(held)) if held else 0
