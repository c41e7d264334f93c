"""Built rows compared with people's: the balance of their labels, and how far the texts differ."""

from collections import Counter
from typing import Any

import numpy as np

from gristmill.training.evaluate.arms import Corpus
from gristmill.training.evaluate.probe import Features, Ints

FOLDS = 5
FEW = 10
"""Smallest number of rows of a method for which the agreement and the two-sample accuracy are measured."""


def quality_of(corpus: Corpus, features: Features, people: Ints) -> list[dict[str, Any]]:
    """Return for each method its number of rows, their labels, the agreement, and the difference from people's texts.

    `agreement` is the share of built labels that a probe also gives after it learned from people's labels.
    `two_sample_accuracy` is the share of texts for which a probe says correctly whether they are built or people's. It
    is measured in five folds, with equally many texts of both kinds. It is 0.5 if the two kinds do not differ.

    Source: classifier two-sample test: Lopez-Paz & Oquab 2017, arXiv:1610.06545, section 3.

    Args:
        corpus: all texts.
        features: their features.
        people: rows that people labelled.
    """
    built = corpus.kept("samples")
    methods = np.array([corpus.samples[n].method for n in built])
    if not len(built):
        return []
    teacher = features.fit(people, corpus.labels[people], np.ones(len(people)))
    found = []
    for method in sorted({*methods}):
        rows = built[methods == method]
        given = teacher.chances(rows, len(corpus.names)).argmax(axis=1)
        counts = Counter(corpus.names[n] for n in corpus.labels[rows])
        found.append(
            {
                "method": str(method),
                "rows": len(rows),
                "labels": {name: counts[name] for name in corpus.names},
                "agreement": float((given == corpus.labels[rows]).mean()) if len(rows) >= FEW else None,
                "two_sample_accuracy": _two_sample_accuracy(features, rows, people) if len(rows) >= FEW else None,
            }
        )
    return found


def _two_sample_accuracy(features: Features, built: Ints, people: Ints) -> float:
    """Return the accuracy of a probe that distinguishes two sets of texts, each cut to the size of the smaller one."""
    rng, size = np.random.default_rng(0), min(len(built), len(people))
    rows = np.concatenate([rng.permutation(built)[:size], rng.permutation(people)[:size]])
    sides = np.repeat([0, 1], size)
    fold = np.tile(rng.permutation(np.arange(size) % FOLDS), 2)
    right = 0
    for number in range(min(FOLDS, size)):
        held = fold == number
        model = features.fit(rows[~held], sides[~held], np.ones(int((~held).sum())))
        right += int((model.chances(rows[held], 2).argmax(axis=1) == sides[held]).sum())
    return right / len(rows)
