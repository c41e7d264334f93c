"""Shares of labels: the kept samples have them exactly, however badly the model writes some of the labels."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.contract.errors import RunError
from gristmill.cluster.store.store import Store
from gristmill.generation.job import Generate
from gristmill.generation.methods.respond import Respond
from gristmill.generation.methods.targeted.method import Targeted
from gristmill.generation.pipeline.settle import quotas_of
from tests.generation.ground import WORK, contents, ground, job, with_seeds
from tests.invariants import samples_of

LABELS = ["river", "letter", "x", "y", "z"]
"""Half of the scripted texts have the first word in it, and so many have the second: these are dropped."""


def targeted(**settings: Any) -> Generate:
    method = {"kind": "targeted", "labels": LABELS, "check": False, "tries": 1, **settings}
    return job(methods=[method], filters=[{"kind": "length"}], target=23)


def counts(store: Store) -> Counter[str]:
    return Counter(row.tags["label"] for row in samples_of(store, WORK.output) if row.dropped is None)


def test_each_label_has_exactly_its_share_of_the_kept_samples(tmp_path: Path) -> None:
    figures = ground(store := with_seeds(Store(str(tmp_path))), targeted(quota={"z": 3}))
    assert counts(store) == {"river": 3, "letter": 4, "x": 3, "y": 3, "z": 10} == figures.labels
    reasons = Counter(row.dropped for row in samples_of(store, WORK.output))
    assert any(why and why.startswith("target: enough of ") for why in reasons)


def test_without_balance_the_counts_follow_what_the_model_writes(tmp_path: Path) -> None:
    figures = ground(store := with_seeds(Store(str(tmp_path))), targeted(balanced=False))
    assert sum(counts(store).values()) == 23 and not figures.labels
    assert not any((row.dropped or "").startswith("target: enough") for row in samples_of(store, WORK.output))


def test_shares_are_the_same_in_any_order_and_after_a_kill(tmp_path: Path) -> None:
    whole, backwards, killed = (with_seeds(Store(str(tmp_path / name))) for name in ("whole", "backwards", "killed"))
    ground(whole, targeted())
    ground(backwards, targeted(), backwards=True)
    assert contents(whole) == contents(backwards)
    with pytest.raises(RunError):
        ground(killed, targeted().model_copy(update={"max_drafts": 20}))
    ground(killed, targeted())
    assert {name: data for name, data in contents(killed).items() if name.startswith("shard")} == {
        name: data for name, data in contents(whole).items() if name.startswith("shard")
    }


def test_an_end_before_all_labels_are_full_names_those_that_are_short(tmp_path: Path) -> None:
    hopeless = targeted(labels=["tell", "x"]).model_copy(update={"target": 10, "max_drafts": 60})
    with pytest.raises(RunError, match=r"5 of 10 samples kept.*short of their share are: tell 0 of 5\..*balanced"):
        ground(with_seeds(Store(str(tmp_path))), hopeless)


def test_quotas_add_up_to_the_part_of_the_target_that_the_method_has() -> None:
    method = Targeted(labels=["a", "b", "c"], quota={"b": 2}, weight=3)
    assert quotas_of([("s", method)], 10) == {"s": {"a": 3, "b": 5, "c": 2}}
    assert quotas_of([("s", method), ("r", Respond())], 10) == {"s": {"a": 2, "b": 4, "c": 2}}
    assert quotas_of([("r", Respond())], 10) == {} == quotas_of([("s", method)], None)
