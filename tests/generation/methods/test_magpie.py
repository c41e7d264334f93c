"""Magpie: the user's turn out of the template, its tags and filter, answers, further turns."""

import asyncio
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.choices import calibrated
from gristmill.cluster.models.engine import Reply
from gristmill.generation.contracts import Draft, Snapshot
from gristmill.generation.methods.magpie import CATEGORIES, DIFFICULTIES, QUALITIES, Magpie
from tests.fakes import ScriptedAsk


def chosen(word: str, words: tuple[str, ...], chance: float = 0.6) -> Reply:
    rest = (1 - chance) / (len(words) - 1)
    return Reply(word, "stop", 9, 1, {w: chance if w == word else rest for w in words})


def even(words: tuple[str, ...]) -> Reply:
    return Reply(words[0], "stop", 9, 1, dict.fromkeys(words, 1 / len(words)))


def tagged(quality: str, difficulty: str, category: str) -> list[Reply]:
    pairs = ((quality, QUALITIES), (difficulty, DIFFICULTIES), (category, CATEGORIES))
    return [reply for word, words in pairs for reply in (chosen(word, words), even(words))]


def drafted(method: Magpie, *replies: Reply | str) -> tuple[Draft, ScriptedAsk]:
    ask = ScriptedAsk(*replies)
    (draft,) = asyncio.run(method.expand((), ask, Random(0)))
    return draft, ask


def test_it_needs_no_parents() -> None:
    assert Magpie.feeds == ()
    assert Magpie().draw(Snapshot(0), 3, Random(0)) == ()


def test_the_paper_s_scales_have_five_qualities_five_difficulties_and_twelve_categories() -> None:
    assert (len(QUALITIES), len(DIFFICULTIES), len(CATEGORIES)) == (5, 5, 12)
    assert Magpie().qualities == ("good", "excellent")


def test_the_request_comes_from_the_bare_template_at_temperature_one() -> None:
    draft, ask = drafted(Magpie(min_p=0.0), " Why is the sea salty? ", *tagged("good", "easy", "reasoning"))
    messages, settings = ask.asked[0]
    assert messages == ()
    assert (settings["role"], settings["temperature"], settings["top_p"], settings["min_p"]) == ("user", 1.0, 1.0, 0.0)
    assert settings["stop"] == ("\n",)
    assert draft.messages == (Message("user", "Why is the sea salty?"),)
    assert draft.dropped is None
    assert dict(draft.tags) == {
        "language": "en",
        "domain": "general",
        "quality": "good",
        "difficulty": "easy",
        "category": "reasoning",
    }
    assert draft.scores["request_quality"] == pytest.approx(0.6 * 4 + 0.1 * (1 + 2 + 3 + 5))


def test_chinese_is_asked_for_by_a_system_prompt_and_rated_in_chinese() -> None:
    draft, ask = drafted(Magpie(languages=("zh",)), "海水为什么是咸的？", *tagged("excellent", "easy", "reasoning"))
    (turn,) = ask.asked[0][0]
    assert turn.role == "system" and "中文" in turn.text
    assert "评价" in ask.asked[1][0][0].text
    assert ask.asked[1][1]["prefix"].endswith("Request: 海水为什么是咸的？\nQuality: ")
    assert draft.tags["language"] == "zh" and draft.dropped is None


def test_several_lines_are_one_request_where_they_may_be() -> None:
    _, ask = drafted(Magpie(single_line=False), "One\n\ntwo", *tagged("good", "easy", "math"))
    assert ask.asked[0][1]["stop"] == ()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("", "stop", 3, 0), "instruction is empty"),
        (Reply("Write a poem about", "length", 3, 9), "instruction cut off"),
        (Reply("so so so so", "repetition", 3, 9), "instruction cut off"),
        (Reply("Translate this text:", "stop", 3, 9), "instruction ends with a colon"),
        (Reply("请翻译下面的话：", "stop", 3, 9), "instruction ends with a colon"),
        (Reply("", "error: the chat template does not take it", 0, 0), "error: the chat template does not take it"),
    ],
)
def test_bad_requests_are_dropped_before_they_are_rated(reply: Reply, reason: str) -> None:
    draft, ask = drafted(Magpie(), reply)
    assert draft.dropped == f"magpie: {reason}"
    assert len(ask.asked) == 1


@pytest.mark.parametrize("quality", QUALITIES)
def test_only_good_and_excellent_requests_are_kept(quality: str) -> None:
    draft, ask = drafted(Magpie(), "What is up?", *tagged(quality, "easy", "others"))
    kept = quality in ("good", "excellent")
    assert draft.dropped == (None if kept else "magpie: quality is low")
    assert len(ask.asked) == (7 if kept else 3)  # the other tags of a poor request are not asked for
    assert draft.tags["quality"] == quality


def test_a_rating_that_the_engine_refuses_is_a_drop_with_its_reason() -> None:
    draft, _ = drafted(Magpie(), "What is up?", Reply("", "error: too long", 0, 0))
    assert draft.dropped == "magpie: error: too long"


def test_nothing_is_rated_when_nothing_is_wanted() -> None:
    draft, ask = drafted(Magpie(qualities=(), tag=False), "What is up?")
    assert draft.dropped is None and len(ask.asked) == 1


def test_calibration_divides_by_what_is_said_of_nothing() -> None:
    """Zhao et al. 2021, section 5: p over p_cf, normalised; a biased 0.7 against 0.3 turns when the bias is 0.8."""
    found = calibrated({"a": 0.7, "b": 0.3}, {"a": 0.8, "b": 0.2})
    assert found == pytest.approx({"a": 0.875 / 2.375, "b": 1.5 / 2.375})
    assert calibrated({"a": 1.0}, {}) == {"a": 1.0}
    assert calibrated({}, {"a": 1.0}) == {}
    assert calibrated({"a": 0.5, "b": 0.5}, {"a": 1.0, "b": 0.0})["b"] < 1


ONE = Draft((Message("user", "Why is the sea salty?"),), {"language": "en", "domain": "general"})


def answered(method: Magpie, *replies: Reply | str, draft: Draft = ONE) -> tuple[Draft, ScriptedAsk]:
    ask = ScriptedAsk(*replies)
    return asyncio.run(method.answer(draft, ask)), ask


def test_the_answer_is_greedy() -> None:
    whole, ask = answered(Magpie(), "Rivers carry salt.")
    assert ask.asked[0][1]["temperature"] == 0
    assert ask.asked[0][0] == ONE.messages
    assert whole.messages == (*ONE.messages, Message("assistant", "Rivers carry salt."))
    assert whole.dropped is None and whole.tags["turns"] == "1"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [(Reply("Rivers", "length", 3, 9), "answer cut off"), (Reply(" ", "stop", 3, 1), "answer is empty")],
)
def test_an_answer_that_is_not_whole_is_dropped(reply: Reply, reason: str) -> None:
    assert answered(Magpie(turns=3), reply)[0].dropped == f"magpie: {reason}"


def test_further_turns_continue_the_conversation_so_far() -> None:
    whole, ask = answered(Magpie(turns=2), "Rivers carry salt.", "Which rivers?", "All of them.")
    messages, settings = ask.asked[1]
    assert settings["role"] == "user"
    assert [m.role for m in messages] == ["system", "user", "assistant"]
    assert [m.text for m in whole.messages] == [
        "Why is the sea salty?",
        "Rivers carry salt.",
        "Which rivers?",
        "All of them.",
    ]
    assert whole.tags["turns"] == "2"
    assert "system" not in {m.role for m in whole.messages}


@pytest.mark.parametrize(
    "replies",
    [
        [Reply("", "stop", 3, 0)],
        [Reply("And", "length", 3, 9)],
        ["Why is the sea salty?"],  # the same question once more
        ["Which rivers?", Reply("All", "length", 3, 9)],
    ],
)
def test_a_conversation_ends_where_the_next_turn_is_no_good(replies: list[Any]) -> None:
    whole, _ = answered(Magpie(turns=2), "Rivers carry salt.", *replies)
    assert whole.dropped is None
    assert len(whole.messages) == 2 and whole.tags["turns"] == "1"


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"systems has no de\.general"):
        Magpie(languages=("de",))
    with pytest.raises(ValidationError, match="qualities has fine"):
        Magpie(qualities=("fine",))
    assert Magpie(languages=("de",), systems={"de": {"general": "Du hilfst."}}).languages == ("de",)
