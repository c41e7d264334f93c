"""Differential privacy of a vote: the count of votes, the noise of the Gaussian mechanism, and its guarantee.

Two private datasets are neighbours if one of them is the other with one sample added.
"""

import hashlib
import math

import numpy as np
from numba import prange

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import BLOCK_ROWS, Float32, Float64, Matrix
from gristmill.selection.kernels import parallel

HALVINGS = 200
BEYOND = 25.0
"""For x of at least this, exp(x^2) erfc(x) is computed by its asymptotic series, with a relative error of 8e-9."""


def delta_of(epsilon: float, ratio: float) -> float:
    """Return the smallest delta for which a Gaussian mechanism is (epsilon, delta)-private.

    delta = Phi(r/2 - epsilon/r) - e^epsilon Phi(-r/2 - epsilon/r), with r the L2 sensitivity over the noise's sigma.

    Source: Balle & Wang 2018, arXiv:1805.06530, theorem 8. Departures: e^epsilon Phi(-a) is computed as
    exp(-b^2/2) erfcx(a/sqrt 2)/2, b = r/2 - epsilon/r, which neither overflows nor vanishes.
    """
    near, far = ratio / 2 - epsilon / ratio, ratio / 2 + epsilon / ratio
    return max(0.0, _phi(near) - math.exp(-near * near / 2) * _erfcx(far / math.sqrt(2)) / 2)


def epsilon_of(sigma: float, delta: float, rounds: int = 1) -> float:
    """Return epsilon, rounded up, of `rounds` releases that each have L2 sensitivity 1 and noise of `sigma`.

    Together these releases are as private as one release with sensitivity sqrt(rounds) and the same noise. This is true
    even if a later release depends on an earlier one (Dong, Roth & Su 2022, arXiv:1905.02383, corollary 3.3).
    """
    ratio = math.sqrt(rounds) / sigma
    if delta_of(0.0, ratio) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(high, ratio) > delta:
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle, ratio) > delta else (low, middle)
    return high


def sigma_of(epsilon: float, delta: float, rounds: int = 1) -> float:
    """Return the noise, rounded up, with which `rounds` releases of L2 sensitivity 1 are (epsilon, delta)-private."""
    low, high = 0.0, 1.0  # bisection over the ratio sqrt(rounds)/sigma, with which delta grows
    while delta_of(epsilon, high) <= delta:
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if delta_of(epsilon, middle) > delta else (middle, high)
    return math.sqrt(rounds) / low


def votes(private: Matrix, candidates: Matrix, num: int = 1) -> Float64:
    """Return [candidates] the votes of private rows: a row gives 1/sqrt(num) to its `num` nearest candidates.

    So adding or removing one private row changes the votes by at most 1 in L2. The result is exact: every row is
    compared with every candidate, in blocks of 8,192 by 8,192. Of equally near candidates, the lower one gets the vote.
    """
    num = min(num, len(candidates))
    histogram = np.zeros(len(candidates))
    for _, block in private.blocks():
        cosine = np.full((len(block), num), -np.inf, np.float32)
        nearest = np.full((len(block), num), -1, np.int64)
        for start, others in candidates.blocks(BLOCK_ROWS):
            _insert(block @ others.T, start, cosine, nearest)
        histogram += np.bincount(nearest.ravel(), minlength=len(candidates))
    return histogram / math.sqrt(max(1, num))


@parallel
def _insert(cosines: Float32, start: int, best: Float32, nearest: Int) -> None:
    """Insert a block of cosines, [rows, columns], into the rows' sorted lists; ties go to the lower column."""
    num = best.shape[1]
    for row in prange(len(cosines)):
        for column in range(cosines.shape[1]):
            value = cosines[row, column]
            if value > best[row, num - 1]:
                place = num - 1
                while place > 0 and value > best[row, place - 1]:
                    best[row, place], nearest[row, place] = best[row, place - 1], nearest[row, place - 1]
                    place -= 1
                best[row, place], nearest[row, place] = value, start + column


def gaussian(key: bytes, num: int) -> Float64:
    """Return [num] standard normal numbers that look random without the key; the same key gives the same numbers.

    SHAKE-256 of the key gives 53 random bits for each uniform number, and the method of Box and Muller makes normal
    numbers of them. A common generator is not enough: from a few of its numbers one can find its state, and so all
    other noise.
    """
    pairs = -(-num // 2)
    bits = np.frombuffer(hashlib.shake_256(key).digest(16 * pairs), "<u8").reshape(2, pairs)
    first, second = ((bits >> np.uint64(11)).astype(np.float64) + 1) * 2.0**-53  # in (0, 1]
    radius, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
    normal: Float64 = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return normal[:num]


def _phi(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def _erfcx(x: float) -> float:
    """Return exp(x^2) erfc(x) for x > 0."""
    if x < BEYOND:
        return math.exp(x * x) * math.erfc(x)
    square = 1 / (2 * x * x)
    return (1 - square + 3 * square**2) / (x * math.sqrt(math.pi))
