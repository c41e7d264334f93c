"""Built rows compared with people's: the balance of their labels, how far the texts differ, and what they cover."""

from collections import Counter
from typing import Any

import numpy as np

from gristmill.training.evaluate.arms import Corpus
from gristmill.training.evaluate.probe import Features, Ints

FOLDS = 5
FEW = 10
"""Smallest number of rows of a method for which the measures are computed."""
NEIGHBOURS = 5
"""Number of neighbours among people's texts that says how far a text reaches (k of the source)."""


def quality_of(corpus: Corpus, features: Features, people: Ints) -> list[dict[str, Any]]:
    """Return for each method its number of rows, their labels, and four measures against people's texts.

    `agreement` is the share of built labels that a probe also gives after it learned from people's labels.
    `two_sample_accuracy` is the share of texts for which a probe says correctly whether they are built or people's. It
    is measured in five folds, with equally many texts of both kinds. It is 0.5 if the two kinds do not differ.

    `coverage` is the share of people's texts that have a built text near them: nearer than their fifth neighbour among
    people's texts. So it says which part of people's topics the built texts reach. `coverage_of_people` is the same for
    as many other texts of people instead of the built ones.

    Source: classifier two-sample test: Lopez-Paz & Oquab 2017, arXiv:1610.06545, section 3; coverage: Naeem et al.
    2020, Reliable Fidelity and Diversity Metrics for Generative Models, arXiv:2002.09797, section 3.2. Departures: half
    of people's texts are covered, and the other half is for `coverage_of_people`; both sides have equally many texts.

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
                **coverage(features, rows, people),
            }
        )
    return found


def coverage(features: Features, built: Ints, people: Ints) -> dict[str, float | None]:
    """Return `coverage` and `coverage_of_people`; None for both if there are too few texts."""
    rng = np.random.default_rng(0)
    mixed = rng.permutation(people)
    covered, others = mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
    size = min(len(built), len(others))
    if size < FEW or len(covered) <= NEIGHBOURS:
        return {"coverage": None, "coverage_of_people": None}
    own = features.similarities(covered, covered)
    np.fill_diagonal(own, -np.inf)
    reach = np.partition(own, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS]
    found = {"coverage": rng.permutation(built)[:size], "coverage_of_people": others[:size]}
    return {
        name: float((features.similarities(covered, texts).max(axis=1) >= reach).mean())
        for name, texts in found.items()
    }


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
