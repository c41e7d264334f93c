"""Parsing of replies: finds thoughts in tags, calls of tools, and signs of calls that no parser has read."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from gristmill.cluster.contract.chat import to_openai, tools_to_openai
from gristmill.cluster.contract.sample import ToolCall
from gristmill.cluster.models.engine import Engine, Reply, Write
from gristmill.generation.engines import vllm_internals

log = logging.getLogger(__name__)

THINK = ("<think>", "</think>")
TOOL_PARSERS = (
    ("<function=", "qwen3_xml"),
    ("<arg_key>", "glm45"),
    ("<minimax:tool_call>", "minimax_m2"),
    ("<seed:tool_call>", "seed_oss"),
    ("<tool_call>", "hermes"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|tool_calls_section_begin|>", "kimi_k2"),
    ("<｜tool▁calls▁begin｜>", "deepseek_v3"),
    ("<|python_tag|>", "llama3_json"),
    ('{"name": function name, "parameters":', "llama3_json"),
    ("<|tool_call_start|>", "lfm2"),
    ("<start_function_call>", "functiongemma"),
)
"""Pairs of a text that templates write around calls, and vLLM's parser for it. The first pair that fits is used."""
REASONING_PARSERS = (("<seed:think>", "seed_oss"), ("[THINK]", "mistral"), ("<|channel|>analysis", "openai_gptoss"))
"""The same pairs for thoughts that are not in the tags of `THINK`."""
UNPARSED = ("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<function=", "<｜tool▁calls▁begin｜>", "<|tool_call")
"""Texts that are signs of a call that no parser has read."""
NOT_PARSED = "error: the reply has a call of a tool that nothing has parsed; set"


class CallsError(Exception):
    """An error for calls of tools that a row cannot store; the message says why."""


def parser_for(template: str, table: Iterable[tuple[str, str]]) -> str:
    """Return the name of vLLM's parser for the format of a chat template, or the empty string."""
    return next((name for sign, name in table if sign in template), "")


def split_thought(text: str, *, opened: bool = False) -> tuple[str, str]:
    """Return (the text, the thought before it); with `opened`, the prompt ends within a thought."""
    thought, found, rest = text.partition(THINK[1])
    begun = thought.lstrip().startswith(THINK[0])
    if begun or (found and THINK[0] not in thought) or (opened and not found):  # a template may open it in the prompt
        return rest.lstrip(), thought.lstrip().removeprefix(THINK[0]).strip()
    return text, ""


def unparsed(text: str) -> bool:
    """Return whether a text has a sign of a call that no parser has read."""
    return any(sign in text for sign in UNPARSED)


def read_calls(calls: Any) -> tuple[ToolCall, ...]:  # noqa: ANN401 - JSON from outside
    """Return the calls of a message in the form of OpenAI's API.

    Raises:
        CallsError: when a call has no name, or its arguments are not JSON.
    """
    found = []
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
            raise CallsError("a call of a tool has no name")
        found.append(ToolCall(_id(call), name, _arguments(name, function.get("arguments"))))
    return tuple(found)


def _id(call: Mapping[str, Any]) -> str | None:
    name = call.get("id")
    return name if isinstance(name, str) and name else None


def _arguments(name: str, value: object) -> str:
    """Return the arguments of a call as JSON text; arguments that came as text stay byte for byte."""
    if value is None or value == "":
        return "{}"
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    try:
        json.loads(value)
    except (ValueError, RecursionError) as error:
        raise CallsError(f"the arguments of the call of {name} are not JSON") from error
    return value


class ReplyParser(Protocol):
    """vLLM's parsers of replies. Chats and messages have the form of OpenAI's API."""

    def skips_special(self, chat: Mapping[str, Any]) -> bool:
        """Return whether special tokens are left out of the text of a reply."""
        ...

    def read(self, chat: Mapping[str, Any], prompt: Sequence[int], text: str, ids: Sequence[int]) -> dict[str, Any]:
        """Return a reply as a message with `content`, `reasoning` and `tool_calls`."""
        ...


class ReplyReader:
    """A reader that splits replies of one engine into text, thought and calls, with vLLM's parsers if there are any."""

    def __init__(self, parser: ReplyParser | None, kwargs: Mapping[str, Any], *, thoughts: bool) -> None:
        """Take the parser, the engine's arguments of the chat template, and whether the parser finds thoughts too."""
        self._parser, self._kwargs, self._thoughts = parser, kwargs, thoughts

    def chat(self, request: Write) -> dict[str, Any] | None:
        """Return a request in the form that the parsers need; None if no parser reads the reply.

        Raises:
            ValueError: when the request's tools do not have the form of OpenAI's API.
        """
        if self._parser is None or request.begun or request.role == "user" or not (request.tools or self._thoughts):
            return None
        own = json.loads(request.chat_template_kwargs) if request.chat_template_kwargs else {}
        chat = {"messages": [to_openai(turn) for turn in request.messages]}
        return {**chat, "tools": _tools(request.tools), "chat_template_kwargs": {**self._kwargs, **own}}

    def skips_special(self, chat: Mapping[str, Any] | None) -> bool:
        """Return whether special tokens are left out of the text of a reply."""
        return self._parser is None or chat is None or self._parser.skips_special(chat)

    def read(
        self,
        reply: Reply,
        request: Write,
        chat: Mapping[str, Any] | None,
        tokens: tuple[Sequence[int], Sequence[int]],
        *,
        opened: bool,
    ) -> Reply:
        """Return a reply with text, thought and calls in separate fields; refuse a reply that cannot be read.

        Args:
            reply: the reply as the model wrote it.
            request: the request of this reply.
            chat: what `chat` returned for the request.
            tokens: (token ids of the prompt, token ids of the reply).
            opened: whether the prompt ends within a thought.
        """
        if request.begun or request.role == "user":
            return reply
        if chat is None or self._parser is None:
            text, thought = split_thought(reply.text, opened=opened)
            whole = replace(reply, text=text, reasoning=thought)
        else:
            try:
                message = self._parser.read(chat, tokens[0], reply.text, tokens[1])
                calls = read_calls(message["tool_calls"])
            except Exception as error:  # noqa: BLE001 - a parser that fails on what a model wrote costs that reply
                return _refused(reply, f"error: the reply cannot be parsed: {error}")
            text, thought = message["content"] or "", (message["reasoning"] or "").strip()
            if not self._thoughts:
                text, thought = split_thought(text, opened=opened)
            whole = replace(reply, text=text, reasoning=thought, tool_calls=calls)
        if request.tools and not whole.tool_calls and unparsed(whole.text):
            return _refused(reply, f"{NOT_PARSED} engine.tool_parser")
        return whole


def open_reader(
    settings: Engine,
    template: str,
    tokenizer: Any,  # noqa: ANN401 - of transformers
    model_config: Any,  # noqa: ANN401 - vLLM's
) -> tuple[ReplyReader, dict[str, str]]:
    """Return the reader of an engine's replies, and the names of its parsers.

    The settings name the parsers. If they name none, the template decides.

    Raises:
        ValueError: when the settings name a parser that does not exist or does not fit the model.
    """
    tools = settings.tool_parser or parser_for(template, TOOL_PARSERS)
    thoughts = settings.reasoning_parser or parser_for(template, REASONING_PARSERS)
    kwargs = settings.chat_template_kwargs
    if not tools and not thoughts:
        return ReplyReader(None, kwargs, thoughts=False), {}
    try:
        parser = vllm_internals.ReplyParser(tools, thoughts, tokenizer, model_config)
    except ValueError as error:
        if settings.tool_parser or settings.reasoning_parser:
            raise
        log.warning("calls of tools are not parsed: %s", error)
        return ReplyReader(None, kwargs, thoughts=False), {}
    names = {name: value for name, value in (("tool_parser", tools), ("reasoning_parser", thoughts)) if value}
    return ReplyReader(parser, kwargs, thoughts=bool(thoughts)), names


def _refused(reply: Reply, finish: str) -> Reply:
    """Return a reply without its text; a reply that was cut off keeps its finish."""
    return replace(reply, text="", reasoning="", finish=reply.finish if reply.finish == "length" else finish)


def _tools(tools: str) -> list[Any] | None:
    return tools_to_openai(tools) if tools else None
