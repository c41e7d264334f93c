"""Turns in the form of the OpenAI chat API. Requests to endpoints and exports have this form."""

import json
from typing import Any

from gristmill.cluster.contract.sample import Message, ToolCall

TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of parts that are text, each with the key that holds the text."""


def to_openai(turn: Message) -> dict[str, Any]:
    """Return a turn in the form of the API. Keys without a value are left out."""
    made: dict[str, Any] = {"role": turn.role, "content": _content(turn)}
    if turn.reasoning is not None:
        made["reasoning_content"] = turn.reasoning
    if turn.tool_calls:
        made["tool_calls"] = [_call(call) for call in turn.tool_calls]
    if turn.tool_call_id is not None:
        made["tool_call_id"] = turn.tool_call_id
    if turn.name is not None:
        made["name"] = turn.name
    return made


def tools_to_openai(tools: str) -> list[Any]:
    """Return the tools of a row in the form of the API: a list of tables with `type` and `function`.

    `tools` is the JSON text of a list, as a row has it.
    """
    return [t if "function" in t or "type" in t else {"type": "function", "function": t} for t in json.loads(tools)]


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {**({} if call.id is None else {"id": call.id}), "type": "function", "function": function}


def _content(turn: Message) -> str | list[Any] | None:
    """Return the text of a turn, or its list of parts with the text put back into them.

    A text of unchanged length is cut at the old lengths of the parts. Any other text goes into the first text part.
    """
    if turn.parts is None:
        return turn.content
    parts, left = json.loads(turn.parts), turn.text
    lengths = [part[key] for part in parts if (key := _text_key(part))]
    if sum(lengths) + max(len(lengths) - 1, 0) != len(left):  # the text was edited since: the first part gets all of it
        lengths = [len(left)] + [0] * (len(lengths) - 1)
    made = []
    for part in parts:
        if key := _text_key(part):
            size = lengths.pop(0)
            made.append({**part, key: left[:size]})
            left = left[size + 1 :]
        else:
            made.append(part)
    return made


def _text_key(part: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return the key that holds the length of a part's text, or the empty string if the part is not text."""
    key = TEXT_PARTS.get(str(part.get("type", "text")), "") if isinstance(part, dict) else ""
    return key if key and isinstance(part.get(key), int) else ""
