"""Which label a turn writes, so that the kept samples of each come to its share."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import sqrt

GOLDEN = (sqrt(5) - 1) / 2
"""Multiples of this, modulo 1, fill the unit interval evenly at every length."""
ROUNDS_AHEAD = 2
"""Rounds between what a round knows of and its own end."""


def label_of(turn: int, shares: Mapping[str, int], weights: Sequence[float]) -> str:
    """Return the label of a turn: the next of the cycle, or by weight once there are weights, in their order."""
    if not weights:
        cycle = [name for place in range(max(shares.values())) for name, share in shares.items() if share > place]
        return cycle[turn % len(cycle)]
    place = (turn * GOLDEN) % 1 * sum(weights)
    wanted = [(name, end) for name, weight, end in zip(shares, weights, accumulate(weights), strict=True) if weight]
    return next((name for name, end in wanted if place < end), wanted[-1][0])


def weights_of(
    shares: Mapping[str, int], made: Mapping[str, float], refused: Mapping[str, float], round_: int, tries: int
) -> tuple[float, ...]:
    """Return how much each label is wanted in a round, in the order of `shares`.

    A label's weight is what it lacks over the chance that one of `tries` texts of it is kept. It lacks what its share
    will be when this round and the one before it, which is still being made, have brought as much as the settled ones.
    """
    level = sum(made.values()) * (1 + ROUNDS_AHEAD / max(1, round_ - 1)) / sum(shares.values())
    lacks = {name: max(0.0, share * level - made[name]) for name, share in shares.items()}
    if not any(lacks.values()):
        lacks = {name: float(share) for name, share in shares.items()}
    missed = {name: (refused[name] + 1) / (made[name] + refused[name] + 2) for name in shares}
    return tuple(lacks[name] / (1 - missed[name] ** tries) for name in shares)
