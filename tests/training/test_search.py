"""The search for settings: which trials it makes, which it stops, what it refuses, and how it goes on after a kill."""

import json
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.jobs.recipe import load
from gristmill.training import search
from gristmill.training.job import Train
from gristmill.training.search import Range, Search, Trial

RATE = {"low": 1e-5, "high": 1e-2, "log": True}


def space(
    method: str = "random", trials: int = 20, seed: int = 0, named: Mapping[str, Any] | None = None, **names: Any
) -> Search:
    found = (
        named or names or {"learning_rate": RATE, "tuning.r": {"low": 2, "high": 5}, "schedule": ["cosine", "linear"]}
    )
    return Search.model_validate({"method": method, "trials": trials, "seed": seed, "space": found})


def test_draws_follow_from_the_seed_and_stay_within_their_ranges() -> None:
    draws = space(trials=300).draws()
    assert draws == space(trials=300).draws() != space(trials=300, seed=1).draws()
    assert {values["tuning.r"] for values in draws} == {2, 3, 4, 5}
    assert {values["schedule"] for values in draws} == {"cosine", "linear"}
    rates = [values["learning_rate"] for values in draws]
    assert all(1e-5 <= rate <= 1e-2 for rate in rates)
    # evenly by logarithm: a third of the draws in each of three decades, within four standard errors of a share
    shares = [sum(10.0**-n <= rate < 10.0 ** (1 - n) for rate in rates) / 300 for n in (5, 4, 3)]
    assert all(abs(share - 1 / 3) < 4 * math.sqrt(2 / 9 / 300) for share in shares), shares
    longer = space(trials=301).draws()
    assert longer[:300] == draws, "more trials do not change the first ones"


def test_no_values_are_drawn_twice_and_a_small_space_ends() -> None:
    draws = space(trials=50, named={"tuning.r": [2, 4, 8], "schedule": ["cosine"]}).draws()
    assert sorted(values["tuning.r"] for values in draws) == [2, 4, 8]


def test_a_grid_has_all_combinations() -> None:
    draws = space("grid", named={"tuning.r": [2, 4], "learning_rate": [1e-3, 1e-4, 1e-5]}).draws()
    assert len(draws) == 6 == len({json.dumps(values) for values in draws})
    assert draws[0] == {"tuning.r": 2, "learning_rate": 1e-3}


def test_whole_numbers_are_drawn_evenly() -> None:
    one = Range(low=1, high=4)
    assert [one.at(share) for share in (0, 0.24, 0.25, 0.5, 0.75, 0.999999, 1)] == [1, 1, 2, 3, 4, 4, 4]
    assert Range(low=1.0, high=100.0, log=True).at(0.5) == pytest.approx(10)


def test_values_take_the_place_of_settings_and_defaults_follow_them() -> None:
    job = Train.model_validate({"input": "a.jsonl", "tuning": {"kind": "lora", "r": 4, "alpha": 8}})
    found = search.changed(job, {"tuning.r": 32, "zero.stage": 2})
    assert (found.tuning.model_dump()["r"], found.tuning.model_dump()["alpha"], found.zero.stage) == (32, 8, 2)
    assert search.changed(Train(), {"tuning.r": 3}).tuning.model_dump()["r"] == 3
    full = search.changed(job, {"tuning": {"kind": "full"}})
    assert full.learning_rate == 1e-4, "the default rate is that of the tuning that is tried"
    with pytest.raises(ValidationError):
        search.changed(job, {"tuning.colour": 1})


def refused(tmp_path: Path, **settings: Any) -> list[str]:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"instruction": "Hi", "output": "Ho"}))
    with pytest.raises(JobError) as error:
        load({"train": {"input": str(tmp_path / "rows.jsonl"), **settings}})
    return [line.removeprefix("recipe: ") for line in str(error.value).splitlines()]


def test_a_wrong_space_is_refused_by_plan(tmp_path: Path) -> None:
    def lines(method: str = "random", **names: Any) -> list[str]:
        return refused(tmp_path, search={"method": method, "space": names})

    assert lines(colour=[1]) == ["train.search.space: colour = 1: colour: unknown key"]
    (wrong,) = lines(learning_rate=[1e-3, -1.0])
    assert wrong == "train.search.space: learning_rate = -1.0: learning_rate: input should be greater than 0"
    rank: dict[str, Any] = {"tuning.r": {"low": 0, "high": 8}}
    (wrong,) = lines(**rank)
    assert wrong.startswith("train.search.space: tuning.r = 0: tuning.lora.r: input should be greater than 0")
    (wrong,) = lines(micro_batch_size=[1, 3])
    assert "micro_batch_size = 3: global_batch_size: 4 rows, must be a multiple" in wrong
    (wrong,) = lines(max_length=[128, 256])
    assert wrong == "train.search.space.max_length: must not be searched; trials with other values are not comparable"
    assert "must be a list of values with the method grid" in lines("grid", learning_rate=RATE)[0]
    assert "an empty list" in lines(epochs=[])[0]
    many = [*range(1, 12)]
    assert lines("asha", epochs=[1, 2])[0].startswith("train.eval_steps: 0 with search.method asha")
    assert "low is 3, must be below high" in lines(epochs={"low": 3, "high": 1})[0]
    assert refused(tmp_path, search={"trials": 3}) == ["train.search.space: empty, must name at least one setting"]
    assert "a grid of 1331 trials" in lines("grid", epochs=many, save_steps=many, seed=many)[0]


def test_the_rule_that_stops_trials_is_that_of_ray_tune() -> None:
    from ray.tune.schedulers.async_hyperband import _Bracket

    class Named:
        def __init__(self, name: int) -> None:
            self.trial_id = str(name)

    rungs = search.rungs(2, 3, 20)
    assert rungs == [2, 6, 18]
    theirs: Any = _Bracket(min_t=2, max_t=20, reduction_factor=3, s=0, stop_last_trials=False)
    done, luck, stopped = list[Trial](), Random(3), 0
    for number in range(40):
        curve = {step: 1 / step + luck.random() for step in rungs}
        bars, losses = search.bars(done, rungs, 3), []
        for step, loss in curve.items():
            losses.append((step, loss))
            ours = loss > bars.get(step, math.inf)
            action = theirs.on_result(Named(number), step, -loss)
            assert ours == (action == "STOP"), (number, step)
            if ours:
                stopped += 1
                break
        done.append(Trial({}, "done", losses[-1][1], losses[-1][0], tuple(losses)))
    assert 10 < stopped < 40


def of(number: int, values: Mapping[str, Any], bars: Mapping[int, float]) -> Trial:
    """A trial whose loss is that of a parabola in the logarithm of the rate, with its best at 1e-3."""
    return Trial(dict(values), "done", 1 + (math.log10(values["learning_rate"]) + 3) ** 2, 10)


def test_a_search_that_was_killed_goes_on_and_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    how = space(trials=9, learning_rate=RATE)
    whole: list[Trial] = []
    best = search.run(how, whole, [], of, lambda trials: None)
    assert best == min(whole, key=lambda trial: trial.loss or 0) and len(whole) == 9
    path = tmp_path / "trials.json"
    path.write_text(json.dumps(search.as_json(whole[:4])))
    again, asked = search.read(path), list[int]()

    def counted(number: int, values: Mapping[str, Any], bars: Mapping[int, float]) -> Trial:
        asked.append(number)
        return of(number, values, bars)

    assert search.run(how, again, [], counted, lambda trials: None) == best
    assert again == whole and asked == [4, 5, 6, 7, 8]
    with pytest.raises(JobError, match="trial 1 had other values before"):
        search.run(space(trials=9, seed=5, learning_rate=RATE), again, [], of, lambda trials: None)


def test_trials_side_by_side_give_what_they_give_one_after_the_other() -> None:
    how, whole = space(trials=7, learning_rate=RATE), list[Trial]()
    best = search.run(how, whole, [], of, lambda trials: None)
    done, kept, later = list[Trial](), list[int](), threading.Event()

    def some(number: int, values: Mapping[str, Any], bars: Mapping[int, float]) -> Trial:
        if number == 0:  # the first one ends when the third one has begun, so the second one has ended
            assert later.wait(60)
        elif number == 2:
            later.set()
        return of(number, values, bars)

    assert search.run(how, done, [], some, lambda trials: kept.append(len(trials)), most=2) == best
    assert done == whole and kept == [1, 2, 3, 4, 5, 6, 7]
    again = whole[:3]
    assert search.run(how, again, [], of, lambda trials: None, most=3) == best and again == whole


def test_an_error_of_a_trial_ends_those_beside_it() -> None:
    began, stop, done, begun = list[int](), threading.Event(), list[Trial](), threading.Event()

    def some(number: int, values: Mapping[str, Any], bars: Mapping[int, float]) -> Trial:
        began.append(number)
        if number == 1:
            assert begun.wait(60)
            raise RunError("train: the machine is gone")
        begun.set()
        assert stop.wait(60), "it is not ended"
        return of(number, values, bars)

    with pytest.raises(RunError, match="the machine is gone"):
        search.run(space(trials=9, learning_rate=RATE), done, [], some, lambda trials: None, 2, stop.set)
    assert sorted(began) == [0, 1] and done == [], "only what is before it in the order is kept"


def test_trials_that_failed_or_were_stopped_are_never_the_best() -> None:
    states = iter(("failed", "stopped", "done"))
    losses = iter((None, 0.1, 5.0))

    def some(number: int, values: Mapping[str, Any], bars: Mapping[int, float]) -> Trial:
        state: Any = next(states)
        return Trial(dict(values), state, next(losses), 3)

    assert search.run(space(trials=3), [], [], some, lambda trials: None).loss == 5.0
    with pytest.raises(JobError, match="none of 2 trials ended with a finite loss"):
        search.run(
            space(trials=2), [], [], lambda n, values, bars: Trial(dict(values), "failed", None, 0), lambda trials: None
        )


def test_optuna_learns_from_trials_and_repeats_them_after_a_kill() -> None:
    pytest.importorskip("optuna")
    how, whole = space("optuna", trials=25, learning_rate=RATE), list[Trial]()
    best = search.run(how, whole, [], of, lambda trials: None)
    again = whole[:12]
    assert search.run(how, again, [], of, lambda trials: None) == best and again == whole
    late = [abs(math.log10(trial.values["learning_rate"]) + 3) for trial in whole[12:]]
    early = [abs(math.log10(trial.values["learning_rate"]) + 3) for trial in whole[:10]]
    assert sum(late) / len(late) < sum(early) / len(early)


def test_a_search_is_part_of_what_model_it_is_and_none_is_not() -> None:
    none = Train()
    assert "search" not in none.identity()["fields"] and "folds" not in none.identity()["fields"]
    one = Train.model_validate({"search": {"space": {"epochs": [1, 2]}}})
    assert len({none.fingerprint(), one.fingerprint(), Train(folds=5).fingerprint()}) == 3
    beside = Train.model_validate({"search": {"space": {"epochs": [1, 2]}, "parallel": 4}})
    assert beside.fingerprint() == one.fingerprint()


def test_the_best_settings_are_shown_as_the_command_line_takes_them() -> None:
    assert search.as_settings({"tuning.r": 8, "schedule": "wsd"}) == '--set train.tuning.r=8 --set train.schedule="wsd"'
