"""When training ends, and which weights are the best, follow from the measurements alone."""

import math
from typing import Any

from gristmill.training.loop.stopping import Measured, best, measured, said, stale


def held(*losses: float) -> list[Measured]:
    return [Measured(loss, 10 * place, loss, {}) for place, loss in enumerate(losses, 1)]


def test_the_best_is_the_lowest_and_the_earliest_of_equals() -> None:
    assert best(held(3.0, 2.0, 2.0, 2.5))[:2] == (2.0, 20)
    assert best(held(math.nan, 5.0))[:2] == (5.0, 20)


def test_a_loss_that_does_not_fall_counts() -> None:
    assert [stale(held(*losses)) for losses in ((), (3.0,), (3.0, 2.0), (3.0, 3.0, 4.0), (1.0, math.nan))] == [
        0, 0, 0, 2, 1,
    ]  # fmt: skip


def test_losses_come_from_the_steps_of_a_journal_and_not_from_its_end() -> None:
    lines: list[dict[str, float]] = [{"start": 0}, {"step": 1, "loss": 2.0}]
    lines += [{"step": 2, "holdout_loss": 1.5}, {"end": 3, "holdout_loss": 1.0}]
    assert measured(lines) == [(1.5, 2, 1.5, {})]


def test_a_measure_is_best_where_it_is_highest_and_one_without_a_value_is_never_best() -> None:
    lines: list[dict[str, Any]] = [
        {"step": step, "holdout_loss": loss, "measures": found}
        for step, loss, found in ((1, 1.0, {"f1": 0.25}), (2, 2.0, {"f1": 0.75}), (3, 3.0, {}), (4, 3.0, {"f1": 0.5}))
    ]
    found = measured(lines, "f1")
    assert best(found)[:3] == (0.25, 2, 2.0) and stale(found) == 2
    assert best(measured(lines)).step == 1
    assert said("f1", best(found).error) == "held-out f1 0.7500" and said("loss", 1.5) == "held-out loss 1.5000"
