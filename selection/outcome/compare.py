"""Comparison of the chosen samples with random samples and with the longest answers, as baselines of a selection."""

from random import Random
from typing import NamedTuple

import numpy as np

from gristmill.selection.contracts import Bool, View
from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Matrix

POINTS = 1000
"""Number of samples for which the nearest chosen sample is searched. As many samples of each choice are compared in
pairs."""
MAX_CHOSEN = 50_000
"""Most samples of a choice in which the nearest sample is searched; of a larger choice, so many are drawn at random."""


class Labels(NamedTuple):
    """Groups of n samples: topics, or the values of a tag."""

    name: str
    """What the groups are, in the plural, such as `topics`."""
    codes: Int
    """[n] number of each sample's group, -1 for a sample without a group."""


def compare(view: View, kept: Bool, rng: Random, labels: Labels | None = None) -> dict[str, dict[str, float]]:
    """Return the same figures for the chosen samples, as many random samples, and the longest answers.

    The figures are `samples`, `mean answer length` in characters, and `mean <score>` of each score. With labels, two
    figures are added: how many labels are covered, and the total variation distance between the labels' shares and
    their shares in all samples, from 0 (the same) to 1 (nothing in common). Without labels the methods are used, if
    there are several. With vectors, two more figures are added: `coverage of the pool`, and the mean cosine of two
    chosen samples. The coverage is the mean cosine of a sample to the nearest other chosen sample. It is the facility
    location of Lin and Bilmes 2011 (ACL, section 4.1) divided by the number of samples, except that a sample does not
    cover itself; else the choice of the points to measure at would decide. Cost: at most 1,000 x 50,000 x d
    multiplications for each of the three.

    Args:
        view: all samples that the selection began with.
        kept: [n] whether a sample was chosen.
        rng: source of the random choice, and of the points to measure at.
        labels: groups of the samples, if there are any.
    """
    drawn = np.random.default_rng(rng.getrandbits(64))
    size = int(kept.sum())
    if not size:
        return {}
    random = np.sort(drawn.permutation(len(view))[:size])
    longest = np.sort(np.lexsort((np.arange(len(view)), -view.lengths))[:size])
    choices = {"chosen": np.flatnonzero(kept), "random": random, "longest": longest}
    if labels is None:
        codes, values = view.tags("method")
        labels = Labels("methods", codes) if len(values) > 1 else None
    found = {name: _numbers(view, rows, labels) for name, rows in choices.items()}
    if view.vectors is not None:
        points = np.sort(drawn.permutation(len(view))[:POINTS])
        for name, rows in choices.items():
            found[name] |= _spread(view.vectors, _some(rows, MAX_CHOSEN, drawn), points, drawn)
    return found


def coverage(vectors: Matrix, points: Int, chosen: Int) -> float:
    """Return the mean cosine of the samples `points` to the nearest other chosen sample; it is computed in blocks."""
    at, best = vectors.take(points), np.zeros(len(points), np.float32)
    for start, block in vectors.at(chosen).blocks():
        cosines = at @ block.T
        cosines[points[:, None] == chosen[None, start : start + len(block)]] = 0
        np.maximum(best, cosines.max(axis=1), out=best)
    return float(best.mean(dtype=np.float64))


def _numbers(view: View, rows: Int, labels: Labels | None) -> dict[str, float]:
    found = {"samples": float(len(rows)), "mean answer length": float(view.lengths[rows].mean())}
    for name, values in sorted(view.scores.items()):
        known = values[rows][~np.isnan(values[rows])]
        if len(known):
            found[f"mean {name}"] = float(known.mean(dtype=np.float64))
    if labels is not None and (labels.codes >= 0).any():
        num = int(labels.codes.max()) + 1
        pool, mine = (np.bincount(c[c >= 0], minlength=num) for c in (labels.codes, labels.codes[rows]))
        found[labels.name] = float(np.count_nonzero(mine))
        shares = mine / max(1, mine.sum()) - pool / pool.sum()
        found[f"{labels.name}, distance to the pool"] = float(np.abs(shares).sum() / 2)
    return found


def _spread(vectors: Matrix, rows: Int, points: Int, drawn: np.random.Generator) -> dict[str, float]:
    found = {"coverage of the pool": coverage(vectors, points, rows)}
    some = vectors.take(_some(rows, POINTS, drawn))
    if len(some) > 1:
        total = np.square(some.sum(axis=0, dtype=np.float64)).sum() - np.square(some, dtype=np.float64).sum()
        found["mean cosine of two"] = float(total / (len(some) * (len(some) - 1)))
    return found


def _some(rows: Int, most: int, drawn: np.random.Generator) -> Int:
    return rows if len(rows) <= most else np.sort(drawn.permutation(rows)[:most])
