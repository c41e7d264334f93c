"""The gate promotes what is shown to be better, and nothing else."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, multinomial

from gristmill.cluster.models import names as models
from gristmill.training.evaluate.job import Evaluate
from gristmill.training.gate import looks as sequential
from gristmill.training.gate.exact import chance
from gristmill.training.gate.looks import FEW, Suite, families_needed, power
from gristmill.training.gate.rule import Gate, Trial, decide
from tests.proof import gate as years


def trial(gains: int, losses: int, same: int, suite: str = "reviews", role: str = "target", **more: Any) -> Trial:
    """A suite of right and wrong answers, each item a family of its own."""
    counts = (gains, losses, same)
    champion, challenger = (np.repeat(np.array(side, np.float64), counts) for side in ((0, 1, 1), (1, 0, 1)))
    return Trial(
        suite=suite, role=role, champion=champion, challenger=challenger, families=np.arange(sum(counts)),
        **{"measures": {}, **more},
    )  # fmt: skip


def test_a_suite_without_a_loss_has_the_chance_of_no_loss_at_the_margin() -> None:
    """By hand: 100 families unchanged. At a mean of -0.05 the likeliest has 5 % losses; no loss has 0.95^100."""
    assert chance(np.zeros(100), -0.05) == pytest.approx(0.95**100)
    assert chance(np.zeros(100), 0.0) == 1.0


def test_the_chance_is_the_sum_over_all_outcomes_that_are_as_good() -> None:
    """Of 12 families 7 get better and 1 worse: the likeliest equal shares are 4 of 12 each."""
    means = np.repeat([1.0, -1.0, 0.0], [7, 1, 4])
    outcomes = [(g, w) for g, w in product(range(13), repeat=2) if g + w <= 12 and g - w >= 6]
    at = [multinomial.pmf([g, w, 12 - g - w], 12, [1 / 3, 1 / 3, 1 / 3]) for g, w in outcomes]
    assert chance(means, 0.0) == pytest.approx(sum(at))
    exact = binomtest(7, 8, 0.5, alternative="greater").pvalue
    assert chance(means, 0.0) == pytest.approx(exact, rel=0.5), "McNemar's test, which fixes the number of changes"


def test_values_between_the_points_of_the_grid_give_no_lower_chance() -> None:
    means = np.random.default_rng(0).uniform(-0.4, 0.6, 40)
    exact = chance(np.floor(means * 840) / 840, 0.0)
    assert chance(means, 0.0) == exact >= 0.9 * chance(np.ceil(means * 840) / 840, 0.0)


def test_many_families_are_summed_as_normal() -> None:
    means = np.random.default_rng(1).normal(0.01, 0.3, 3_000).clip(-1, 1)
    score = means.mean() / math.sqrt((means**2).mean() / len(means))
    assert chance(means, 0.0) == pytest.approx(0.5 * math.erfc(score / math.sqrt(2)), rel=0.02)


def test_all_suites_must_pass() -> None:
    rule = Gate(epsilon=0.05)
    good, kept = trial(60, 20, 120), trial(1, 2, 297, "facts", "retention")
    decision = decide(rule, [good, kept])
    assert (decision.verdict, decision.reasons) == ("promote", ())
    assert [one.says for one in decision.findings] == ["above", "above"]
    still = decide(rule, [good, trial(20, 20, 160, "facts", "retention")])
    assert still.verdict == "inconclusive"
    assert still.reasons[0].startswith("facts: is not shown to be above the margin -0.05 (p = ")
    assert decide(rule, [trial(21, 20, 159)]).verdict == "inconclusive", "no better is not promoted"


def test_a_shown_loss_or_a_broken_floor_rejects() -> None:
    lost = decide(Gate(epsilon=0.02), [trial(60, 20, 120), trial(5, 60, 135, "facts", "retention")])
    assert (lost.verdict, lost.reasons) == ("reject", ("facts: is shown to be below the margin -0.02",))
    floors = Gate(floors={"form.share": 0.99})
    silent = decide(floors, [trial(60, 20, 120), trial(9, 0, 291, "form", "format", measures={"share": 0.97})])
    assert (silent.verdict, silent.reasons) == ("reject", ("form.share: is 0.970, must be at least 0.99",))


def test_what_cannot_decide_is_inconclusive_with_its_reason() -> None:
    few = decide(Gate(), [trial(20, 0, 5)])
    assert (few.verdict, few.reasons) == (
        "inconclusive",
        ("reviews: has 25 families of items, must have at least 30",),
    )
    kin = Trial(
        suite="reviews", role="target", champion=np.zeros(200), challenger=np.ones(200),
        families=np.arange(200) // 10, measures={},
    )  # fmt: skip
    assert decide(Gate(), [kin]).findings[0].families == 20
    assert decide(Gate(), [trial(60, 20, 120, problem="has a judge")]).reasons == ("reviews: has a judge",)


def test_a_year_of_rounds_asks_for_more() -> None:
    better = [trial(40, 20, 140)]
    assert decide(Gate(), better).verdict == "promote"
    assert decide(Gate(rounds=52), better).verdict == "inconclusive"
    assert Gate(rounds=52).level == pytest.approx(0.05 / 52)
    assert decide(Gate(margins={"reviews": -0.1}, rounds=52), better).verdict == "promote", "a margin of its own"


def test_the_number_of_families_is_that_of_the_usual_formula() -> None:
    """By hand: ((1.6449 + 0.8416) / 0.05)^2 (0.3 - 0.0025), and a little for the larger variance without effect."""
    assert families_needed(Suite(0.05, 0.3, 0.05)) == pytest.approx(736 + 4 + 20, abs=2)
    yearly = Suite(0.05, 0.3, 0.05 / 52)
    needed = families_needed(yearly)
    assert needed is not None
    assert power(yearly, needed) == pytest.approx(0.8, abs=0.002)
    assert families_needed(Suite(0.0, 0.3, 0.05)) is None, "no effect is not shown"


def test_the_rule_names_suites_that_there_are() -> None:
    rule = Gate(margins={"facts": 0.0, "form.share": 0.0, "all": -2.0}, floors={"from.share": 0.9, "form.share": 0.9})
    found = rule.problems(["facts", "form"])
    assert [line.partition(": ")[0] for line in found] == [
        "gate.margins.form.share", "gate.margins.all", "gate.floors.from.share", "gate.margins.all",
    ]  # fmt: skip
    assert rule.problems([]) == ["gate: there are no suites, must be at least one; add [evaluate.suites.NAME]"]


def test_the_plan_says_what_each_suite_can_show() -> None:
    notes = Gate(rounds=52).notes({"reviews": "target", "facts": "retention"}, 0.3)
    assert notes[0] == "gate: each suite is tested at 0.00096 (0.05 over 52 rounds)"
    assert "gate: suite reviews: a model that is better by 0.05 passes with 80 % at 1,883 families" in notes
    assert notes[-1].startswith("gate: suite facts: a model that is as good (margin -0.02) passes with 80 % at ")


@pytest.mark.parametrize("name", years.SCENARIOS)
def test_few_years_without_a_better_challenger_promote_one(name: str) -> None:
    """60 years; with a true share of at most 5 %, more than 8 have a probability of 0.002. `make proof` has 100,000."""
    assert years.lines(name, 60)["promoted_in_a_year"] <= 8 / 60


def test_student_is_wrong_where_few_change() -> None:
    """The reason why the gate has a test of its own: 2 losses in 100 families at a margin of 0.05."""
    means = np.repeat([0.0, -1.0], [98, 2])
    score = (means.mean() + 0.05) / (means.std(ddof=1) / 10)
    assert score > 2.1, "Student finds it not worse at 2.5 %"
    assert chance(means, -0.05) > 0.1
    level = years.levels(100, 0.06, -0.05)
    assert level["gate"] <= level["nominal"] and level["student"] > 20 * level["nominal"]


def test_a_missing_measure_breaks_no_floor_silently() -> None:
    found = decide(Gate(floors={"reviews.recall": 0.5}), [trial(60, 20, 120)])
    assert (found.verdict, found.reasons) == (
        "inconclusive",
        ("reviews.recall: there is no such measure, must be one of those of the suite: none",),
    )
    assert FEW == 30


def test_the_bounds_of_looks_are_those_of_the_literature() -> None:
    """Of R's ldbounds and gsDesign: 2.5 % spent like O'Brien and Fleming's over 4 looks."""
    scores = [bound / math.sqrt(look / 4) for look, bound in enumerate(sequential.bounds(0.025, 4), 1)]
    assert scores == pytest.approx([4.3326, 2.9631, 2.3590, 2.0141], abs=2e-4)
    assert sequential.levels(0.025, 1) == (0.025,)


@pytest.mark.parametrize("looks", [2, 5, 8])
def test_all_looks_together_have_the_level(looks: int) -> None:
    upper = sequential.bounds(0.05 / 52, looks)
    never = [-math.inf] * (looks - 1)
    assert sum(sequential.crossing(upper, never, 0.0).above) == pytest.approx(0.05 / 52, rel=1e-4)
    assert sum(sequential.crossing(upper, never, 0.0).stopped) == pytest.approx(1)


def test_a_walk_that_is_played_does_what_is_computed() -> None:
    upper, rng = sequential.bounds(0.05, 4), np.random.default_rng(0)
    lower = sequential.too_low(upper, 2.5)
    walks = np.cumsum(rng.normal(2.0 / 4, 0.5, (40_000, 4)), axis=1)
    ended = (walks > upper) | np.hstack([walks[:, :3] < lower, np.ones((40_000, 1), bool)])
    first = ended.argmax(axis=1)
    found = sequential.crossing(upper, lower, 2.0)
    assert np.bincount(first) / 40_000 == pytest.approx(found.stopped, abs=0.01)
    above = walks[np.arange(40_000), first] > np.array(upper)[first]
    assert np.bincount(first[above], minlength=4) / 40_000 == pytest.approx(found.above, abs=0.01)


def blocked(good: Trial, looks: int, look: int, **more: Any) -> Trial:
    """The trial after some of its looks, with its items in an order without a pattern."""
    order = np.random.default_rng(0).permutation(len(good.families))
    some = order[: len(order) * look // looks]
    return Trial(
        suite=good.suite, role=good.role, measures={}, champion=good.champion[some], challenger=good.challenger[some],
        families=good.families[some], looks=1 + np.arange(len(order))[: len(some)] * looks // len(order), look=look,
        **{"effect": 0.05, **more},
    )  # fmt: skip


def test_a_clear_challenger_is_promoted_by_a_part_of_the_items() -> None:
    rule, clear = Gate(looks=4), trial(600, 100, 1300)
    first, second = (decide(rule, [blocked(clear, 4, look)]) for look in (1, 2))
    assert (first.verdict, first.waits, first.findings[0].look) == ("promote", (), 1)
    assert (second.verdict, second.findings) == ("promote", first.findings), "later items change no decision"
    poor = decide(rule, [blocked(trial(100, 600, 1300), 4, 1)])
    assert (poor.verdict, poor.waits) == ("reject", ())


def test_an_open_suite_is_asked_on_and_a_hopeless_one_is_not() -> None:
    rule = Gate(looks=4, rounds=52)
    better, equal = trial(350, 250, 1400), trial(300, 300, 1400, "facts")
    found = decide(rule, [blocked(better, 4, 1)])
    assert (found.verdict, found.waits) == ("inconclusive", ("reviews",))
    found = decide(rule, [blocked(better, 4, 2), blocked(equal, 4, 3)])
    assert (found.verdict, found.waits) == ("inconclusive", ()), "facts cannot pass any more, so nothing is asked"
    assert decide(rule, [blocked(better, 4, 4)]).waits == ()
    assert decide(rule, [blocked(better, 4, 1, problem="has a judge")]).waits == (), "no item changes that"


def test_a_floor_rejects_nothing_before_all_items_are_asked() -> None:
    rule = Gate(looks=2, floors={"reviews": 0.999})
    clear = trial(600, 10, 1390)
    part, whole = (decide(rule, [blocked(clear, 2, look)]) for look in (1, 2))
    assert (part.findings[0].says, part.waits) == ("above", ("reviews",))
    assert (whole.verdict, whole.waits) == ("reject", ())


def test_the_anchor_must_not_be_far_above() -> None:
    rule = Gate(anchor="first", anchor_margin=0.04)
    good, kept = trial(60, 20, 120), trial(1, 2, 1297, "facts", "retention")
    near, far = (trial(losses // 8, losses, 1300 - losses, "facts", "retention", anchored=True) for losses in (30, 200))
    assert decide(rule, [good, kept, near]).verdict == "promote"
    fallen = decide(rule, [good, kept, far])
    assert (fallen.verdict, fallen.reasons) == (
        "reject", ("facts (against the anchor): is shown to be below the margin -0.04",),
    )  # fmt: skip
    assert rule.problems(["facts"]) == ["gate.anchor: is first, must be a model of against"]
    assert rule.problems(["facts"], ["first"]) == []


def test_some_suites_may_have_no_say() -> None:
    rule = Gate(suites=("reviews",))
    assert rule.decides("reviews") and not rule.decides("facts") and Gate().decides("facts")
    assert rule.problems(["facts"]) == ["gate.suites: reviews is no suite, must be one of facts"]
    assert rule.notes({"facts": "target"}, 0.3)[-1] == "gate: suite facts: does not decide"


def test_a_gate_without_new_settings_is_the_one_that_it_was_and_an_anchor_is_known_by_its_weights(
    tmp_path: Path,
) -> None:
    assert {*Gate().identity()["fields"]} == {"alpha", "rounds", "delta", "epsilon", "margins", "floors"}
    (tmp_path / "config.json").write_text("{}")
    name = str(tmp_path)
    job = Evaluate.model_validate({"against": [name], "gate": {"anchor": name}})
    assert job.identity()["fields"]["gate"]["fields"]["anchor"] == models.identity(name) != name
