"""What is said of a method's rows: whether they cover people's topics."""

import numpy as np
import pytest

from gristmill.training.evaluate.probe import Features, Floats
from gristmill.training.evaluate.quality import coverage


def texts_about(rng: np.random.Generator, topic: int, count: int) -> Floats:
    """Return vectors of length 1 near one of four axes."""
    found = 0.25 * rng.standard_normal((count, 24))
    found[:, topic] += 1
    scaled: Floats = found / np.linalg.norm(found, axis=1, keepdims=True)
    return scaled


@pytest.mark.parametrize(("topics", "share"), [((0,), 0.25), ((0, 1), 0.5), ((0, 1, 2, 3), 1.0)])
def test_built_texts_cover_the_share_of_topics_that_they_are_about(topics: tuple[int, ...], share: float) -> None:
    rng = np.random.default_rng(1)
    people = np.concatenate([texts_about(rng, topic, 100) for topic in range(4)])
    built = np.concatenate([texts_about(rng, topic, 200 // len(topics)) for topic in topics])
    features = Features(np.concatenate([people, built]), 1.0, 100)
    found = coverage(features, np.arange(400, 600), np.arange(400))
    assert found["coverage_of_people"] is not None and found["coverage_of_people"] > 0.9
    assert found["coverage"] == pytest.approx(share * found["coverage_of_people"], abs=0.08)


def test_a_few_texts_are_not_measured() -> None:
    rows = np.eye(24)
    found = coverage(Features(rows, 1.0, 100), np.arange(9), np.arange(9, 24))
    assert found == {"coverage": None, "coverage_of_people": None}
