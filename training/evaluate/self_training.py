"""Self-training: a classifier learns from people's few labels, then labels further texts, most certain texts first.

Source: class-balanced self-training: Zou et al. 2018, Unsupervised domain adaptation for semantic segmentation via
class-balanced self-training, arXiv:1810.07911, sections 3.2 and 4.2: each label gets its own bound of confidence, so
that a growing share of each is taken, round by round. Departures: texts instead of pixels; the shares of the labels are
given and do not follow from the predictions, so that one label cannot take all texts; the classifier is fitted anew in
each round.
"""

from dataclasses import dataclass

import numpy as np

from gristmill.training.evaluate.probe import Features, Floats, Ints

SHARE = 0.5
"""Share of the texts that are labelled in the last round. As this is only the most certain half, the labels are still
right if the true shares of the labels differ from the given ones."""
ROUNDS = 5
SEED_WEIGHT = 3.0
"""Weight of a seed; a text that the classifier labelled has the weight 1."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Texts that got a label."""

    places: Ints
    """[m] rows of the features, in ascending order."""
    labels: Ints
    """[m] number of each text's label."""
    confidence: Floats
    """[m] probabilities of these labels."""


def self_train(features: Features, seeds: Ints, labels: Ints, weights: Floats, texts: Ints, shares: Floats) -> Labelled:
    """Label the most certain texts with a classifier fitted on labelled rows; the same arguments give the same labels.

    Args:
        features: features of seeds and texts.
        seeds: [s] labelled rows.
        labels: [s] their labels as numbers.
        weights: [s] weight of each labelled row. A text that gets its label here has the weight 1.
        texts: [u] rows of the texts without a label.
        shares: [number of labels] share of each label among the texts; they sum to 1.
    """
    places, given, counts = seeds, labels, weights
    taken = Labelled(texts[:0], texts[:0], np.zeros(0))
    for done in range(1, ROUNDS + 1):
        chances = features.fit(places, given, counts).chances(texts, len(shares))
        room = np.maximum(1, np.floor(len(texts) * SHARE * done / ROUNDS * shares)).astype(np.int64)
        rows, found = surest(chances, np.where(shares > 0, room, 0))
        taken = Labelled(texts[rows], found, chances[rows, found])
        places, given = np.concatenate([seeds, taken.places]), np.concatenate([labels, taken.labels])
        counts = np.concatenate([weights, np.ones(len(rows))])
    return taken


def surest(chances: Floats, room: Ints) -> tuple[Ints, Ints]:
    """Return (rows in ascending order, their labels), with at most `room` rows for each label.

    Pairs of a row and a label are taken by falling probability, and those of equal probability in the order of rows.
    """
    rows, labels = np.indices(chances.shape)
    order = np.lexsort((labels.ravel(), rows.ravel(), -chances.ravel()))
    left, free, chosen = room.copy(), np.ones(len(chances), bool), np.full(len(chances), -1)
    for place in order:
        row, label = rows.ravel()[place], labels.ravel()[place]
        if free[row] and left[label]:
            chosen[row], free[row] = label, False
            left[label] -= 1
        if not left.any():
            break
    kept = np.flatnonzero(chosen >= 0)
    return kept, chosen[kept]
