"""ITEMS tables, which hold every value of every item: how they are written and read."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from gristmill.cluster.contract.schema import ITEMS
from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements


class Judged(NamedTuple):
    """One item with the values of one model's reply to it."""

    item: Item
    scores: Judgements


def rows(model: str, suite: str, kind: str, judged: Sequence[Judged]) -> pa.Table:
    """Return an ITEMS table with one row for each value of each item."""
    found = [
        (model, suite, item.id, item.digest, f"{kind}.{name}" if name else kind, score.value, score.reply)
        for item, scores in judged
        for name, score in scores.items()
    ]
    columns = [list(column) for column in zip(*found, strict=True)] or [[] for _ in ITEMS]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, ITEMS, strict=True)], schema=ITEMS
    )


def read(store: Store, name: str) -> pa.Table:
    """Return the ITEMS of a complete evaluation."""
    shards = [shard for shard in store.manifest(name).shards if shard.name.endswith(".arrow")]
    return pa.concat_tables([ITEMS.empty_table(), *(store.read_shard(name, shard) for shard in shards)])


def scores_of(table: pa.Table) -> dict[tuple[str, str], dict[str, Judgements]]:
    """Return the values by (model, suite), then by item, then by their name."""
    found: dict[tuple[str, str], dict[str, dict[str, Judgement]]] = {}
    for row in table.to_pylist():
        name = row["scorer"].partition(".")[2] or OWN
        by_item = found.setdefault((row["model"], row["suite"]), {})
        by_item.setdefault(row["item"], {})[name] = Judgement(row["value"], row["reply"])
    return {key: dict(by_item) for key, by_item in found.items()}


def judged_of(items: Sequence[Item], scores: Mapping[str, Judgements]) -> list[Judged]:
    """Return the items that have values, with these values, in the order of `items`."""
    return [Judged(item, scores[item.id]) for item in items if item.id in scores]
