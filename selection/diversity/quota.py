"""Quotas: how many samples of each group, and which samples, fill a budget."""

import numpy as np
from numpy.typing import NDArray

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float64

HALVINGS = 200
"""Steps of the bisection for the common factor. 53 steps are enough for equal weights, and 200 for weights with a ratio
of 10^44."""
DIGITS = 9
"""Number of decimals to which remainders are rounded before they are compared; with 10^6 samples, later decimals are
rounding errors."""


def powers(sizes: Int, alpha: float) -> Float64:
    """Return [g] the weights n_i^alpha of groups with n_i samples each, 0 for an empty group."""
    return np.where(sizes > 0, np.maximum(sizes, 1).astype(np.float64) ** alpha, 0.0)


def allocate(weights: Float64, bounds: tuple[Int, Int], budget: int, spill: Float64 | None = None) -> Int:
    """Return how many samples of a budget each of g groups gets, in proportion to the weights and within bounds.

    The sum is exact. If an upper bound gives a group less than its share, the other groups get the rest, in proportion
    to their weights. If a lower bound gives a group more, the other groups get less in the same way. Shares become
    whole numbers by largest remainders; ties go to the earlier group. With equal weights the result is the same as if
    groups took turns (round robin).

    Args:
        weights: [g] >= 0. A group of weight 0 gets only its lower bound, unless all groups with a weight are at their
            upper bounds.
        bounds: ([g] lower, [g] upper) with 0 <= lower <= upper; the lower bounds sum up to at most the budget.
        budget: number of samples; if the upper bounds allow fewer, each group gets its upper bound.
        spill: [g] > 0, the weights by which groups of weight 0 share what is left by the other groups; equal by
            default.

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
    """Return whole numbers near clip(factor * weight, lower, upper) that sum up to the budget.

    One factor for all groups is searched. All weights must be positive.
    """
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
    """Return shares as whole numbers that sum up to `total`, by largest remainders (Hamilton).

    Each share is rounded down, and the shares with the largest remainders get 1 more; of equal remainders, the earlier
    share. The shares must sum up to `total`, except for rounding errors.
    """
    exact = np.round(shares, DIGITS)
    whole = np.floor(exact)
    missing = total - int(whole.sum())
    further = np.argsort(-np.round(exact - whole, DIGITS), kind="stable")[:missing]
    whole[further] += 1
    return whole.astype(np.int64)


def first_of_groups(group: Int, order: Int, counts: Int) -> NDArray[np.bool_]:
    """Return [n] whether a row is among the first `counts[g]` rows of its group g; `order` is the order of all rows."""
    by_group = order[np.argsort(group[order], kind="stable")]
    sizes = np.bincount(group, minlength=len(counts))
    place = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = np.zeros(len(group), np.bool_)
    kept[by_group] = place < np.repeat(counts, sizes)
    return kept
