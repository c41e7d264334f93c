"""`Sample`, one row as a Python value, and its conversion to and from Arrow tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import pyarrow as pa

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.schema import SAMPLES, check

ROLES = ("system", "user", "assistant", "tool")
WEIGHT = "weight"
"""Name of the score that is a sample's weight in training. A sample without it has the weight 1."""
PREFERENCE = "preference"
"""Name of the score that is 1 for a chosen or good answer, and 0 for a rejected or bad one."""
RATING = "rating"
"""Name of the score with the rating that outside data gives an answer, on the scale of that data."""
GROUP = "group"
"""Name of the tag that is the same for all candidates for one prompt. Their scores order them."""
FAMILY = "family"
"""Name of the tag that is the same for held-out rows that depend on each other. Evaluation resamples them together."""


class ToolCall(NamedTuple):
    """A call of a tool by the assistant."""

    id: str | None
    """Id of the call. The turn with the tool's result has it as `tool_call_id`."""
    name: str
    arguments: str
    """The arguments as JSON text, unchanged from its source."""


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str | None
    """Text of the turn. It is None if the turn has only calls, or if all its content is in `parts`."""
    reasoning: str | None = None
    """The assistant's thought before its answer."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    """Name of the speaker, if the role does not say it. In a tool's turn it is the name of the tool."""
    train: bool = True
    """False if the turn is only context. Training then skips it, even if it is the assistant's."""
    parts: str | None = None
    """JSON text of the list of parts, if at least one part is not text. A text part has only its length here; its text
    is in `content`."""

    @property
    def text(self) -> str:
        """The content, or the empty string."""
        return self.content or ""

    @property
    def said(self) -> str:
        """The content, and then each call as `name(arguments)` on its own line. It is for reading and comparing."""
        calls = (f"{call.name}({call.arguments})" for call in self.tool_calls)
        return "\n".join(filter(None, (self.content, *calls)))

    @property
    def plain(self) -> bool:
        """Whether the turn has nothing but a role and a content."""
        return self[2:] == _PLAIN


_PLAIN = Message("", "")[2:]


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a made sample. The token counts are sums over all requests that were made for it."""

    run: str
    step: str
    model: str
    seed: int
    prompt_tokens: int
    reply_tokens: int
    finish: str


_NO_ORIGIN = Origin("", "", "", 0, 0, 0, "")
"""Placeholder in the column for a sample without an origin. A mask makes it null."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of SAMPLES. The columns are described at `gristmill.cluster.contract.schema`."""

    id: str
    messages: tuple[Message, ...]
    parents: tuple[str, ...] = ()
    method: str = "seed"
    round: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    dropped: str | None = None
    origin: Origin | None = None
    tools: str | None = None

    @property
    def instruction(self) -> str:
        """The text of the first user turn, or the empty string."""
        return next((turn.text for turn in self.messages if turn.role == "user"), "")

    @property
    def answer(self) -> str:
        """The text of the last assistant turn, or the empty string."""
        return next((turn.text for turn in reversed(self.messages) if turn.role == "assistant"), "")

    @property
    def reply(self) -> str:
        """The text and the calls of the last assistant turn, or the empty string."""
        return next((turn.said for turn in reversed(self.messages) if turn.role == "assistant"), "")

    @property
    def characters(self) -> int:
        """Number of characters of all texts in the conversation and its tools."""
        return size_of(self.messages, self.tools)

    @property
    def beyond_text(self) -> str:
        """The name of a thing in the sample that plain turns cannot hold, such as `tools`, or the empty string."""
        if self.tools:
            return "tools"
        if any(turn.tool_calls or turn.role == "tool" for turn in self.messages):
            return "tool calls"
        return "parts that are no text" if any(turn.parts for turn in self.messages) else ""

    def drop(self, reason: str) -> "Sample":
        """Return the sample with a drop reason, `"filter: reason"`. A dropped sample keeps its first reason."""
        return self if self.dropped else replace(self, dropped=reason)


def size_of(messages: Iterable[Message], tools: str | None = None) -> int:
    """Return the number of characters of all texts in a conversation and its tools."""
    texts = (text for turn in messages for text in (turn.said, turn.reasoning, turn.parts) if text)
    return sum(map(len, texts)) + len(tools or "")


def seed_id(messages: Sequence[Message], tools: str | None = None, group: str | None = None) -> str:
    """Return the id of a seed: a hash of its turns, its tools, and its group if it is one of several candidates."""
    turns = [list(turn[:2]) if turn.plain else list(turn) for turn in messages]
    return ids.digest("seed", turns, tools, group) if tools or group else ids.digest("seed", turns)


def seed(
    messages: Sequence[Message],
    tags: Mapping[str, str] | None = None,
    dropped: str | None = None,
    tools: str | None = None,
) -> Sample:
    """Return a seed sample, whose id is the hash of its conversation (`seed_id`)."""
    tags = dict(tags or {})
    name = seed_id(messages, tools, tags.get(GROUP))
    return Sample(name, tuple(messages), tags=tags, dropped=dropped, tools=tools)


SHARD_CHARACTERS = 1 << 27
"""A shard ends as soon as its texts have more characters than this, even if it has fewer rows than it may have.

An Arrow column holds at most 2 GiB, and a shard must fit into memory.
"""
LONGEST_SAMPLE = 1 << 27
"""Most characters of one sample. Together with the samples before it in its shard it then takes at most 1 GiB."""


def shards_of(samples: Iterable[Sample], rows: int) -> Iterator[list[Sample]]:
    """Yield the samples of each shard. A shard has up to `rows` samples, and fewer if their texts are long."""
    held: list[Sample] = []
    size = 0
    for sample in samples:
        held.append(sample)
        size += sample.characters
        if len(held) == rows or size > SHARD_CHARACTERS:
            yield held
            held, size = [], 0
    if held:
        yield held


def to_table(samples: Iterable[Sample]) -> pa.Table:
    """Return the samples as one SAMPLES table in the same order. It takes about 3 microseconds a row."""
    rows = list(samples)
    origins = [row.origin or _NO_ORIGIN for row in rows]
    columns = {
        "id": [row.id for row in rows],
        "parents": _parents([row.parents for row in rows]),
        "messages": _messages([row.messages for row in rows]),
        "tools": [row.tools for row in rows],
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
    """Return the rows of a SAMPLES table as samples in the same order. It takes about 12 microseconds a row."""
    column = {name: table[name].combine_chunks() for name in SAMPLES.names}
    origins = map(Origin, *_fields(column["origin"]))
    made = column["origin"].is_valid().to_pylist()
    rows = zip(
        column["id"].to_pylist(),
        map(tuple, _cut(column["messages"], _turns(_inside(column["messages"])))),
        map(tuple, _cut(column["parents"], _inside(column["parents"]).to_pylist())),
        column["method"].to_pylist(),
        column["round"].to_pylist(),
        map(dict, _cut(column["scores"], list(zip(*_fields(_inside(column["scores"])), strict=True)))),
        map(dict, _cut(column["tags"], list(zip(*_fields(_inside(column["tags"])), strict=True)))),
        column["dropped"].to_pylist(),
        (origin if there else None for origin, there in zip(origins, made, strict=True)),
        column["tools"].to_pylist(),
        strict=True,
    )
    return [Sample(*row) for row in rows]


# -- columns: `pa.Table.from_pylist` and `to_pylist` build a dictionary a row, and take three times as long ------------


def _parents(values: Sequence[Sequence[str]]) -> pa.Array:
    kind = SAMPLES.field("parents").type
    flat = [item for value in values for item in value]
    return pa.ListArray.from_arrays(_ends(values), pa.array(flat, kind.value_type), type=kind)


def _messages(values: Sequence[Sequence[Message]]) -> pa.Array:
    kind = SAMPLES.field("messages").type
    columns = [list(column) for column in zip(*(turn for value in values for turn in value), strict=True)]
    columns = columns or [[] for _ in Message._fields]
    calls = Message._fields.index("tool_calls")
    columns[calls] = [[call._asdict() for call in found] or None for found in columns[calls]]
    return pa.ListArray.from_arrays(_ends(values), _structs(kind.value_type, columns), type=kind)


def _turns(structs: pa.Array) -> list[Message]:
    role, content, reasoning, calls, *rest = _fields(structs)
    made = [tuple(ToolCall(**call) for call in found) if found else () for found in calls]
    return list(map(Message, role, content, reasoning, made, *rest))


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
    return [field.to_pylist() if field.null_count < len(field) else [None] * len(field) for field in structs.flatten()]


def _cut(lists: pa.Array, flat: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield the items of each row of a list or map column. `flat` has the items of all rows."""
    ends = lists.offsets.to_pylist()
    return (flat[start - ends[0] : end - ends[0]] for start, end in pairwise(ends))
