"""Grounded: questions on chunks and on two of them, provenance, the rules for questions, English and Chinese."""

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.generation.contracts import Draft, Snapshot
from gristmill.generation.methods.grounded import Grounded
from tests.fakes import ScriptedAsk


def chunk(document: str, number: int, text: str, language: str = "en") -> Sample:
    tags = {"document": document, "chunk": str(number), "span": f"{number * 100}-{number * 100 + 90}", "title": "T"}
    return Sample(id=f"{document}{number}", messages=(Message("user", text),), tags={**tags, "language": language})


MILL = [chunk("mill", n, f"Part {n} of the text on the mill at Penrow, which stands by the sea.") for n in range(1, 5)]
FERRY = [chunk("ferry", 1, "The ferry to Holm leaves at noon from the mill at Penrow.")]
TOFU = [chunk("tofu", n, f"石桥豆腐第{n}段：黄豆要用井水泡八个小时。", "zh") for n in (1, 2)]
DOCUMENTS = [*MILL, *FERRY, *TOFU]


def expanded(method: Grounded, parents: list[Sample], *replies: Any) -> tuple[list[Draft], ScriptedAsk]:
    ask = ScriptedAsk(*replies, parents=parents)
    return asyncio.run(method.expand(parents, ask, Random(0))), ask


def test_every_chunk_is_drawn_once_before_any_comes_again() -> None:
    snapshot = Snapshot(0, documents=DOCUMENTS)
    drawn = [Grounded(multi_hop=0).draw(snapshot, turn, Random(turn)) for turn in range(14)]
    assert [parents[0].id for parents in drawn] == [c.id for c in DOCUMENTS] * 2
    assert {len(parents) for parents in drawn} == {1}


def test_the_second_chunk_is_of_the_same_document_and_another_one() -> None:
    snapshot, method = Snapshot(0, documents=DOCUMENTS), Grounded(multi_hop=1)
    for turn in range(40):
        first, *second = method.draw(snapshot, turn, Random(turn))
        assert len(second) == (0 if first.id == "ferry1" else 1)
        assert all(s.tags["document"] == first.tags["document"] and s.id != first.id for s in second)
    some = [len(Grounded(multi_hop=0.25).draw(snapshot, 0, Random(n))) for n in range(400)]
    assert 0.18 < some.count(2) / 400 < 0.32


@pytest.mark.parametrize(
    ("parents", "question", "head", "kind"),
    [
        (MILL[:1], " Why does the mill at Penrow grind at night? ", "Question (reason):", "reason"),
        (TOFU[:1], "石桥豆腐的黄豆要用井水泡几个小时？", "问题（原因）：", "reason"),
        (MILL[:2], " Which part of the mill at Penrow came first?", "Question (connection):", "connection"),
        (TOFU, "石桥豆腐的黄豆要泡多久才能磨浆？", "问题（联系）：", "connection"),
    ],
)
def test_a_question_is_asked_of_the_chunk_and_answered_on_the_same_prompt(
    parents: list[Sample], question: str, head: str, kind: str
) -> None:
    method = Grounded(kinds=("reason",))
    [draft], ask = expanded(method, parents, question, " Because of the tide. ")
    prefix = ask.asked[0][1]["prefix"]
    assert all(parent.instruction in prefix for parent in parents) and prefix.endswith(head)
    assert draft.messages == (Message("user", question.strip()),) and draft.dropped is None
    assert draft.tags["question"] == kind and draft.tags["language"] == parents[0].tags["language"]
    assert draft.tags["document"] == parents[0].tags["document"] and draft.tags["title"] == "T"
    assert draft.tags["chunk"] == "; ".join(parent.tags["chunk"] for parent in parents)
    assert draft.tags["span"] == "; ".join(parent.tags["span"] for parent in parents)
    whole = asyncio.run(method.answer(draft, ask))
    assert ask.asked[1][1]["prefix"].startswith(prefix) and question.strip() in ask.asked[1][1]["prefix"]
    assert whole.messages[1:] == (Message("assistant", "Because of the tide."),) and whole.dropped is None


def test_questions_on_one_chunk_are_of_different_kinds_and_not_the_same() -> None:
    replies = ("Who built the mill at Penrow?", "Who built the mill at Penrow?", "How does the mill at Penrow grind?")
    drafts, ask = expanded(Grounded(questions=3), MILL[:1], *replies)
    assert len({draft.tags["question"] for draft in drafts}) == 3 == len(ask.asked)
    assert [draft.dropped for draft in drafts] == [None, "grounded: same question again", None]
    kinds = Counter(
        draft.tags["question"]
        for seed in range(40)
        for draft in asyncio.run(Grounded(questions=2).expand(MILL[:1], ScriptedAsk(*replies[1:]), Random(seed)))
    )
    assert len(kinds) == 8 and max(kinds.values()) < 3 * min(kinds.values())


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("Who built the mill at Penrow in 1743?", None),
        ("石桥豆腐为什么不用石膏？", None),
        ("Who built the mill at Penrow? It was Hester Lowe.", None),
        (Reply("Who built the mill at Penrow? And wh", "length", 9, 9), None),
        ("", "no question"),
        ("The mill stands by the sea.", "no question"),
        ("Why not?", "question too short"),
        ("为何？", "question too short"),
        ("What " + "very " * 70 + "long?", "question too long"),
        (Reply("Who built the", "length", 9, 9), "question cut off"),
        (Reply("", "error: prompt has 3000 tokens", 9, 0), "error: prompt has 3000 tokens"),
    ],
)
def test_questions_can_be_understood_alone(reply: Reply | str, reason: str | None) -> None:
    [draft], _ = expanded(Grounded(), MILL[:1], reply)
    assert draft.dropped == (f"grounded: {reason}" if reason else None)
    assert reason or draft.messages[0].text.endswith(("?", "？"))


@pytest.mark.parametrize(
    "reply", ["The passage does not say.", "It is not mentioned in the passage.", "文中没有提到。"]
)
def test_what_the_passage_does_not_answer_is_dropped(reply: str) -> None:
    method = Grounded()
    [draft], ask = expanded(method, MILL[:1], "Who owns the mill at Penrow?", reply)
    assert asyncio.run(method.answer(draft, ask)).dropped == "grounded: passage does not answer it"


def test_an_answer_that_is_cut_off_is_dropped() -> None:
    method = Grounded()
    [draft], ask = expanded(method, MILL[:1], "Who owns the mill at Penrow?", Reply("It is", "length", 9, 9))
    assert asyncio.run(method.answer(draft, ask)).dropped == "grounded: answer cut off"


@pytest.mark.parametrize("parents", [MILL[:1], TOFU[:1]])
def test_the_passage_can_come_along_as_the_system_turn(parents: list[Sample]) -> None:
    method = Grounded(with_passage=True)
    [draft], ask = expanded(method, parents, "What is mentioned in this text 文中?", "The mill.")
    whole = asyncio.run(method.answer(draft, ask))
    assert [turn.role for turn in whole.messages] == ["system", "user", "assistant"]
    assert parents[0].instruction in whole.messages[0].text
    assert whole.dropped is None, "a question may point at a passage that is there"


def test_the_second_chunk_may_be_found_in_the_whole_corpus() -> None:
    method = Grounded(second="corpus", multi_hop=1)
    assert len(method.draw(Snapshot(0, documents=DOCUMENTS), 0, Random(0))) == 1
    ask = ScriptedAsk("When does the ferry to Holm leave from the mill?", "At noon.", parents=FERRY)
    ask.prepared = asyncio.run(method.prepare(Snapshot(0, documents=DOCUMENTS), None, ask))
    [draft] = asyncio.run(method.expand(FERRY, ask, Random(0)))
    assert [parent.tags["document"] for parent in draft.parents] == ["mill"]
    assert draft.tags["document"] == "ferry; mill" and draft.tags["question"] == "connection"
    asyncio.run(method.answer(draft, ask))
    assert draft.parents[0].instruction in ask.asked[1][1]["prefix"]
    assert ask.asked[1][1]["prefix"].startswith(ask.asked[0][1]["prefix"])
