"""Retrieve: related samples as demonstrations, grounding and data, English and Chinese."""

import asyncio
from random import Random
from typing import Any

import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.generation.contracts import Draft, Snapshot
from gristmill.generation.methods.retrieve import Retrieve
from tests.fakes import ScriptedAsk


def asked(name: str, question: str, answer: str = "", language: str = "en") -> Sample:
    turns = [Message("user", question)] + ([Message("assistant", answer)] if answer else [])
    return Sample(id=name, messages=tuple(turns), tags={"language": language})


SEEDS = [
    asked("apples", "Anna has 3 apples and buys 2 apples. How many apples has she?", "3 + 2 = 5 apples."),
    asked("pears", "Ben had 9 apples and ate 4 of them. How many apples are left?", "9 - 4 = 5 apples."),
    asked("train", "A train leaves at noon and arrives at three. How long does it take?", "3 hours."),
    asked("rivers", "Name a river in Asia.", "The Mekong."),
]
CHINESE = [
    asked("苹果", "小明有3个苹果，又买了2个苹果，现在有几个苹果？", "3+2=5个苹果。", "zh"),
    asked("梨", "小红有9个苹果，吃了4个，还剩几个苹果？", "9-4=5个苹果。", "zh"),
    asked("河", "说出亚洲的一条河。", "湄公河。", "zh"),
]


def expanded(method: Retrieve, corpus: list[Sample], seed: Sample, *replies: Any) -> tuple[list[Draft], ScriptedAsk]:
    ask = ScriptedAsk(*replies, parents=(seed,))
    ask.prepared = asyncio.run(method.prepare(Snapshot(0, seeds=corpus), None, ask))
    return asyncio.run(method.expand((seed,), ask, Random(0))), ask


@pytest.mark.parametrize(
    ("corpus", "head", "text"),
    [(SEEDS, "Task:", " Carl has 8 apples. How many?"), (CHINESE, "任务：", "小刚有8个苹果，吃了一个，还剩几个？")],
)
def test_a_new_task_continues_the_related_ones_the_nearest_and_the_seed_last(
    corpus: list[Sample], head: str, text: str
) -> None:
    method = Retrieve(search="words", count=2, relevance=1)
    [draft], ask = expanded(method, corpus, corpus[0], text, "  8. ")
    prefix = ask.asked[0][1]["prefix"]
    assert draft.parents[0] is corpus[1] and corpus[0] not in draft.parents
    assert prefix.index(corpus[1].instruction) < prefix.index(corpus[0].instruction)
    assert prefix.index(draft.parents[-1].instruction) <= prefix.index(corpus[1].instruction)
    assert prefix.endswith(f"{corpus[0].answer}\n\n{head}")
    assert draft.messages == (Message("user", text.strip()),) and draft.dropped is None
    assert draft.tags == {"language": corpus[0].tags["language"]}
    whole = asyncio.run(method.answer(draft, ask))
    assert whole.messages[1:] == (Message("assistant", "8."),)
    assert ask.asked[1][1]["prefix"].startswith(f"{prefix}"), "the answer's prompt continues the draft's"
    assert text.strip() in ask.asked[1][1]["prefix"][len(prefix) :]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("Ben had 9 apples and ate 4 of them. How many apples are left?", "task is a demonstration again"),
        ("Why?", "task too short"),
        ("", "task too short"),
        ("很" * 300, "task too long"),
        (Reply("Carl has eight apples and", "length", 9, 9), "task cut off"),
        (Reply("", "error: prompt too long", 9, 0), "error: prompt too long"),
    ],
)
def test_a_new_task_is_whole_and_new(reply: Reply | str, reason: str) -> None:
    [draft], _ = expanded(Retrieve(search="words"), SEEDS, SEEDS[0], reply)
    assert draft.dropped == f"retrieve: {reason}"


def test_a_seed_without_an_answer_is_answered_after_the_related_ones() -> None:
    seed = asked("new", "Dora has 7 apples and sells 3 apples. How many apples has she?")
    method = Retrieve(search="words", count=2)
    [draft], ask = expanded(method, SEEDS, seed, "7 - 3 = 4 apples.")
    assert not ask.asked and draft.messages == seed.messages
    whole = asyncio.run(method.answer(draft, ask))
    assert ask.asked[0][1]["prefix"].count("Task:") == 3
    assert ask.asked[0][1]["prefix"].endswith("Task: " + seed.instruction + "\nAnswer:")
    assert whole.messages[-1].text == "7 - 3 = 4 apples." and {p.id for p in whole.parents} >= {"apples"}


@pytest.mark.parametrize("with_passages", [False, True])
@pytest.mark.parametrize(
    ("passages", "question"),
    [
        (("The ferry to Holm leaves at noon.", "Mint is dried in the dark."), "When does the ferry to Holm leave?"),
        (("去霍姆岛的渡船中午出发。", "薄荷要阴干。"), "去霍姆岛的渡船什么时候出发？"),
    ],
)
def test_a_seed_is_answered_from_the_passages(passages: tuple[str, ...], question: str, with_passages: bool) -> None:
    method = Retrieve(use="grounding", search="words", count=1, with_passages=with_passages)
    seed = asked("q", question, language="zh" if question[0] > "z" else "en")
    documents = [Sample(id=f"d{n}", messages=(Message("user", text),)) for n, text in enumerate(passages)]
    ask = ScriptedAsk("At noon.", parents=(seed,))
    ask.prepared = asyncio.run(method.prepare(Snapshot(0, seeds=[seed], documents=documents), None, ask))
    [draft] = asyncio.run(method.expand((seed,), ask, Random(0)))
    whole = asyncio.run(method.answer(draft, ask))
    prompt = ask.asked[0][0][0].text
    assert passages[0] in prompt and passages[1] not in prompt and question in prompt
    assert whole.messages[0].text == (prompt if with_passages else question)
    assert [p.id for p in whole.parents] == ["d0"] and whole.messages[-1].text == "At noon."


def test_related_samples_are_taken_over_as_they_are() -> None:
    drafts, ask = expanded(Retrieve(use="data", search="words", count=2, relevance=1), SEEDS, SEEDS[0])
    assert drafts[0].parents[0].id == "pears"
    assert drafts[0].messages == SEEDS[1].messages and drafts[0].complete and not ask.asked
    assert 1 == drafts[0].scores["related"] >= drafts[1].scores["related"] > 0


def test_texts_taken_over_get_the_answer_and_the_label_of_their_seed() -> None:
    method = Retrieve(use="data", answers="seed", search="words", count=1)
    labelled = Sample("s", (Message("user", "I ate an apple"), Message("assistant", "good")), tags={"label": "good"})
    texts = [asked("a", "Name an apple that is red."), asked("b", "A pear."), asked("c", "An apple, and more", "bad")]
    ask = ScriptedAsk(parents=(labelled,))
    ask.prepared = asyncio.run(method.prepare(Snapshot(0, seeds=[labelled], documents=texts[:2]), None, ask))
    [draft] = asyncio.run(method.expand((labelled,), ask, Random(0)))
    assert not ask.asked and not method.asks_model() and draft.complete
    assert draft.messages == (*texts[0].messages, Message("assistant", "good"))
    assert draft.tags["label"] == "good" and [parent.id for parent in draft.parents] == ["a"]
    ask.prepared = asyncio.run(method.prepare(Snapshot(0, documents=texts[2:]), None, ask))
    assert asyncio.run(method.expand((labelled,), ask, Random(0)))[0].messages == texts[2].messages, "its own stays"
    bare = Sample("s", labelled.messages[:1])
    ask.prepared = asyncio.run(method.prepare(Snapshot(0, documents=texts[:1]), None, ask))
    assert asyncio.run(method.expand((bare,), ask, Random(0)))[0].dropped == "retrieve: seed has no answer"


@pytest.mark.parametrize("use", ["demonstrations", "grounding"])
def test_seeds_answer_only_what_is_taken_over(use: str) -> None:
    with pytest.raises(ValueError, match="answers: is 'seed' with use"):
        Retrieve.model_validate({"use": use, "answers": "seed"})


def test_prompts_taken_over_are_answered() -> None:
    bare = [asked("a", "Name an apple that is red."), asked("b", "Name an apple that is green.")]
    method = Retrieve(use="data", search="words")
    [draft], ask = expanded(method, bare, bare[0], "Granny Smith.")
    assert asyncio.run(method.answer(draft, ask)).messages[-1].text == "Granny Smith."


def test_meaning_and_words_are_asked_for_together() -> None:
    [draft], _ = expanded(Retrieve(count=1), SEEDS, SEEDS[0], "Carl has eight apples and sells two. How many?")
    assert draft.parents[0].id == "pears"


def test_the_index_is_built_once_and_of_the_documents_where_there_are_any() -> None:
    method, ask = Retrieve(search="words"), ScriptedAsk()
    documents = SEEDS[1:]
    first = asyncio.run(method.prepare(Snapshot(0, seeds=SEEDS, documents=documents), None, ask))
    assert list(first.samples) == documents and method.figures(first) == {"corpus": 3}
    assert asyncio.run(method.prepare(Snapshot(3, seeds=SEEDS), first, ask)) is first


def test_a_seed_to_which_nothing_is_related_is_dropped() -> None:
    [draft], _ = expanded(Retrieve(search="words"), SEEDS[:1], SEEDS[0])
    assert draft.dropped == "retrieve: nothing related was found"


def test_seeds_are_walked_through_in_order() -> None:
    snapshot = Snapshot(0, seeds=SEEDS, documents=SEEDS[:1])
    drawn = [Retrieve().draw(snapshot, turn, Random(turn))[0].id for turn in range(5)]
    assert drawn == ["apples", "pears", "train", "rivers", "apples"]
