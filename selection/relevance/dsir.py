"""DSIR: importance weights of bags of hashed n-grams, and a draw without replacement by them.

Source: Xie et al. 2023, arXiv:2302.03169, section 3 and algorithm 1. Departures: one count is added to every bucket
(the paper's targets are corpora; of a target set of a hundred samples most n-grams are absent, and a single one would
decide); words are those of `duplicates.ngrams`, so that punctuation does not count and a Chinese character is one. So
other rows are chosen than by the authors' code (of the first 500 on maths problems 0.4 % are the same).
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numba import prange

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float64
from gristmill.selection.duplicates.ngrams import UInt64, slices, units, windows
from gristmill.selection.kernels import parallel

BUCKETS = 10_000
Texts = Iterable[tuple[Int, pa.LargeStringArray]]
"""(rows, their texts), a table at a time."""


def counts(texts: Texts, buckets: int = BUCKETS) -> Int:
    """Return [buckets] the number of words and of pairs of neighbouring words that fall into each bucket."""
    found = np.zeros(buckets, np.int64)
    for _, column in texts:
        for _, piece in slices(column):
            words = units(piece)
            for hashes in (words.hashes, windows(words, 2)[1]):
                found += np.bincount((hashes % np.uint64(buckets)).astype(np.int64), minlength=buckets)
    return found


def log_ratios(targets: Int, samples: Int) -> Float64:
    """Return [buckets] the log of how much likelier each is in the targets than in the samples, from both counts."""
    likely, usual = targets + 1.0, samples + 1.0
    return np.asarray(np.log(likely / likely.sum()) - np.log(usual / usual.sum()), np.float64)


def log_weights(texts: Texts, ratios: Float64, num: int) -> Float64:
    """Return [num] the log importance weight of each text: the sum of the ratios of its n-grams."""
    found = np.zeros(num)
    for rows, column in texts:
        for first, piece in slices(column):
            words = units(piece)
            pairs, hashes = windows(words, 2)
            found[rows[first : first + len(piece)]] = _sums(words.ends, words.hashes, ratios) + _sums(
                pairs, hashes, ratios
            )
    return found


def draw(weights: Float64, budget: int, seed: int) -> Int:
    """Return rows drawn without replacement with chances ∝ exp(weights), best first: the highest after Gumbel noise."""
    noisy = weights + np.random.default_rng(seed).gumbel(size=len(weights))
    return np.argsort(-noisy, kind="stable")[:budget].astype(np.int64)


@parallel
def _sums(ends: Int, hashes: UInt64, ratios: Float64) -> Float64:
    """Return [n] the sum of the ratios of each text's hashes; the bucket of a hash is its remainder."""
    found = np.zeros(len(ends) - 1)
    for row in prange(len(found)):
        for at in range(ends[row], ends[row + 1]):
            found[row] += ratios[hashes[at] % np.uint64(len(ratios))]
    return found
