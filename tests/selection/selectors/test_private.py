"""Private: the accountant against an integral, the histogram against a loop, and what the noise must do."""

import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample
from gristmill.selection.contracts import Choice, View
from gristmill.selection.data.matrix import BLOCK_ROWS, Float32, Matrix
from gristmill.selection.relevance.vote import delta_of, epsilon_of, gaussian, sigma_of, votes
from gristmill.selection.selectors.private import Private, choose
from tests.selection.made import kept_of, made, unit, view_of

SETTINGS: dict[str, Any] = {"private_data": "private.jsonl", "budget": 3, "delta": 1e-3}


def integral(epsilon: float, ratio: float) -> float:
    """delta of the definition: what one normal density has above e^epsilon times the shifted one."""
    x = np.linspace(-40, 40, 4_000_001)
    one, other = np.exp(-(x**2) / 2), np.exp(epsilon - (x + ratio) ** 2 / 2)
    return float(np.maximum(one - other, 0).sum() * (x[1] - x[0]) / math.sqrt(2 * math.pi))


@pytest.mark.parametrize(
    ("epsilon", "ratio"), [(0.0, 0.5), (1.0, 0.25), (1.0, 1.0), (0.1, 2.0), (4.0, 1.5), (12.0, 3.0)]
)
def test_delta_is_that_of_the_definition(epsilon: float, ratio: float) -> None:
    assert delta_of(epsilon, ratio) == pytest.approx(integral(epsilon, ratio), rel=1e-5, abs=1e-12)


def test_delta_neither_overflows_nor_turns_negative() -> None:
    assert delta_of(5000.0, 100.0) == pytest.approx(0.5, abs=0.01)  # near = 0: half of the mass, less a little
    assert 0 <= delta_of(800.0, 1.0) < 1e-200
    assert delta_of(1e-9, 1e-6) == pytest.approx(1e-6 / math.sqrt(2 * math.pi), rel=1e-2)


def test_epsilon_and_sigma_are_each_other_s_inverse_on_the_safe_side() -> None:
    for epsilon, delta, rounds in [(1.0, 1e-5, 1), (0.1, 1e-6, 10), (8.0, 1e-9, 3), (0.5, 0.01, 100)]:
        sigma = sigma_of(epsilon, delta, rounds)
        assert epsilon_of(sigma, delta, rounds) <= epsilon * (1 + 1e-12)
        assert epsilon_of(sigma * 0.999, delta, rounds) > epsilon
        assert delta_of(epsilon, math.sqrt(rounds) / sigma) <= delta


def test_sigma_is_below_the_classical_one_and_as_published() -> None:
    assert sigma_of(1.0, 1e-5) == pytest.approx(3.730631, abs=1e-5)  # the authors' code
    assert sigma_of(0.5, 1e-5) < math.sqrt(2 * math.log(1.25 / 1e-5)) / 0.5


def test_rounds_add_up_as_one_release_of_their_root() -> None:
    assert epsilon_of(6.0, 1e-5, rounds=9) == pytest.approx(epsilon_of(2.0, 1e-5), rel=1e-9)
    assert epsilon_of(1e6, 0.4) == 0.0


@pytest.mark.parametrize("num", [1, 3, 50])
def test_votes_are_those_of_a_loop_over_all_pairs(num: int) -> None:
    rng = np.random.default_rng(2)
    private, candidates = unit(rng.normal(size=(70, 5))), unit(rng.normal(size=(40, 5)))
    candidates[7] = candidates[3]  # of equal ones the lower wins
    expected = np.zeros(40)
    for row in private:
        nearest = np.argsort(-(candidates @ row), kind="stable")[:num]
        expected[nearest] += 1 / math.sqrt(min(num, 40))
    assert np.allclose(votes(Matrix(private), Matrix(candidates), num), expected)


def test_votes_reach_over_several_blocks() -> None:
    rng = np.random.default_rng(3)
    candidates = unit(rng.normal(size=(BLOCK_ROWS + 50, 6)))
    rows = rng.integers(0, len(candidates), BLOCK_ROWS + 20)
    found = votes(Matrix(candidates[rows]), Matrix(candidates))
    assert np.array_equal(found, np.bincount(rows, minlength=len(candidates)))


@pytest.mark.parametrize("num", [1, 4])
def test_one_private_sample_more_changes_the_histogram_by_at_most_one(num: int) -> None:
    rng = np.random.default_rng(4)
    private, candidates = unit(rng.normal(size=(30, 4))), Matrix(unit(rng.normal(size=(20, 4))))
    change = votes(Matrix(private), candidates, num) - votes(Matrix(private[:-1]), candidates, num)
    assert np.linalg.norm(change) == pytest.approx(1)


def test_the_noise_is_normal_and_follows_from_the_key_alone() -> None:
    noise = gaussian(b"one key", 200_001)
    assert np.array_equal(noise, gaussian(b"one key", 200_001))
    assert abs(np.corrcoef(noise, gaussian(b"another", 200_001))[0, 1]) < 0.01
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(1, abs=0.01)
    for bound in (-2.0, -1.0, 0.0, 0.5, 1.5, 3.0):
        assert (noise < bound).mean() == pytest.approx(math.erfc(-bound / math.sqrt(2)) / 2, abs=0.005)
    assert len(gaussian(b"", 0)) == 0


def planted(num: int = 40, private: int = 600) -> tuple[list[Sample], Float32, View]:
    """Samples of which the first three lie where all the private ones are."""
    rng = np.random.default_rng(9)
    vectors = unit(rng.normal(size=(num, 16)))
    near = unit(vectors[rng.integers(0, 3, private)] + rng.normal(size=(private, 16)) * 0.02)
    beside = view_of([made(f"private {n}") for n in range(private)], near)
    return [made(f"public {n}") for n in range(num)], vectors, beside


def pick(step: Private, data: tuple[list[Sample], Float32, View], seed: int = 1) -> tuple[Choice, set[str]]:
    view = view_of(data[0], data[1], private=data[2])
    choice = step.pick(view, Random(seed))
    return choice, kept_of(view, choice)


@pytest.mark.parametrize("rule", ["top", "sample"])
def test_the_samples_near_the_private_ones_are_chosen_with_a_stated_guarantee(rule: str) -> None:
    data = planted()
    step = Private(**SETTINGS, epsilon=1.0, threshold=15.0, rule=rule)
    choice, names = pick(step, data)
    assert names == {sample.id for sample in data[0][:3]}
    assert set(choice.reason[~choice.kept].tolist()) == {1}
    assert 0.999 < float(choice.figures["epsilon"]) <= 1.000001  # rounded up in its last decimal
    assert choice.figures["delta"] == 1e-3
    assert choice.figures["sigma"] == pytest.approx(sigma_of(1.0, 1e-3), abs=1e-6)


def test_the_counts_that_come_out_are_noisy_by_sigma() -> None:
    data = planted(num=4000)
    choice, _ = pick(Private(**SETTINGS, sigma=3.0), data)
    unseen = np.sort(choice.scores["private_votes"])[:-3]
    assert unseen.std() == pytest.approx(3, rel=0.05)
    assert abs(unseen.mean()) < 0.2
    assert (unseen != np.round(unseen)).all()


def test_the_same_key_makes_the_same_noise_but_other_noise_for_other_votes(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes(range(32)))
    step = Private(**SETTINGS, sigma=3.0, key=str(tmp_path / "key"))
    data, more = planted(), planted(private=601)
    one, other = pick(step, data, seed=1)[0], pick(step, data, seed=2)[0]
    assert np.array_equal(one.scores["private_votes"], other.scores["private_votes"])
    assert one.figures["noise"] == "from a secret key"
    difference = one.scores["private_votes"] - pick(step, more)[0].scores["private_votes"]
    assert np.median(np.abs(difference)) > 1  # were the noise the same, it would be 0 for all that have no votes
    wider = Private(**SETTINGS, sigma=6.0, key=str(tmp_path / "key"))
    few = one.scores["private_votes"] < 50
    noise, widened = (found.scores["private_votes"][few] for found in (one, pick(wider, data)[0]))
    assert abs(np.corrcoef(noise, widened)[0, 1]) < 0.7


def test_without_a_key_it_calls_itself_a_rehearsal() -> None:
    data = planted()
    choice, names = pick(Private(**SETTINGS, sigma=3.0), data)
    assert "no guarantee" in str(choice.figures["noise"])
    assert names == pick(Private(**SETTINGS, sigma=3.0), data)[1]
    release, renewed = (Private(**SETTINGS, sigma=3.0, key=key).fingerprint() for key in ("a", "b"))
    assert Private(**SETTINGS, sigma=3.0).fingerprint() != release == renewed


def test_the_order_of_the_samples_changes_nothing() -> None:
    samples, vectors, beside = planted()
    shuffle = np.random.default_rng(5).permutation(len(samples))
    step = Private(**SETTINGS, sigma=1.0, votes=2)
    assert (
        pick(step, (samples, vectors, beside))[1]
        == pick(step, ([samples[n] for n in shuffle], vectors[shuffle], beside))[1]
    )


def test_a_draw_is_in_proportion_to_the_weights() -> None:
    weight = np.array([0.0, 1.0, 2.0, 5.0, -1.0])
    drawn = np.mean([choose(weight, 1, Random(seed)) for seed in range(2000)], axis=0)
    assert drawn == pytest.approx([0, 1 / 8, 2 / 8, 5 / 8, 0], abs=0.04)
    assert choose(weight, 2).tolist() == [False, False, True, True, False]


def test_nothing_and_a_single_sample_are_handled() -> None:
    samples, vectors, beside = planted()
    step = Private(**SETTINGS, sigma=1.0)
    assert pick(step, ([], np.empty((0, 16), np.float32), beside))[1] == set()
    assert pick(step, (samples[:1], vectors[:1], beside))[1] == {samples[0].id}


def test_mistakes_are_errors(tmp_path: Path) -> None:
    samples, vectors, beside = planted()
    with pytest.raises(JobError, match="delta"):
        pick(Private(**{**SETTINGS, "delta": 0.01}, sigma=1.0), (samples, vectors, beside))
    nobody = view_of([], np.empty((0, 16), np.float32))
    with pytest.raises(JobError, match="has no samples"):
        pick(Private(**SETTINGS, sigma=1.0), (samples, vectors, nobody))
    with pytest.raises(JobError, match="can't be read"):
        pick(Private(**SETTINGS, sigma=1.0, key=str(tmp_path / "none")), (samples, vectors, beside))
    (tmp_path / "short").write_bytes(b"123")
    with pytest.raises(JobError, match="has 3 bytes"):
        pick(Private(**SETTINGS, sigma=1.0, key=str(tmp_path / "short")), (samples, vectors, beside))


@pytest.mark.parametrize("wrong", [{}, {"epsilon": 1.0, "sigma": 1.0}, {"epsilon": 0.0}, {"sigma": 1.0, "delta": 0.0}])
def test_exactly_one_of_epsilon_and_sigma_is_set(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Private(**{**SETTINGS, **wrong})


def test_the_key_is_looked_up_beside_the_recipe(tmp_path: Path) -> None:
    step = Private.model_validate({**SETTINGS, "sigma": 1.0, "key": "my.key"}, context={"base": tmp_path})
    assert step.key == str(tmp_path / "my.key")
    assert step.sources()["private"].path == (str(tmp_path / "private.jsonl"),)
