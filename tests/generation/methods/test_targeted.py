"""Targeted: labels in turn, seeds shown, texts parsed, labels checked."""

import asyncio
import json
from collections import Counter
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.template import parse
from gristmill.generation.contracts import Draft, Snapshot
from gristmill.generation.methods.targeted.method import Evidence, Targeted
from gristmill.generation.methods.targeted.prompts import CHECK, CHECK_MARKED
from gristmill.generation.prompting.label_check import Case, LabelCheck
from tests.fakes import ScriptedAsk

FILMS = Targeted(labels={"good": "the writer liked it", "bad": "the writer did not"}, near_miss=0.0, tries=1)
DISHES = Targeted(labels=["好评", "差评"], about="外卖评论", near_miss=0.0, tries=1)
NAMES = Targeted(labels=["person", "city"], task="entities", near_miss=0.0, tries=1)


def labelled(text: str, label: str, language: str = "en") -> Sample:
    return Sample(
        text, (Message("user", text), Message("assistant", label)), tags={"label": label, "language": language}
    )


SEEDS = tuple(labelled(f"It was a {word} film", "good") for word in ("fine", "warm", "rich", "bold", "kind", "deep"))
SEEDS += tuple(labelled(f"It was a {word} film", "bad") for word in ("flat", "dull", "poor", "weak", "thin", "pale"))
ZH_SEEDS = tuple(labelled(f"菜很{word}，下次再来", "好评", "zh") for word in "香鲜热多快")
ZH_SEEDS += tuple(labelled(f"菜很{word}，不会再来", "差评", "zh") for word in "咸冷少慢油")


def marked(text: str) -> Sample:
    return Sample(text, (Message("user", text),), tags={"language": "en"})


NAMED = (marked("[Ann](person) left [Rome](city)."), marked("It rains in [Oslo](city)."), marked("Hi, [Bob](person)!"))


def chances(**of: float) -> Reply:
    return Reply(max(of, key=lambda name: of[name]), "stop", 9, 1, of)


GOOD, BAD, EVEN = chances(good=0.8, bad=0.2), chances(good=0.3, bad=0.7), chances(good=0.5, bad=0.5)


NOTHING = Evidence()


def drafted(
    method: Targeted, *replies: Reply | str, turn: int = 0, seeds: tuple[Sample, ...] = (), prepared: Evidence = NOTHING
) -> tuple[Draft, ScriptedAsk]:
    parents = method.draw(Snapshot(0, seeds=seeds), turn, Random(0))
    ask = ScriptedAsk(*replies, prepared=prepared, turn=turn)
    (draft,) = asyncio.run(method.expand(parents, ask, Random(0)))
    return draft, ask


def test_a_draw_tries_again_until_a_text_is_kept() -> None:
    method, parents = FILMS.model_copy(update={"tries": 3}), SEEDS[:5]
    replies: list[Reply | str] = ["Nice", "I would see it twice.", BAD, EVEN, "I would see it again.", GOOD, EVEN]
    drafts = asyncio.run(method.expand(parents, ScriptedAsk(*replies, prepared=NOTHING, turn=1), Random(0)))
    assert [draft.dropped for draft in drafts] == [
        "targeted: text too short",
        "targeted: another label is likelier",
        None,
    ]
    assert {draft.tags["label"] for draft in drafts} == {"good"}
    assert (
        len(asyncio.run(method.expand(parents, ScriptedAsk("Nice", "Nice", "Nice", prepared=NOTHING), Random(0)))) == 3
    )
    assert (
        len(
            asyncio.run(
                method.expand(parents, ScriptedAsk(Reply("", "error: boom", 0, 0), prepared=NOTHING), Random(0))
            )
        )
        == 1
    )


def test_classes_are_balanced_by_construction() -> None:
    turns = [FILMS.label_of(turn, ()) for turn in range(12)]
    assert Counter(turns) == {"good": 6, "bad": 6}
    weighted = Targeted(labels=["a", "b", "c"], quota={"b": 2})
    assert Counter(weighted.label_of(turn, ()) for turn in range(8)) == {"a": 2, "b": 4, "c": 2}


def rows(label: str, count: int, dropped: str | None = None) -> list[Sample]:
    return [Sample(f"{label}{n}", (), method="targeted", tags={"label": label}, dropped=dropped) for n in range(count)]


def test_a_label_that_lags_gets_more_turns_and_the_same_ones_each_time() -> None:
    snapshot = Snapshot(
        2, made=rows("good", 30) + rows("bad", 10), refused=rows("good", 10, "x") + rows("bad", 30, "x")
    )
    weights = FILMS.weights(snapshot)
    turns = Counter(FILMS.label_of(turn, weights) for turn in range(100))
    assert turns["bad"] > 80
    level = FILMS.weights(Snapshot(2, made=rows("good", 20) + rows("bad", 20), refused=rows("good", 20, "x")))
    turns = Counter(FILMS.label_of(turn, level) for turn in range(300))
    assert turns["good"] / turns["bad"] == pytest.approx(2, abs=0.2)  # half of its texts are dropped
    assert weights == FILMS.weights(snapshot)
    other = [Sample("o", (), method="respond", tags={"label": "good"})] * 50
    assert FILMS.weights(Snapshot(2, made=other))[0] == FILMS.weights(Snapshot(2, made=other))[1]


def test_many_settled_rows_are_counted_by_a_part_of_them() -> None:
    made = rows("good", 3000) + rows("bad", 1000)
    bad, good = FILMS.weights(Snapshot(5, made=made))
    assert bad > 5 * good  # two more rounds make 6,000: of the good ones there are enough then


def test_turns_of_a_later_round_are_spread_evenly_by_weight() -> None:
    for weights in ((1.0, 1.0), (3.0, 1.0)):
        for first in (0, 1000):
            turns = Counter(FILMS.label_of(turn, weights) for turn in range(first, first + 40))
            assert turns["bad"] == pytest.approx(40 * weights[0] / sum(weights), abs=1.5)


@pytest.mark.parametrize(("turn", "label"), [(0, "bad"), (1, "good")])
def test_five_seeds_of_the_label_begin_the_list(turn: int, label: str) -> None:
    draft, ask = drafted(
        FILMS, "Nothing in it moved me at all.", chances(bad=0.5, good=0.5), EVEN, turn=turn, seeds=SEEDS
    )
    (asked,), settings = ask.asked[0]
    *shown, last = settings["prefix"].split("\n")
    assert {line.removeprefix(f"{label}, 5 words: ") for line in shown} < {
        seed.instruction for seed in SEEDS if seed.tags["label"] == label
    }
    assert len(set(shown)) == 5 and last.startswith(f"{label}, ") and last.endswith(":")
    assert "bad (the writer did not), good (the writer liked it)" in asked.text
    assert draft.tags["label"] == label and draft.tags["language"] == "en"
    assert {"length", "style", "difficulty"} < draft.tags.keys()


def test_a_sample_is_instruction_and_text_and_then_the_label() -> None:
    draft, _ = drafted(FILMS, ' "I would see it twice." ', GOOD, EVEN, turn=1, seeds=SEEDS)
    assert draft.messages == (
        Message("user", "Which label fits this text: bad, good?\n\nI would see it twice."),
        Message("assistant", "good"),
    )
    assert draft.complete and draft.dropped is None
    assert draft.scores["label_confidence"] == pytest.approx(0.8)
    bare = FILMS.model_copy(update={"instruction_prompts": {"en": "{text}"}})
    draft, _ = drafted(bare, "I would see it twice.", GOOD, EVEN, turn=1, seeds=SEEDS)
    assert draft.messages[0].text == "I would see it twice."


def test_chinese_is_written_and_checked_in_chinese() -> None:
    even = chances(好评=0.5, 差评=0.5)
    known = asyncio.run(DISHES.prepare(Snapshot(0, seeds=ZH_SEEDS), None, ScriptedAsk(*[even] * 20)))
    draft, ask = drafted(
        DISHES,
        "汤洒了一半，打电话也没人接。",
        chances(好评=0.1, 差评=0.9),
        even,
        seeds=ZH_SEEDS,
        turn=1,
        prepared=known,
    )
    assert draft.tags["label"] == "差评"
    assert "外卖评论" in ask.asked[0][0][0].text and "\n差评，" in ask.asked[0][1]["prefix"]
    assert draft.messages[0].text == "下面这段文本属于哪一类：好评、差评？\n\n汤洒了一半，打电话也没人接。"
    assert ask.asked[1][1]["prefix"].endswith("文本：汤洒了一半，打电话也没人接。\n标签：")
    assert ask.asked[1][1]["prefix"].count("标签：") == 11
    assert draft.dropped is None and draft.scores["label_confidence"] == pytest.approx(0.9)


def test_the_check_begins_with_as_many_texts_of_each_label() -> None:
    known = asyncio.run(FILMS.prepare(Snapshot(0, seeds=SEEDS), None, ScriptedAsk(*[EVEN] * 20)))
    assert Counter(label for *_, label in known.shown) == {"good": 6, "bad": 6}
    assert [label for *_, label in known.shown[:4]] == ["bad", "good", "bad", "good"]
    later = asyncio.run(FILMS.prepare(Snapshot(3, made=rows("bad", 3)), known, ScriptedAsk()))
    assert later.shown == known.shown and later.weights
    _, ask = drafted(FILMS, "I would see it twice.", GOOD, turn=1, seeds=SEEDS, prepared=known)
    prefix = ask.asked[1][1]["prefix"]
    assert prefix.startswith("Text: It was a flat film\nLabel: bad\n\nText: It was a fine film\nLabel: good\n\n")
    assert ask.asked[1][1]["choices"] == ("bad", "good")


def test_the_bias_of_the_check_is_what_it_says_of_random_words_of_the_shown_texts() -> None:
    shown = (Case("en", "Fine warm film", "", "good"), Case("en", "Dull film", "", "bad"))
    check = LabelCheck("en", parse(CHECK["en"]), ("bad", "good"), shown=shown)
    ask = ScriptedAsk(*[GOOD, EVEN] * 10)
    assert asyncio.run(check.prior(ask)) == pytest.approx({"good": 2 / 3, "bad": 1 / 3})
    asked = [settings["prefix"].removesuffix("\nLabel: ").rsplit("Text: ", 1)[1] for _, settings in ask.asked]
    assert len(asked) == 20 and len(set(asked)) > 4
    assert {len(text.split()) for text in asked} == {2}
    assert {word for text in asked for word in text.split()} == {"fine", "warm", "film", "dull"}
    few = LabelCheck("en", parse(CHECK["en"]), ("bad", "good"), shown=shown[:1])
    assert asyncio.run(few.prior(ScriptedAsk())) == {}
    cases = (Case("zh", "菜很香", "", "好"), Case("zh", "菜很咸", "", "坏"))
    chinese = LabelCheck("zh", parse(CHECK["zh"]), ("坏", "好"), shown=cases)
    asyncio.run(chinese.prior(ask := ScriptedAsk(*[chances(好=0.5, 坏=0.5)] * 20)))
    assert len(ask.asked[0][1]["prefix"].removesuffix("\n标签：").rsplit("文本：", 1)[1]) == 3


def test_the_bias_for_entities_asks_for_the_words_of_each_label_alike() -> None:
    shown = (Case("en", "Ann left Rome", "Rome", "city"), Case("en", "Ann left Rome", "Ann", "person"))
    ask = ScriptedAsk(*[chances(city=0.5, person=0.5)] * 20)
    asyncio.run(LabelCheck("en", parse(CHECK_MARKED["en"]), ("city", "person"), shown=shown).prior(ask))
    asked = [settings["prefix"].removesuffix("\nLabel: ").rsplit("Text: ", 1)[1] for _, settings in ask.asked]
    assert Counter(text.rsplit("\nWords: ", 1)[1] for text in asked) == {"Rome": 10, "Ann": 10}
    assert all(text.rsplit("\nWords: ", 1)[1] in text.split("\n")[0] for text in asked)


def test_a_biased_check_is_put_right_by_the_seeds() -> None:
    says_bad = [chances(good=0.1, bad=0.9)] * 20
    known = asyncio.run(FILMS.prepare(Snapshot(0, seeds=SEEDS), None, ScriptedAsk(*says_bad)))
    draft, ask = drafted(FILMS, "I would see it twice.", BAD, turn=1, seeds=SEEDS, prepared=known)
    assert draft.dropped is None and len(ask.asked) == 2
    assert draft.scores["label_confidence"] == pytest.approx((0.3 / 0.1) / (0.3 / 0.1 + 0.7 / 0.9))


@pytest.mark.parametrize(
    ("check", "blank", "margin", "kept"),
    [
        (GOOD, EVEN, 0.0, True),
        (BAD, EVEN, 0.0, False),
        (BAD, EVEN, -1.0, True),
        (GOOD, EVEN, 0.7, False),
        (BAD, chances(good=0.1, bad=0.9), 0.0, True),  # the model says bad of everything
    ],
)
def test_texts_of_another_label_are_dropped(check: Reply, blank: Reply, margin: float, kept: bool) -> None:
    method = FILMS.model_copy(update={"min_margin": margin})
    draft, ask = drafted(method, "I would see it twice.", check, blank, turn=1, seeds=SEEDS)
    assert draft.dropped == (None if kept else "targeted: another label is likelier")
    assert "label_confidence" in draft.scores
    assert ask.asked[2][1]["shared"]  # the empty text is asked for once


def test_the_check_can_be_left_out_or_left_raw() -> None:
    draft, ask = drafted(FILMS.model_copy(update={"check": False}), "I would see it twice.", turn=1, seeds=SEEDS)
    assert draft.dropped is None and not draft.scores and len(ask.asked) == 1
    raw, ask = drafted(FILMS.model_copy(update={"calibrate": False}), "I would see it twice.", BAD, turn=1, seeds=SEEDS)
    assert raw.scores["label_confidence"] == 0.3 and len(ask.asked) == 2


def test_a_refused_check_is_a_drop_with_its_reason() -> None:
    draft, _ = drafted(FILMS, "I would see it twice.", Reply("", "error: too long", 0, 0), turn=1, seeds=SEEDS)
    assert draft.dropped == "targeted: error: too long"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("", "stop", 9, 0), "text too short"),
        (Reply("Nice", "stop", 9, 1), "text too short"),
        (Reply("word " * 151, "stop", 9, 151), "text too long"),
        (Reply("I would see", "length", 9, 9), "text cut off"),
        (Reply("This one is good, see it.", "stop", 9, 9), "text names its label"),
        (Reply("It was a FINE film!", "stop", 9, 9), "text repeats a seed"),
        (Reply("", "error: boom", 0, 0), "error: boom"),
    ],
)
def test_texts_are_validated_before_they_are_checked(reply: Reply, reason: str) -> None:
    five = tuple(seed for seed in SEEDS if seed.instruction != "It was a deep film")
    draft, ask = drafted(FILMS, reply, turn=1, seeds=five)
    assert draft.dropped == f"targeted: {reason}" and len(ask.asked) == 1
    assert draft.tags["label"] == "good"


def test_a_label_of_chinese_characters_is_found_in_a_text() -> None:
    assert DISHES.refusal("必须给个好评，下次还来", "好评", "stop") == "text names its label"
    assert DISHES.refusal("味道好，评价也高", "好评", "stop") == "text names its label"  # punctuation is no word
    assert DISHES.refusal("送得很快，味道不错", "好评", "stop") is None
    assert DISHES.model_copy(update={"label_words": True}).refusal("必须给个好评，下次还来", "好评", "stop") is None


def test_it_works_without_seeds_and_still_in_turn() -> None:
    labels = [drafted(FILMS, "I would see it twice.", EVEN, EVEN, turn=turn)[0].tags["label"] for turn in range(6)]
    assert labels == ["bad", "good"] * 3
    _, ask = drafted(FILMS, "I would see it twice.", EVEN, EVEN)
    assert [m.role for m in ask.asked[0][0]] == ["user"]
    assert ask.asked[1][1]["prefix"] == "Text: I would see it twice.\nLabel: "
    only_zh = Evidence((), (Case("zh", "菜很香", "", "good"),))
    assert drafted(FILMS, "菜很好吃，还会再来", EVEN, EVEN, prepared=only_zh)[0].tags["language"] == "zh"


def test_near_misses_look_like_another_label() -> None:
    method = FILMS.model_copy(update={"near_miss": 1.0})
    draft, ask = drafted(method, "Loved the ending, because it ended.", BAD, EVEN, seeds=SEEDS)
    assert draft.tags["near_miss"] == "good" and draft.tags["label"] == "bad"
    assert "easily taken for good:" in ask.asked[0][1]["prefix"]
    share = sum("near_miss" in Targeted(labels=["a", "b"])._attributes("a", "en", Random(n)) for n in range(400)) / 400
    assert 0.14 < share < 0.26


def test_entities_are_written_with_marks_and_answered_with_exact_spans() -> None:
    draft, ask = drafted(
        NAMES, "[Eva](person) flew to [Lima](city).", *[chances(person=0.9, city=0.1), chances(person=0.5, city=0.5)],
        *[chances(person=0.4, city=0.6), chances(person=0.5, city=0.5)], turn=0, seeds=NAMED,
    )  # fmt: skip
    assert draft.tags["label"] == "city"
    shown = ask.asked[0][1]["prefix"].split("\n")[:-1]
    assert sorted(shown) == [
        "with city, 3 words: [Ann](person) left [Rome](city).",
        "with city, 4 words: It rains in [Oslo](city).",
    ]
    assert r"\(city\)" in ask.asked[0][1]["regex"] or "(city)" in ask.asked[0][1]["regex"]
    text = draft.messages[0].text.rsplit("\n\n", 1)[1]
    spans = json.loads(draft.messages[1].text)
    assert text == "Eva flew to Lima."
    assert [text[span["start"] : span["end"]] for span in spans] == ["Eva", "Lima"]
    assert [span["label"] for span in spans] == ["person", "city"]
    assert draft.dropped is None and draft.scores["label_confidence"] == pytest.approx(0.6)
    assert "Words: Lima\nLabel: " in ask.asked[3][1]["prefix"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[Eva](person) flew to Lima.", "text has none of its label"),
        ("[Eva](person) flew to [Lima](country).", "marks do not parse"),
        ("Eva flew to [Lima](city), dear Lima.", "marked words occur unmarked too"),
        ("It rains in [Oslo](city)", "text repeats a seed"),
    ],
)
def test_marks_that_do_not_fit_are_dropped(text: str, reason: str) -> None:
    draft, ask = drafted(NAMES, text, turn=0, seeds=NAMED)
    assert draft.dropped == f"targeted: {reason}" and len(ask.asked) == 1


def test_one_kind_of_entity_is_checked_against_other() -> None:
    method = Targeted(labels=["地名"], task="entities", languages=("zh",), tries=1)
    reply, blank = chances(地名=0.7, 其他=0.3), chances(地名=0.5, 其他=0.5)
    draft, ask = drafted(method, "我昨天到了[上海](地名)。", reply, blank)
    assert ask.asked[1][1]["choices"] == ("地名", "其他")
    assert json.loads(draft.messages[1].text) == [{"text": "上海", "label": "地名", "start": 5, "end": 7}]
    assert draft.dropped is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"labels": ["one"]}, "labels has one name"),
        ({"labels": ["a", "b[c]"], "task": "entities"}, "without blanks around"),
        ({"labels": ["a", " b"]}, "without blanks around"),
        ({"labels": ["a", "b"], "quota": {"c": 1}}, "quota has 'c'"),
        ({"labels": []}, "labels"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Targeted.model_validate(settings)


def test_the_order_of_the_labels_in_a_recipe_changes_nothing() -> None:
    one, other = (
        Targeted.model_validate({"labels": labels, "tries": 1})
        for labels in ({"a": "x", "b": "y"}, {"b": "y", "a": "x"})
    )
    assert one.fingerprint() == other.fingerprint()
    level = chances(a=0.5, b=0.5)
    asked = [drafted(method, "Some other words", level, level)[1].asked[0] for method in (one, other)]
    assert asked[0] == asked[1]
