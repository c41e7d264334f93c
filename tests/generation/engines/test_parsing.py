"""Replies taken apart: thoughts, calls of tools, calls that nobody parsed; and prompts of models with tools."""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.chat import tools_to_openai
from gristmill.cluster.contract.sample import Message, ToolCall
from gristmill.cluster.models.engine import Choose, Engine, Reply, Score, Write
from gristmill.generation.engines import parsing
from gristmill.generation.engines.endpoint import wire
from gristmill.generation.engines.parsing import CallsError, ReplyReader, read_calls, split_thought
from gristmill.generation.engines.render import RefusedError, Renderer

ASKED = (Message("user", "Weather in Rome?"),)
WEATHER = {"name": "weather", "description": "Tell it.", "parameters": {"type": "object", "properties": {}}}
TOOLS = json.dumps([{"type": "function", "function": WEATHER}])
CALLED = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
TEMPLATE = (
    "{% if tools %}{{ '<tools>' + (tools | tojson) + '</tools>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + (m['content'] or '') }}"
    "{% for c in m['tool_calls'] or [] %}{{ '<tool_call>' + (c['function'] | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is not defined or enable_thinking %}{{ '<think>\n' }}{% endif %}{% endif %}"
)


@pytest.mark.parametrize(
    ("said", "opened", "text", "thought"),
    [
        ("A.", False, "A.", ""),
        ("<think>Hm.</think>\n\nA.", False, "A.", "Hm."),
        ("Hm.</think>A.", True, "A.", "Hm."),
        ("Hm.</think>A.", False, "A.", "Hm."),
        ("Hm", True, "", "Hm"),
        ("Hm", False, "Hm", ""),
        ("See <think> and </think>.", False, "See <think> and </think>.", ""),
    ],
)
def test_a_thought_is_what_is_between_its_tags(said: str, opened: bool, text: str, thought: str) -> None:
    assert split_thought(said, opened=opened) == (text, thought)


def test_calls_keep_their_arguments_byte_for_byte() -> None:
    calls = [
        {"id": "a", "function": {"name": "f", "arguments": '{"x":1,  "y": "好"}'}},
        {"function": {"name": "g", "arguments": {"y": "好"}}},
        {"id": 7, "function": {"name": "h", "arguments": ""}},
    ]
    assert read_calls(calls) == (
        ToolCall("a", "f", '{"x":1,  "y": "好"}'),
        ToolCall(None, "g", '{"y": "好"}'),
        ToolCall(None, "h", "{}"),
    )
    assert read_calls(None) == read_calls("x") == ()


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ({"function": {"name": "f", "arguments": '{"x": '}}, "arguments of the call of f are not JSON"),
        ({"function": {"arguments": "{}"}}, "has no name"),
        ("f", "has no name"),
        ({"function": None}, "has no name"),
    ],
)
def test_a_call_that_no_row_can_hold_is_refused(call: object, why: str) -> None:
    with pytest.raises(CallsError, match=why):
        read_calls([call])
    message = {"content": "A.", "tool_calls": [call]}
    asked = Write(ASKED, 9, 1, tools=TOOLS)
    reply = wire.read({"choices": [{"message": message, "finish_reason": "tool_calls"}]}, asked)
    assert why in reply.finish and reply.finish.startswith("error: ") and not reply.text
    cut = wire.read({"choices": [{"message": message, "finish_reason": "length"}]}, asked)
    assert (cut.finish, cut.text) == ("length", "")


def test_a_call_that_stayed_in_the_text_is_no_answer() -> None:
    asked = Write(ASKED, 9, 1, tools=TOOLS)
    body = {"choices": [{"message": {"content": CALLED}, "finish_reason": "stop"}]}
    assert wire.read(body, asked).finish == f"{parsing.NOT_PARSED} the server's parser of tool calls"
    assert wire.read(body, Write(ASKED, 9, 1)).text == CALLED, "without tools it is a text as any other"
    reader = ReplyReader(None, {}, thoughts=False)
    here = reader.read(Reply(CALLED, "stop", 1, 1), asked, None, ((), ()), opened=False)
    assert here.finish == f"{parsing.NOT_PARSED} engine.tool_parser" and not here.text


class Parser:
    """Finds what it is told to find."""

    def __init__(self, **message: Any) -> None:
        self.message: dict[str, Any] = {"content": None, "reasoning": None, "tool_calls": [], **message}

    def skips_special(self, chat: Mapping[str, Any]) -> bool:
        return not chat["tools"]

    def read(self, chat: Mapping[str, Any], prompt: Sequence[int], text: str, ids: Sequence[int]) -> dict[str, Any]:
        if "broken" in self.message:
            raise IndexError("no such token")
        return self.message


def test_what_the_parsers_find_is_the_reply() -> None:
    calls = [{"id": "c", "function": {"name": "weather", "arguments": "{}"}}]
    reader = ReplyReader(Parser(content="Well.", reasoning=" Hm. ", tool_calls=calls), {"a": 1}, thoughts=True)
    asked = Write(ASKED, 9, 1, tools=TOOLS, chat_template_kwargs='{"b": 2}')
    chat = reader.chat(asked)
    assert chat is not None and chat["chat_template_kwargs"] == {"a": 1, "b": 2} and not reader.skips_special(chat)
    reply = reader.read(Reply("raw", "stop", 1, 1), asked, chat, ((1,), (2,)), opened=True)
    assert (reply.text, reply.reasoning, reply.tool_calls) == ("Well.", "Hm.", (ToolCall("c", "weather", "{}"),))
    failing = ReplyReader(Parser(broken=True), {}, thoughts=True)
    assert failing.read(Reply("raw", "stop", 1, 1), asked, chat, ((), ()), opened=False).finish == (
        "error: the reply cannot be parsed: no such token"
    )


def test_a_reply_that_goes_on_from_a_beginning_is_taken_as_it_is() -> None:
    reader = ReplyReader(Parser(content="parsed"), {}, thoughts=True)
    for how in ({"prefix": "1."}, {"regex": "x"}, {"json_schema": "{}"}, {"role": "user"}):
        asked = Write(ASKED, 9, 1, tools=TOOLS, **how)  # type: ignore[arg-type]
        assert reader.chat(asked) is None
        assert reader.read(Reply("raw", "stop", 1, 1), asked, None, ((), ()), opened=False).text == "raw"


@pytest.fixture(scope="module")
def tokenizer(tiny: str) -> Any:
    from transformers import AutoTokenizer

    made = copy.deepcopy(AutoTokenizer.from_pretrained(tiny))
    made.chat_template = TEMPLATE
    return made


def test_the_template_gets_tools_and_its_arguments(tokenizer: Any) -> None:
    renderer = Renderer(tokenizer, 4096)
    text = renderer.text(Write(ASKED, 9, 1, tools=TOOLS))
    assert text.startswith("<tools>[") and '"weather"' in text and text.endswith("assistant\n<think>\n")
    quick = Write(ASKED, 9, 1, chat_template_kwargs='{"enable_thinking": false}')
    assert renderer.text(quick).endswith("assistant\n")
    off = Renderer(tokenizer, 4096, {"enable_thinking": False})
    assert off.text(Write(ASKED, 9, 1)) == renderer.text(quick)
    slow = Write(ASKED, 9, 1, chat_template_kwargs='{"enable_thinking": true}')
    assert off.text(slow) == renderer.text(Write(ASKED, 9, 1)), "a request goes before the settings"


def test_a_beginning_comes_after_a_thought_that_the_template_opens(tokenizer: Any) -> None:
    renderer = Renderer(tokenizer, 4096)
    assert renderer.text(Write(ASKED, 9, 1, prefix="Score: ")).endswith("<think>\n\n</think>\n\nScore: ")
    assert renderer.text(Choose(ASKED, ("a", "b"), 1)).endswith("</think>\n\n")
    assert renderer.text(Score(ASKED, "Yes")).endswith("</think>\n\n")


def test_what_a_template_does_not_take_is_refused_and_named(tokenizer: Any, tiny: str) -> None:
    from transformers import AutoTokenizer

    with pytest.raises(ValueError, match="chat_template_kwargs has thinking, which the model's template does not read"):
        Renderer(tokenizer, 4096, {"thinking": False})
    with pytest.raises(RefusedError, match="thinking"):
        Renderer(tokenizer, 4096).text(Write(ASKED, 9, 1, chat_template_kwargs='{"thinking": 1}'))
    plain = Renderer(AutoTokenizer.from_pretrained(tiny), 4096)
    with pytest.raises(RefusedError, match="template leaves out tools"):
        plain.text(Write(ASKED, 9, 1, tools=TOOLS))
    thought = (*ASKED, Message("assistant", "Well.", "Hm."), Message("user", "And?"))
    assert "Hm." not in plain.text(Write(thought, 9, 1)), "thoughts of earlier turns are no part of a prompt"


def test_an_endpoint_gets_tools_and_template_arguments_in_the_body() -> None:
    asked = Write(ASKED, 9, 1, tools=json.dumps([WEATHER]), chat_template_kwargs='{"b": 2}')
    sent = wire.chat(asked, "m", "plain", {"a": 1, "b": 1})
    assert sent["tools"] == [{"type": "function", "function": WEATHER}] == tools_to_openai(TOOLS)
    assert sent["chat_template_kwargs"] == {"a": 1, "b": 2}
    assert not {"tools", "chat_template_kwargs"} & wire.chat(Write(ASKED, 9, 1), "m", "plain").keys()


def test_settings_that_say_nothing_change_no_fingerprint_and_wrong_ones_are_refused() -> None:
    plain = Engine(endpoint="http://host/v1", model="m")
    assert "tool_parser" not in plain.identity()["fields"]
    assert plain.model_copy(update={"chat_template_kwargs": {"a": 1}}).fingerprint() != plain.fingerprint()
    with pytest.raises(ValidationError, match="has tools, which is set for each call"):
        Engine(chat_template_kwargs={"tools": []})
    with pytest.raises(ValidationError, match="the server parses"):
        Engine(endpoint="http://host/v1", tool_parser="hermes")


@pytest.mark.parametrize(("sign", "name"), [(CALLED, "hermes"), ("[TOOL_CALLS] [", "mistral"), ("{{ x }}", "")])
def test_the_parser_follows_from_the_template(sign: str, name: str) -> None:
    assert parsing.parser_for(sign, parsing.TOOL_PARSERS) == name
