"""Quotas: how many samples of each group, and which, fill a budget."""

import numpy as np
from numpy.typing import NDArray

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float64

HALVINGS = 200
"""Steps of the bisection for the common factor: 53 are enough for equal weights, 200 for weights that are 10^44
apart."""
DIGITS = 9
"""Decimals in which two remainders are compared; later ones are rounding at 10^6 samples."""


def powers(sizes: Int, alpha: float) -> Float64:
    """Return the weights n_i^alpha of groups of n_i samples, 0 for an empty one."""
    return np.where(sizes > 0, np.maximum(sizes, 1).astype(np.float64) ** alpha, 0.0)


def allocate(weights: Float64, bounds: tuple[Int, Int], budget: int, spill: Float64 | None = None) -> Int:
    """Return how much of a budget each of g groups gets, in proportion to the weights and within bounds.

    The sum is exact. The part that a group cannot take because of its upper bound goes to the others in proportion to
    their weights; a lower bound takes from the others in the same way. Shares become whole numbers by largest
    remainders; ties go to the earlier group. With equal weights the result is that of taking turns (round robin).

    Args:
        weights: [g] >= 0. A group of weight 0 gets its lower bound, until all others are at their upper bounds.
        bounds: [g] lower and [g] upper; 0 <= lower <= upper, and the lower ones sum up to at most the budget.
        budget: samples wanted; where the upper bounds allow fewer, all of those.
        spill: [g] > 0, the weights by which groups of weight 0 share what the others cannot take; equal by default.

    Returns:
        [g] int64, whose sum is the budget or the sum of the upper bounds, whichever is less.
    """
    lower, upper = bounds
    if budget >= upper.sum():
        return upper.astype(np.int64)
    counts = lower.astype(np.int64)
    named = weights > 0
    rest = budget - int(upper[named].sum())
    if rest >= int(lower[~named].sum()):
        counts[named] = upper[named]
        further = (np.ones(len(weights)) if spill is None else spill)[~named]
        counts[~named] = _shared(further, lower[~named], upper[~named], rest)
    else:
        counts[named] = _shared(weights[named], lower[named], upper[named], budget - int(lower[~named].sum()))
    return counts


def _shared(weights: Float64, lower: Int, upper: Int, budget: int) -> Int:
    """Return whole shares clip(factor * weight, lower, upper) that sum up to the budget; all weights are positive."""
    if not len(weights):
        return np.empty(0, np.int64)
    low, high = 0.0, float((upper / weights).max())
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if np.clip(middle * weights, lower, upper).sum() < budget:
            low = middle
        else:
            high = middle
    return largest_remainder(np.clip(high * weights, lower, upper), budget)


def largest_remainder(shares: Float64, total: int) -> Int:
    """Return whole numbers that sum up to `total`: shares rounded down, 1 more for the largest remainders (Hamilton).

    The shares sum up to `total`, except for rounding; ties go to the earlier one.
    """
    exact = np.round(shares, DIGITS)
    whole = np.floor(exact)
    missing = total - int(whole.sum())
    further = np.argsort(-np.round(exact - whole, DIGITS), kind="stable")[:missing]
    whole[further] += 1
    return whole.astype(np.int64)


def first_of_groups(group: Int, order: Int, counts: Int) -> NDArray[np.bool_]:
    """Return [n] whether a row is among the first `counts[g]` rows of its group g, in an order of all rows."""
    by_group = order[np.argsort(group[order], kind="stable")]
    sizes = np.bincount(group, minlength=len(counts))
    place = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = np.zeros(len(group), np.bool_)
    kept[by_group] = place < np.repeat(counts, sizes)
    return kept
