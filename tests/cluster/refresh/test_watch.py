"""The watch finds rounds whose rows differ, and slow changes; it seldom finds anything where there is nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gristmill.cluster.contract.sample import Message, Sample, to_table
from gristmill.cluster.refresh import canary, watch
from gristmill.cluster.refresh.registry import Line
from gristmill.cluster.refresh.watch import (
    LEVEL,
    Measure,
    alarms,
    first_rows,
    measured,
    measures,
    share,
    trends,
)  # fmt: skip
from gristmill.cluster.store.store import Manifest, Store
from tests.cluster.refresh import machine
from tests.proof import watch as years


def row(number: int, answer: str, dropped: str | None = None, **scores: float) -> Sample:
    turns = (Message("user", "Say it."), Message("assistant", answer))
    return Sample(f"{number:032x}", turns, dropped=dropped, scores=scores)


def test_the_measures_of_rows_in_two_languages() -> None:
    """By hand: the first answer has three sequences of three words, of which the second one has two."""
    found = measures(
        [
            row(1, "one two three four five", judge=4, style=1),
            row(2, "one two three four", judge=2),
            row(3, "长江很长", judge=3),
            row(4, "", "length: 0 words"),
        ]
    )
    assert {*found} == {"acceptance", "length", "diversity", "score.judge"}, "not all rows have the score style"
    assert (found["acceptance"].rows, found["acceptance"].mean) == (4, 0.75)
    assert found["diversity"].mean == pytest.approx((1 / 3 + 0 + 1) / 3)
    assert found["score.judge"] == measured(np.array([4.0, 2.0, 3.0]))
    assert found["length"].mean == pytest.approx(np.log([24, 19, 5]).mean())


def test_the_first_rows_of_a_dataset_are_read(store: Store) -> None:
    rows = [row(n, f"answer {n}", None if n % 2 else "length: short") for n in range(9)]
    shards = tuple(
        store.commit_shard("generate-1", f"shard-{n:05d}", to_table(rows[3 * n : 3 * n + 3])) for n in range(3)
    )
    store.commit(Manifest("generate-1", "samples", "generate", "f" * 32, {}, {}, shards))
    store.delete("generate-1", "shard-00002.arrow")
    assert first_rows(store, "generate-1", 4) == measures(rows[:4])


def test_batches_without_rows_or_without_kept_rows_have_few_measures() -> None:
    assert measures([]) == {}
    assert {*measures([row(1, "x", "length: 1 word")])} == {"acceptance"}
    assert measures([row(1, "two words")])["diversity"].mean == 1


def test_a_champion_that_writes_other_rows_raises_an_alarm() -> None:
    rng = np.random.default_rng(0)
    earlier = [years.drawn(rng, 0.0, {}) for _ in range(6)]
    assert alarms(years.drawn(rng, 0.0, {}), earlier) == ()
    [line] = alarms(years.drawn(rng, 0.0, {"acceptance": -0.8}), earlier)
    assert line.startswith("acceptance: is 0.2") and line.endswith(" by 6 earlier rounds")
    assert alarms(years.drawn(rng, 0.0, {"acceptance": -0.8}), earlier[:2]) == (), "two rounds are no limits"
    assert alarms({"new": Measure(500, 1, 1)}, earlier) == (), "a new measure has no limits"


def test_rounds_without_any_spread_are_compared_too() -> None:
    same = [{"acceptance": share(500, 500)} for _ in range(8)]
    assert alarms({"acceptance": share(499, 500)}, same) == ()
    assert len(alarms({"acceptance": share(250, 500)}, same)) == 1


@pytest.mark.parametrize("between", [0.0, 1.0])
def test_few_rounds_have_a_false_alarm(between: float) -> None:
    """20 years; of 1,040 rounds at most 5 are expected, and more than 16 have a probability of 0.0001."""
    found = years.false_alarms(20, between)
    alarms_ = (
        42 * 20 * found["false_alarms_a_round_after_the_10th"] + 140 * found["false_alarms_a_round_up_to_the_10th"]
    )
    assert alarms_ <= 16 and LEVEL == 0.005


def test_a_slow_collapse_is_a_trend_and_its_opposite_is_not() -> None:
    rng = np.random.default_rng(1)
    falling = [years.drawn(rng, 0.5, {"diversity": -0.05 * n, "copies": 0.05 * n}) for n in range(14)]
    found = trends(falling, years.WORSE)
    assert [line.partition(":")[0] for line in found] == ["diversity", "copies"]
    assert "falls by 0.0" in found[0] and "over 14 rounds" in found[0]
    assert trends(falling[::-1], years.WORSE) == ()
    assert trends(falling[:3], years.WORSE) == (), "too few rounds"


def test_a_champion_whose_first_rows_differ_is_rolled_back(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rounds are known. With limits of no width, any difference is one."""
    monkeypatch.setattr(watch, "LEVEL", 3.0)  # three measures with 1 each
    path = machine.recipe(line, json.loads((line / "mill.json").read_text())["jobs"]["train"]["model"], canary=6)
    before = Line(Store(str(line / "store")), machine.LINE).aliases()
    assert machine.tick(path, 4) == 0
    records = Line(Store(str(line / "store")), machine.LINE)
    [done], fourth = records.rollbacks(), records.rounds()[3]
    assert done.model == before.champion == fourth.writer and done.reason.startswith("canary: ")
    assert (fourth.state, records.decision(4)) == ("abandoned", None)
    assert records.aliases().champion == before.previous != before.champion


def test_a_champion_whose_first_rows_are_as_before_stays(line: Path) -> None:
    path = machine.recipe(line, json.loads((line / "mill.json").read_text())["jobs"]["train"]["model"], canary=6)
    assert machine.tick(path, 4) == 0
    records = Line(Store(str(line / "store")), machine.LINE)
    assert records.rollbacks() == [] and records.decision(4) is not None


def test_only_rounds_with_the_same_section_are_compared_and_only_if_the_champion_writes(made: Path) -> None:
    records = Line(Store(str(made / "store")), machine.LINE)
    *_, last = rounds = records.rounds()
    same = replace(last, number=4, start=last.challenger, writer=last.challenger, settings={"canary": 6})
    dataset = last.outputs["generate"]
    assert len(list(canary._measures(records.store, rounds, same, 6))) == 3
    other = replace(same, tables={"generate": {**same.tables["generate"], "target": 7}})
    assert list(canary._measures(records.store, rounds, other, 6)) == []
    assert canary.alarms(records.store, rounds, replace(same, writer=""), dataset) == ()


def test_rows_near_those_of_earlier_rounds_are_copies(line: Path) -> None:
    records = Line(Store(str(line / "store")), "mill")
    first, *others = records.rounds()
    assert canary._copies(records.store, first) == {}, "there is no earlier round"
    for one in others:
        rows = [row for table in records.store.scan(one.outputs["select"]) for row in table["dropped"].to_pylist()]
        near = [reason for reason in rows if reason and reason.startswith("against")]
        assert canary._copies(records.store, one) == {"copies": share(len(near), len(rows))}
