"""Requests as text and tokens: whose turn it is, what stands before it, and where choices part."""

from typing import Any

import pytest

from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.engine import Write
from gristmill.generation.engines.render import Node, RefusedError, Renderer

QUESTION = (Message("user", "How are you?"),)
TALK = (*QUESTION, Message("assistant", "Well."))
SYSTEM = "<|im_start|>system\nYou help.<|im_end|>\n"


@pytest.fixture(scope="module")
def tokenizer(tiny: str) -> Any:
    """Single bytes with a ChatML template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny)


@pytest.fixture(scope="module")
def renderer(tokenizer: Any) -> Renderer:
    return Renderer(tokenizer, 200)


def text(renderer: Renderer, messages: tuple[Message, ...], **how: Any) -> str:
    return renderer.text(Write(messages, 1, 0, **how))


def test_the_assistant_goes_on_behind_its_header_and_the_prefix(renderer: Renderer) -> None:
    asked = "<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\n"
    assert text(renderer, QUESTION) == SYSTEM + asked
    assert text(renderer, QUESTION, prefix="I am") == SYSTEM + asked + "I am"
    assert text(renderer, ()) == "<|im_start|>assistant\n"


def test_the_user_goes_on_behind_the_part_of_the_template_before_a_question(renderer: Renderer) -> None:
    assert text(renderer, (), role="user") == SYSTEM + "<|im_start|>user\n"
    prompt_for = text(renderer, TALK, role="user", prefix="And")
    assert prompt_for.endswith("Well.<|im_end|>\n<|im_start|>user\nAnd")
    with pytest.raises(RefusedError, match="last turn is the user's"):
        text(renderer, QUESTION, role="user")


def test_a_turn_of_the_user_ends_with_the_token_that_the_template_says(renderer: Renderer, tokenizer: Any) -> None:
    assert renderer.user_end == ([tokenizer.convert_tokens_to_ids("<|im_end|>")], [])


def test_a_template_without_special_tokens_ends_a_turn_with_its_words(tokenizer: Any) -> None:
    import copy

    plain = copy.deepcopy(tokenizer)
    plain.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n### end\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    assert Renderer(plain, 200).user_end == ([], ["### end"])


def test_what_leaves_no_room_or_does_not_fit_the_template_is_refused(renderer: Renderer, tokenizer: Any) -> None:
    import copy

    with pytest.raises(RefusedError, match="prompt has 300 tokens, must be below 200"):
        renderer.ids("x" * 300)
    strict = copy.deepcopy(tokenizer)
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(RefusedError, match="roles must alternate"):
        text(Renderer(strict, 200), QUESTION)


def test_a_system_turn_that_the_template_refuses_goes_into_the_question(renderer: Renderer, tokenizer: Any) -> None:
    import copy

    strict = copy.deepcopy(tokenizer)
    strict.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + tokenizer.chat_template
    )
    asked = (Message("system", "Be brief."), *QUESTION)
    assert Renderer(strict, 200).folds_system
    assert not renderer.folds_system
    assert "<|im_start|>user\nBe brief.\n\nHow are you?<|im_end|>" in text(Renderer(strict, 200), asked)


def tree(renderer: Renderer, before: str, *choices: str) -> tuple[str, Any]:
    head, node = renderer.choices(renderer.ids(before), choices)
    return renderer._tokenizer.decode(head), node


def test_choices_part_where_their_tokens_part(renderer: Renderer, tokenizer: Any) -> None:
    def letter(of: str) -> int:
        return int(tokenizer.encode(of, add_special_tokens=False)[0])

    _, node = tree(renderer, "Label: ", "positive", "negative")
    assert isinstance(node, Node)
    assert node.branches == {letter("p"): "positive", letter("n"): "negative"}
    _, node = tree(renderer, "Label: ", "cat", "car", "dog")
    assert node.branches[letter("d")] == "dog"
    inner = node.branches[letter("c")]
    assert inner.branches == {letter("t"): "cat", letter("r"): "car"}
    assert tokenizer.decode(inner.ids).endswith("ca")


def test_a_choice_that_another_begins_with_ends_in_the_end_of_text(renderer: Renderer, tokenizer: Any) -> None:
    _, node = tree(renderer, "", "yes", "yes please")
    assert node.branches[tokenizer.eos_token_id] == "yes"
    assert "yes please" in node.branches.values()


def test_one_choice_needs_no_call_and_equal_ones_are_refused(renderer: Renderer) -> None:
    assert tree(renderer, "Label: ", "only")[1] == "only"
    with pytest.raises(RefusedError, match="must differ"):
        tree(renderer, "Label: ", "same", "same")


@pytest.mark.parametrize("before", ["", "短文：", "a long text before it, longer than the tail " * 2])
def test_head_and_branch_are_the_prompt_with_the_choice(renderer: Renderer, tokenizer: Any, before: str) -> None:
    head, node = renderer.choices(renderer.ids(before), ("正面", "负面"))
    assert isinstance(node, Node)
    for token, choice in node.branches.items():
        whole = tokenizer.encode(before + str(choice), add_special_tokens=False)
        begin_answer = [*head, *node.ids, token]
        assert whole[: len(begin_answer)] == begin_answer
