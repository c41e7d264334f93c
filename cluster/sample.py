"""A row as Python sees it inside a shard: `Sample`, and the way to and from Arrow tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pyarrow as pa

from cluster import ids
from cluster.schema import SAMPLES, check

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


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of SAMPLES; see `cluster.schema` for what each column means."""

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
    """Return the samples as one SAMPLES table, in their order."""
    rows = [
        {
            "id": s.id,
            "parents": list(s.parents),
            "messages": [{"role": m.role, "content": m.content} for m in s.messages],
            "method": s.method,
            "round": s.round,
            "scores": sorted(s.scores.items()),
            "tags": sorted(s.tags.items()),
            "dropped": s.dropped,
            "origin": None if s.origin is None else {n: getattr(s.origin, n) for n in Origin.__slots__},
        }
        for s in samples
    ]
    return check(pa.Table.from_pylist(rows, schema=SAMPLES), SAMPLES)


def from_table(table: pa.Table) -> list[Sample]:
    """Return the rows of a SAMPLES table (about 10 microseconds a row)."""
    rows: list[dict[str, Any]] = table.to_pylist()
    return [
        Sample(
            id=row["id"],
            messages=tuple(Message(m["role"], m["content"]) for m in row["messages"]),
            parents=tuple(row["parents"]),
            method=row["method"],
            round=row["round"],
            scores=dict(row["scores"]),
            tags=dict(row["tags"]),
            dropped=row["dropped"],
            origin=None if row["origin"] is None else Origin(**row["origin"]),
        )
        for row in rows
    ]
