"""Masks: exactly what the assistant says, stop token included, in every shape of conversation."""

from typing import Any

import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message, ToolCall
from gristmill.training.data import chat
from gristmill.training.data.chat import Talk
from tests.fakes import CHATML

TWO_TURNS = [("user", "Hi"), ("assistant", "Hello!\n"), ("user", "Bye"), ("assistant", " So long")]


def talk(turns: list[tuple[str, str]]) -> Talk:
    return Talk([Message(role, text) for role, text in turns])


MARKED = CHATML.replace(
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}",
    "{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}"
    "{{ message['content'] + '<|im_end|>\\n' }}{% endif %}",
)


@pytest.fixture
def tok(tiny: str) -> Any:
    return chat.tokenizer(tiny)


def said(tok: Any, encoded: chat.EncodedChats, place: int = 0) -> str:
    """What is trained on of one sample."""
    start = int(encoded.lengths[:place].sum())
    part = slice(start, start + int(encoded.lengths[place]))
    return str(tok.decode(encoded.ids[part][encoded.trained[part]]))


@pytest.mark.parametrize(
    ("messages", "wanted"),
    [
        ([("user", "Hi"), ("assistant", "Hello")], "Hello<|im_end|>"),
        (TWO_TURNS, "Hello!\n<|im_end|> So long<|im_end|>"),
        ([("system", "Be brief."), ("user", "Hi"), ("assistant", "Hey")], "Hey<|im_end|>"),
        ([("user", "一加一等于几？"), ("assistant", "等于二。")], "等于二。<|im_end|>"),
    ],
)
def test_the_mask_covers_what_the_assistant_says_and_its_stop_token(
    tok: Any, messages: list[tuple[str, str]], wanted: str
) -> None:
    assert said(tok, chat.encode(tok, [talk(messages)], 512)) == wanted


def test_token_ids_are_those_of_the_plain_rendering(tok: Any) -> None:
    encoded = chat.encode(tok, [talk(TWO_TURNS)], 512)
    plain = tok.apply_chat_template([{"role": r, "content": c} for r, c in TWO_TURNS], tokenize=True, return_dict=True)
    assert encoded.ids.tolist() == plain["input_ids"]


def test_marks_in_the_template_give_the_same_mask(tok: Any) -> None:
    plain = chat.encode(tok, [talk(TWO_TURNS)], 512)
    tok.chat_template = MARKED
    marked = chat.encode(tok, [talk(TWO_TURNS)], 512)
    assert marked.ids.tolist() == plain.ids.tolist()
    assert marked.trained.tolist() == plain.trained.tolist()


def test_long_samples_are_counted_and_dropped(tok: Any) -> None:
    rows = [[("user", "Hi"), ("assistant", "x" * n)] for n in (5, 500, 6)]
    encoded = chat.encode(tok, [*map(talk, rows)], 100)
    assert encoded.places.tolist() == [0, 2]
    assert encoded.drops == {"too long": 1}


def test_long_samples_are_cut_when_asked(tok: Any) -> None:
    rows = [[("user", "Hi"), ("assistant", "x" * 500)], [("user", "y" * 500), ("assistant", "cut away")]]
    encoded = chat.encode(tok, [*map(talk, rows)], 100, "truncate")
    assert encoded.lengths.tolist() == [100]
    assert encoded.drops == {"no trained token": 1}


def test_an_empty_mask_everywhere_is_an_error(tok: Any) -> None:
    with pytest.raises(JobError, match="none of 1 samples can be trained on"):
        chat.encode(tok, [talk([("user", "nobody answers")])], 100)


def test_a_template_without_stop_token_is_refused(tok: Any) -> None:
    tok.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    tok.chat_template += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    with pytest.raises(JobError, match="must end in a special token"):
        chat.encode(tok, [talk(TWO_TURNS)], 512)


def test_a_template_that_rewrites_earlier_turns_drops_the_sample_with_a_reason(tok: Any) -> None:
    tok.chat_template = CHATML.replace(
        "message['content']", "('gone' if loop.index + 2 < loop.length else message['content'])"
    )
    rows = [TWO_TURNS, TWO_TURNS[:2]]
    encoded = chat.encode(tok, [*map(talk, rows)], 512)
    assert encoded.drops == {"template rewrites earlier turns": 1}
    assert encoded.places.tolist() == [1]


def test_a_template_that_refuses_a_sample_drops_it_with_its_words(tok: Any) -> None:
    tok.chat_template = (
        "{% if messages[0]['role'] == 'assistant' %}{{ raise_exception('user first') }}{% endif %}" + CHATML
    )
    encoded = chat.encode(tok, [talk([("assistant", "I begin")]), talk(TWO_TURNS)], 512)
    assert encoded.drops == {"template refuses: user first": 1}


def test_a_tokenizer_without_template_is_refused(tiny: str, tmp_path: Any) -> None:
    tok = chat.tokenizer(tiny)
    tok.chat_template = None
    tok.save_pretrained(str(tmp_path))
    with pytest.raises(JobError, match="no chat template"):
        chat.tokenizer(str(tmp_path))


# -- calls, thoughts and turns that are context alone -------------------------------------------------------------

FULL = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name + (c.function.arguments | tojson) + '</call>' }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOOLS = '[{"type": "function", "function": {"name": "weather", "parameters": {}}}]'
CALL = Message("assistant", None, tool_calls=(ToolCall("c1", "weather", '{"town": "Oslo"}'),))
CALLING = Talk(
    [Message("user", "Rain?"), CALL, Message("tool", "no", tool_call_id="c1"), Message("assistant", "No.")], TOOLS
)
THINKING = Talk([Message("user", "17+5?"), Message("assistant", "22", reasoning="10+12")])


def test_calls_are_trained_on_as_the_template_renders_them(tok: Any) -> None:
    tok.chat_template = FULL
    encoded = chat.encode(tok, [CALLING], 512)
    assert said(tok, encoded) == '<call>weather{"town": "Oslo"}</call><|im_end|>No.<|im_end|>'
    assert '"name": "weather", "parameters"' in tok.decode(encoded.ids)


def test_thoughts_are_trained_on_as_the_template_renders_them(tok: Any) -> None:
    tok.chat_template = FULL
    assert said(tok, chat.encode(tok, [THINKING], 512)) == "<think>10+12</think>22<|im_end|>"


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_a_turn_that_is_context_alone_is_not_trained_on(tok: Any, template: str) -> None:
    tok.chat_template = template
    turns = [Message(role, text) for role, text in TWO_TURNS]
    turns[1] = turns[1]._replace(train=False)
    encoded = chat.encode(tok, [Talk(turns), talk(TWO_TURNS)], 512)
    assert said(tok, encoded) == " So long<|im_end|>"
    first, second = encoded.lengths.tolist()
    assert encoded.ids[:first].tolist() == encoded.ids[first : first + second].tolist()


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (CALLING, "template leaves out tools and tool calls and arguments of calls"),
        (THINKING, "template leaves out thoughts"),
        (Talk([Message("user", None, parts="[]"), Message("assistant", "a")]), "has parts that are no text"),
    ],
)
def test_a_template_that_cannot_render_all_of_a_sample_drops_it(tok: Any, sample: Talk, reason: str) -> None:
    assert chat.encode(tok, [sample, talk(TWO_TURNS)], 512).drops == {reason: 1}
