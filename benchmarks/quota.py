"""Do rows lift a model more if they go where it fails? Planted weak classes, and the probe of `[lift]`.

    python benchmarks/quota.py              20 draws; written to benchmarks/quota.json

Texts of twelve classes are drawn from vocabularies that overlap. Three classes have 4 seeds, the others 60. The probe
that was trained on the seeds is the champion. Its failures on 240 diagnosis texts give the quotas of 72 further texts;
beside it are 72 texts with as many of each class. Both sets are added to the seeds, and the probe is trained again. The
lift is the gain of accuracy on 2,400 other texts, on average over classes.
"""

import sys
from typing import Any

import numpy as np
from common import interval, write

from gristmill.cluster.refresh.diagnosis import Failures, quota
from gristmill.training.evaluate.probe import Probe, characters

CLASSES, WEAK, SEEDS, FEW, ADDED, FLOOR = 12, 3, 60, 4, 72, 0.5
DIAGNOSIS, TEST = 20, 200
"""Texts of each class."""


def texts(rng: np.random.Generator, words: list[list[str]], label: int, count: int) -> list[str]:
    """Draw texts of a class: half of the words are its own, the others are those of all classes."""
    own = rng.choice(words[label], (count, 6))
    other = rng.choice([word for some in words for word in some], (count, 6))
    return [" ".join(rng.permutation([*one, *two])) for one, two in zip(own, other, strict=True)]


def accuracy(train: list[tuple[str, int]], test: list[tuple[str, int]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return for each test text whether the probe that learned from the training texts has its class."""
    every = [text for text, _ in (*train, *test)]
    places = np.arange(len(train))
    features = characters(every, places, Probe())
    labels = np.array([label for _, label in train])
    fitted = features.fit(places, labels, np.ones(len(train)))
    said = fitted.chances(np.arange(len(train), len(every)), CLASSES).argmax(axis=1)
    return np.asarray(said == [label for _, label in test], np.float64)


def draw(seed: int) -> dict[str, float]:
    """Return the accuracies of one draw of vocabularies and texts."""
    rng = np.random.default_rng(seed)
    letters = list("abcdefghijklmnop")
    words = [["".join(rng.choice(letters, 5)) for _ in range(40)] for _ in range(CLASSES)]

    def some(counts: list[int]) -> list[tuple[str, int]]:
        return [(text, label) for label, count in enumerate(counts) for text in texts(rng, words, label, count)]

    seeds = some([FEW if label < WEAK else SEEDS for label in range(CLASSES)])
    diagnosis, test = some([DIAGNOSIS] * CLASSES), some([TEST] * CLASSES)
    right = accuracy(seeds, diagnosis).reshape(CLASSES, DIAGNOSIS)
    found = {str(label): Failures(DIAGNOSIS, float((1 - right[label]).sum())) for label in range(CLASSES)}
    weights = np.array([*quota(found, found, FLOOR).values()], np.float64)
    shares = np.floor(ADDED * weights / weights.sum()).astype(int)
    shares[np.argsort(-(ADDED * weights / weights.sum() - shares), kind="stable")[: ADDED - shares.sum()]] += 1
    return {
        "before": float(accuracy(seeds, test).mean()),
        "uniform": float(accuracy(seeds + some([ADDED // CLASSES] * CLASSES), test).mean()),
        "failures": float(accuracy(seeds + some(shares.tolist()), test).mean()),
        "share_of_weak_classes": float(shares[:WEAK].sum() / ADDED),
    }


def main() -> int:
    """Write the table; return 1 if the lift of a row is less than 1.5 times that of uniform quotas."""
    draws = [draw(seed) for seed in range(20)]
    found = {name: interval([one[name] for one in draws]) for name in draws[0]}
    mean = {name: float(np.mean([one[name] for one in draws])) for name in draws[0]}
    ratio = (mean["failures"] - mean["before"]) / (mean["uniform"] - mean["before"])
    settings = {"classes": CLASSES, "weak": WEAK, "seeds": SEEDS, "seeds_of_weak": FEW, "added": ADDED, "floor": FLOOR}
    result = {"settings": settings, "draws": len(draws), "accuracy": found}
    write("quota", result | {"lift_of_a_row_in_uniform_ones": round(ratio, 3)})
    sys.stdout.write(f"{mean}\nlift of a row: {ratio:.2f} times that of uniform quotas\n")
    return int(ratio < 1.5)


if __name__ == "__main__":
    sys.exit(main())
