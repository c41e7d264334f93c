"""The choice beside its baselines: every figure against its definition."""

from random import Random

import numpy as np
import pytest

from gristmill.cluster.contract.sample import Sample
from gristmill.selection.contracts import View
from gristmill.selection.outcome.compare import Labels, compare
from tests.selection.made import made, unit, view_of


def data(rows: int = 40) -> tuple[list[Sample], View]:
    rng = np.random.default_rng(1)
    samples = [made(f"question {n}", "x" * (n + 1), judge=float(n % 5) if n % 2 else None) for n in range(rows)]
    return samples, view_of(samples, unit(rng.normal(size=(rows, 6))))


def test_every_figure_is_what_it_says() -> None:
    _, view = data()
    kept = np.zeros(40, np.bool_)
    kept[[3, 8, 9, 20, 33]] = True
    labels = Labels("topics", np.arange(40) % 4)
    found = compare(view, kept, Random(3), labels)
    assert list(found) == ["chosen", "random", "longest"]
    assert found["longest"]["mean answer length"] == pytest.approx(np.mean([36, 37, 38, 39, 40]))
    mine, every = np.flatnonzero(kept), view.unit("test").whole()
    chosen = found["chosen"]
    assert chosen["samples"] == found["random"]["samples"] == 5
    assert chosen["mean answer length"] == view.lengths[mine].mean()
    assert chosen["mean judge"] == pytest.approx(np.nanmean(view.scores["judge"][mine]))
    assert chosen["topics"] == len({row % 4 for row in mine}) == 3
    shares = [np.mean(mine % 4 == topic) for topic in range(4)]
    assert chosen["topics, distance to the pool"] == pytest.approx(sum(abs(share - 0.25) for share in shares) / 2)
    nearest = [max(0, *(every[row] @ every[other] for other in mine if other != row)) for row in range(40)]
    assert chosen["coverage of the pool"] == pytest.approx(np.mean(nearest), abs=1e-6)
    pairs = [every[a] @ every[b] for a in mine for b in mine if a != b]
    assert chosen["mean cosine of two"] == pytest.approx(np.mean(pairs), abs=1e-6)


def test_a_choice_of_all_equals_its_baselines() -> None:
    _, view = data()
    found = compare(view, np.ones(40, np.bool_), Random(3), Labels("topics", np.arange(40) % 4))
    assert found["chosen"] == found["random"] == found["longest"]
    assert found["chosen"]["topics, distance to the pool"] == 0


def test_the_order_of_the_samples_changes_nothing() -> None:
    samples, view = data()
    kept = np.arange(40) % 3 == 0
    vectors = dict(zip(view.ids, view.unit("test").whole(), strict=True))
    other = view_of(samples[::-1], np.stack([vectors[sample.id.encode()] for sample in samples[::-1]]))
    assert compare(view, kept, Random(3)) == compare(other, kept, Random(3))


def test_without_vectors_labels_or_rows() -> None:
    view = view_of([made("a", "long answer"), made("b", "short")])
    found = compare(view, np.array([True, False]), Random(1))
    assert set(found["chosen"]) == {"samples", "mean answer length"}
    assert compare(view, np.zeros(2, np.bool_), Random(1)) == {}
    assert compare(view_of([]), np.zeros(0, np.bool_), Random(1)) == {}
