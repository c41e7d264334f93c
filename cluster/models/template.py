"""Chat templates: a conversation is rendered with its model's own template, or refused.

A template without support for tool calls silently leaves them out. So each template is first tried on a conversation
with calls, results, thoughts and tools. If the template leaves out one of these, conversations that have it are
refused. A system turn that a template refuses or leaves out goes into the next user turn.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

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
    "id": "abcdefghi",  # Mistral's templates want ids of nine letters and digits
    "type": "function",
    "function": {"name": _MARKS["tool calls"], "arguments": {"key": _MARKS["arguments of calls"]}},
}
_TALK: list[dict[str, Any]] = [
    _ASKED,
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "content": _MARKS["results of tools"], "tool_call_id": "abcdefghi", "name": _MARKS["tool calls"]},
    {"role": "assistant", "content": "Yes."},
]
_THOUGHT, _SYSTEM = "xthoughtx", "xsystemx"
_OPENED = re.compile(r"([<\[◁])((?:[\w:]*:)?(?:think|thinking|thought|reasoning))([>\]▷])\s*\Z")


class UnrenderableError(Exception):
    """The error for a conversation that a template does not render completely. Its text says why."""


class _Form(NamedTuple):
    """The form in which a template gets a turn with calls."""

    text: bool = False
    """Whether the arguments of a call are JSON text instead of a table."""
    empty: str | None = ""
    """The content of a turn that has only calls."""

    def of(self, turn: Mapping[str, Any]) -> dict[str, Any]:
        """Return a turn in this form."""
        if "tool_calls" not in turn:
            return dict(turn)
        calls = [{**call, "function": self._function(call["function"])} for call in turn["tool_calls"]]
        return {**turn, "content": turn["content"] or self.empty, "tool_calls": calls}

    def _function(self, function: Mapping[str, Any]) -> dict[str, Any]:
        arguments = function["arguments"]
        as_text = self.text and not isinstance(arguments, str)
        return {**function, "arguments": json.dumps(arguments, ensure_ascii=False) if as_text else arguments}


class ChatTemplate:
    """The chat template of a tokenizer."""

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401 - transformers' tokenizers share no useful type
        """Keep the tokenizer. Its template is read only when it is needed."""
        self.tokenizer = tokenizer

    def render(self, messages: Sequence[Message], tools: str | None = None, **how: Any) -> Any:  # noqa: ANN401
        """Return the result of the tokenizer's `apply_chat_template` for a conversation and its tools.

        The turns are first changed by `fitted`. `how` has further arguments of `apply_chat_template`.

        Raises:
            UnrenderableError: if the template refuses them, or would leave out calls, results, thoughts or tools.
        """
        turns = self._turns(messages)
        if tools:
            how["tools"] = json.loads(tools)
        if tools or not all(message.plain for message in messages):
            self._require(messages, tools)
        return self._apply(turns, **how)

    def fitted(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the turns in a form that the template accepts. If it accepts them unchanged, return the same object.

        A system turn that the template refuses or leaves out goes into the user turn after it, or becomes a user turn.
        """
        places = [place for place, turn in enumerate(messages) if turn.role == "system"]
        if not places or (self._takes_system if places == [0] else self._takes_later_system):
            return messages
        first = 1 if self._takes_system and places[0] == 0 else 0
        return [*messages[:first], *_folded(messages[first:])]

    def marks(self, messages: Sequence[Message], tools: str | None = None) -> list[tuple[int, int]]:
        """Return the (begin, end) character ranges of a rendering that the template marks with `{% generation %}`.

        Raises:
            UnrenderableError: if the template refuses the conversation.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        turns = self._turns(messages)
        with _in_words():
            rendered: Any = render_jinja_template(
                conversations=[turns],
                tools=json.loads(tools) if tools else None,
                chat_template=self.source(tools),
                return_assistant_tokens_mask=True,
                **self.tokenizer.special_tokens_map,
            )
        return [(begin, end) for begin, end in rendered[1][0]]

    def source(self, tools: str | None = None) -> str:
        """Return the text of the template. A tokenizer may have another template for conversations with tools."""
        return str(self.tokenizer.get_chat_template(None, json.loads(tools) if tools else None))

    def _turns(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        fitted = self.fitted(messages)
        form = self._form if any(turn.tool_calls for turn in fitted) else _Form()
        return [_turn(message, form) for message in fitted]

    def _require(self, messages: Sequence[Message], tools: str | None) -> None:
        if any(turn.parts for turn in messages):
            raise UnrenderableError("has parts that are no text")
        wanted = {"tools": bool(tools), "results of tools": any(turn.role == "tool" for turn in messages)}
        wanted["tool calls"] = wanted["arguments of calls"] = any(turn.tool_calls for turn in messages)
        lost = [what for what, there in wanted.items() if there and what not in self._rendered]
        if lost:
            raise UnrenderableError(f"template leaves out {' and '.join(lost)}")
        if any(turn.reasoning and turn.train for turn in messages) and not self.thinks:
            raise UnrenderableError("template leaves out thoughts")
        if any(turn.tool_calls and turn.text.strip() for turn in messages) and not self._speaks_and_calls:
            raise UnrenderableError("template leaves out the text beside a call")

    @cached_property
    def _rendered(self) -> frozenset[str]:
        """The keys of `_MARKS` whose marks the template renders."""
        return self._rendered_in(self._form)

    @cached_property
    def _form(self) -> "_Form":
        """The form of calls of which the template renders the most parts.

        DeepSeek's template, for example, needs arguments as text, and no content.
        """
        forms = [_Form(text, empty) for empty in ("", None) for text in (False, True)]
        return max(forms, key=lambda form: len(self._rendered_in(form)))

    def _rendered_in(self, form: "_Form") -> frozenset[str]:
        text = self._tried([form.of(turn) for turn in _TALK], tools=[_TOOL])
        return frozenset(what for what, mark in _MARKS.items() if mark in text)

    @cached_property
    def thinks(self) -> bool:
        """Whether the template renders the thought of the last turn, or opens a thought in the prompt."""
        asked = self._tried([_ASKED], add_generation_prompt=True)
        answered = self._tried([_ASKED, {"role": "assistant", "content": "Yes.", **_thought(_THOUGHT)}])
        return _THOUGHT in answered or opened_thought(asked) is not None

    @cached_property
    def _takes_system(self) -> bool:
        return _SYSTEM in self._tried([{"role": "system", "content": _SYSTEM}, _ASKED], add_generation_prompt=True)

    @cached_property
    def _takes_later_system(self) -> bool:
        turns = [_ASKED, {"role": "assistant", "content": "Yes."}, {"role": "system", "content": _SYSTEM}, _ASKED]
        return self._takes_system and _SYSTEM in self._tried(turns, add_generation_prompt=True)

    @cached_property
    def _speaks_and_calls(self) -> bool:
        talk = [_TALK[0], self._form.of({**_TALK[1], "content": "xspokenx"}), *_TALK[2:]]
        return "xspokenx" in self._tried(talk, tools=[_TOOL])

    def _tried(self, turns: Sequence[Mapping[str, Any]], **how: Any) -> str:  # noqa: ANN401
        try:
            return str(self._apply(turns, tokenize=False, **how))
        except UnrenderableError:
            return ""

    def _apply(self, turns: Sequence[Mapping[str, Any]], **how: Any) -> Any:  # noqa: ANN401
        with _in_words():
            return self.tokenizer.apply_chat_template(list(turns), **how)


@contextmanager
def _in_words() -> Iterator[None]:
    """Turn every error of a template into an `UnrenderableError`, which drops the row.

    A template is a program of others. Transformers runs it in jinja's immutable sandbox.
    """
    from jinja2 import TemplateError

    try:
        yield
    except TemplateError as error:
        raise UnrenderableError(f"template refuses: {error}") from error
    except Exception as error:
        raise UnrenderableError(f"template fails: {error}") from error


def opened_thought(prompt: str) -> tuple[str, str] | None:
    """Return the tags of the thought that a prompt opens at its end, or None if it opens none.

    The first is the opening tag with the white space after it, the second the closing tag. Tags are `<think>`,
    `[THINK]`, `◁think▷` and similar ones.
    """
    found = _OPENED.search(prompt)
    return (found[0], f"{found[1]}/{found[2]}{found[3]}") if found else None


def _folded(messages: Sequence[Message]) -> list[Message]:
    """Return the turns without system turns.

    The text of a system turn goes to the beginning of the turn after it, if that is the user's. If not, it becomes a
    user turn.
    """
    out: list[Message] = []
    held: list[str] = []
    for turn in messages:
        if turn.role == "system":
            held.append(turn.text)
            continue
        if held and turn.role == "user":
            out.append(turn._replace(content="\n\n".join([*held, turn.text])))
        elif held:
            out += [Message("user", "\n\n".join(held)), turn]
        else:
            out.append(turn)
        held = []
    return [*out, Message("user", "\n\n".join(held))] if held else out


def _turn(message: Message, form: _Form) -> dict[str, Any]:
    """Return a turn in the form that templates read. Its thought is there under each name that templates use."""
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
    turn |= {key: value for key in ("tool_call_id", "name") if (value := getattr(message, key)) is not None}
    return form.of(turn)


def _thought(text: str) -> dict[str, str]:
    return dict.fromkeys(("reasoning_content", "reasoning", "thinking"), text)


def _arguments(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
