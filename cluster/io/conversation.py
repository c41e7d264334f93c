"""Conversations: the content of one row of outside data, and the columns that a row of any shape may have."""

import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import WEIGHT, Message
from gristmill.cluster.io.turns import THOUGHTS, RowError, blank, flag, from_json, read_tools, read_turns, said

Columns = Mapping[str, Any]
"""Columns of one row by name. The names are in the form of `column_name`."""

SYSTEMS = ("system", "system_prompt", "system_message", "system_instruction")
TOOLS = ("tools", "functions")
COMMON = frozenset({*SYSTEMS, "history", *TOOLS, *THOUGHTS, "weight", "train", "tags", "scores"})
"""Columns that every shape reads. Thoughts are read only if the row is one conversation that ends with an answer."""
OWN = frozenset({"id", "parents", "method", "round", "origin", "dropped"})
"""Columns that only our exports write. Ingest reads `dropped`, and makes the others again."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation of a row, with its tags, tools and scores."""

    messages: tuple[Message, ...]
    tags: Mapping[str, str]
    tools: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a conversation without a user turn."""
        if not any(turn.role == "user" for turn in self.messages):
            roles = ", ".join(turn.role for turn in self.messages) or "none"
            raise RowError(f"its turns are {roles}, must have one of the user")


def single(
    row: Columns,
    turns: Sequence[Message],
    tags: Mapping[str, str] | None = None,
    scores: Mapping[str, float] | None = None,
) -> list[Conversation]:
    """Return the conversation of a row that has only one.

    It is the conversation of `whole`. If a column has a thought, it becomes the thought of the last answer.
    """
    last = turns[-1] if turns else None
    name = (
        present(row, THOUGHTS) if last and last.role == "assistant" else ""
    )  # a thought without an answer is not read
    thought = row.get(name)
    if not last or thought is None or thought == "":
        return [whole(row, turns, tags, scores)]
    if not isinstance(thought, str):
        raise RowError(f"field '{name}' is {said(thought)}, must be text")
    if last.reasoning not in (None, thought):
        raise RowError(
            f"field '{name}' is there beside a thought of the last turn that is another, must be one of them"
        )
    return [whole(row, (*turns[:-1], last._replace(reasoning=thought)), tags, scores)]


def whole(
    row: Columns,
    turns: Sequence[Message],
    tags: Mapping[str, str] | None = None,
    scores: Mapping[str, float] | None = None,
) -> Conversation:
    """Return the conversation of these turns, with everything from the columns that every shape reads.

    These are the system turn, the history, the tools, the tags, the scores, the weight, and `train`.
    """
    begin = _beginning(row)
    if begin and turns and turns[0].role == "system":
        if begin[0].role == "system" and begin[0].content != turns[0].content:
            raise RowError("field 'system' is there beside a system turn that says other than it, must be one of them")
        begin, turns = (turns[0], *(turn for turn in begin if turn.role != "system")), turns[1:]
    messages = (*begin, *turns)
    if row.get("train") not in (None, "") and not flag(row["train"], "train"):  # an empty cell says nothing
        messages = tuple(turn._replace(train=False) for turn in messages)
    tools = present(row, TOOLS)
    return Conversation(
        messages,
        {**tags_of(row), **(tags or {})},
        read_tools(row.get(tools), tools),
        {**scores_of(row), **number_of(row, "weight", WEIGHT), **(scores or {})},
    )


def _beginning(row: Columns) -> tuple[Message, ...]:
    """Return the turns that the columns `system` and `history` put at the beginning of a conversation.

    `history` is a list of turns, or of pairs of question and answer.
    """
    name = present(row, SYSTEMS)
    system, turns = row.get(name), list[Message]()
    if system is None and row.get("history") is None:
        return ()
    if system is not None and not isinstance(system, str):
        raise RowError(f"field '{name}' is {said(system)}, must be text")
    if not blank(system):
        turns.append(Message("system", system))
    history = from_json(row.get("history"), "history", "a list of pairs of question and answer")
    if history and isinstance(history, list) and all(isinstance(turn, Mapping) for turn in history):
        return (*turns, *read_turns(history, "history"))
    if history is not None and not isinstance(history, list):
        raise RowError(f"field 'history' is {said(history)}, must be a list of pairs of question and answer")
    for place, pair in enumerate(history or []):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError(f"field 'history[{place}]' is {said(pair)}, must be a pair of question and answer")
        for text, role in zip(pair, ("user", "assistant"), strict=True):
            if not isinstance(text, str) or blank(text):
                raise RowError(f"field 'history[{place}]' holds what is {said(text)}, must be two texts")
            turns.append(Message(role, text))
    return tuple(turns)


def tags_of(row: Columns) -> dict[str, str]:
    """Return the tags of a row. Nulls and empty words are left out.

    The column `tags` is a table, a list of pairs, a list of words, or one word.
    """
    value = row.get("tags")
    if isinstance(value, str):
        value = from_json(value, "tags", "a table of words") if value.lstrip()[:1] in ("{", "[") else value
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        return {"tags": value}
    if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
        return {"tags": ", ".join(value)} if value else {}
    value = _table(value, "tags")
    if not isinstance(value, Mapping):
        raise RowError(f"field 'tags' is {said(value)}, must be a table of words")
    tags = {}
    for name, word in value.items():
        if word is not None and word != "":
            tags[str(name)] = word if isinstance(word, str) else number_text(word, f"tags.{name}", "a word")
    return tags


def scores_of(row: Columns) -> dict[str, float]:
    """Return the scores of a row, where higher is better. Nulls are left out.

    The column `scores` is a table, or a list of pairs of name and number.
    """
    value = row.get("scores")
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        value = from_json(value, "scores", "a table of numbers")
    if value is None or value == "":
        return {}
    value = _table(value, "scores")
    if not isinstance(value, Mapping):
        raise RowError(f"field 'scores' is {said(value)}, must be a table of numbers")
    return {str(name): _finite(number, f"scores.{name}") for name, number in value.items() if number is not None}


def _table(value: object, name: str) -> object:
    """Return a list of pairs as a table, and any other value unchanged."""
    if not isinstance(value, list):
        return value
    if all(isinstance(pair, Mapping) and {*pair} == {"key", "value"} for pair in value):
        pairs = [(pair["key"], pair["value"]) for pair in value]
    elif all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in value):
        pairs = [(key, inner) for key, inner in value]
    else:
        return value
    names = [str(key) for key, _ in pairs]
    twice = next((key for key in names if names.count(key) > 1), None)
    if twice is not None:
        raise RowError(f"field '{name}' has the key {twice!r} twice, must have it once")
    return dict(pairs)


def number_of(row: Mapping[str, Any], name: str, score: str) -> dict[str, float]:
    """Return the number in a column as `{score: number}`, or an empty table without one.

    A weight must not be negative.
    """
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = float(value) if value.strip() else None
        except ValueError:
            raise RowError(f"field '{name}' is {said(value)}, must be a finite number") from None
    if value is None:
        return {}
    number = _finite(value, name)
    if score == WEIGHT and number < 0:
        raise RowError(f"field '{name}' is {said(value)}, must be at least 0")
    return {score: number}


def _finite(number: object, name: str) -> float:
    """Return a number that a float32 can hold, as scores are stored.

    Refuse a number that is not finite or too large, and a whole number up to 2^53 that a float32 would change.
    """
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise RowError(f"field '{name}' is {said(number)}, must be a finite number")
    try:
        value = float(number)
        held = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        raise RowError(f"field '{name}' is {said(number)}, must be within ±3.4e38, as a float32 is") from None
    if not math.isfinite(value):
        raise RowError(f"field '{name}' is {said(number)}, must be a finite number")
    if value.is_integer() and held != number and abs(value) <= 1 << 53:
        raise RowError(f"field '{name}' is {said(number)}, must be a whole number that a float32 holds exactly")
    return value


def reason_of(row: Columns) -> str | None:
    """Return the drop reason that an export wrote into a row, `"filter: reason"`, or None."""
    value = row.get("dropped")
    return value if is_own(row) and isinstance(value, str) and ": " in value else None


def is_own(row: Columns) -> bool:
    """Say whether an export of Gristmill wrote the row. In any other row the column `dropped` means something else."""
    return isinstance(row.get("method"), str) and _ID.fullmatch(str(row.get("id"))) is not None


def written_by_us(row: Columns) -> frozenset[str]:
    """Return the columns of a row that an export of Gristmill wrote. Ingest makes them again."""
    if is_own(row):
        return OWN
    return frozenset({"id"}) if _ID.fullmatch(str(row.get("id"))) else frozenset()


_ID = re.compile(f"[0-9a-f]{{{ids.ID_HEX}}}")


def present(row: Columns, names: Sequence[str]) -> str:
    """Return the first of these names that is a column of the row, or the first name if none is."""
    return next((name for name in names if row.get(name) is not None), names[0])


def text_of(row: Columns, names: Sequence[str], *, number: bool = False) -> str:
    """Return the text of the first of these columns that the row has.

    A blank text is refused. With `number`, the column may also be a number.
    """
    name = present(row, names)
    value = row.get(name)
    if number and not isinstance(value, str):
        return number_text(value, name, "text")
    if not isinstance(value, str) or blank(value):
        raise RowError(f"field '{name}' is {said(value)}, must be text")
    return value


def number_text(value: object, name: str, wanted: str) -> str:
    """Return a number as people write it, or a truth value as JSON writes it.

    Any other value is refused. `wanted` says in the error what it must be.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError(f"field '{name}' is {said(value)}, must be {wanted}")
    return str(value)
