"""Self-Instruct: demonstrations, the paper's rules for instructions, the answer."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.generation.contracts import Draft, Snapshot
from gristmill.generation.methods.self_instruct.instances import label_of, parted
from gristmill.generation.methods.self_instruct.method import SelfInstruct
from tests.fakes import ScriptedAsk


def pool(language: str, prefix: str, count: int, words: str) -> list[Sample]:
    made = [(f"{prefix}{n}", f"{words} {n}") for n in range(count)]
    return [Sample(id=i, messages=(Message("user", text),), tags={"language": language}) for i, text in made]


SEEDS = pool("en", "e", 20, "Write a line about the number") + pool("zh", "z", 10, "写一句关于这个数字的话")
MADE = pool("en", "m", 5, "Tell a story about the number")


def test_demonstrations_are_six_human_and_two_made_of_one_language() -> None:
    for place in range(30):
        parents = SelfInstruct().draw(Snapshot(1, SEEDS, made=MADE), place, Random(place))
        languages = {parent.tags["language"] for parent in parents}
        made = [parent for parent in parents if parent.id.startswith("m")]
        assert len(parents) == len({parent.id for parent in parents}) == 8
        assert len(languages) == 1
        assert len(made) == (2 if languages == {"en"} else 0)


def test_languages_get_the_shares_of_the_seeds() -> None:
    pools = Snapshot(0, SEEDS)
    drawn = [SelfInstruct().draw(pools, 0, Random(place))[0].tags["language"] for place in range(300)]
    assert 0.25 < drawn.count("zh") / 300 < 0.42
    only = [SelfInstruct(languages=("zh",)).draw(pools, 0, Random(place))[0].tags["language"] for place in range(20)]
    assert set(only) == {"zh"}


def test_few_seeds_are_enough() -> None:
    assert len(SelfInstruct().draw(Snapshot(0, SEEDS[:2]), 0, Random(0))) == 2


def test_seeds_that_are_all_too_long_or_in_other_languages_are_used_all_the_same() -> None:
    assert len(SelfInstruct(max_demo_words=3).draw(Snapshot(0, SEEDS[:20]), 0, Random(0))) == 8
    assert SelfInstruct(languages=("de",)).draw(Snapshot(0, SEEDS[20:]), 0, Random(0))[0].tags["language"] == "zh"


class Counted(Sequence[Sample]):
    """A long pool that counts how many of its rows were read."""

    def __init__(self, size: int, row: Sample) -> None:
        self.size, self.row, self.read = size, row, 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: Any) -> Any:
        self.read += 1
        return Sample(id=str(place), messages=self.row.messages, tags=self.row.tags)


def test_a_draw_reads_a_few_rows_of_pools_of_millions() -> None:
    seeds, made = Counted(10**6, SEEDS[0]), Counted(10**6, MADE[0])
    assert len(SelfInstruct().draw(Snapshot(2, seeds, made=made), 0, Random(0))) == 8
    assert seeds.read <= 8 and made.read <= 2
    foreign = Counted(10**6, SEEDS[-1])
    assert len(SelfInstruct().draw(Snapshot(2, SEEDS[:20], made=foreign), 0, Random(0))) == 8
    assert foreign.read <= 128


@pytest.mark.parametrize(("seeds", "says"), [(SEEDS[:20], "Write a list of 9"), (SEEDS[20:], "请写出9条")])
def test_the_model_continues_the_list_in_its_language(seeds: list[Sample], says: str) -> None:
    method = SelfInstruct()
    parents = method.draw(Snapshot(0, seeds), 0, Random(1))
    ask = ScriptedAsk(" Name three rivers in Asia. ")
    (draft,) = asyncio.run(method.expand(parents, ask, Random(0)))
    (messages, settings) = ask.asked[0]
    assert says in messages[0].text
    assert settings["prefix"].startswith(f"1. {parents[0].instruction}\n2. ")
    assert settings["prefix"].endswith("\n9.")
    assert draft.messages == (Message("user", "Name three rivers in Asia."),)
    assert draft.tags == {"language": parents[0].tags["language"]}
    assert not draft.complete


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("Name three rivers in Asia.", "stop", None),
        ("写一首关于春天的诗", "stop", None),
        ("Name a river", "stop", "instruction too short"),
        ("写诗", "stop", "instruction too short"),
        ("word " * 151, "stop", "instruction too long"),
        ("诗" * 240, "stop", "instruction too long"),
        ("Name three rivers in Asia.", "length", "instruction cut off"),
        ("- Name three rivers in Asia.", "stop", "instruction starts with punctuation"),
        ("《春天》写的是什么内容？", "stop", "instruction starts with punctuation"),
        ("Write a program that sorts a list", "stop", "asks for a program"),
        ("请编写一个排序程序", "stop", "asks for a program"),
        ("Describe the picture of a dog", "stop", "text alone cannot answer it"),
        ("Describe the picturesque village of Hallstatt", "stop", None),
        ("请描述这张图片里的内容", "stop", "text alone cannot answer it"),
        ("", "error: prompt has 9000 tokens", "error: prompt has 9000 tokens"),
    ],
)
def test_instructions_obey_the_rules_of_the_paper(text: str, finish: str, reason: str | None) -> None:
    assert SelfInstruct().refusal(text, finish) == reason


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("The Nile.", "stop", 9, 3), None),
        (Reply("The Nile", "length", 9, 3), "answer cut off"),
        (Reply("  ", "stop", 9, 3), "answer is empty"),
        (Reply("", "error: boom", 9, 0), "error: boom"),
        (Reply("Name a long river, the Nile.", "stop", 9, 3), "answer repeats the instruction"),
        (Reply("the Nile.", "stop", 9, 3), None),
        (Reply("Here it is:", "stop", 9, 3), "answer ends with a colon"),
        (Reply("答案如下：", "stop", 9, 3), "answer ends with a colon"),
        (Reply("write this anew: Name a long river, the Nile.", "stop", 9, 3), "answer is the input"),
    ],
)
def test_answers_are_whole_or_dropped(reply: Reply, reason: str | None) -> None:
    draft = Draft((Message("user", "Write this anew: Name a long river, the Nile."),), {"language": "en"})
    ask = ScriptedAsk(reply)
    whole = asyncio.run(SelfInstruct().answer(draft, ask))
    assert ask.asked[0][0][0].role == "system" and "system" not in {m.role for m in whole.messages}
    assert whole.dropped == (f"self_instruct: {reason}" if reason else None)
    assert whole.complete == bool(reply.text.strip())
    assert whole.tags == draft.tags


CLASSIFIES = {"en": " Yes", "zh": "是"}
OTHERWISE = {"en": " No", "zh": "否"}


def says(word: str) -> Reply:
    return Reply(word, "stop", 9, 1, {word: 0.9, "other": 0.1})


def instance(language: str, instruction: str, *replies: Reply | str) -> tuple[Draft, ScriptedAsk]:
    ask = ScriptedAsk(*replies)
    draft = Draft((Message("user", instruction),), {"language": language})
    return asyncio.run(SelfInstruct(instances=True).answer(draft, ask)), ask


@pytest.mark.parametrize(
    ("language", "instruction", "labels", "given"),
    [
        ("en", "Say whether the review is good or bad.", " good; bad", "We waited for an hour."),
        ("zh", "判断这条评论是好评还是差评。", "好评；差评", "等了一个小时才上菜。"),
    ],
)
def test_classification_goes_output_first(language: str, instruction: str, labels: str, given: str) -> None:
    whole, ask = instance(language, instruction, says(CLASSIFIES[language]), labels, f" {given}")
    assert len(ask.asked) == 3  # the label is the answer: no call for it
    label = whole.messages[-1].text
    assert label in labels
    assert f"{label}\n" in ask.asked[2][1]["prefix"].partition(instruction)[2]  # known before the input is written
    assert whole.messages == (Message("user", f"{instruction}\n\n{given}"), Message("assistant", label))
    assert whole.tags == {"language": language, "is_classification": "true"} and whole.dropped is None


@pytest.mark.parametrize(
    ("language", "instruction", "given", "answer"),
    [
        ("en", "Sort the words by length.", "pear, fig", "fig, pear"),
        ("zh", "把词语按长短排列。", "葡萄干，梨", "梨，葡萄干"),
    ],
)
def test_other_tasks_go_input_first(language: str, instruction: str, given: str, answer: str) -> None:
    whole, ask = instance(language, instruction, says(OTHERWISE[language]), given, answer)
    assert ask.asked[0][1]["choices"] == (CLASSIFIES[language], OTHERWISE[language])
    assert ask.asked[2][0][-1] == Message("user", f"{instruction}\n\n{given}")
    assert whole.messages == (ask.asked[2][0][-1], Message("assistant", answer))
    assert whole.tags["is_classification"] == "false" and whole.dropped is None


@pytest.mark.parametrize("nothing", ["None", " none.", "No input", "<noinput>", "无", "无。"])
def test_a_task_without_input_is_answered_as_it_is(nothing: str) -> None:
    whole, ask = instance("en", "Give me a tip for a good sleep.", says(" No"), nothing, "Go to bed early.")
    assert ask.asked[2][0][-1].text == "Give me a tip for a good sleep."
    assert whole.messages[0].text == "Give me a tip for a good sleep." and whole.complete


ERROR = Reply("", "error: prompt has 9000 tokens", 0, 0)


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ([ERROR], "error: prompt has 9000 tokens"),
        ([says(" Yes"), ERROR], "error: prompt has 9000 tokens"),
        ([says(" Yes"), "good"], "labels unclear"),
        ([says(" Yes"), "a;b;c;d;e;f;g;h;i;j;k;l;m"], "labels unclear"),
        ([says(" Yes"), Reply("good; bad; not", "length", 9, 48)], "labels unclear"),
        ([says(" Yes"), "good; bad", "None"], "input is empty"),
        ([says(" Yes"), "good; good ;", "text"], "labels unclear"),
        ([says(" Yes"), "wrong; wrong:", "text"], "labels unclear"),
        ([says(" No"), Reply("word word", "length", 9, 192)], "input cut off"),
        ([says(" No"), ERROR], "error: prompt has 9000 tokens"),
        ([says(" No"), "The sea.", "The sea."], "answer is the input"),
        ([says(" No"), "The sea.", ""], "answer is empty"),
        ([says(" No"), "The sea.", "It says:"], "answer ends with a colon"),
    ],
)
def test_instances_obey_the_final_rules_of_the_paper(replies: list[Reply | str], reason: str) -> None:
    whole, _ = instance("en", "Do something with the text.", *replies)
    assert whole.dropped == f"self_instruct: {reason}"


def test_an_input_that_is_its_own_label_is_dropped() -> None:
    whole, _ = instance("zh", "判断这个词是褒义还是贬义。", says("是"), "勇敢；勇敢的", "勇敢")
    also, _ = instance("zh", "判断这个词是褒义还是贬义。", says("是"), "勇敢；勇敢的", "勇敢的")
    reasons = {whole.dropped, also.dropped}
    assert reasons == {None, "self_instruct: answer is the input"}


def test_each_label_is_as_likely_as_the_others() -> None:
    async def drawn(place: int) -> str:
        label, problem = await label_of({"en": "{instruction}"}, "en", f"Sort it, {place}", ScriptedAsk("one; two"))
        assert not problem
        return label

    labels = [asyncio.run(drawn(place)) for place in range(300)]
    assert 120 < labels.count("one") < 180


def test_with_instances_only_the_instruction_of_a_seed_is_demonstrated() -> None:
    seed = Sample(id="s", messages=(Message("user", "Count the words.\n\nOne two three"),), tags={"language": "en"})
    ask = ScriptedAsk(" Name three rivers in Asia. ", " Name three rivers in Asia. ")
    asyncio.run(SelfInstruct(instances=True).expand([seed], ask, Random(0)))
    asyncio.run(SelfInstruct().expand([seed], ask, Random(0)))
    assert ask.asked[0][1]["prefix"] == "1. Count the words.\n2."
    assert ask.asked[1][1]["prefix"] == "1. Count the words.\nOne two three\n2."
    assert ask.asked[0][0] != ask.asked[1][0]
    assert parted("判断情感\n \n好吃") == "判断情感" and parted("判断情感：好吃") == "判断情感：好吃"
