"""Combining votes and measuring agreement: the numbers that the papers print, and simulations with a known truth."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from gristmill.generation.labels.votes import (
    ABSTAINED,
    accuracy,
    calibration_error,
    cohen_kappa,
    counts,
    dawid_skene,
    fleiss_kappa,
    krippendorff_alpha,
    shares,
)

PATIENTS = """
111.1.1.1.1 333.4.3.3.4 112.2.1.2.2 222.3.1.2.1 222.3.2.2.2 222.3.3.2.2 122.2.1.1.1 333.3.4.3.3 222.2.2.2.3
232.2.2.2.3 444.4.4.4.4 222.3.3.4.3 111.1.1.1.1 222.3.2.1.2 121.1.1.1.1 111.2.1.1.1 111.1.1.1.1 111.1.1.1.1
222.2.2.2.1 222.1.3.2.2 222.2.2.2.2 222.2.2.2.1 222.3.2.2.2 221.2.2.2.2 111.1.1.1.1 111.1.1.1.1 232.2.2.2.2
111.1.1.1.1 111.1.1.1.1 112.1.1.2.1 111.1.1.1.1 333.3.2.3.3 111.1.1.1.1 222.2.2.2.2 222.3.2.3.2 433.4.3.4.3
221.2.2.3.2 232.3.2.3.3 333.3.4.3.2 111.1.1.1.1 111.1.1.1.1 121.2.1.1.1 232.2.2.2.2 121.1.1.1.1 222.2.2.2.2
"""
"""Table 1 of Dawid and Skene: fitness of 45 patients as five anaesthetists saw it, the first of them three times."""


def patients() -> np.ndarray:
    given = np.zeros((45, 5, 4))
    for row, patient in enumerate(PATIENTS.split()):
        for observer, grades in enumerate(patient.split(".")):
            for grade in grades:
                given[row, observer, int(grade) - 1] += 1
    return given


def simulated(rows: int, right: tuple[float, ...], seed: int, abstain: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Two labels, annotators that are right so often and abstain at random; votes and truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, rows)
    votes = np.stack([np.where(rng.random(rows) < p, truth, 1 - truth) for p in right], 1)
    votes[rng.random(votes.shape) < abstain] = ABSTAINED
    return votes, truth


def test_dawid_skene_finds_the_prevalence_and_the_error_rates_that_the_paper_prints() -> None:
    fit = dawid_skene(patients(), smoothing=0)
    np.testing.assert_allclose(fit.prior, [0.40, 0.42, 0.11, 0.07], atol=0.005)
    first = [[0.89, 0.11, 0, 0], [0.07, 0.88, 0.05, 0], [0, 0.34, 0.66, 0], [0, 0, 0.56, 0.44]]
    np.testing.assert_allclose(fit.confusion[0], first, atol=0.005)
    assert fit.posterior[0].argmax() == 0
    assert fit.posterior[1].argmax() == 3, "333 4 3 3 4: the two who never say 4 of a 3 decide"


def test_the_likelihood_grows_with_every_step_and_the_fit_is_one_of_probabilities() -> None:
    likelihoods = [dawid_skene(patients(), smoothing=0, max_steps=n).log_likelihood for n in range(1, 17)]
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(likelihoods))
    fit = dawid_skene(patients())
    np.testing.assert_allclose(fit.posterior.sum(1), 1)
    np.testing.assert_allclose(fit.confusion.sum(2), 1)
    assert (fit.confusion > 0).all(), "smoothed: nothing is impossible"


def test_dawid_skene_beats_the_majority_where_annotators_differ_in_skill_and_stays_with_it_elsewhere() -> None:
    def right(skills: tuple[float, ...], rows: int) -> tuple[float, float]:
        won = []
        for seed in range(10):
            votes, truth = simulated(rows, skills, seed)
            fitted = dawid_skene(counts(votes, 2)).posterior.argmax(1)
            won.append(((fitted == truth).mean(), (shares(votes, 2).argmax(1) == truth).mean()))
        return tuple(np.mean(won, 0))

    fitted, majority = right((0.85, 0.85, 0.6, 0.6, 0.6), 400)
    assert fitted > majority + 0.02
    fitted, majority = right((0.75, 0.75, 0.75), 40)
    assert fitted > majority - 0.02


def test_an_annotator_who_is_always_wrong_is_turned_around_and_truth_from_people_holds() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 300)
    good = [np.where(rng.random(300) < 0.8, truth, 1 - truth) for _ in range(3)]
    votes = np.stack([*good, 1 - truth], 1)
    fit = dawid_skene(counts(votes, 2))
    assert (fit.posterior.argmax(1) == truth).mean() > 0.98
    assert fit.confusion[3, 0, 1] > 0.9
    known = np.full(300, ABSTAINED)
    known[:20] = 1 - truth[:20]
    clamped = dawid_skene(counts(votes, 2), truth=known)
    np.testing.assert_array_equal(clamped.posterior[:20], np.eye(2)[known[:20]])


def test_nothing_to_combine_is_no_error() -> None:
    empty = dawid_skene(np.zeros((0, 3, 2)))
    assert empty.posterior.shape == (0, 2)
    silent = dawid_skene(counts(np.full((4, 2), ABSTAINED), 2))
    np.testing.assert_allclose(silent.posterior, 0.5)
    assert dawid_skene(np.zeros((3, 2, 0))).posterior.shape == (3, 0)


def test_shares_count_votes_and_leave_abstentions_out() -> None:
    votes = np.array([[0, 0, 1], [1, ABSTAINED, 1], [ABSTAINED, ABSTAINED, ABSTAINED]])
    np.testing.assert_allclose(shares(votes, 2), np.array([[2 / 3, 1 / 3], [0, 1], [0, 0]]))


def test_cohens_kappa_of_the_textbook_table_is_two_fifths() -> None:
    first = np.repeat([0, 0, 1, 1], [20, 5, 10, 15])
    second = np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa(np.append(first, ABSTAINED), np.append(second, 1)) == pytest.approx(0.4), "abstentions are out"


def test_cohens_kappa_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        first, second = rng.integers(0, 4, 50), rng.integers(0, 4, 50)
        assert cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))


FOURTEEN = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip
"""Ten subjects, fourteen raters, five categories: how often each was given."""


def test_fleiss_kappa_of_the_table_of_fourteen_raters_is_point_21() -> None:
    votes = np.array([np.repeat(np.arange(5), row) for row in FOURTEEN])
    assert fleiss_kappa(votes) == pytest.approx(0.210, abs=0.0005)
    more = np.vstack([votes, np.full(14, ABSTAINED)])
    assert fleiss_kappa(more) == fleiss_kappa(votes), "a row without votes says nothing"


OBSERVERS = ["123321412...", "1233224125.3", ".3332342251.", "1233244125 1.".replace(" ", "")]
"""Four observers, twelve units, points for missing: the data of Krippendorff's own example C."""


def test_krippendorffs_alpha_of_his_own_example_is_point_743() -> None:
    votes = np.array([[ABSTAINED if v == "." else int(v) - 1 for v in line] for line in OBSERVERS]).T
    assert votes.shape == (12, 4)
    assert krippendorff_alpha(votes) == pytest.approx(0.743, abs=0.0005)


def test_agreement_is_one_when_all_agree_about_zero_by_chance_and_undefined_without_a_choice() -> None:
    same = np.array([[0, 0], [1, 1], [2, 2]])
    assert cohen_kappa(same[:, 0], same[:, 1]) == fleiss_kappa(same) == krippendorff_alpha(same) == 1
    rng = np.random.default_rng(1)
    chance = rng.integers(0, 3, (5000, 3))
    assert abs(fleiss_kappa(chance)) < 0.03
    assert abs(krippendorff_alpha(chance)) < 0.03
    one_label = np.zeros((5, 2), np.int64)
    lonely = np.array([[0, ABSTAINED], [ABSTAINED, 1]])
    none = np.zeros((0, 2), np.int64)
    for votes in (one_label, lonely, none, np.zeros((3, 0), np.int64)):
        assert np.isnan(fleiss_kappa(votes))
        assert np.isnan(krippendorff_alpha(votes))
    for votes in (one_label, lonely, none):
        assert np.isnan(cohen_kappa(votes[:, 0], votes[:, 1]))


def test_accuracy_counts_where_both_spoke() -> None:
    assert accuracy(np.array([0, 1, ABSTAINED, 1]), np.array([0, 0, 1, ABSTAINED])) == 0.5
    assert np.isnan(accuracy(np.array([0]), np.array([ABSTAINED])))


def test_calibration_error_is_the_gap_between_what_is_claimed_and_what_is_right() -> None:
    claimed = np.array([0.8] * 10)
    assert calibration_error(claimed, np.arange(10) < 8) == pytest.approx(0)
    assert calibration_error(claimed, np.arange(10) < 3) == pytest.approx(0.5)
    mixed = np.array([0.95] * 10 + [0.55] * 10)
    right = np.array([True] * 10 + [False] * 10)
    assert calibration_error(mixed, right) == pytest.approx(0.5 * 0.05 + 0.5 * 0.55)
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0, bool)))
