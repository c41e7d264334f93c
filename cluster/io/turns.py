"""Turns of outside data, which become `Message` values with calls, thoughts, parts and flags.

The keys of a turn may be those of the OpenAI chat form, of ShareGPT, or of fine-tuning tools. If a turn cannot be kept
completely, its row is a bad row. The error names the field: `field 'messages[1].tool_calls[0].name' is …`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gristmill.cluster.contract import gate
from gristmill.cluster.contract.chat import TEXT_PARTS
from gristmill.cluster.contract.sample import ROLES, Message, ToolCall

CALLERS = frozenset({"function_call", "function_calls", "tool_call", "tool_calls"})
"""Speakers whose text is the JSON of a call, or of a list of calls."""
SPEAKERS = {
    **{role: role for role in ROLES},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "ai", "model", "bot", "chatbot", "chatgpt", "bing", "bard"), "assistant"),
    "developer": "system",
    **dict.fromkeys(("function", "observation", "ipython"), "tool"),
    **dict.fromkeys(("tool_response", "tool_result", "function_response", "function_result"), "tool"),
    **dict.fromkeys(sorted(CALLERS), "assistant"),
}
"""The role for each name of a speaker in outside data. Case, outer spaces, `-` and `_` do not count."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
THOUGHT_PARTS = frozenset({"thinking", "reasoning"})
"""Types of parts that are thoughts. The text of the thought is in the key of the same name."""
TRAINED = ("train", "training", "loss", "loss_mask", "weight")
"""Flags of a turn that say whether the assistant's words are trained on. The flag `mask` means the opposite."""
TURN_KEYS = frozenset(
    {"role", "from", "content", "value", "tool_calls", "function_call", "tool_call_id", "name", "mask", "parts"}
) | {*THOUGHTS, *TRAINED}
"""Every key of a turn that is read."""
TURN_CARRIERS = frozenset({"thought", "thoughts", "reasoning_details", "refusal", "audio", "image", "images", "videos"})
"""Keys of a turn that say something about the sample and are not read. They are left out only if the recipe names
them."""
CALL_KEYS = frozenset({"id", "type", "function", "name", "arguments", "parameters", "index"})
"""Keys of a call that are read, and `index`, which only numbers the calls of a list."""

_BLANK = re.compile(
    "[\\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]*"
)
"""Matches a text of nothing but white space and invisible characters."""


class RowError(Exception):
    """The error for a row that is no sample. Its text reads `field 'x' is …, must be …`."""

    def __init__(self, problem: str) -> None:
        """Keep the problem as text that every file can hold. A name in it may have half a surrogate pair."""
        super().__init__(problem.encode("utf-8", "backslashreplace").decode())


def read_turns(value: object, name: str) -> tuple[Message, ...]:
    """Return the turns of a list of tables with `role` and `content`, or with `from` and `value`.

    The list may be JSON text, and a single turn need not be in a list. Empty system turns are left out.
    """
    value = from_json(value, name, "a list of turns")
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list) or not value:
        raise RowError(f"field '{name}' is {said(value)}, must be a list of turns")
    turns = [_turn(turn, f"{name}[{place}]") for place, turn in enumerate(value)]
    return tuple(turn for turn in turns if turn.role != "system" or not blank(turn.content) or turn.parts)


def read_calls(value: object, name: str) -> tuple[ToolCall, ...]:
    """Return the calls of a list of tables. The list may be JSON text.

    A table has the OpenAI form, or `name` and `arguments`.
    """
    value = from_json(value, name, "a list of calls")
    if value is None:
        return ()
    calls = [value] if isinstance(value, Mapping) else value
    if not isinstance(calls, list):
        raise RowError(f"field '{name}' is {said(value)}, must be a list of calls")
    return tuple(_call(call, f"{name}[{place}]") for place, call in enumerate(calls))


def read_tools(value: object, name: str) -> str | None:
    """Return a list of tools as JSON text, or None if there are no tools. The list may come as JSON text."""
    value = from_json(value, name, "a list of tools")
    tools = [value] if isinstance(value, Mapping) else value
    if isinstance(tools, list):  # `datasets` stores a list of JSON values as a list of texts
        tools = [from_json(tool, name, "a list of tools") for tool in tools]
    if tools is None or tools == []:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RowError(f"field '{name}' is {said(tools)}, must be a list of tables")
    return to_json(tools, name)


def _turn(turn: object, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise RowError(f"field '{where}' is {said(turn)}, must be a table with role and content")
    given, content = turn.get("role", turn.get("from")), turn.get("content")
    if len(turn) == 2 and given in ROLES and isinstance(content, str) and not blank(content):
        return Message(given, content)  # most turns are like this, and take a quarter of the time so
    speaker = given.strip().lower().replace("-", "_") if isinstance(given, str) else ""
    if speaker not in SPEAKERS:
        raise RowError(f"field '{where}.role' is {said(given)}, must be one of {', '.join(SPEAKERS)}")
    content, parts, thought = _content(turn, where)
    calls = read_calls(turn.get("tool_calls"), f"{where}.tool_calls")
    calls += read_calls(turn.get("function_call") or None, f"{where}.function_call")
    if speaker in CALLERS and not calls:
        content, calls = None, read_calls(content, f"{where}.content")
        if not calls:
            raise RowError(f"field '{where}.content' is {said(turn.get('content'))}, must be the JSON of a call")
    message = Message(
        SPEAKERS[speaker],
        content,
        _thought({**turn, "a part": thought} if thought else turn, where),
        calls,
        _word(turn, "tool_call_id", where),
        _word(turn, "name", where),
        _trained(turn, where),
        parts,
    )
    if (content is None and message.role == "tool") or (blank(content) and not _may_be_silent(message)):
        raise RowError(f"field '{where}.content' is {said(content)}, must be text")
    return message


def _may_be_silent(turn: Message) -> bool:
    return bool(turn.tool_calls or turn.parts) or turn.role in ("tool", "system")


def _content(turn: Mapping[str, Any], where: str) -> tuple[str | None, str | None, str | None]:
    """Return the text of a turn, the JSON of its parts, and the thought that its parts hold."""
    content = turn.get("content", turn.get("value"))
    if content is None or isinstance(content, str):
        parts = turn.get("parts")
        if parts is not None and not isinstance(from_json(parts, f"{where}.parts", "a list of parts"), list):
            raise RowError(f"field '{where}.parts' is {said(parts)}, must be a list of parts")
        return content, parts if parts is None or isinstance(parts, str) else to_json(parts, f"{where}.parts"), None
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        raise RowError(f"field '{where}.content' is {said(content)}, must be text")
    return _parted(content, f"{where}.content")


def _parted(content: Sequence[object], where: str) -> tuple[str | None, str | None, str | None]:
    """Return the joined texts of a list of parts, the JSON of the parts, and the joined thoughts.

    The JSON is None if all parts are plain text. It has only the length of each text, so that no old text stays there
    when the content is edited. It has no thoughts.
    """
    texts, thoughts, kept, plain = list[str](), list[str](), list[object](), True
    for place, part in enumerate(content):
        table = {"type": "text", "text": part} if isinstance(part, str) else part
        if not isinstance(table, Mapping) or not ("type" in table or isinstance(table.get("text"), str)):
            raise RowError(f"field '{where}[{place}]' is {said(part)}, must be text or a table with its type")
        table = {key: inner for key, inner in table.items() if inner is not None and inner != []}
        kind = str(table.get("type", "text"))
        key = TEXT_PARTS.get(kind, "")
        if isinstance(text := table.get(key), str):
            texts.append(text)
            plain &= table.keys() <= {"type", key}
            table[key] = len(text)
        elif key:
            raise RowError(f"field '{where}[{place}].{key}' is {said(text)}, must be text")
        elif kind in THOUGHT_PARTS and isinstance(table.get(kind), str):
            thoughts.append(table.pop(kind))
            if table.keys() == {"type"}:
                continue
            plain = False
        else:
            plain = False
        kept.append(table)
    return "\n".join(texts) if texts else None, None if plain else to_json(kept, where), "\n".join(thoughts) or None


def _call(value: object, where: str) -> ToolCall:
    if not isinstance(value, Mapping):
        raise RowError(f"field '{where}' is {said(value)}, must be a table with name and arguments")
    inner = value.get("function") or value
    inner = value | {"name": inner} if isinstance(inner, str) and isinstance(value, dict) else inner
    if not isinstance(inner, Mapping) or value.get("type", "function") not in (None, "function"):
        raise RowError(f"field '{where}' is of type {said(value.get('type'))}, must be the call of a function")
    name, arguments = inner.get("name"), inner.get("arguments", inner.get("parameters"))
    if not isinstance(name, str) or not name.strip():
        raise RowError(f"field '{where}.name' is {said(name)}, must be the name of a tool")
    if not isinstance(arguments, str):
        arguments = "{}" if arguments is None else to_json(arguments, f"{where}.arguments")
    _require_clean(arguments, f"{where}.arguments")
    return ToolCall(_word(value, "id", where), name, arguments)


def _require_clean(arguments: str, name: str) -> None:
    """Refuse JSON that no dataset can hold. Text that is not JSON is accepted, because models sometimes write it."""
    try:
        gate.parse(arguments)
    except gate.GateError as error:
        if not str(error).startswith("is not JSON"):
            raise RowError(f"field '{name}' holds what cannot be taken in: {error}") from error


def _thought(turn: Mapping[str, Any], where: str) -> str | None:
    found = {key: turn[key] for key in (*THOUGHTS, "a part") if turn.get(key)}
    for key, thought in found.items():
        if not isinstance(thought, str):
            raise RowError(f"field '{where}.{key}' is {said(thought)}, must be text")
    if len({*found.values()}) > 1:
        raise RowError(f"fields {' and '.join(found)} of '{where}' differ, must be one thought")
    return next(iter(found.values()), None)


def _word(turn: Mapping[str, Any], key: str, where: str) -> str | None:
    value = turn.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise RowError(f"field '{where}.{key}' is {said(value)}, must be a word")
    return value or None


def _trained(turn: Mapping[str, Any], where: str) -> bool:
    found = {key: flag(turn[key], f"{where}.{key}") for key in TRAINED if turn.get(key) is not None}
    if turn.get("mask") is not None:
        found["mask"] = not flag(turn["mask"], f"{where}.mask")
    if len({*found.values()}) > 1:
        raise RowError(f"fields {' and '.join(found)} of '{where}' disagree, must say the same")
    return next(iter(found.values()), True)


# -- values -------------------------------------------------------------------------------------------------------


def flag(value: object, name: str) -> bool:
    """Return the truth value of a flag: true, false, 0, 1, or one of these as a word."""
    known = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
    found = known.get(str(value).strip().lower()) if isinstance(value, bool | int | float | str) else None
    if found is None:
        raise RowError(f"field '{name}' is {said(value)}, must be true or false")
    return found


def blank(text: str | None) -> bool:
    """Say whether a text has nothing but white space and invisible characters."""
    return not text or _BLANK.fullmatch(text) is not None


def from_json(value: object, name: str, wanted: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value of a JSON text, and None for empty text. A value that is not text is returned unchanged."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return gate.parse(value)
    except gate.GateError as error:
        raise RowError(f"field '{name}' is {said(value)}, must be {wanted}, or its JSON text") from error


def to_json(value: object, name: str) -> str:
    """Return the JSON text of a value."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError(f"field '{name}' has no JSON form ({error}), must be a JSON value") from error


def said(value: object) -> str:
    """Return a few words for an error that say what a value is."""
    if value is None:
        return "absent"
    if isinstance(value, str):
        return "empty" if blank(value) else f"{value[:40]!r}"
    if isinstance(value, bool | int | float):
        return f"the number {value}" if not isinstance(value, bool) else str(value).lower()
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "a table" if isinstance(value, Mapping) else f"of type {type(value).__name__}"
