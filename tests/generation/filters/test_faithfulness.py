"""Faithfulness: the share of the answer's words in the passage, and the model's verdict on the rest."""

import asyncio

import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.generation.contracts import Verdict
from gristmill.generation.filters.faithfulness import Faithfulness, extractive, names
from tests.fakes import ScriptedAsk

MILL = "The tide mill at Penrow was built in 1743 by Hester Lowe, a corn merchant."
TOFU = "石桥镇的豆腐用老浆点卤，不用石膏。老浆要发酵一夜。"


def passage(text: str) -> Sample:
    return Sample(id=text[:4], messages=(Message("user", text),))


def said(question: str, answer: str) -> Sample:
    return Sample(id="s", messages=(Message("user", question), Message("assistant", answer)))


def chance(yes: str, no: str, value: float) -> Reply:
    return Reply(yes, "stop", 9, 1, {yes: value, no: 1 - value})


def judged(step: Faithfulness, sample: Sample, text: str, *replies: Reply) -> tuple[Verdict, ScriptedAsk]:
    ask = ScriptedAsk(*replies, parents=(passage(text),))
    return asyncio.run(step.judge(sample, ask)), ask


def test_the_extractive_share_counts_words_and_chinese_characters() -> None:
    assert extractive("Hester Lowe built it.", MILL) == 3 / 4
    assert extractive("用老浆，不用盐。", TOFU) == 5 / 6
    assert extractive("", MILL) == extractive("!!", MILL) == 0


@pytest.mark.parametrize(
    ("text", "question", "answer", "yes", "no"),
    [
        (MILL, "Who built the tide mill?", "It was built by Hester Lowe.", " YES", " NO"),
        (TOFU, "石桥镇的豆腐用什么点卤？", "用老浆点卤。", "是", "否"),
    ],
)
def test_the_probability_of_yes_is_the_score(text: str, question: str, answer: str, yes: str, no: str) -> None:
    step, sample = Faithfulness(), said(question, answer)
    verdict, ask = judged(step, sample, text, chance(yes, no, 0.8))
    assert verdict.dropped is None and verdict.scores["faithfulness"] == pytest.approx(0.8)
    settings = ask.asked[0][1]
    assert settings["choices"] == (yes, no)
    assert text in settings["prefix"] and answer in settings["prefix"] and len(ask.asked) == 1
    assert "Answerable" not in settings["prefix"] and "可答" not in settings["prefix"]
    verdict, _ = judged(step, sample, text, chance(yes, no, 0.4))
    assert verdict.dropped == "faithfulness: not supported by the passage"


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        (MILL, "Who owns it now?", "Nowadays several wealthy foreign investors own everything."),
        (TOFU, "铺子有几家？", "如今还剩四家铺子卖豆花。"),
    ],
)
def test_words_that_stand_nowhere_cost_no_call(text: str, question: str, answer: str) -> None:
    verdict, ask = judged(Faithfulness(min_extractive=0.6), said(question, answer), text)
    assert verdict.dropped == "faithfulness: few words are in the passage" and not ask.asked
    assert verdict.scores["extractive"] < 0.6


def test_numbers_and_names_can_be_held_to_the_passage() -> None:
    assert names("In London it was 1,200 feet. The Thames and Grimbold.") == {
        "london",
        "1",
        "200",
        "thames",
        "grimbold",
    }
    for answer, reason in (
        ("It was built by Hester Lowe in 1743.", None),
        ("It was built by Hester Lowe in 1744.", "number or name is not in the passage"),
        ("It was built by Hester Brown.", "number or name is not in the passage"),
    ):
        reply = chance(" YES", " NO", 0.9)
        verdict, ask = judged(Faithfulness(exact_names=True), said("Who built the tide mill?", answer), MILL, reply)
        assert verdict.dropped == (f"faithfulness: {reason}" if reason else None)
        assert len(ask.asked) == (reason is None)
    chinese = said("铺子有几家？", "镇上有27家用老浆点卤的石桥豆腐。")
    verdict, _ = judged(Faithfulness(exact_names=True), chinese, TOFU, chance("是", "否", 0.9))
    assert verdict.dropped == "faithfulness: number or name is not in the passage"


def test_relevance_is_asked_first_and_only_when_wanted() -> None:
    step, sample = Faithfulness(relevance=True), said("Who built the tide mill?", "It was built by Hester Lowe.")
    verdict, ask = judged(step, sample, MILL, chance(" YES", " NO", 0.9), chance(" YES", " NO", 0.7))
    assert verdict.scores["relevance"] == pytest.approx(0.9) and verdict.scores["faithfulness"] == pytest.approx(0.7)
    assert ask.asked[0][1]["prefix"].endswith("Answerable:")
    assert ask.asked[1][1]["prefix"].startswith(ask.asked[0][1]["prefix"] + " YES\n")
    verdict, ask = judged(step, sample, MILL, chance(" YES", " NO", 0.1))
    assert verdict.dropped == "faithfulness: passage does not answer the question" and len(ask.asked) == 1


def test_a_refused_request_is_a_drop_with_its_reason() -> None:
    verdict, _ = judged(Faithfulness(), said("Who built it?", "Hester Lowe."), MILL, Reply("", "error: too long", 9, 0))
    assert verdict.dropped == "faithfulness: error: too long"


def test_only_parents_without_an_answer_are_passages() -> None:
    sample = said("Name a river.", "The Nile.")
    ask = ScriptedAsk(parents=(said("Name a sea.", "The Baltic."),))
    assert asyncio.run(Faithfulness().judge(sample, ask)) == Verdict()
    assert asyncio.run(Faithfulness().judge(sample, ScriptedAsk())) == Verdict()


def test_the_question_is_no_passage() -> None:
    sample = said("Who built the tide mill?", "It was built by Hester Lowe.")
    ask = ScriptedAsk(chance(" YES", " NO", 0.9), parents=(passage(sample.instruction), passage(MILL)))
    asyncio.run(Faithfulness().judge(sample, ask))
    assert ask.asked[0][1]["prefix"].count(sample.instruction) == 1


def test_all_passages_are_seen() -> None:
    ask = ScriptedAsk(chance(" YES", " NO", 0.9), parents=(passage(MILL), passage("The ferry leaves at noon.")))
    sample = said("When does the ferry leave the mill of Hester Lowe?", "The ferry leaves at noon.")
    assert asyncio.run(Faithfulness().judge(sample, ask)).scores["extractive"] == 1
    assert "noon" in ask.asked[0][1]["prefix"] and "1743" in ask.asked[0][1]["prefix"]
