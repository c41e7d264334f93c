"""Taxonomy: disciplines, subjects, sessions and concepts, and the questions on them."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.engine import Reply
from gristmill.generation.contracts import Draft, Snapshot
from gristmill.generation.methods.taxonomy import DISCIPLINES, Taxonomy, in_order, listed
from tests.fakes import ScriptedAsk

SUBJECTS = " Algebra\n2. Geometry\n3. Calculus"
SESSIONS = " Limits\n2. Derivatives\n3. Integrals"
CONCEPTS = " Slope\n2. Tangent line\n3. Chain rule"
QUESTION = " A curve has the slope 2x. What is its height at 3 when it begins at 0?"
SHOWN_QUESTION = (
    " Explain why merchants on the Indian Ocean sailed in one direction in summer and in the other in winter, and what "
    "this meant for the towns in which they waited."
)
MATHS = Taxonomy(disciplines={"en": ("Mathematics",), "zh": ("数学",)}, max_sessions=1)


def drafted(method: Taxonomy, *replies: Reply | str, seed: int = 0) -> tuple[Draft, ScriptedAsk]:
    ask = ScriptedAsk(*replies)
    (draft,) = asyncio.run(method.expand((), ask, Random(seed)))
    return draft, ask


def test_it_needs_no_parents() -> None:
    assert Taxonomy.feeds == ()
    assert Taxonomy().draw(Snapshot(0), 3, Random(0)) == ()


def test_the_default_disciplines_are_as_many_in_chinese() -> None:
    assert len(set(DISCIPLINES["en"])) == len(set(DISCIPLINES["zh"])) == 32


def test_the_lists_are_shared_calls_from_the_discipline_down_and_the_question_is_not() -> None:
    draft, ask = drafted(MATHS, SUBJECTS, SESSIONS, CONCEPTS, QUESTION)
    assert [bool(settings.get("shared")) for _, settings in ask.asked] == [True, True, True, False]
    prefixes = [settings["prefix"] for _, settings in ask.asked]
    tags = draft.tags
    assert prefixes[0].endswith("Discipline: Mathematics\n1.")
    assert prefixes[1].endswith(f"Subject: Mathematics, {tags['subject']}\n1.")
    assert prefixes[2].endswith(f"Session: Mathematics, {tags['subject']}, {tags['session']}\n1.")
    assert prefixes[3].endswith(f"Session: {tags['session']}\nConcepts: {tags['concepts']}\nQuestion:")
    assert tags["discipline"] == "Mathematics" and tags["subject"] in SUBJECTS and tags["session"] in SESSIONS
    assert draft.messages == (Message("user", QUESTION.strip()),)
    assert draft.dropped is None


def test_chinese_walks_down_chinese_lists() -> None:
    method = MATHS.model_copy(update={"languages": ("zh",)})
    draft, ask = drafted(
        method, " 代数\n2. 几何", " 极限\n2. 导数", " 斜率\n2. 切线", "曲线的斜率为2x，从零开始，到三时高多少？"
    )
    assert ask.asked[0][1]["prefix"].endswith("专业：数学\n1.")
    assert "作业题" in ask.asked[3][0][0].text
    assert draft.tags["discipline"] == "数学" and draft.tags["session"] in ("极限", "导数")
    assert draft.dropped is None


def test_a_question_draws_on_one_or_two_sessions_and_one_to_five_concepts() -> None:
    """Section 2.4 of the paper."""
    sessions, concepts = set(), set()
    eight = "\n".join(f"{n}. concept {n}" for n in range(1, 9))[2:]
    method = MATHS.model_copy(update={"max_sessions": 2, "num_concepts": 8})
    for seed in range(60):
        draft, _ = drafted(method, SUBJECTS, SESSIONS, eight, eight, QUESTION, QUESTION, seed=seed)
        sessions.add(len(draft.tags["session"].split(", ")))
        concepts.add(len(draft.tags["concepts"].split(", ")))
    assert sessions == {1, 2}
    assert concepts == {1, 2, 3, 4, 5}


def test_disciplines_can_come_from_the_model() -> None:
    method = Taxonomy(num_disciplines=3, max_sessions=1)
    draft, ask = drafted(method, " Botany\n2. Law\n3. Dance", SUBJECTS, SESSIONS, CONCEPTS, QUESTION)
    assert "List 3 disciplines" in ask.asked[0][0][0].text and ask.asked[0][1]["shared"]
    assert draft.tags["discipline"] in ("Botany", "Law", "Dance")


@pytest.mark.parametrize(
    ("replies", "what"),
    [
        ([Reply("", "error: boom", 0, 0)], "subjects"),
        ([SUBJECTS, "   "], "sessions"),
        ([SUBJECTS, SESSIONS, Reply(" Slo", "length", 9, 9)], "concepts"),
    ],
)
def test_an_empty_list_ends_the_draw(replies: Sequence[Any], what: str) -> None:
    draft, ask = drafted(MATHS, *replies)
    assert draft.dropped == f"taxonomy: list of {what} is empty"
    assert draft.messages == () and len(ask.asked) == len(replies)


def test_no_disciplines_from_the_model_ends_the_draw() -> None:
    assert (
        drafted(Taxonomy(num_disciplines=3), Reply("", "stop", 9, 0))[0].dropped
        == "taxonomy: list of disciplines is empty"
    )
    with pytest.raises(ValidationError, match="disciplines is empty"):
        Taxonomy(disciplines={})


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("Question: What is the slope of a line?", "stop", 9, 9), None),
        (Reply(" What is the slope", "length", 9, 9), "question cut off"),
        (Reply(" Why?", "stop", 9, 1), "question too short"),
        (Reply(SHOWN_QUESTION, "stop", 9, 9), "question repeats the shown one"),
        (Reply(" Solve all of the following problems:", "stop", 9, 9), "question ends with a colon"),
        (Reply(" What is the slope of 2x? Answer: two", "stop", 9, 9), "question answers itself"),
        (Reply(" 直线的斜率是多少？答案：二", "stop", 9, 9), "question answers itself"),
        (Reply("", "error: boom", 9, 9), "error: boom"),
    ],
)
def test_questions_are_validated(reply: Reply, reason: str | None) -> None:
    draft, _ = drafted(MATHS, SUBJECTS, SESSIONS, CONCEPTS, reply)
    assert draft.dropped == (f"taxonomy: {reason}" if reason else None)
    assert reason or draft.messages[0].text == "What is the slope of a line?"


@pytest.mark.parametrize(
    ("text", "whole", "found"),
    [
        ("1. Limits\n2. Slopes", True, ("Limits", "Slopes")),
        ("1. **Limits**: what they are\n2) Slopes.", True, ("Limits", "Slopes")),
        ("1. 极限：定义\n2、导数", True, ("极限", "导数")),
        ("1. Limits\n2. Limits\n3. Slo", False, ("Limits",)),
        ("1. " + "very long " * 10 + "\n2. Slopes", True, ("Slopes",)),
        ("1. a\n2. b\n3. c\n4. d", True, ("a", "b", "c")),
        ("", True, ()),
    ],
)
def test_lists_give_short_different_names(text: str, whole: bool, found: tuple[str, ...]) -> None:
    assert listed(text, 3, whole=whole) == found


def test_choices_keep_the_order_of_the_syllabus() -> None:
    for seed in range(20):
        some = in_order("abcdef", 3, Random(seed))
        assert some == sorted(some) and len(some) == 3
    assert in_order("ab", 5, Random(0)) == ["a", "b"]


def test_the_answer_is_a_call_of_its_own_that_names_the_discipline() -> None:
    draft = Draft(
        (Message("user", "What is the slope?"),), {"language": "zh", "discipline": "数学", "concepts": "斜率"}
    )
    ask = ScriptedAsk("斜率是二。")
    whole = asyncio.run(Taxonomy().answer(draft, ask))
    system, user = ask.asked[0][0]
    assert "数学" in system.text and "斜率" not in system.text and user.text == "What is the slope?"
    assert [m.role for m in whole.messages] == ["user", "assistant"]
