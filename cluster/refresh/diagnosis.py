"""Diagnosis: in which topics a model fails, and how many rows of each topic the next round is to make."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.cluster.contract.sample import from_table
from gristmill.cluster.models import names
from gristmill.cluster.refresh.registry import Round
from gristmill.cluster.refresh.settings import RefreshSettings
from gristmill.cluster.store.store import Store

EVALUATE, STEERED = "evaluate", "targeted"
"""The job that asks models the items of suites, and the kind of methods that have quotas of labels."""
TOPICS = ("topic", "label")
"""Tags with the topic of an item, the first one first. Without them, its right answer is its topic."""
WHOLE = 1_000
"""Sum of the weights of all topics, about."""


class Failures(NamedTuple):
    """What a model did with the items of one topic."""

    items: int
    failed: float
    """Sum of 1 - value over the items, 0 to `items`."""

    @property
    def rate(self) -> float:
        """Share of the items that failed, as if one more had failed and one more had not.

        So a topic with few items is neither certain nor hopeless.
        """
        return (self.failed + 1) / (self.items + 2)


def topics(store: Store, dataset: str) -> dict[str, str]:
    """Return the topic of each row of a suite's items, by id."""
    found = {}
    for table in store.scan(dataset):
        for row in from_table(table):
            tagged = next((row.tags[name] for name in TOPICS if row.tags.get(name)), "")
            found[row.id] = tagged or row.answer.strip()
    return found


def failures(items: pa.Table, model: str, suite: str, topic_of: Mapping[str, str]) -> dict[str, Failures]:
    """Return how a model does in each topic, the worst first.

    Args:
        items: ITEMS, of which the own values of the scorer are read. They are from 0 to 1.
        model: the model, as ITEMS name it.
        suite: the suite.
        topic_of: topic of each item, by id.
    """
    mine = items.filter(pc.and_(pc.equal(items["model"], model), pc.equal(items["suite"], suite)))
    own = mine.filter(pc.and_(pc.is_valid(mine["value"]), pc.invert(pc.match_substring(mine["scorer"], "."))))
    counts: dict[str, tuple[int, float]] = {}
    for name, value in zip(own["item"].to_pylist(), own["value"].to_pylist(), strict=True):
        number, failed = counts.get(topic_of[name], (0, 0.0))
        counts[topic_of[name]] = (number + 1, failed + 1 - value)
    found = {topic: Failures(*pair) for topic, pair in counts.items()}
    return dict(sorted(found.items(), key=lambda pair: (-pair[1].rate, pair[0])))


def quota(found: Mapping[str, Failures], labels: Mapping[str, object], floor: float) -> dict[str, int]:
    """Return the weight of each label: those in which a model fails often get more, and no one gets too little.

    Args:
        found: failures by topic. A label without items counts as one with the mean rate.
        labels: the labels.
        floor: share of the weights that all labels get alike, 0 to 1. With 1, all weights are equal.
    """
    known = [found[name].rate for name in labels if name in found]
    usual = sum(known) / len(known) if known else 1.0
    rates = {name: found[name].rate if name in found else usual for name in labels}
    whole = sum(rates.values())
    return {
        name: max(1, round(WHOLE * (floor / len(rates) + (1 - floor) * rate / whole))) for name, rate in rates.items()
    }


def evidence(store: Store, rounds: Sequence[Round], champion: str) -> tuple[str, str] | None:
    """Return the last evaluation of a line that asked a champion, and its name there; None if none did.

    A champion was asked in the round that trained it, and in each round that began with it. The base model has the
    empty string.
    """
    for one in reversed(rounds):
        evaluation = one.outputs.get(EVALUATE, "")
        if not evaluation or one.state in ("open", "abandoned"):
            continue
        if champion and one.challenger == champion:
            return evaluation, champion
        if one.start == champion:
            return evaluation, names.recorded(str(store.manifest(one.challenger).settings["model"]))
    return None


def quotas(store: Store, before: Sequence[Round], one: Round) -> dict[int, dict[str, int]]:
    """Return the quotas of the labels of each `targeted` method of a round, by its place among the methods.

    They follow the failures of the round's first champion in the suite `refresh.steer`. They are empty without such a
    suite, and before an evaluation has asked the champion.

    Args:
        store: the store of the line.
        before: the rounds before this one.
        one: the round.
    """
    settings = RefreshSettings.model_validate(one.settings)
    found = evidence(store, before, one.start) if settings.steer else None
    if found is None:
        return {}
    evaluation, name = found
    manifest = store.manifest(evaluation)
    values = pa.concat_tables(
        [store.read_shard(evaluation, shard) for shard in manifest.shards if shard.name.endswith(".arrow")]
    )
    topic_of = topics(store, manifest.inputs[f"suites.{settings.steer}"])
    failed = failures(values, name, settings.steer, topic_of)
    methods = one.tables.get("generate", {}).get("methods", [])
    return {
        place: quota(failed, dict.fromkeys(method["labels"]), settings.steer_floor)
        for place, method in enumerate(methods)
        if method["kind"] == STEERED
    }
