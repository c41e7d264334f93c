"""The summary says how sure a difference is, and what was held out and left out."""

from dataclasses import replace

from gristmill.training.gate.rule import Decision, Finding
from gristmill.training.report import EvaluatePresentation, TrainPresentation, gate_section
from tests.cluster.report.test_report import EVALUATED, TRAINED


def summary(**changed: object) -> str:
    return "\n".join(EvaluatePresentation().summary(replace(EVALUATED, **changed)))  # type: ignore[arg-type]


def test_a_difference_over_many_families_is_said_without_a_caveat() -> None:
    assert summary() == (
        "held-out loss 3.0000 -> 2.5000 (95 % interval of the difference -0.7000 to -0.3000, bootstrap over 40 "
        "families): better"
    )


def test_an_interval_that_holds_0_shows_no_difference_and_says_which_one_would_show() -> None:
    found = summary(ci_low=-0.7, ci_high=0.1)
    assert found.endswith("no difference shown; these samples show one of 0.2000 or more")
    assert "worse" in summary(ci_low=0.1, ci_high=0.2, difference=0.15)


def test_few_families_are_said_with_what_can_be_said_instead() -> None:
    found = summary(interval="student", families=7, families_better=6, families_worse=1, sign_p=0.125, rows=30)
    assert "Student's over 7 families" in found
    assert found.splitlines()[1] == (
        "30 held-out samples of 7 families, below 30, so the interval is a rough one; the loss fell in 6 families and "
        "rose in 1 (sign test p = 0.125)"
    )
    assert "(sign test p < 0.001)" in summary(interval="student", families=18, sign_p=7.6e-6)
    none = summary(interval="none", families=1, ci_low=None, ci_high=None, detectable=None)
    assert "no interval of the difference, which needs two families" in none
    assert "one family says nothing about others" in none


def test_what_is_held_out_and_left_out_is_in_the_summary_of_a_training() -> None:
    figures = replace(TRAINED, holdout=9, families=4, left_out=3, relatives=2)
    assert [line.split(",")[0] for line in TrainPresentation().summary(figures)] == [
        "9 samples of 4 families are held out",
        "3 samples are left out of training",
        "2 held-out samples share a parent with samples trained on",
    ]
    assert list(TrainPresentation().summary(replace(TRAINED, batches_left_out=2)))[-1] == (
        "2 batches are left out, because their loss or gradients were not finite"
    )
    early = replace(TRAINED, steps=30, stopped_early=True, kept_step=10)
    assert list(TrainPresentation().summary(early))[-2:] == [
        "training ended at step 30, because held-out loss did not become better any more",
        "the model has the weights of step 10, with the best held-out loss",
    ]
    folds = {"fold_losses": (1.0, 3.0), "fold_measures": {"f1": (0.5, 0.7)}}
    told = replace(early, metric="f1", measures={"f1": 0.75, "exact": 0.5}, **folds)  # type: ignore[arg-type]
    assert list(TrainPresentation().summary(told))[-4:] == [
        "the model has the weights of step 10, with the best held-out f1",
        "held out: f1 0.750, exact 0.500",
        "held-out loss of 2 folds 2.0000, standard deviation 1.4142",
        "held-out f1 of 2 folds 0.6000, standard deviation 0.1414",
    ]
    assert list(TrainPresentation().summary(replace(TRAINED, kept_step=TRAINED.steps)))[1:] == []
    assert list(TrainPresentation().summary(TRAINED)) == ["1 samples of 1 families are held out"]


def test_the_decision_of_a_gate_is_in_the_summary_and_has_a_table() -> None:
    found = Finding(
        suite="facts", margin=-0.02, difference=-0.01, families=40, p=0.2, p_below=0.7, says="open", why="",
        look=2, level=0.04,
    )  # fmt: skip
    reason = "facts: is not shown to be above the margin -0.02 (p = 0.2)"
    decision = Decision(verdict="inconclusive", reasons=(reason,), level=0.05, findings=(found,))
    assert summary(decision=decision).endswith(f"gate: inconclusive; {reason}")
    section = gate_section(decision)
    assert section.title == "Gate" and section.lead == f"Inconclusive; {reason}."
    assert section.tables[0].rows == [("facts", "-0.02", "-0.010", "40", "2", "0.2", "0.04", "open")]
