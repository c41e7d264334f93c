"""Self-Instruct: demonstrations, the paper's rules for instructions, the answer."""

import asyncio
from random import Random

import pytest

from cluster.engine import Reply
from cluster.sample import Message, Sample
from generation.contracts import Draft
from generation.methods.self_instruct import SelfInstruct
from tests.fakes import ScriptedAsk


def pool(language: str, prefix: str, count: int, words: str) -> list[Sample]:
    made = [(f"{prefix}{n}", f"{words} {n}") for n in range(count)]
    return [Sample(id=i, messages=(Message("user", text),), tags={"language": language}) for i, text in made]


SEEDS = pool("en", "e", 20, "Write a line about the number") + pool("zh", "z", 10, "写一句关于这个数字的话")
MADE = pool("en", "m", 5, "Tell a story about the number")


def test_demonstrations_are_six_human_and_two_made_of_one_language() -> None:
    for place in range(30):
        parents = SelfInstruct().draw(SEEDS, MADE, Random(place))
        languages = {parent.tags["language"] for parent in parents}
        made = [parent for parent in parents if parent.id.startswith("m")]
        assert len(parents) == len({parent.id for parent in parents}) == 8
        assert len(languages) == 1
        assert len(made) == (2 if languages == {"en"} else 0)


def test_languages_get_the_shares_of_the_seeds() -> None:
    drawn = [SelfInstruct().draw(SEEDS, (), Random(place))[0].tags["language"] for place in range(300)]
    assert 0.25 < drawn.count("zh") / 300 < 0.42
    only = [SelfInstruct(languages=("zh",)).draw(SEEDS, (), Random(place))[0].tags["language"] for place in range(20)]
    assert set(only) == {"zh"}


def test_few_seeds_are_enough() -> None:
    assert len(SelfInstruct().draw(SEEDS[:2], (), Random(0))) == 2


@pytest.mark.parametrize(("seeds", "says"), [(SEEDS[:20], "Write a list of 9"), (SEEDS[20:], "请写出9条")])
def test_the_model_continues_the_list_in_its_language(seeds: list[Sample], says: str) -> None:
    method = SelfInstruct()
    parents = method.draw(seeds, (), Random(1))
    ask = ScriptedAsk(" Name three rivers in Asia. ")
    (draft,) = asyncio.run(method.expand(parents, ask, Random(0)))
    (messages, settings) = ask.asked[0]
    assert says in messages[0].content
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
    assert SelfInstruct().refuse(text, finish) == reason


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
