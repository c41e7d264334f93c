"""Chat templates: a conversation as a model's own template renders it, with tools, calls and thoughts, or not at all.

A template that knows nothing of calls renders a turn without them and says nothing. So each template is tried once
with a conversation that has all of it, and a conversation with what it left out is refused.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from gristmill.cluster.contract.sample import Message

_MARKS = {"tools": "xtoolx", "tool calls": "xcallx", "arguments of calls": "xargumentx", "results of tools": "xresultx"}
_ASKED = {"role": "user", "content": "Hi"}
_TOOL = {
    "type": "function",
    "function": {
        "name": _MARKS["tools"],
        "description": "Look it up.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string", "description": "What."}}},
    },
}
_CALL = {
    "id": "abcdefghi",  # nine letters and digits, which Mistral's templates want
    "type": "function",
    "function": {"name": _MARKS["tool calls"], "arguments": {"key": _MARKS["arguments of calls"]}},
}
_TALK: list[dict[str, Any]] = [
    _ASKED,
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "content": _MARKS["results of tools"], "tool_call_id": "abcdefghi", "name": _MARKS["tool calls"]},
    {"role": "assistant", "content": "Yes."},
]
_THOUGHT = "xthoughtx"


class UnrenderableError(Exception):
    """A conversation that the template does not render whole; its text says why."""


class ChatTemplate:
    """The chat template of a tokenizer."""

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401 - transformers' tokenizers share no useful type
        """Take the tokenizer over; its template is read when it is first needed."""
        self.tokenizer = tokenizer

    def render(self, messages: Sequence[Message], tools: str | None = None, **how: Any) -> Any:  # noqa: ANN401
        """Return what `apply_chat_template` makes of a conversation and its tools.

        Raises:
            UnrenderableError: when the template refuses it, or would leave out calls, results, thoughts or tools.
        """
        turns = [_turn(message) for message in messages]
        if tools:
            how["tools"] = json.loads(tools)
        if tools or not all(message.plain for message in messages):
            self._require(messages, tools)
        return self._apply(turns, **how)

    def lacks_thought(self, text: str, messages: Sequence[Message]) -> bool:
        """Say whether the last assistant turn has a thought that its rendering has not.

        Thoughts of earlier turns are the template's business: most of them leave these out.
        """
        last = next((turn for turn in reversed(messages) if turn.role == "assistant"), None)
        return last is not None and last.train and bool(last.reasoning) and str(last.reasoning).strip() not in text

    def _require(self, messages: Sequence[Message], tools: str | None) -> None:
        if any(turn.parts for turn in messages):
            raise UnrenderableError("has parts that are no text")
        wanted = {"tools": bool(tools), "results of tools": any(turn.role == "tool" for turn in messages)}
        wanted["tool calls"] = wanted["arguments of calls"] = any(turn.tool_calls for turn in messages)
        lost = [what for what, there in wanted.items() if there and what not in self._rendered]
        if lost:
            raise UnrenderableError(f"template leaves out {' and '.join(lost)}")
        if any(turn.reasoning and turn.train for turn in messages) and not self._thinks:
            raise UnrenderableError("template leaves out thoughts")
        if any(turn.tool_calls and turn.text.strip() for turn in messages) and not self._speaks_and_calls:
            raise UnrenderableError("template leaves out the text beside a call")

    @cached_property
    def _rendered(self) -> frozenset[str]:
        """What of tools, calls, arguments and results the template renders."""
        text = self._tried(_TALK, tools=[_TOOL])
        return frozenset(what for what, mark in _MARKS.items() if mark in text)

    @cached_property
    def _thinks(self) -> bool:
        return _THOUGHT in self._tried([_ASKED, {"role": "assistant", "content": "Yes.", **_thought(_THOUGHT)}])

    @cached_property
    def _speaks_and_calls(self) -> bool:
        talk = [_TALK[0], {**_TALK[1], "content": "xspokenx"}, *_TALK[2:]]
        return "xspokenx" in self._tried(talk, tools=[_TOOL])

    def _tried(self, turns: Sequence[Mapping[str, Any]], **how: Any) -> str:  # noqa: ANN401
        try:
            return str(self._apply(turns, tokenize=False, **how))
        except UnrenderableError:
            return ""

    def _apply(self, turns: Sequence[Mapping[str, Any]], **how: Any) -> Any:  # noqa: ANN401
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(list(turns), **how)
        except TemplateError as error:
            raise UnrenderableError(f"template refuses: {error}") from error
        except (IndexError, KeyError) as error:  # transformers itself on an empty conversation
            raise UnrenderableError("template refuses an empty beginning") from error
        except (TypeError, ValueError) as error:  # a template that cannot work with what a turn has
            raise UnrenderableError(f"template fails: {error}") from error


def _turn(message: Message) -> dict[str, Any]:
    """Return a turn as templates read it: arguments as a table, the thought under each name that is in use."""
    turn: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.plain:
        return turn
    if message.reasoning:
        turn |= _thought(message.reasoning)
    if message.tool_calls:
        turn["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": _arguments(call.arguments)}}
            | ({} if call.id is None else {"id": call.id})
            for call in message.tool_calls
        ]
    return turn | {key: value for key in ("tool_call_id", "name") if (value := getattr(message, key)) is not None}


def _thought(text: str) -> dict[str, str]:
    return dict.fromkeys(("reasoning_content", "reasoning", "thinking"), text)


def _arguments(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
