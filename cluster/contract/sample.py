"""A row as Python sees it inside a shard: `Sample`, and the way to and from Arrow tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import pyarrow as pa

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.schema import SAMPLES, check

ROLES = ("system", "user", "assistant", "tool")


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a made sample comes from; the token counts cover every request made for it."""

    run: str
    step: str
    model: str
    seed: int
    prompt_tokens: int
    reply_tokens: int
    finish: str


_NO_ORIGIN = Origin("", "", "", 0, 0, 0, "")
"""Fills the place of a null, which is masked."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of SAMPLES; see `gristmill.cluster.contract.schema` for what each column means."""

    id: str
    messages: tuple[Message, ...]
    parents: tuple[str, ...] = ()
    method: str = "seed"
    round: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    dropped: str | None = None
    origin: Origin | None = None

    @property
    def instruction(self) -> str:
        """The first user turn, or the empty string."""
        return next((content for role, content in self.messages if role == "user"), "")

    @property
    def answer(self) -> str:
        """The last assistant turn, or the empty string."""
        return next((content for role, content in reversed(self.messages) if role == "assistant"), "")

    def drop(self, reason: str) -> "Sample":
        """Return the same sample with a drop reason `"filter: reason"`; the first reason stays."""
        return self if self.dropped else replace(self, dropped=reason)


def seed(messages: Sequence[Message], tags: Mapping[str, str] | None = None, dropped: str | None = None) -> Sample:
    """Return a seed sample, its id the hash of its conversation."""
    return Sample(id=ids.seed_id(messages), messages=tuple(messages), tags=dict(tags or {}), dropped=dropped)


def to_table(samples: Iterable[Sample]) -> pa.Table:
    """Return the samples as one SAMPLES table, in their order (about 3 microseconds a row)."""
    rows = list(samples)
    origins = [row.origin or _NO_ORIGIN for row in rows]
    columns = {
        "id": [row.id for row in rows],
        "parents": _lists("parents", [row.parents for row in rows]),
        "messages": _lists("messages", [row.messages for row in rows]),
        "method": [row.method for row in rows],
        "round": [row.round for row in rows],
        "scores": _maps("scores", [sorted(row.scores.items()) for row in rows]),
        "tags": _maps("tags", [sorted(row.tags.items()) for row in rows]),
        "dropped": [row.dropped for row in rows],
        "origin": _structs(
            SAMPLES.field("origin").type,
            [[getattr(origin, name) for origin in origins] for name in Origin.__slots__],
            pa.array([row.origin is None for row in rows], pa.bool_()),
        ),
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, SAMPLES.field(name).type)
        for name, column in columns.items()
    ]
    return check(pa.Table.from_arrays(arrays, schema=SAMPLES), SAMPLES)


def from_table(table: pa.Table) -> list[Sample]:
    """Return the rows of a SAMPLES table, in their order (about 12 microseconds a row)."""
    column = {name: table[name].combine_chunks() for name in SAMPLES.names}
    origins = map(Origin, *_fields(column["origin"]))
    made = column["origin"].is_valid().to_pylist()
    rows = zip(
        column["id"].to_pylist(),
        map(tuple, _cut(column["messages"], list(map(Message, *_fields(_inside(column["messages"])))))),
        map(tuple, _cut(column["parents"], _inside(column["parents"]).to_pylist())),
        column["method"].to_pylist(),
        column["round"].to_pylist(),
        map(dict, _cut(column["scores"], list(zip(*_fields(_inside(column["scores"])), strict=True)))),
        map(dict, _cut(column["tags"], list(zip(*_fields(_inside(column["tags"])), strict=True)))),
        column["dropped"].to_pylist(),
        (origin if there else None for origin, there in zip(origins, made, strict=True)),
        strict=True,
    )
    return [Sample(*row) for row in rows]


# -- columns: `pa.Table.from_pylist` and `to_pylist` build a dictionary a row, and take three times as long ------------


def _lists(name: str, values: Sequence[Sequence[Any]]) -> pa.Array:
    kind = SAMPLES.field(name).type
    flat = [item for value in values for item in value]
    if pa.types.is_struct(kind.value_type):
        return pa.ListArray.from_arrays(_ends(values), _structs(kind.value_type, _turned(flat)), type=kind)
    return pa.ListArray.from_arrays(_ends(values), pa.array(flat, kind.value_type), type=kind)


def _maps(name: str, values: Sequence[Sequence[tuple[str, Any]]]) -> pa.Array:
    kind = SAMPLES.field(name).type
    keys, items = _turned([pair for value in values for pair in value])
    return pa.MapArray.from_arrays(
        _ends(values), pa.array(keys, kind.key_type), pa.array(items, kind.item_type), type=kind
    )


def _structs(kind: pa.StructType, columns: Sequence[Sequence[Any]], missing: pa.Array = None) -> pa.Array:
    arrays = [pa.array(column, field.type) for column, field in zip(columns, kind, strict=True)]
    return pa.StructArray.from_arrays(arrays, type=kind, mask=missing)


def _turned(pairs: Sequence[tuple[Any, Any]]) -> tuple[Sequence[Any], Sequence[Any]]:
    return tuple(zip(*pairs, strict=True)) if pairs else ((), ())  # type: ignore[return-value]


def _ends(values: Iterable[Sequence[Any]]) -> pa.Array:
    return pa.array(accumulate(map(len, values), initial=0), pa.int32())


def _inside(lists: pa.Array) -> pa.Array:
    """Return the items of all rows of a list or map column, one row after the other."""
    first, last = lists.offsets[0].as_py(), lists.offsets[-1].as_py()
    return lists.values.slice(first, last - first)


def _fields(structs: pa.Array) -> list[list[Any]]:
    return [field.to_pylist() for field in structs.flatten()]


def _cut(lists: pa.Array, flat: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield the items of each row of a list or map column; `flat` has the items of all rows."""
    ends = lists.offsets.to_pylist()
    return (flat[start - ends[0] : end - ends[0]] for start, end in pairwise(ends))
