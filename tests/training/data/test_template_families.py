"""Every answer of every family is trained on once, after what the model reads at inference, and as it writes it."""

import json
from collections import Counter
from typing import Any

import pytest

from gristmill.cluster.contract.sample import Message
from gristmill.training.data import chat
from gristmill.training.data.answers import Talk
from gristmill.training.data.chat import Encoding
from tests.training.data.template_families import FAMILIES, Family
from tests.training.data.template_rows import conversations, tokenizer


def turn_of(message: Message) -> dict[str, Any]:
    """A turn as transformers' templates take it."""
    turn: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.reasoning:
        turn |= {"reasoning_content": message.reasoning, "thinking": message.reasoning}
    for call in message.tool_calls:
        function = {"name": call.name, "arguments": json.loads(call.arguments)}
        turn["tool_calls"] = [{"type": "function", "id": call.id, "function": function}]
    return turn


def folded(turns: list[Message]) -> list[Message]:
    """The same conversation for a template without system turns: the system's text before the first question."""
    if turns[0].role != "system":
        return turns
    return [turns[1]._replace(content=f"{turns[0].text}\n\n{turns[1].text}"), *turns[2:]]


def at_inference(tok: Any, family: Family, turns: list[Message], tools: str | None) -> Counter[tuple[str, str]]:
    """What the model reads and what it writes, for each answer that is to be trained on."""
    turns = turns if family.system else folded(turns)
    wanted: Counter[tuple[str, str]] = Counter()
    for place, turn in enumerate(turns):
        if turn.role != "assistant" or not turn.train:
            continue
        prompt = tok.apply_chat_template(
            [*map(turn_of, turns[:place])],
            tools=json.loads(tools) if tools else None,
            tokenize=False,
            add_generation_prompt=True,
        )
        said = family.said(turn.text)
        if turn.reasoning and family.thought:
            said = family.thought(turn.reasoning, turn.text)
        if turn.tool_calls and family.called:
            said = family.called(turn.tool_calls[0].name, turn.tool_calls[0].arguments)
        if family.name == "glm-4" and place + 1 == len(turns):  # its stop is the header of the turn that follows
            said = family.said(turn.text)
        wanted[prompt, said] += 1
    return wanted


def trained(tok: Any, encoded: chat.EncodedChats) -> Counter[tuple[str, str]]:
    """What is read before, and what is trained on, of each run of trained tokens."""
    found: Counter[tuple[str, str]] = Counter()
    start = 0
    for length in encoded.lengths.tolist():
        ids, mask = encoded.ids[start : start + length], encoded.trained[start : start + length]
        start += length
        begin = None
        for at in range(length + 1):
            inside = at < length and bool(mask[at])
            if inside and begin is None:
                begin = at
            elif not inside and begin is not None:
                found[tok.decode(ids[:begin]), tok.decode(ids[begin:at])] += 1
                begin = None
    return found


def differences(family: Family, count: int, seed: int = 0) -> tuple[int, list[str], dict[str, int]]:
    """Answers, those that are not trained on as at inference, and lost conversations by reason."""
    tok = tokenizer(family)
    talks = conversations(family, count, seed)
    answers, wrong = 0, []
    encoded = chat.encode(tok, [Talk(turns, tools) for turns, tools in talks], Encoding(100_000, max_lost=1))
    wanted: Counter[tuple[str, str]] = Counter()
    for turns, tools in talks:
        if any(turn.role == "assistant" and turn.train for turn in turns):
            wanted += at_inference(tok, family, turns, tools)
    answers = wanted.total()
    for (before, said), number in trained(tok, encoded).items():
        # a token that joins the end of the header with the beginning of the answer is trained on as a whole
        match = next(
            ((p, s) for p, s in wanted if p + s == before + said and said.endswith(s) and len(said) - len(s) < 8), None
        )
        if match is None or wanted[match] < number:
            wrong.append(f"{before[-80:]!r} -> {said!r}")
        else:
            wanted[match] -= number
            wanted += Counter()
    wrong += [f"missing: {prompt[-80:]!r} -> {said!r}" for prompt, said in wanted]
    lost = {reason: n for reason, n in encoded.drops.items() if reason != chat.UNTRAINED}
    return answers, wrong, lost


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_answers_are_trained_on_as_at_inference(family: Family) -> None:
    answers, wrong, lost = differences(family, 25)
    assert answers > 25
    assert not lost
    assert not wrong, "\n".join(wrong[:5])
