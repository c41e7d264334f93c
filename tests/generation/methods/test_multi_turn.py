"""Multi-turn: the simulated user, the ends of a conversation, one sample of it all."""

import asyncio
from random import Random

import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.generation.contracts import Draft, Snapshot
from gristmill.generation.methods.multi_turn import MultiTurn, overlap, takes_leave
from tests.fakes import ScriptedAsk

SEED = Sample(
    id="s",
    messages=(Message("user", "How do I cook rice?"), Message("assistant", "Rinse it, then boil it.")),
    tags={"language": "en"},
)
HAN = Sample(
    id="z",
    messages=(Message("system", "你是厨师。"), Message("user", "怎么煮米饭？"), Message("assistant", "先淘米，再煮。")),
    tags={"language": "zh"},
)
ERROR = Reply("", "error: prompt has 9000 tokens", 0, 0)


def talked(method: MultiTurn, parent: Sample, *replies: Reply | str) -> tuple[Draft, ScriptedAsk]:
    ask = ScriptedAsk(*replies, parents=(parent,))
    (draft,) = asyncio.run(method.expand((parent,), ask, Random(0)))
    return draft, ask


@pytest.mark.parametrize("parent", [SEED, HAN], ids=["en", "zh"])
def test_the_user_is_asked_behind_the_whole_conversation_and_then_the_assistant(parent: Sample) -> None:
    said = ["With how much water?", "One and a half times as much.", "And for brown rice?", "Twice as much."]
    draft, ask = talked(MultiTurn(turns=2), parent, *said)
    assert [settings.get("role", "assistant") for _, settings in ask.asked] == ["user", "assistant"] * 2
    roles = ["user", "assistant"] * 2
    added = tuple(Message(role, text) for role, text in zip(roles, said, strict=True))
    assert [messages for messages, _ in ask.asked] == [(*parent.messages, *added[:n]) for n in range(4)]
    assert draft.messages == (*parent.messages, *added) and draft.complete and draft.dropped is None
    assert draft.tags == {"language": parent.tags["language"], "turns": "2", "ended": "turns"}


def test_a_question_without_answer_is_answered_first() -> None:
    parent = Sample(id="q", messages=SEED.messages[:1], tags={"language": "en"})
    draft, ask = talked(MultiTurn(turns=1), parent, "Boil it.", "How long?", "Twelve minutes.")
    assert [turn.text for turn in draft.messages] == [
        "How do I cook rice?",
        "Boil it.",
        "How long?",
        "Twelve minutes.",
    ]
    assert "role" not in ask.asked[0][1]
    failed, _ = talked(MultiTurn(), parent, Reply("Boil", "length", 9, 384))
    assert failed.dropped == "multi_turn: answer cut off"


@pytest.mark.parametrize(
    ("turn", "ended"),
    [
        ("Thanks a lot, that was all!", "good-bye"),
        ("好的，谢谢你！", "good-bye"),
        ("再见", "good-bye"),
        ("How do I cook the rice?", "repetition"),
        ("With how much water??", "repetition"),
        ("  ", "no turn"),
        ("?!", "no turn"),
        (Reply("And then", "length", 9, 96), "no turn"),
        (ERROR, "no turn"),
    ],
)
def test_the_conversation_ends_early_with_what_is_whole(turn: Reply | str, ended: str) -> None:
    draft, ask = talked(MultiTurn(turns=5), SEED, "With how much water?", "One and a half times as much.", turn)
    assert len(ask.asked) == 3 and len(draft.messages) == 4
    assert draft.tags["ended"] == ended and draft.tags["turns"] == "1" and draft.dropped is None


def test_too_few_turns_drop_the_sample() -> None:
    draft, _ = talked(MultiTurn(), SEED, "Thank you!")
    assert draft.dropped == "multi_turn: too few turns" and draft.messages == SEED.messages
    said = ["With how much water?", "One and a half times as much.", "Bye."]
    draft, _ = talked(MultiTurn(min_turns=2), SEED, *said)
    assert draft.dropped == "multi_turn: too few turns" and draft.tags["ended"] == "good-bye"


@pytest.mark.parametrize(("reply", "why"), [(" ", "answer is empty"), (ERROR, ERROR.finish)])
def test_an_answer_that_fails_ends_the_conversation_or_drops_it(reply: Reply | str, why: str) -> None:
    draft, _ = talked(MultiTurn(), SEED, "With how much water?", reply)
    assert draft.dropped == f"multi_turn: {why}"
    later, _ = talked(MultiTurn(), SEED, "With how much water?", "A cup.", "And for brown rice?", reply)
    assert later.dropped is None and later.tags["ended"] == "answer" and later.messages[-1].text == "A cup."


def test_a_conversation_in_which_nobody_asks_is_dropped() -> None:
    draft, ask = talked(MultiTurn(), Sample(id="m", messages=()))
    assert draft.dropped == "multi_turn: no conversation" and not ask.asked


@pytest.mark.parametrize(
    ("text", "leaves"),
    [
        ("Thank you so much!", True),
        ("You're welcome", True),
        ("Thanks! Could you also tell me about brown rice?", False),
        ("I thank my mother in the speech. " * 5, False),
        ("谢谢，那糙米怎么煮？", False),
        ("感谢您的帮助。", True),
        ("Write a good-bye letter, please", False),
        ("Boil it", False),
    ],
)
def test_politeness_that_asks_for_nothing_ends_a_conversation(text: str, leaves: bool) -> None:
    assert takes_leave(text) == leaves


def test_overlap_counts_words_and_chinese_characters() -> None:
    assert overlap("how do I cook", "how do you cook") == 0.75
    assert overlap("怎么煮饭", "怎么蒸饭") == 0.75
    assert overlap("", "") == 0.0 and overlap("a a", "a") == pytest.approx(2 / 3)


def test_system_prompts_for_the_roles_are_no_part_of_the_sample() -> None:
    method = MultiTurn(turns=1, user_prompts={"zh": "你是提问的人。"}, answer_prompts={"zh": "请简短回答。"})
    draft, ask = talked(method, HAN, "要放多少水？", "一倍半。")
    assert [messages[0].text for messages, _ in ask.asked] == ["你是提问的人。", "请简短回答。"]
    assert [turn.role for turn in draft.messages].count("system") == 1 and draft.messages[0] == HAN.messages[0]


def test_parents_are_seeds_and_kept_rows_of_other_methods() -> None:
    made = [Sample(id="e", messages=SEED.messages, method="evol_instruct", round=1, tags={"language": "en"})]
    made.append(Sample(id="m", messages=SEED.messages, method="multi_turn", round=1, tags={"language": "en"}))
    pools = Snapshot(2, [SEED, HAN], made=made)
    assert {MultiTurn().draw(pools, n, Random(n))[0].id for n in range(50)} == {"s", "z", "e"}
    assert {MultiTurn(languages=("zh",)).draw(pools, n, Random(n))[0].id for n in range(20)} == {"z"}
    assert MultiTurn(languages=("de",)).draw(pools, 0, Random(0))[0].id in {"s", "z"}
