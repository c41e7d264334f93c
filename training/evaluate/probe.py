"""The probe: a logistic regression on features of texts, which measures in seconds what a classifier learns from texts.

The only file of the package that imports scikit-learn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gristmill.cluster.contract.settings import Settings

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
NGRAMS = (1, 3)
"""Lengths of the character n-grams."""
CHARACTERS_C, ENCODER_C = 30.0, 10.0
"""Inverse strengths of the penalty on the probe's weights: for n-grams, and for the encoder's vectors."""


class Probe(Settings):
    """`[lift.probe]`: the features of a text, and the classifier that reads them.

    Departures: none from scikit-learn's `TfidfVectorizer` (`sublinear_tf`, n-grams in two texts or more) and
    `LogisticRegression`. The encoder's vectors are centred on the mean of the training texts, and scaled to length 1.
    """

    features: Literal["auto", "characters", "encoder"] = "auto"
    """`characters`: TF-IDF of character n-grams. `encoder`: vectors of `lift.encoder`. `auto` uses the encoder if it
    knows the script of the texts, else characters."""
    iterations: int = Field(default=500, gt=0)
    """Largest number of iterations of the solver."""


@dataclass(frozen=True, slots=True)
class Features:
    """Features of all texts of a lift job, one row for each text."""

    rows: Any
    """[n, d]: a sparse matrix of n-grams, or a dense one of vectors."""
    penalty: float
    """Inverse strength of the penalty."""
    iterations: int

    def fit(self, places: Ints, labels: Ints, weights: Floats) -> "Classifier":
        """Return the classifier that is fitted on some rows and their labels.

        Args:
            places: [m] rows to learn from.
            labels: [m] their labels as numbers; at least two different ones.
            weights: [m] weight of each row.
        """
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=self.penalty, max_iter=self.iterations)
        return Classifier(model.fit(self.rows[places], labels, sample_weight=weights), self.rows)

    def similarities(self, left: Ints, right: Ints) -> Floats:
        """Return the cosine of each row of `left` with each row of `right`, [left, right]."""
        product = self.rows[left] @ self.rows[right].T
        found: Floats = np.asarray(product.todense() if hasattr(product, "todense") else product, np.float64)
        return found


@dataclass(frozen=True, slots=True)
class Classifier:
    """A fitted probe."""

    model: Any
    rows: Any

    def chances(self, places: Ints, num_labels: int) -> Floats:
        """Return the probability of each label for some rows, [m, num_labels]; 0 for labels without training rows."""
        found = np.zeros((len(places), num_labels))
        found[:, self.model.classes_] = self.model.predict_proba(self.rows[places])
        return found


def characters(texts: Sequence[str], fitted: Ints, settings: Probe) -> Features:
    """Return the n-gram features of texts. The vocabulary comes from the texts with the numbers `fitted`."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(analyzer="char", ngram_range=NGRAMS, sublinear_tf=True, min_df=min(2, len(fitted)))
    return Features(words.fit([texts[n] for n in fitted]).transform(texts), CHARACTERS_C, settings.iterations)


def vectors(found: NDArray[np.float32], fitted: Ints, settings: Probe) -> Features:
    """Return vectors, [n, d], as features. They are centred on the mean of the vectors `fitted`, with length 1."""
    centred = found.astype(np.float64) - found[fitted].astype(np.float64).mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    scaled = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
    return Features(scaled, ENCODER_C, settings.iterations)
