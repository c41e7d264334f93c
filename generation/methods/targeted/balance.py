"""The choice of the label for each turn, so that each label gets its share of the kept samples."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import sqrt

GOLDEN = (sqrt(5) - 1) / 2
"""The multiples of this number, modulo 1, are spread evenly over the unit interval, however many there are."""
ROUNDS_AHEAD = 2
"""Number of rounds from the last settled rows that a round knows up to the end of this round."""


def label_of(turn: int, shares: Mapping[str, int], weights: Sequence[float]) -> str:
    """Return the label of a turn: the next label of a cycle, or by `weights`, if any, in the order of `shares`."""
    if not weights:
        cycle = [name for place in range(max(shares.values())) for name, share in shares.items() if share > place]
        return cycle[turn % len(cycle)]
    place = (turn * GOLDEN) % 1 * sum(weights)
    wanted = [(name, end) for name, weight, end in zip(shares, weights, accumulate(weights), strict=True) if weight]
    return next((name for name, end in wanted if place < end), wanted[-1][0])


def weights_of(
    shares: Mapping[str, int], made: Mapping[str, float], refused: Mapping[str, float], round_: int, tries: int
) -> tuple[float, ...]:
    """Return the weight of each label in a round, in the order of `shares`.

    A label's weight is the number of samples that it lacks, divided by the probability that one of `tries` texts is
    kept. The number that it lacks is counted for the end of this round. This round, and the round before it that is
    still being made, are expected to keep as many samples as the settled rounds.
    """
    level = sum(made.values()) * (1 + ROUNDS_AHEAD / max(1, round_ - 1)) / sum(shares.values())
    lacks = {name: max(0.0, share * level - made[name]) for name, share in shares.items()}
    if not any(lacks.values()):
        lacks = {name: float(share) for name, share in shares.items()}
    missed = {name: (refused[name] + 1) / (made[name] + refused[name] + 2) for name in shares}
    return tuple(lacks[name] / (1 - missed[name] ** tries) for name in shares)
