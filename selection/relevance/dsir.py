"""DSIR: importance weights of samples from bags of hashed n-grams, and a draw of samples by these weights.

Source: Xie et al. 2023, arXiv:2302.03169, section 3 and algorithm 1, as in the authors' code (p-lambda/dsir): the same
words, buckets, weights and draw. Departures: a character of a script that is written without spaces is a word. In the
authors' code, all characters between two signs are one word. The n-grams of all samples are counted; the authors' code
stops at 10^9. No sample is too short by default; the authors' code requires 100 words, because it was made for web
pages. `½` and `³` are parts of words, as for Python's `re`; for nltk 3.10 they are signs (0.2 % of 14,837 texts have
one).
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.text.scripts import UNSPACED
from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float64
from gristmill.selection.duplicates.ngrams import slices

BUCKETS = 10_000
SMALLEST = 1e-8
"""Number that is added to the share of every bucket, as in the authors' code; without it the log of an empty bucket
would be infinite."""
CACHED = 1 << 18
"""Number of n-grams whose buckets are kept in memory; these take about 60 MiB."""
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]+")


class NgramWeights(Settings):
    """`[select.steps.dsir]`: how `dsir` makes weights from n-grams, and how it chooses samples by them."""

    per_ngram: bool = False
    """Whether the weight of a sample is the mean over its n-grams, times the mean number of n-grams of all samples.
    Then the length of a sample does not count. As published, the weight is the sum over the n-grams. Then, with few
    targets, long samples are never chosen, because each n-gram that no target has lowers the weight by up to 18."""
    smoothing: float = Field(default=0.0, ge=0)
    """Number that is added to the count of each of the 10,000 buckets of the targets. It is useful for small target
    sets."""
    min_words: int = Field(default=0, ge=0)
    """Least number of words of a chosen sample. A run of signs counts as a word, and so does a Chinese character."""
    top: bool = False
    """Whether the samples with the highest weights are chosen. By default samples are drawn at random, with
    probabilities by their weights."""


class Grams(NamedTuple):
    """The n-grams (words, and pairs of neighbouring words) of n texts."""

    rows: Int
    """[g] number of the text that has each n-gram."""
    buckets: Int
    """[g] bucket of each n-gram."""
    words: Int
    """[n] number of words of each text."""


def words(text: str) -> list[str]:
    """Return the words of a text in lower case: runs of letters and digits, runs of signs, and single characters."""
    return _WORD.findall(text.lower())


@lru_cache(maxsize=CACHED)
def bucket(ngram: str) -> int:
    """Return the bucket of an n-gram, whose words are joined by a space."""
    return int.from_bytes(sha256(ngram.encode("utf-8", "surrogatepass")).digest(), "big") % BUCKETS


def grams(texts: Sequence[str]) -> Grams:
    """Return the n-grams of some texts."""
    found, many, num = list[int](), list[int](), list[int]()
    for text in texts:
        said = words(text)
        found += map(bucket, said)
        found += [bucket(f"{left} {right}") for left, right in pairwise(said)]
        num.append(len(said))
        many.append(max(0, 2 * len(said) - 1))
    return Grams(np.repeat(np.arange(len(num)), many), np.array(found, np.int64), np.array(num, np.int64))


def counts(texts: pa.LargeStringArray) -> Int:
    """Return [buckets] the number of n-grams of some texts that fall into each bucket."""
    found = np.zeros(BUCKETS, np.int64)
    for _, piece in slices(texts):
        found += np.bincount(grams(piece.to_pylist()).buckets, minlength=BUCKETS)
    return found


def log_ratios(targets: Int, samples: Int, smoothing: float = 0.0) -> Float64:
    """Return [buckets] the log of (share of the bucket in the targets / share of the bucket in the samples)."""
    likely = targets + smoothing
    shares = (found / max(1, found.sum()) for found in (likely, samples))
    one, other = (np.log(share + SMALLEST) for share in shares)
    return np.asarray(one - other, np.float64)


def log_weights(ratios: Float64, texts: pa.LargeStringArray) -> tuple[Float64, Int]:
    """Return ([texts, targets] log importance weights, [texts] words) of some texts.

    Args:
        ratios: [buckets, targets] the `log_ratios` of each target set.
        texts: some of the samples.
    """
    found, lengths = np.zeros((len(texts), ratios.shape[1])), np.zeros(len(texts), np.int64)
    for first, piece in slices(texts):
        made, rows = grams(piece.to_pylist()), slice(first, first + len(piece))
        lengths[rows] = made.words
        for target in range(ratios.shape[1]):
            found[rows, target] = np.bincount(made.rows, ratios[made.buckets, target], minlength=len(piece))
    return found, lengths


def by_ngram(weights: Float64, words: Int) -> Float64:
    """Return the weights of all samples by `NgramWeights.per_ngram`; `words` are as in `log_weights`."""
    many = np.maximum(0, 2 * words - 1)
    found: Float64 = weights * (many.mean() / np.maximum(1, many))[:, None]
    return found


def shares(budget: int, sizes: Int) -> list[int]:
    """Return the part of a budget that each target set gets, by its number of n-grams; the last gets the rest."""
    found = [int(budget * size / max(1, sizes.sum())) for size in sizes.tolist()]
    return [*found[:-1], budget - sum(found[:-1])]


def choose(weights: Float64, budgets: Sequence[int], allowed: np.ndarray, seed: int | None) -> Int:
    """Choose rows for one target set after the other, best first; no row is chosen twice.

    Args:
        weights: [n, targets].
        budgets: rows to choose for each target set.
        allowed: [n] rows that may be chosen.
        seed: seed of a draw with probabilities ∝ exp(weight), which takes the highest weights after Gumbel noise. With
            None the highest weights are taken.
    """
    rng = None if seed is None else np.random.default_rng(seed)
    left, found = allowed.copy(), [np.empty(0, np.int64)]
    for target, budget in enumerate(budgets):
        open_ = np.flatnonzero(left)
        noisy = weights[open_, target] + (0 if rng is None else rng.gumbel(size=len(open_)))
        found.append(open_[np.argsort(-noisy, kind="stable")[:budget]])
        left[found[-1]] = False
    return np.concatenate(found)
