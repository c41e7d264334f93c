"""Evol-Instruct: six operations, rounds, the four rules of elimination, and the pool that a failure leaves as it is."""

import asyncio
from collections import Counter
from random import Random

import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.template import parse
from gristmill.generation.contracts import Draft, Snapshot
from gristmill.generation.methods.evol_instruct.method import OPERATIONS, SORRY_WORDS, EvolInstruct, failure
from gristmill.generation.methods.evol_instruct.prompts import COMPARE
from tests.fakes import ScriptedAsk


def parent(text: str, language: str = "en", id: str = "p", round: int = 0) -> Sample:
    return Sample(id=id, messages=(Message("user", text),), tags={"language": language}, round=round)


SUM = parent("1+1=?")
"""The instruction that the paper's first figure begins with."""
HAN = parent("什么是通货膨胀？", "zh")
ERROR = Reply("", "error: prompt has 9000 tokens", 0, 0)


def verdict(equal: float, language: str = "en") -> Reply:
    same, other = parse(COMPARE[language]).choices("verdict")
    return Reply(same if equal > 0.5 else other, "stop", 9, 1, {same: equal, other: 1 - equal})


def evolve(method: EvolInstruct, of: Sample, *replies: Reply | str, place: int = 0) -> tuple[Draft, ScriptedAsk]:
    ask = ScriptedAsk(*replies, parents=(of,))
    (draft,) = asyncio.run(method.expand((of,), ask, Random(place)))
    return draft, ask


def answered(method: EvolInstruct, of: Sample, text: str, *replies: Reply | str) -> tuple[Draft, ScriptedAsk]:
    ask = ScriptedAsk(*replies, parents=(of,))
    draft = Draft((Message("user", text),), {"language": of.tags["language"], "operation": "deepen"})
    return asyncio.run(method.answer(draft, ask)), ask


def test_five_operations_go_deeper_and_one_goes_wider_each_as_likely() -> None:
    assert len(OPERATIONS) == 6 and OPERATIONS[-1] == "breadth"
    drawn = Counter(evolve(EvolInstruct(), SUM, "x + y = ?", place=n)[0].tags["operation"] for n in range(1200))
    assert set(drawn) == set(OPERATIONS)
    assert all(150 < count < 250 for count in drawn.values())
    assert EvolInstruct().max_rounds == 4


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("of", [SUM, HAN], ids=["en", "zh"])
def test_each_operation_continues_evolved_pairs_in_the_language_of_the_parent(operation: str, of: Sample) -> None:
    method = EvolInstruct.model_validate({"operations": [operation], "head_words": 0})
    draft, ask = evolve(method, of, ' "Something quite new." ')
    messages, settings = ask.asked[0]
    heads = {"en": ("Given prompt: ", "prompt:"), "zh": ("给定指令：", "指令：")}[of.tags["language"]]
    assert settings["prefix"].count(heads[0]) == 4  # three are shown
    assert f"{heads[0]}{of.instruction}\n" in settings["prefix"] and settings["prefix"].endswith(heads[1])
    assert of.instruction not in messages[0].text  # what is the same for all comes first
    assert draft.messages == (Message("user", "Something quite new."),)
    assert draft.tags == {"language": of.tags["language"], "operation": operation} and draft.dropped is None


@pytest.mark.parametrize(
    ("of", "head", "reply", "text"),
    [
        (
            parent("Name three animals of the sea."),
            ": Name three animals",
            " that fly.",
            "Name three animals that fly.",
        ),
        (parent("Why? Because!"), ": Why?", ' "So?"', 'Why? "So?"'),
        (parent("说出三种生活在海里的动物。", "zh"), "：说出三种", "会飞的动物。", "说出三种会飞的动物。"),
    ],
)
def test_in_depth_evolutions_begin_as_their_parent_does(of: Sample, head: str, reply: str, text: str) -> None:
    draft, ask = evolve(EvolInstruct(operations=("constrain",)), of, reply)
    assert ask.asked[0][1]["prefix"].endswith(head)
    assert draft.messages == (Message("user", text),)
    wider, ask = evolve(EvolInstruct(operations=("breadth",)), of, reply)
    assert not ask.asked[0][1]["prefix"].endswith(head) and wider.messages[0].text in reply
    empty, _ = evolve(EvolInstruct(operations=("constrain",)), of, " ")
    assert empty.dropped == "evol_instruct: instruction is empty" and not empty.messages


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("How much is 17 + 25, and why?", None),
        ("Rewrite the given prompt as a poem.", "copies words of the prompt"),
        ("#Rewritten Prompt#: How much is 2+2?", "copies words of the prompt"),
        ("请回答改写后的指令：二加二等于几？", "copies words of the prompt"),
        ("给定指令是什么？", "copies words of the prompt"),
        ("1 + 1 = ?", "no information gain"),
        ("word " * 201, "instruction too long"),
        ("诗" * 303, "instruction too long"),
        (" ?! ", "instruction is empty"),
        ("", "instruction is empty"),
        (Reply("How much is", "length", 9, 192), "instruction cut off"),
        (Reply("How much", "repetition", 9, 192), "instruction cut off"),
        (ERROR, "error: prompt has 9000 tokens"),
    ],
)
def test_an_evolution_that_fails_by_itself_is_dropped(text: str | Reply, reason: str | None) -> None:
    draft, _ = evolve(EvolInstruct(head_words=0), SUM, text)
    assert draft.dropped == (f"evol_instruct: {reason}" if reason else None)


@pytest.mark.parametrize("of", [SUM, HAN], ids=["en", "zh"])
def test_no_answer_is_asked_for_where_the_model_sees_no_gain(of: Sample) -> None:
    language = of.tags["language"]
    whole, ask = answered(EvolInstruct(), of, "Something else.", verdict(0.6, language))
    _, settings = ask.asked[0]
    assert len(ask.asked) == 1 and settings["choices"] == parse(COMPARE[language]).choices("verdict")
    assert f"{of.instruction}\n" in settings["prefix"] and "Something else." in settings["prefix"]
    assert whole.dropped == "evol_instruct: no information gain"
    assert whole.scores == pytest.approx({"gain": 0.4})


def test_an_evolution_with_gain_is_answered() -> None:
    whole, ask = answered(EvolInstruct(), SUM, "Why is 1+1=2?", verdict(0.4), "Because of Peano.")
    assert [turn.role for turn in ask.asked[1][0]] == ["system", "user"]
    assert ask.asked[1][0][1] == whole.messages[0] == Message("user", "Why is 1+1=2?")
    assert whole.messages[-1] == Message("assistant", "Because of Peano.")
    assert whole.scores == pytest.approx({"gain": 0.6}) and whole.dropped is None and whole.complete


def test_the_judgement_can_be_left_out_and_its_failure_is_told() -> None:
    whole, ask = answered(EvolInstruct(max_equal=1), SUM, "Why is 1+1=2?", "Because of Peano.")
    assert len(ask.asked) == 1 and whole.dropped is None and not whole.scores
    failed, _ = answered(EvolInstruct(), SUM, "Why is 1+1=2?", ERROR)
    assert failed.dropped == "evol_instruct: error: prompt has 9000 tokens" and not failed.scores
    cut, _ = answered(EvolInstruct(), SUM, "Why is 1+1=2?", verdict(0.1), Reply("Because", "length", 9, 512))
    assert cut.dropped == "evol_instruct: answer cut off"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Sorry, that I do not know.", "answer apologises"),
        ("sorry " + "word " * (SORRY_WORDS - 2), "answer apologises"),
        ("sorry " + "word " * (SORRY_WORDS - 1), None),
        ("很抱歉，我不知道。", "answer apologises"),
        ("抱歉" + "字" * 120, None),
        ("A sorrywort is a plant.", None),
        ("...!? -- ", "answer says nothing"),
        ("It is what it is, and that is all.", "answer says nothing"),
        ("是的，就是这个。", "answer says nothing"),
        ("。。。", "answer says nothing"),
        ("It is 2.", None),
        ("是二。", None),
    ],
)
def test_answers_that_apologise_or_say_nothing_fail(answer: str, reason: str | None) -> None:
    assert SORRY_WORDS == 80  # printed in the paper
    assert failure(answer) == reason
    whole, _ = answered(EvolInstruct(max_equal=1), SUM, "Why is 1+1=2?", answer)
    assert whole.dropped == (f"evol_instruct: {reason}" if reason else None)


def test_parents_are_seeds_and_kept_rows_that_were_evolved_fewer_than_four_times() -> None:
    seeds = [parent(f"Seed {n}", id=f"s{n}") for n in range(3)]
    made = [parent(f"Row {n}", id=f"m{n}", round=n) for n in (1, 2, 3, 4, 5)]
    pools = Snapshot(2, seeds, made=made)
    drawn = Counter(EvolInstruct().draw(pools, n, Random(n))[0].id for n in range(300))
    assert set(drawn) == {"s0", "s1", "s2", "m1", "m2", "m3"}
    assert min(drawn.values()) > 25
    assert {EvolInstruct(max_rounds=1).draw(pools, n, Random(n))[0].round for n in range(50)} == {0}


def test_a_failed_evolution_leaves_its_parent_in_the_pool() -> None:
    seeds = [parent("1+1=?", id="s0")]
    failed = parent("2+2=?", id="m1", round=1).drop("evol_instruct: no information gain")
    kept = parent("Why is 1+1=2?", id="m0", round=1)
    pools = Snapshot(2, seeds, made=[kept], refused=[failed])
    drawn = {EvolInstruct().draw(pools, n, Random(n))[0].id for n in range(50)}
    assert drawn == {"s0", "m0"}  # what failed is no parent; what it came from still is one


def test_languages_and_lengths_of_parents_can_be_asked_for() -> None:
    seeds = [parent("字" * 400, "zh", id="long"), SUM, HAN]
    pools = Snapshot(0, seeds)
    only = EvolInstruct(languages=("zh",))
    assert all(only.draw(pools, n, Random(n)) == (HAN,) for n in range(20))
    nothing = EvolInstruct(languages=("de",)).draw(pools, 0, Random(0))
    assert len(nothing) == 1 and nothing[0] in seeds
