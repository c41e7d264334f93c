"""Pure functions of the step number: the rows of a worker, and the learning rate. So no state must be restored."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gristmill.training.data import mixture

Schedule = Literal["cosine", "linear", "constant", "wsd", "reduce_lr_on_plateau"]
PLATEAU = 1e-4
"""Smallest relative fall of the held-out loss that counts as one."""


def num_steps(epochs: float, bins: int, batch: int) -> int:
    """Return the number of optimizer steps that use every bin `epochs` times.

    Bins of a further epoch fill the last step.
    """
    return max(1, math.ceil(epochs * bins / batch - 1e-9))


def eval_every(eval_steps: int | Literal["epoch"], bins: int, batch: int) -> int:
    """Return the number of steps between two measurements; 0 if there is only the one at the end."""
    return num_steps(1, bins, batch) if eval_steps == "epoch" else eval_steps


def batch_of(step: int, left_out: Sequence[int]) -> int:
    """Return the batch of a step, both counted from 0. Batches are taken in order, without those that are left out."""
    for batch in sorted(left_out):
        step += batch <= step
    return step


def global_batch(number: int, *, seed: int, groups: tuple[mixture.Group, ...] | int, batch: int) -> NDArray[np.int64]:
    """Return the bins of one batch, [batch]. An optimizer step uses one batch, for any number of workers.

    The bins of each epoch are shuffled by (seed, epoch). The epochs follow each other as one endless stream, which is
    read `batch` bins at a time.

    Args:
        number: the batch, counted from 0.
        seed: seed of the order.
        groups: the groups of bins, or the number of bins of a single one.
        batch: number of bins in a batch.
    """
    found = (mixture.Group(0, 0, groups, groups),) if isinstance(groups, int) else groups
    at = np.arange(number * batch, (number + 1) * batch)
    epochs, places = np.divmod(at, mixture.num_rows(found))
    return np.array([mixture.epoch(seed, int(e), found)[p] for e, p in zip(epochs, places, strict=True)], np.int64)


def share(places: NDArray[np.int64], rank: int, world: int, micro: int) -> NDArray[np.int64]:
    """Return the bins of one worker, [accumulation, micro].

    Together the workers use every bin of the batch exactly once.
    """
    return places.reshape(-1, world, micro)[:, rank, :]


def plateau(losses: Sequence[float], *, patience: int, factor: float, lowest: float) -> float:
    """Return the rate after some measurements of the held-out loss, as a share of the highest rate.

    Args:
        losses: the held-out losses in the order of their measurement.
        patience: number of measurements in a row without a fall that change nothing. One more reduces the rate.
        factor: what the rate is multiplied by.
        lowest: the lowest rate, as a share of the highest.

    Source: `torch.optim.lr_scheduler.ReduceLROnPlateau`, with its defaults of the other settings.
    """
    best, without, found = math.inf, 0, 1.0
    for loss in losses:
        fell = loss < best * (1 - PLATEAU)
        best, without = (loss, 0) if fell else (best, without + 1)
        if without > patience:
            found, without = max(found * factor, lowest), 0
    return found


def learning_rate(
    step: int, *, steps: int, peak: float, warmup: float, schedule: Schedule, lowest: float = 0.0, decay: float = 0.1
) -> float:
    """Return the learning rate of a step, counted from 0.

    Args:
        step: the optimizer step.
        steps: number of all steps.
        peak: the highest rate, reached after the warm-up.
        warmup: share of the steps in which the rate rises linearly, in [0, 1).
        schedule: whether the rate falls after the warm-up, and how.
        lowest: the rate at the end, as a share of the highest rate.
        decay: share of the steps in which the rate falls, with the schedule `wsd`.

    Source: cosine: Loshchilov & Hutter 2017, arXiv:1608.03983, section 3, without restarts; wsd: Hu et al. 2024,
    arXiv:2404.06395, section 4. Departures: the rate of wsd falls on a line, as in Hägele et al. 2024,
    arXiv:2405.18392.
    """
    rise = math.ceil(warmup * steps)
    if step < rise:
        return peak * (step + 1) / (rise + 1)
    if schedule in ("constant", "reduce_lr_on_plateau"):
        return peak
    begin = max(rise, steps - math.ceil(decay * steps)) if schedule == "wsd" else rise
    done = max(0, step - begin) / max(1, steps - begin)
    high = 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1 - done
    return peak * (lowest + (1 - lowest) * high)
