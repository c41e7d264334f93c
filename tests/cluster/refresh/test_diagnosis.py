"""Rows go where a model fails, and a few go everywhere."""

import pyarrow as pa
import pytest

from gristmill.cluster.contract.sample import Message, Sample, to_table
from gristmill.cluster.contract.schema import ITEMS
from gristmill.cluster.refresh.diagnosis import Failures, failures, quota, quotas, topics
from gristmill.cluster.refresh.registry import Round, State
from gristmill.cluster.store.store import Manifest, Store


def items(*rows: tuple[str, str, str, float | None]) -> pa.Table:
    """ITEMS of one suite, from (model, item, scorer, value)."""
    found = [(model, "kinds", item, "d", scorer, value, "") for model, item, scorer, value in rows]
    columns = [pa.array(column, field.type) for column, field in zip(zip(*found, strict=True), ITEMS, strict=True)]
    return pa.Table.from_arrays(columns, schema=ITEMS)


def test_the_topic_of_an_item_is_its_tag_or_its_answer(store: Store) -> None:
    turns = (Message("user", "x"), Message("assistant", " praise "))
    rows = [Sample("a", turns, tags={"label": "bad", "topic": "soup"}), Sample("b", turns, tags={"label": "bad"}),
            Sample("c", turns)]  # fmt: skip
    shard = store.commit_shard("ingest-1", "shard-00000", to_table(rows))
    store.commit(Manifest("ingest-1", "samples", "ingest", "f" * 32, {}, {}, (shard,)))
    assert topics(store, "ingest-1") == {"a": "soup", "b": "bad", "c": "praise"}


def test_failures_are_counted_by_topic_for_one_model_and_its_own_values() -> None:
    table = items(
        ("m", "a", "labels", 1.0), ("m", "b", "labels", 0.25), ("m", "b", "labels.raw", 1.0), ("m", "c", "labels", 0.0),
        ("m", "d", "labels", None), ("other", "a", "labels", 0.0),
    )  # fmt: skip
    found = failures(table, "m", "kinds", {"a": "x", "b": "x", "c": "y", "d": "y"})
    assert found == {"y": Failures(1, 1.0), "x": Failures(2, 0.75)} and [*found] == ["y", "x"]
    assert found["x"].rate == pytest.approx(1.75 / 4)


def test_labels_that_fail_get_more_and_each_gets_its_floor() -> None:
    """By hand: rates 0.5 and 0.1; half of the weights are alike, the other half goes 5 to 1."""
    found = {"bad": Failures(8, 4.0), "good": Failures(8, 0.0)}
    assert quota(found, {"bad": "", "good": ""}, 0.5) == {"bad": 667, "good": 333}
    assert quota(found, {"bad": "", "good": ""}, 1.0) == {"bad": 500, "good": 500}
    three = quota(found, {"bad": "", "good": "", "unseen": ""}, 0.0)
    assert three == {"bad": 556, "good": 111, "unseen": 333}, "an unseen label has the mean rate"
    assert quota({}, {"a": "", "b": ""}, 0.0) == {"a": 500, "b": 500}
    assert min(quota({"a": Failures(10**6, 0.0), "b": Failures(9, 9.0)}, {"a": "", "b": ""}, 0.0).values()) == 1


def a_round(number: int, start: str, challenger: str, state: State, **settings: object) -> Round:
    methods = [{"kind": "grounded"}, {"kind": "targeted", "labels": ["bad", "good"]}]
    return Round(
        number=number, key="", alarm="", start=start, writer=start, depth=1, inputs={}, earlier=(), replayed="",
        settings=settings, tables={"generate": {"methods": methods}}, state=state, challenger=challenger,
        outputs={"evaluate": f"evaluate-{number}"},
    )  # fmt: skip


def test_a_round_gets_the_quotas_of_its_champion(store: Store) -> None:
    """The base model fails in `bad`, the model of round 1 in `good`; round 2 changed nothing."""
    rows = [Sample(name, (Message("user", name), Message("assistant", "?")), tags={"label": label})
            for name, label in (("a", "bad"), ("b", "good"))]  # fmt: skip
    shard = store.commit_shard("ingest-1", "shard-00000", to_table(rows))
    store.commit(Manifest("ingest-1", "samples", "ingest", "f" * 32, {}, {}, (shard,)))
    first, second = "train-000000000001", "train-000000000002"
    values = {"base": (0.0, 1.0), first: (1.0, 0.0), second: (1.0, 1.0)}
    for number, both, given in ((1, ("base", first), "base"), (2, (first, second), f"/x/{first}/merged")):
        # ITEMS name a trained model by its training, and the settings of the next training have its path
        table = items(*((model, item, "labels", value) for model in both
                        for item, value in zip("ab", values[model], strict=True)))  # fmt: skip
        shard = store.commit_shard(f"evaluate-{number}", "shard-answers-00000", table)
        inputs = {"model": both[1], "suites.kinds": "ingest-1"}
        store.commit(Manifest(f"evaluate-{number}", "evaluation", "evaluate", "f" * 32, inputs, {}, (shard,)))
        store.commit(Manifest(both[1], "model", "train", "f" * 32, {}, {"model": given}, ()))
    before = [a_round(1, "", first, "promoted"), a_round(2, first, second, "rejected")]
    of_first, of_base = {1: {"bad": 333, "good": 667}}, {1: {"bad": 667, "good": 333}}
    steered = {"steer": "kinds", "steer_floor": 0.0}
    assert quotas(store, before, a_round(3, first, "", "open", **steered)) == of_first
    assert quotas(store, before[:1], a_round(2, first, "", "open", **steered)) == of_first
    assert quotas(store, before, a_round(3, "", "", "open", **steered)) == of_base, "after a rollback"
    assert quotas(store, [], a_round(1, "", "", "open", **steered)) == {}, "nothing has been evaluated"
    assert quotas(store, before, a_round(3, first, "", "open")) == {}, "the recipe does not steer"
