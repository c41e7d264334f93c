"""Annotate: every form, k annotators and k samples, calibration by the paper's rule, English and Chinese."""

import asyncio
import json
import math
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.generation.contracts import Draft, Snapshot
from gristmill.generation.labels.annotators import Annotator, Vote, combined, entities, majority
from gristmill.generation.methods.annotate import EMPTY, Annotate, Demonstrations
from tests.fakes import ScriptedAsk


def text(words: str, answer: str = "", **tags: str) -> Sample:
    turns = [Message("user", words)] + ([Message("assistant", answer)] if answer else [])
    return Sample(id=words[:8], messages=tuple(turns), tags=tags)


def choice(**chances: float) -> Reply:
    named = {f" {name}": value for name, value in chances.items()}
    return Reply(max(named, key=lambda name: named[name]), "stop", 9, 1, named)


def likely(said: str, logprob: float = -2.0, finish: str = "stop") -> Reply:
    return Reply(said, finish, 9, 4, logprob=logprob)


NOTHING = Demonstrations({})


def drafted(
    method: Annotate, parent: Sample, *replies: Any, prepared: Demonstrations = NOTHING
) -> tuple[Draft, ScriptedAsk]:
    ask = ScriptedAsk(*replies, parents=(parent,), prepared=prepared)
    [draft] = asyncio.run(method.expand((parent,), ask, Random(0)))
    return draft, ask


def label(**settings: Any) -> Annotate:
    return Annotate.model_validate({"labels": ("good", "bad"), "calibrate": False, **settings})


REVIEW = text("The soup was cold and the waiter rude.", language="en", document="d1", chunk="2")
CHINESE = text("味道很好，送得也快。", "1", label="1", language="zh")


def test_a_label_is_the_answer_the_tag_and_the_vote() -> None:
    draft, ask = drafted(label(), REVIEW, choice(good=0.3, bad=0.7))
    assert draft.messages == (Message("user", REVIEW.instruction), Message("assistant", "bad"))
    assert draft.complete and draft.dropped is None
    assert draft.tags == {"document": "d1", "chunk": "2", "language": "en", "vote:model": "bad", "label": "bad"}
    assert draft.scores == {"confidence:model": 0.7, "confidence": 0.7}
    assert ask.asked[0][1]["choices"] == (" good", " bad")
    assert "good, bad" in ask.asked[0][0][0].text


def test_chinese_labels_have_no_blank_and_a_known_label_is_gold() -> None:
    reply = Reply("1", "stop", 9, 1, {"1": 0.9, "0": 0.1})
    draft, ask = drafted(label(labels=("1", "0"), with_prompt=True), CHINESE, reply)
    assert ask.asked[0][1]["choices"] == ("1", "0") and ask.asked[0][1]["prefix"].endswith("标签：")
    assert draft.tags["gold"] == "1" == draft.tags["label"]
    assert draft.messages[0].text == f"下面哪个标签最符合这段文字：1、0？只回答标签。\n\n{CHINESE.instruction}"


def test_leaning_is_divided_out_as_in_calibrate_before_use() -> None:
    """Section 5 of the paper: q = W p with W = diag(p of a content-free text)^-1, then normalised."""
    empty = [choice(good=0.8, bad=0.2)] * len(EMPTY)
    draft, ask = drafted(label(calibrate=True), REVIEW, choice(good=0.6, bad=0.4), *empty)
    good, bad = 0.6 / 0.8, 0.4 / 0.2
    assert draft.tags["label"] == "bad"
    assert draft.scores["confidence"] == pytest.approx(bad / (good + bad))
    assert [settings.get("shared", False) for _, settings in ask.asked] == [False] + [True] * len(EMPTY)
    assert EMPTY[0] in ask.asked[1][0][0].text


def test_labelled_seeds_are_shown_by_turns_and_in_the_language_of_the_text() -> None:
    seeds = [text(f"Good thing number {n}.", "good", label="good", language="en") for n in range(5)]
    seeds += [
        text("A bad thing.", "bad", label="bad", language="en"),
        text("很好。", "good", label="good", language="zh"),
    ]
    seeds += [text("word " * 100, "bad", label="bad", language="en")]
    method = label(demonstrations=4)
    shown = asyncio.run(method.prepare(Snapshot(0, seeds=seeds, documents=[REVIEW]), None, ScriptedAsk()))
    assert [one.splitlines()[1] for one in shown.texts["en"]] == [
        f"Label: {k}" for k in ("good", "bad", "good", "good")
    ]
    assert shown.texts["zh"] == ("文字：很好。\n标签：good\n\n",)
    assert asyncio.run(method.prepare(Snapshot(1), shown, ScriptedAsk())) is shown
    assert asyncio.run(method.prepare(Snapshot(0, seeds=seeds), None, ScriptedAsk())) == Demonstrations({})
    _, ask = drafted(method, REVIEW, choice(good=0.3, bad=0.7), prepared=shown)
    assert ask.asked[0][1]["prefix"] == f"{''.join(shown.texts['en'])}Text: {REVIEW.instruction}\nLabel:"


# -- several annotators and samples -------------------------------------------------------------------------------

RULES = {"name": "words", "rules": (("cold|rude", "bad"), ("好|快", "good"))}


def test_annotators_vote_and_the_majority_is_the_label() -> None:
    models = ({"name": "one"}, {"name": "two", "engine": "large", "prompt": "Pick: {labels}"}, RULES)
    method = label(annotators=models)
    draft, ask = drafted(method, REVIEW, choice(good=0.9, bad=0.1), choice(good=0.4, bad=0.6))
    assert {name: word for name, word in draft.tags.items() if name.startswith("vote:")} == {
        "vote:one": "good",
        "vote:two": "bad",
        "vote:words": "bad",
    }
    assert draft.tags["label"] == "bad" and draft.scores["confidence"] == pytest.approx(1.6 / 3)
    assert [settings["engine"] for _, settings in ask.asked] == ["main", "large"]
    assert ask.asked[1][0][0].text.startswith("Pick: good, bad")
    assert method.engines() == ("large", "main")


def test_a_rule_that_finds_nothing_abstains_and_rules_alone_ask_no_model() -> None:
    draft, ask = drafted(label(annotators=(RULES,)), text("味道好"))
    assert draft.tags["label"] == "good" and not ask.asked
    draft, _ = drafted(label(annotators=(RULES,)), text("Just a text."))
    assert draft.dropped == "annotate: no annotator has an opinion" and "label" not in draft.tags
    draft, _ = drafted(label(annotators=({"name": "m"}, RULES)), text("Just a text."), choice(good=0.8, bad=0.2))
    assert "vote:words" not in draft.tags and draft.scores["confidence"] == 0.8


@pytest.mark.parametrize(
    ("votes", "answer", "confidence"),
    [
        ([("a", 0.5), ("b", 0.9), ("a", 0.6)], "a", 1.1 / 3),
        ([("a", 0.5), ("b", 0.9)], "b", 0.45),
        ([("b", 0.5), ("a", 0.5)], "b", 0.25),
        ([("a", 0.7)], "a", 0.7),
    ],
)
def test_ties_go_to_the_larger_confidence_and_then_to_the_first(
    votes: list[tuple[str, float]], answer: str, confidence: float
) -> None:
    found = majority([Vote(*vote) for vote in votes])
    assert found.answer == answer and found.confidence == pytest.approx(confidence)


def test_the_agreement_of_samples_is_their_confidence() -> None:
    method = label(annotators=({"name": "model", "samples": 4},))
    replies = [choice(good=0.9, bad=0.1)] + [choice(good=0.2, bad=0.8)] * 3
    shown = Demonstrations({"en": tuple("abcdefgh")})
    draft, ask = drafted(method, REVIEW, *replies, prepared=shown)
    assert draft.tags["label"] == "bad" and draft.scores["confidence"] == 0.75
    assert [settings["prefix"][:8] for _, settings in ask.asked] == ["abcdefgh", "cdefghab", "efghabcd", "ghabcdef"]
    strict = label(min_confidence=0.8, annotators=method.annotators)
    assert drafted(strict, REVIEW, *replies, prepared=shown)[0].dropped == "annotate: confidence too low"
    assert len(drafted(method, REVIEW, *replies)[1].asked) == 1, "without demonstrations all would say the same"
    summaries = Annotate(form="summary", annotators=method.annotators)
    draft, ask = drafted(summaries, REVIEW, *[likely("The soup was cold.")] * 4)
    assert len(ask.asked) == 4 and ask.asked[0][1]["temperature"] > 0 and draft.scores["confidence"] == 1


def test_of_several_texts_the_one_most_like_the_others_is_taken() -> None:
    said = [Vote("a quick brown fox", 1), Vote("a quick brown dog", 1), Vote("nothing at all", 1)]
    found = combined(said, "summary")
    assert found.answer == "a quick brown fox" and found.confidence == pytest.approx((0.75 + 0) / 2)
    chinese = [Vote("完全无关", 1), Vote("送餐很快", 1), Vote("送餐很快", 1)]
    assert combined(chinese, "translation") == Vote("送餐很快", 0.5)


# -- entities -----------------------------------------------------------------------------------------------------

KINDS = ("person", "city")
NAMES = "Anna met Ben in Berlin; Anna left New\nYork."


def listed(*pairs: tuple[str, str]) -> str:
    return json.dumps([{"text": words, "label": kind} for words, kind in pairs], ensure_ascii=False)


@pytest.mark.parametrize(
    ("where", "reply", "spans"),
    [
        (NAMES, listed(("Anna", "person"), ("Berlin", "city")), [(0, 4), (16, 22)]),
        (NAMES, listed(("Anna", "person"), ("Anna", "person")), [(0, 4), (24, 28)]),
        (NAMES, listed(("berlin", "city"), ("New York", "city")), [(16, 22), (34, 42)]),
        (NAMES, listed(("Carl", "person"), ("Ben", "animal"), ("Ann", "person")), []),
        (NAMES, '{"entities": ' + listed(("Ben", "person")) + "}", [(9, 12)]),
        ("李明在上海见到了王芳。", listed(("上海", "city"), ("李明", "person")), [(0, 2), (3, 5)]),
        (NAMES, '[{"text": 5, "label": "city"}, "Anna", {"label": "city"}]', []),
        (NAMES, "[]", []),
        (NAMES, "Anna is a person", None),
        (NAMES, '{"name": "Anna"}', None),
    ],
)
def test_entities_stand_in_the_text_where_they_say(where: str, reply: str, spans: list[Any] | None) -> None:
    found = entities(reply, where, KINDS)
    assert (None if found is None else [(e["start"], e["end"]) for e in json.loads(found)]) == spans
    assert all(where[e["start"] : e["end"]] == e["text"] for e in json.loads(found or "[]"))


def test_entities_are_asked_for_under_a_schema_and_made_up_ones_are_dropped() -> None:
    method = Annotate(form="entities", labels=KINDS)
    draft, ask = drafted(method, text(NAMES, language="en"), likely(listed(("Anna", "person"), ("Zoe", "person"))))
    schema = json.loads(ask.asked[0][1]["json_schema"])
    assert schema["items"]["properties"]["label"]["enum"] == ["person", "city"]
    assert json.loads(draft.messages[-1].text) == [{"text": "Anna", "label": "person", "start": 0, "end": 4}]
    assert draft.scores["confidence"] == pytest.approx(math.exp(-2 / 4)) and "label" not in draft.tags
    draft, _ = drafted(method, text(NAMES), likely(listed(("Zoe", "person"))))
    assert draft.dropped == "annotate: no named words are in the text"
    draft, _ = drafted(method, text(NAMES), likely("[]"))
    assert draft.dropped is None and draft.messages[-1].text == "[]"


def test_entities_of_several_samples_are_kept_one_by_one() -> None:
    votes = [
        Vote(str(entities(listed(*pairs), NAMES, KINDS)), 1.0)
        for pairs in (
            (("Anna", "person"), ("Ben", "person")),
            (("Anna", "person"),),
            (("Anna", "person"), ("Ben", "city")),
        )
    ]
    found = combined(votes, "entities")
    assert [e["text"] for e in json.loads(found.answer)] == ["Anna"] and found.confidence == 1
    none = combined([Vote("[]", 0.8), Vote("[]", 0.6)], "entities")
    assert none.answer == "[]" and none.confidence == pytest.approx(0.7)


# -- other forms --------------------------------------------------------------------------------------------------


def test_fields_are_filled_in_under_the_schema() -> None:
    schema = '{"type": "object", "properties": {"dish": {"type": "string"}}, "required": ["dish"]}'
    draft, ask = drafted(Annotate(form="json", json_schema=schema), REVIEW, likely('{"dish":"汤"}', -4.0))
    assert ask.asked[0][1]["json_schema"] == schema and draft.messages[-1].text == '{"dish": "汤"}'
    assert schema in draft.messages[0].text and draft.scores["confidence"] == pytest.approx(math.exp(-1))
    draft, _ = drafted(Annotate(form="json", json_schema=schema), REVIEW, likely("no JSON"))
    assert draft.dropped == "annotate: answer does not parse"


@pytest.mark.parametrize(
    ("form", "parent", "asks"),
    [
        ("translation", REVIEW, "Translate the text into Chinese."),
        ("translation", CHINESE, "把这段文字翻译成中文。"),
        ("summary", REVIEW, "Summarise the text in at most 12 words."),
        ("summary", CHINESE, "用不超过12个词概括这段文字。"),
    ],
)
def test_texts_are_translated_and_summarised(form: Any, parent: Sample, asks: str) -> None:
    draft, ask = drafted(Annotate(form=form, to="zh", max_words=12), parent, likely(" 很冷。 "))
    assert ask.asked[0][0][0].text.startswith(asks)
    assert draft.messages[0].text == f"{asks}\n\n{parent.instruction}"
    assert draft.messages[1].text == "很冷。" and draft.scores["confidence"] == pytest.approx(math.exp(-0.5))
    assert ("language" in draft.tags) == (form == "summary"), "a translation is in no one language"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (likely("half a", finish="length"), "answer cut off"),
        (likely("again and again", finish="repetition"), "answer cut off"),
        (likely("  "), "answer does not parse"),
        (likely("", finish="error: prompt has 9000 tokens"), "error: prompt has 9000 tokens"),
    ],
)
def test_what_cannot_be_used_is_dropped_with_its_reason(reply: Reply, reason: str) -> None:
    draft, _ = drafted(Annotate(form="summary"), REVIEW, reply)
    assert draft.dropped == f"annotate: {reason}" and not draft.complete


def test_a_label_reply_without_choices_is_dropped() -> None:
    assert drafted(label(), REVIEW, "whatever")[0].dropped == "annotate: answer is no label"


@pytest.mark.parametrize(
    "settings",
    [
        {"labels": ("one",)},
        {"form": "entities"},
        {"form": "json", "json_schema": "[1]"},
        {"labels": ("a", "b"), "annotators": ({"name": "x"}, {"name": "x"})},
        {"labels": ("a", "b"), "annotators": ({"name": "x", "rules": (("(", "a"),)},)},
        {"labels": ("a", "b"), "annotators": ({"name": "x", "rules": ((".", "c"),)},)},
        {"form": "summary", "annotators": ({"name": "x", "rules": ((".", "c"),)},)},
        {"labels": ("a", "b"), "annotators": ({"name": "two words"},)},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Annotate.model_validate(settings)


def test_prompts_follow_the_form_unless_they_are_given() -> None:
    assert Annotate(form="summary").prompts["en"].startswith("Summarise")
    own = {"en": "Short, {words}!\n---\n{text} ->"}
    assert Annotate(form="summary", prompts=own).prompts == own
    assert isinstance(label().annotators[0], Annotator)


def test_documents_are_walked_through_else_seeds() -> None:
    walk = [label().draw(Snapshot(0, seeds=[CHINESE], documents=[REVIEW]), turn, Random(0)) for turn in range(2)]
    assert walk == [(REVIEW,), (REVIEW,)]
    assert label().draw(Snapshot(0, seeds=[CHINESE]), 3, Random(0)) == (CHINESE,)
