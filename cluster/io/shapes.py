"""Shapes: how one row of outside data (a mapping of columns) becomes a conversation with tags."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gristmill.cluster.contract.sample import ROLES, Message
from gristmill.cluster.text.scripts import east_asian

Columns = Mapping[str, Any]
"""Columns of one row, names stripped and in lower case."""

SPEAKERS = {
    **{role: role for role in ROLES},
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "developer": "system",
    "function": "tool",
    "observation": "tool",
}
"""Names of speakers in common datasets, and the role of each."""

TEXTS = ("text", "content", "review", "sentence", "document")
LABELS = ("label", "category", "class", "sentiment")
PROMPTS = ("prompt", "question", "query", "problem")
REPLIES = ("completion", "response", "answer", "solution")
OUTPUTS = ("output", "response")
CONVERSATIONS = ("conversations", "conversation")


class RowError(Exception):
    """A row that is no sample; its text reads `field 'x' is …, must be …`."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """The conversation and the tags of a row."""

    messages: tuple[Message, ...]
    tags: Mapping[str, str]

    def __post_init__(self) -> None:
        """Refuse a conversation without a user turn."""
        if not any(turn.role == "user" for turn in self.messages):
            roles = ", ".join(turn.role for turn in self.messages) or "none"
            raise RowError(f"its turns are {roles}, must have one of the user")


@dataclass(frozen=True, slots=True)
class RowShape:
    """One shape: the columns by which it is recognised, the columns that it reads, and the function that reads them."""

    needs: tuple[tuple[str, ...], ...]
    """Groups of columns; a row must have at least one column of each group."""
    read: Callable[[Columns], Conversation]
    optional: frozenset[str] = frozenset()
    """Further columns that are read."""

    def fits(self, columns: Sequence[str]) -> bool:
        """Say whether a row with these columns has this shape."""
        return all(any(name in columns for name in group) for group in self.needs)

    @property
    def reads(self) -> frozenset[str]:
        """All columns that this shape reads; any other is ignored."""
        return (
            frozenset({"tags", "scores", "dropped"})
            | self.optional
            | frozenset(name for group in self.needs for name in group)
        )


def messages_of(row: Columns) -> Conversation:
    """Read `messages: [{role, content}, …]`."""
    return Conversation(read_turns(row.get("messages"), "messages"), tags_of(row))


def sharegpt_of(row: Columns) -> Conversation:
    """Read `conversations: [{from, value}, …]`."""
    name = _present(row, CONVERSATIONS)
    return Conversation(read_turns(row.get(name), name), tags_of(row))


def alpaca_of(row: Columns) -> Conversation:
    """Read `instruction`, `input` and `output`, with `system` and `history: [[question, answer], …]` where given."""
    turns = [Message("system", row["system"])] if row.get("system") else []
    for place, pair in enumerate(row.get("history") or []):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError(f"field 'history[{place}]' is {_said(pair)}, must be a pair of question and answer")
        turns += [Message("user", pair[0]), Message("assistant", pair[1])]
    instruction, given = _text(row, ("instruction",)), row.get("input") or ""
    if not isinstance(given, str):
        raise RowError(f"field 'input' is {_said(given)}, must be text")
    user = f"{instruction}\n\n{given}" if given.strip() else instruction
    turns += [Message("user", user), Message("assistant", _text(row, OUTPUTS))]
    return Conversation(_checked(turns, "history"), tags_of(row))


def completion_of(row: Columns) -> Conversation:
    """Read a prompt and its completion; either may be text or a list of turns."""
    turns: list[Message] = []
    for names, role in ((PROMPTS, "user"), (REPLIES, "assistant")):
        name = _present(row, names)
        value = row.get(name)
        turns += read_turns(value, name) if isinstance(value, list) else (Message(role, _text(row, names)),)
    return Conversation(tuple(turns), tags_of(row))


def label_of(row: Columns) -> Conversation:
    """Read a text and its label: the label is the assistant's turn and `tags["label"]`."""
    name = _present(row, LABELS)
    value = row.get(name)
    if isinstance(value, bool | int | float):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"field '{name}' is {_said(value)}, must be a word or a number")
    label = value.strip()
    turns = (Message("user", _text(row, TEXTS)), Message("assistant", label))
    return Conversation(turns, {**tags_of(row), "label": label})


def document_of(row: Columns) -> Conversation:
    """Read one plain text: a conversation of one user turn, which has no answer yet."""
    return Conversation((Message("user", _text(row, TEXTS)),), tags_of(row))


def self_instruct_of(row: Columns) -> Conversation:
    """Read a seed task: `instruction`, `instances: [{input, output}, …]` (the first is taken), `is_classification`."""
    instances = row.get("instances")
    if not isinstance(instances, list) or not instances or not isinstance(instances[0], Mapping):
        raise RowError(f"field 'instances' is {_said(instances)}, must be a list of tables with input and output")
    kind = row.get("is_classification")
    tags = {} if kind is None else {"is_classification": str(kind).lower()}
    conversation = alpaca_of({"instruction": row.get("instruction"), **instances[0]})
    return Conversation(conversation.messages, {**tags_of(row), **tags})


LAYOUTS: Mapping[str, RowShape] = {
    "messages": RowShape((("messages",),), messages_of),
    "sharegpt": RowShape((CONVERSATIONS,), sharegpt_of),
    "self_instruct": RowShape((("instruction",), ("instances",)), self_instruct_of, frozenset({"is_classification"})),
    "alpaca": RowShape((("instruction",), OUTPUTS), alpaca_of, frozenset({"input", "system", "history"})),
    "completion": RowShape((PROMPTS, REPLIES), completion_of),
    "label": RowShape((TEXTS, LABELS), label_of),
    "document": RowShape((TEXTS,), document_of),
}
"""All shapes by name, in the order in which `auto` tries them."""


def detect(columns: Sequence[str]) -> str:
    """Return the name of the first shape that the columns fit, or the empty string."""
    return next((name for name, layout in LAYOUTS.items() if layout.fits(columns)), "")


def read_turns(value: object, name: str) -> tuple[Message, ...]:
    """Return the turns of a list of tables with role and content, or from and value, without empty system turns."""
    if not isinstance(value, list) or not value:
        raise RowError(f"field '{name}' is {_said(value)}, must be a list of turns")
    turns = []
    for place, turn in enumerate(value):
        if not isinstance(turn, Mapping):
            raise RowError(f"field '{name}[{place}]' is {_said(turn)}, must be a table with role and content")
        speaker = turn.get("role", turn.get("from"))
        if not isinstance(speaker, str) or speaker.lower() not in SPEAKERS:
            raise RowError(f"field '{name}[{place}].role' is {_said(speaker)}, must be one of {', '.join(SPEAKERS)}")
        content = turn.get("content", turn.get("value"))
        if isinstance(content, list):
            content = _joined(content)
        turns.append(Message(SPEAKERS[speaker.lower()], content))  # type checked just below
    return _checked([t for t in turns if t.role != "system" or t.content], name)


def tags_of(row: Columns) -> dict[str, str]:
    """Return the tags of a row, from a table, pairs, or a list of words; nulls and empty words are left out."""
    value = row.get("tags")
    if value is None:
        return {}
    if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
        return {"tags": ", ".join(value)} if value else {}
    if isinstance(value, list) and all(isinstance(tag, Mapping) and {*tag} == {"key", "value"} for tag in value):
        value = {tag["key"]: tag["value"] for tag in value}
    elif isinstance(value, list) and all(isinstance(tag, tuple | list) and len(tag) == 2 for tag in value):
        value = dict(value)
    if not isinstance(value, Mapping):
        raise RowError(f"field 'tags' is {_said(value)}, must be a table of words")
    tags = {}
    for name, word in value.items():
        if isinstance(word, Mapping | list):
            raise RowError(f"field 'tags.{name}' is {_said(word)}, must be a word")
        if word is not None and word != "":
            tags[str(name)] = str(word).lower() if isinstance(word, bool) else str(word)
    return tags


def scores_of(row: Columns) -> dict[str, float]:
    """Return the scores of a row from a table or pairs of name and number, nulls left out; higher is better."""
    value = row.get("scores")
    if value is None:
        return {}
    if isinstance(value, list) and all(isinstance(pair, Mapping) and {*pair} == {"key", "value"} for pair in value):
        value = {pair["key"]: pair["value"] for pair in value}
    elif isinstance(value, list) and all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in value):
        value = dict(value)
    if not isinstance(value, Mapping):
        raise RowError(f"field 'scores' is {_said(value)}, must be a table of numbers")
    scores = {}
    for name, number in value.items():
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise RowError(f"field 'scores.{name}' is {_said(number)}, must be a finite number")
        scores[str(name)] = float(number)
    return scores


def reason_of(row: Columns) -> str | None:
    """Return the drop reason that an export wrote in the row, `"filter: reason"`, or None."""
    value = row.get("dropped")
    return value if isinstance(value, str) and ": " in value else None


_ENGLISH = re.compile(r"(?i)\b(?:the|and|are|what|how|why|with|this|that|you|your|which|from|does|write|give|please)\b")
"""Frequent words of English that are none of its neighbours' frequent words."""


def language(messages: Sequence[Message]) -> str:
    """Return `zh`, `ja`, `ko` or `en`, or the empty string where this rule cannot decide.

    This is a rule, not a model. It looks at the first user turn, and where that decides nothing at all turns together.
    One Han, Kana or Hangul character weighs as much as one word in Latin letters. Words in Latin letters are English
    when a frequent English word is among them. Data with better information has it in `tags["language"]`.
    """
    users = [m.content for m in messages if m.role == "user"]
    return next(filter(None, map(_script, (*users[:1], " ".join(m.content for m in messages)))), "")


def _script(text: str) -> str:
    return east_asian(text) or ("en" if _ENGLISH.search(text) else "")


def _present(row: Columns, names: Sequence[str]) -> str:
    return next((name for name in names if row.get(name) is not None), names[0])


def _text(row: Columns, names: Sequence[str]) -> str:
    name = _present(row, names)
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"field '{name}' is {_said(value)}, must be text")
    return _unicode(value, name)


def _unicode(value: str, name: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(
            f"field '{name}' holds half a surrogate pair at character {error.start}, must be text"
        ) from error
    return value


def _checked(turns: Sequence[Message], name: str) -> tuple[Message, ...]:
    for place, turn in enumerate(turns):
        if not isinstance(turn.content, str) or not turn.content.strip():
            raise RowError(f"field '{name}[{place}].content' is {_said(turn.content)}, must be text")
        _unicode(turn.content, f"{name}[{place}].content")
    return tuple(turns)


def _joined(parts: Sequence[Any]) -> object:
    """Return the text of `[{"type": "text", "text": …}, …]`; anything else comes back as it is and is refused."""
    texts = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type") == "text"]
    whole = len(texts) == len(parts) and all(isinstance(text, str) for text in texts)
    return "".join(str(text) for text in texts) if whole else parts


def _said(value: object) -> str:
    """Describe a value in a few words."""
    if value is None:
        return "absent"
    if isinstance(value, str):
        return "empty" if not value.strip() else f"{value[:40]!r}"
    if isinstance(value, bool | int | float):
        return f"the number {value}" if not isinstance(value, bool) else str(value).lower()
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "a table" if isinstance(value, Mapping) else f"of type {type(value).__name__}"
