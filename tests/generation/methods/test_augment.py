"""Augment: variants of a text that keep what must stay, by rules and by the model, in English and in Chinese."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.generation.contracts import Draft, Snapshot
from gristmill.generation.methods.augment.method import SPOKEN, Augment, kept_spans, label_of
from gristmill.generation.methods.augment.wordplay import take_apart
from tests.fakes import ScriptedAsk
from tests.generation.methods.test_wordplay import CHINESE_TEXT, ENGLISH_TEXT, GUARDED, GUARDED_ZH


class Ask(ScriptedAsk):
    """Embeddings under which every text is one and the same, unless it contains a word."""

    def __init__(self, *replies: Reply | str, far: str = "", **named: Any) -> None:
        super().__init__(*replies, **named)
        self._far = far

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        far = [bool(self._far) and self._far in text for text in texts]
        return np.array([[0.8, 0.6] if away else [1.0, 0.0] for away in far], np.float32)


def seed(text: str, answer: str = "positive", **tags: str) -> Sample:
    turns = (Message("user", text), *([Message("assistant", answer)] if answer else []))
    return Sample(id=text, messages=turns, tags=tags)


def augmented(method: Augment, parent: Sample, ask: ScriptedAsk, place: int = 0) -> list[Draft]:
    ask.prepared = ask.prepared or asyncio.run(method.prepare(Snapshot(0), None, ask))
    return asyncio.run(method.expand([parent], ask, Random(place)))


def texts(drafts: Sequence[Draft]) -> list[str]:
    return [draft.messages[0].text for draft in drafts]


@pytest.mark.parametrize(
    ("language", "text", "spans"),
    [
        ("en", GUARDED, ["Smith", "Paris", "`x = 1`", "$20", "foo.bar()", "{name}", "<b>", "me@a.org"]),
        ("en", GUARDED, ["https://a.org/b?c=1", '"the big movie"', "never", "two"]),
        ("zh", GUARDED_ZH, ["张伟", "北京", "《好看的电影》", "没有", "20", "https://a.org", "`好=1`", "{名字}"]),
        ("zh", GUARDED_ZH, ["“很好的味道”", "20"]),
    ],
)
def test_no_operation_touches_numbers_code_or_named_spans(language: str, text: str, spans: list[str]) -> None:
    pieces = take_apart(text, language)
    method = Augment(
        operations=("synonym", "insert", "swap", "delete", "punctuate", "part_of_speech"),
        min_cosine=0,
        alpha=0.5,
        variants=6,
    )
    fixed = [piece.text for piece in pieces if piece.kind == "fixed"]
    for span in spans:
        assert any(span in one for one in fixed), (span, fixed)
    for place in range(30):
        for made in texts(augmented(method, seed(text), ScriptedAsk(), place)):
            assert all(made.count(span) >= text.count(span) for span in fixed)


def test_spans_that_tags_or_the_answer_name_stay() -> None:
    parent = seed(
        "The quick movie was good in the old town hall", "old town hall", names='["quick movie", {"text": "good"}]'
    )
    assert kept_spans(parent, ("names", "missing")) == ["quick movie", "good", "old town hall"]
    method = Augment(keep=("names",), min_cosine=0, alpha=0.9)
    for place in range(20):
        for made in texts(augmented(method, parent, ScriptedAsk(), place)):
            assert all(span in made for span in ("quick movie", "good", "old town hall"))
    assert kept_spans(seed("Visit Rome", city="Rome"), ("city",)) == ["Rome"]
    assert kept_spans(seed("Visit Rome", list='{"a": 1}'), ("list",)) == []


def test_part_of_speech_replacement_keeps_it() -> None:
    method = Augment(operations=("part_of_speech",), variants=1, min_cosine=0)
    for place in range(20):
        (made,) = texts(augmented(method, seed("They answer the kind man"), ScriptedAsk(), place))
        new = [word for word in made.split() if word not in ["They", "the"]]
        assert new[0] in ("answer", "reply", "respond")  # as a noun it could be a response
        assert new[1] in ("kind", "gentle", "caring")  # as a noun it could be a sort


def test_variants_keep_answer_and_tags_and_say_what_was_done() -> None:
    parent = seed(ENGLISH_TEXT, "positive", label="positive", source="film")
    drafts = augmented(Augment(variants=8), parent, Ask())
    assert len(drafts) == 8
    assert sorted(d.tags["augmentation"] for d in drafts) == sorted(["synonym", "insert", "swap", "delete"] * 2)
    for draft in drafts:
        assert draft.complete and draft.messages[1] == Message("assistant", "positive")
        assert draft.tags["label"] == "positive" and draft.tags["source"] == "film" and draft.tags["language"] == "en"
        assert draft.dropped in (None, "augment: variant exists already")
        assert draft.messages[0].text != ENGLISH_TEXT
    alive = [d for d in drafts if d.dropped is None]
    assert len(set(texts(alive))) == len(alive) >= 5
    assert texts(augmented(Augment(variants=8), parent, Ask())) == texts(drafts)


def test_chinese_variants_have_no_spaces() -> None:
    drafts = augmented(
        Augment(operations=("synonym", "insert", "swap", "delete", "punctuate", "part_of_speech"), variants=6),
        seed(CHINESE_TEXT, "好评"),
        Ask(),
    )
    assert {d.dropped for d in drafts} == {None}
    assert all(" " not in text and text != CHINESE_TEXT for text in texts(drafts))
    assert {d.tags["language"] for d in drafts} == {"zh"}


def test_a_job_with_seeds_and_documents_varies_the_seeds() -> None:
    snapshot = Snapshot(0, seeds=(seed("x"),), documents=(seed(ENGLISH_TEXT, ""),))
    assert [sample.id for sample in Augment().inputs(snapshot)] == ["x"]


def test_a_document_without_an_answer_stays_without_one() -> None:
    method = Augment(variants=1)
    snapshot = Snapshot(0, documents=(seed(ENGLISH_TEXT, ""), seed("other", "")))
    assert [method.draw(snapshot, turn, Random(0))[0].id for turn in range(3)] == [
        ENGLISH_TEXT,
        "other",
        ENGLISH_TEXT,
    ]
    (draft,) = augmented(method, snapshot.documents[0], Ask())
    assert not draft.complete
    assert asyncio.run(method.answer(draft, Ask())) == draft


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "augment: no text"),
        ("2 + 2 = 4", "augment: nothing to change"),
        ("これはとてもおいしいです。", "augment: nothing to change"),
    ],
)
def test_texts_without_words_are_dropped_with_their_reason(text: str, reason: str) -> None:
    drafts = augmented(
        Augment(operations=("swap",), variants=1), seed(text, language="ja" if "こ" in text else "en"), Ask()
    )
    assert [draft.dropped for draft in drafts] == [reason]


def test_a_variant_that_means_something_else_is_dropped() -> None:
    method = Augment(operations=("paraphrase",), variants=2)
    drafts = augmented(
        method, seed("The food was very good."), Ask(" I liked the food.", " The weather is bad.", far="weather")
    )
    assert [d.dropped for d in drafts] == [None, "augment: too far from the input"]
    assert [round(d.scores["cosine"], 2) for d in drafts] == [1.0, 0.8]
    loose = augmented(
        Augment(operations=("paraphrase",), variants=1, min_cosine=0.75),
        seed("It is good."),
        Ask("The weather", far="weather"),
    )
    assert loose[0].dropped is None
    unchecked = augmented(
        Augment(operations=("paraphrase",), variants=1, min_cosine=0),
        seed("It is good."),
        Ask("The weather", far="weather"),
    )
    assert unchecked[0].dropped is None and not unchecked[0].scores


@pytest.mark.parametrize(
    ("text", "says", "prefix"),
    [
        ("The food was very good.", "in other words", "Text: The food was very good.\nIn other words:"),
        ("味道很好，送得也快。", "用别的话", "文字：味道很好，送得也快。\n换句话说："),
    ],
)
def test_a_paraphrase_is_asked_for_in_the_language_of_the_text(text: str, says: str, prefix: str) -> None:
    ask = Ask(" Something else ")
    (draft,) = augmented(Augment(operations=("paraphrase",), variants=1), seed(text), ask)
    ((messages, settings),) = ask.asked
    assert says in messages[0].text and settings["prefix"].endswith(prefix)
    assert settings["stop"] == ("\n",)
    assert texts([draft]) == ["Something else"]


def test_back_translation_goes_there_and_back() -> None:
    ask = Ask("菜是热的。", "The dishes were hot.")
    (draft,) = augmented(Augment(operations=("back_translate",), variants=1), seed("The food was hot."), ask)
    there, back = (settings["prefix"] for _, settings in ask.asked)
    assert there.endswith("Text: The food was hot.\nChinese:") and "菜是凉的，不过服务员很和气。" in there
    assert back.endswith("文字：菜是热的。\n英语：")
    assert texts([draft]) == ["The dishes were hot."] and draft.tags["augmentation"] == "back_translate"
    through = Ask("Le repas était chaud.", "The meal was hot.")
    augmented(Augment(operations=("back_translate",), variants=1, pivot="fr"), seed("The food was hot."), through)
    assert "French" in through.asked[0][0][0].text
    other = Ask("Maten", "The meal was hot.")
    augmented(Augment(operations=("back_translate",), variants=1, pivot="sv"), seed("The food was hot."), other)
    assert other.asked[0][1]["prefix"] == "Text: The food was hot.\nsv:"


def test_the_calls_of_one_input_stand_in_a_fixed_order() -> None:
    ask = Ask(*[f"reply {n}" for n in range(6)])
    augmented(Augment(operations=SPOKEN, variants=4), seed("The food was hot."), ask)
    names = [settings["prefix"].splitlines()[-1] for _, settings in ask.asked]
    assert sorted(names[:4]) == ["Chinese:", "Chinese:", "In other words:", "In other words:"]
    assert names[4:] == ["English:", "English:"] or names[4:] == ["英语：", "英语："]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("", "stop", 9, 0), "augment: reply is empty"),
        (Reply("We paid", "length", 9, 3), "augment: reply cut off"),
        (Reply("We we we", "repetition", 9, 3), "augment: reply cut off"),
        (Reply("", "error: prompt has 9000 tokens", 9, 0), "augment: error: prompt has 9000 tokens"),
        (Reply("We paid a lot to Anna.", "stop", 9, 3), "augment: a fixed span is lost"),
        (Reply("We paid 20 to Anna.", "stop", 9, 3), "augment: nothing to change"),
        (Reply("Anna got 20 from us.", "stop", 9, 3), None),
    ],
)
def test_what_the_model_says_is_checked(reply: Reply, reason: str | None) -> None:
    (draft,) = augmented(Augment(operations=("paraphrase",), variants=1), seed("We paid 20 to Anna."), Ask(reply))
    assert draft.dropped == reason


def test_the_label_must_be_chosen_again() -> None:
    labels = ("positive", "negative")
    rows = [seed(f"{label} text {n} is long and clear", label) for n in range(4) for label in labels]
    method = Augment(operations=("swap",), variants=2, labels=labels, shots=2)
    known = asyncio.run(method.prepare(Snapshot(0, seeds=rows), None, Ask()))
    assert {label: len(found) for label, found in known.items()} == {"positive": 3, "negative": 3}
    sure = Reply("positive", "stop", 9, 1, {"positive": 0.9, "negative": 0.1})
    turned = Reply("negative", "stop", 9, 1, {"positive": 0.2, "negative": 0.8})
    ask = Ask(sure, turned, prepared=known)
    parent = seed("positive text 0 is long and clear", "positive")
    drafts = augmented(method, parent, ask, 1)
    assert [d.dropped for d in drafts] == [None, "augment: label changed"]
    assert drafts[0].scores["label"] == 0.9
    prefix = ask.asked[0][1]["prefix"]
    assert ask.asked[0][1]["choices"] == labels and prefix.endswith("\nLabel: ")
    assert prefix.count("Label: positive\n") == prefix.count("Label: negative\n") == 2
    assert "positive text 0" not in prefix  # the input itself is not shown
    refused = augmented(
        Augment(operations=("swap",), variants=1, labels=labels), parent, Ask(Reply("", "error: boom", 9, 0))
    )
    assert refused[0].dropped == "augment: error: boom"
    assert label_of(seed("x", "yes", label="no")) == "no"


def test_chinese_labels_are_asked_for_in_chinese() -> None:
    ask = Ask(Reply("好评", "stop", 9, 1, {"好评": 1.0, "差评": 0.0}))
    (draft,) = augmented(
        Augment(operations=("swap",), variants=1, labels=("好评", "差评")), seed(CHINESE_TEXT, "好评"), ask
    )
    assert draft.dropped is None
    assert "好评, 差评" in ask.asked[0][0][0].text and ask.asked[0][1]["prefix"].endswith("\n标签：")


@pytest.mark.parametrize(
    ("text", "reply", "made"),
    [
        ("the laziness of it", " Idleness, sloth, too lazy.\nmore", {"the idleness of it", "the sloth of it"}),
        ("香锅", "砂锅，火锅", {"砂锅", "火锅"}),
        ("the laziness of it", "!!", {"the laziness of it"}),
    ],
)
def test_the_model_gives_synonyms_that_the_table_lacks(text: str, reply: str, made: set[str]) -> None:
    method = Augment(operations=("synonym",), variants=1, synonyms="model", min_cosine=0)
    ask = ScriptedAsk(reply)
    (draft,) = augmented(method, seed(text), ask)
    assert ask.asked[0][1]["shared"] and ask.asked[0][1]["prefix"].endswith(("laziness (noun):", "香锅（名词）："))
    assert texts([draft])[0] in made
