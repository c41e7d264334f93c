"""Respond: prompts as they are, candidates and the best of them, the majority of final answers."""

import asyncio
from random import Random

import pytest

from gristmill.cluster.contract.sample import Message, Sample, ToolCall
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.finals import final_answer
from gristmill.generation.contracts import Draft, Snapshot
from gristmill.generation.methods.respond import Respond, prompt_of
from tests.fakes import ScriptedAsk

TALK = (
    Message("system", "You are a sailor."),
    Message("user", "Hello"),
    Message("assistant", "Ahoy!"),
    Message("user", "Where does it end?"),
    Message("assistant", "At sea."),
)
LONG = Sample(id="t", messages=TALK, tags={"language": "en"})
PLAIN = Sample(id="p", messages=(Message("user", "多少钱？"),), tags={"language": "zh"})
ERROR = Reply("", "error: prompt has 9000 tokens", 0, 0)


def answered(method: Respond, parent: Sample, *replies: Reply | str) -> tuple[Draft, ScriptedAsk]:
    ask = ScriptedAsk(*replies, parents=(parent,))
    (draft,) = asyncio.run(method.expand((parent,), ask, Random(0)))
    return asyncio.run(method.answer(draft, ask)), ask


def row(id: str, dropped: str | None = None, **scores: float) -> Sample:
    return Sample(id=id, messages=TALK, scores=scores, dropped=dropped)


def test_every_input_is_answered_once_before_any_again() -> None:
    pools = Snapshot(0, [LONG, PLAIN])
    assert [Respond().draw(pools, turn, Random(0)) for turn in range(3)] == [(LONG,), (PLAIN,), (LONG,)]


def test_the_prompt_keeps_its_system_turn_and_all_earlier_turns() -> None:
    whole, ask = answered(Respond(), LONG, "In the Black Sea.")
    assert ask.asked[0][0] == TALK[:-1]
    assert whole.messages == (*TALK[:-1], Message("assistant", "In the Black Sea."))
    assert whole.tags == {"language": "en"} and whole.dropped is None and not whole.scores


def test_a_system_prompt_stands_in_for_one_that_is_missing_and_is_no_part_of_the_sample() -> None:
    method = Respond(answer_prompts={"zh": "请简短回答。", "en": "Be short."})
    whole, ask = answered(method, PLAIN, "五元。")
    assert ask.asked[0][0] == (Message("system", "请简短回答。"), *PLAIN.messages)
    assert whole.messages == (*PLAIN.messages, Message("assistant", "五元。"))
    _, ask = answered(method, LONG, "At sea.")
    assert ask.asked[0][0] == TALK[:-1]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [(Reply("In", "length", 9, 512), "answer cut off"), (" ", "answer is empty"), (ERROR, ERROR.finish)],
)
def test_answers_are_whole_or_dropped(reply: Reply | str, reason: str) -> None:
    assert answered(Respond(), LONG, reply)[0].dropped == f"respond: {reason}"


def test_an_input_in_which_nobody_asks_is_dropped() -> None:
    mute = Sample(id="m", messages=(Message("assistant", "Ahoy!"),))
    (draft,) = asyncio.run(Respond(n=3).expand((mute,), ScriptedAsk(), Random(0)))
    assert draft.dropped == "respond: no prompt" and prompt_of(Sample(id="e", messages=())) == ()


def test_candidates_are_as_many_drafts() -> None:
    drafts = asyncio.run(Respond(n=4).expand((LONG,), ScriptedAsk(), Random(0)))
    assert [draft.messages for draft in drafts] == [TALK[:-1]] * 4


def test_the_best_of_the_candidates_stays() -> None:
    rows = [
        row("a", judge=2.0),
        row("b", "length: answer too long", judge=5.0),
        row("c", judge=3.0),
        row("d", judge=3.0),
    ]
    chosen = Respond(n=4, best_of="judge").choose(rows)
    assert [r.id for r in chosen] == ["a", "b", "c", "d"]
    lost = "respond: not the best"
    assert [r.dropped for r in chosen] == [lost, "length: answer too long", None, lost]
    assert list(Respond(n=4).choose(rows)) == rows


def test_without_the_score_no_candidate_is_the_best() -> None:
    chosen = Respond(n=2, best_of="reward").choose([row("a", judge=2.0), row("b", "judge: below threshold")])
    assert [r.dropped for r in chosen] == ["respond: no score to choose by", "judge: below threshold"]
    assert Respond(best_of="reward").choose([]) == []


def test_the_majority_of_the_papers_first_figure_is_eighteen_dollars() -> None:
    paths = [
        "She has 16 - 3 - 4 = 9 eggs left. So she makes $2 * 9 = $18 per day.",
        "This means she sells the rest for $2 * (16 - 4 - 3) = $26 per day. The answer is $26.",
        "She eats 3, has 13 left, bakes, and has 9 eggs * $2 = $18. The answer is $18.",
    ]
    whole, ask = answered(Respond(votes=3), LONG, *paths)
    assert len(ask.asked) == 3 and "####" in ask.asked[0][0][0].text
    assert ask.asked[0][0][0].text.startswith("You are a sailor.") and whole.messages[0] == TALK[0]
    assert whole.messages[-1].text == paths[0]
    assert whole.scores == pytest.approx({"self_consistency": 2 / 3}) and whole.dropped is None


def test_votes_are_counted_in_chinese_and_ties_go_to_the_first() -> None:
    whole, ask = answered(Respond(votes=4), PLAIN, "答案是：七十二元。", "所以是72元", "#### 80", "八十。答案为80")
    assert "最终答案" in ask.asked[0][0][0].text
    assert whole.messages[-1].text == "答案是：七十二元。" and whole.scores == {"self_consistency": 0.5}


@pytest.mark.parametrize(
    ("replies", "reason", "share"),
    [
        (["#### 1", "#### 2", "#### 3"], "votes disagree", 1 / 3),
        (["#### 1", Reply("#### 1", "length", 9, 512), ERROR], "votes disagree", 1 / 3),
        (["?!", "...", "-"], "no final answer", None),
        ([ERROR, ERROR, ERROR], ERROR.finish, None),
        ([Reply("One", "length", 9, 512)] * 3, "answer cut off", None),
    ],
)
def test_votes_that_decide_nothing_drop_the_sample(
    replies: list[Reply | str], reason: str, share: float | None
) -> None:
    whole, _ = answered(Respond(votes=3, min_agreement=0.5), LONG, *replies)
    assert whole.dropped == f"respond: {reason}"
    assert whole.scores == ({} if share is None else pytest.approx({"self_consistency": share}))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("48 and 24 are 72.", None),
        ("所以一共是七十二个。", None),
        ("48 and 24 are 71.", "not the known answer"),
        (Reply("72", "length", 9, 512), "answer cut off"),
    ],
)
def test_a_known_answer_must_be_come_to(answer: str | Reply, reason: str | None) -> None:
    turns = (Message("user", "How many clips?"), Message("assistant", "48/2 = <<48/2=24>>24 clips\n#### 72"))
    whole, ask = answered(Respond(known_answer=True), Sample(id="g", messages=turns, tags={"language": "en"}), answer)
    assert "####" in ask.asked[0][0][0].text
    assert whole.dropped == (f"respond: {reason}" if reason else None)
    unknown, _ = answered(Respond(known_answer=True), PLAIN, "72")
    assert unknown.dropped == "respond: not the known answer"


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72", "72"),
        ("#### 1,000", "1000"),
        ("#### -3.50", "-3.5"),
        ("#### $05", "5"),
        (r"Thus \boxed{12} and then \boxed{\frac{3}{4}x} of it", "3"),
        (r"So it is \boxed{x^{n}+y}.", "x n y"),
        (r"It breaks off: \boxed{12", "12"),
        ("The answer is 3/4 of 8 cakes.", "3/4"),
        ("The final answer: Paris.", "paris"),
        ("First 3, then 4.\nSo there are 7 birds.", "7"),
        ("We think of 1889.\nThe tower is in Paris", "the tower is in paris"),
        ("答案是三十六个。", "36"),
        ("因此，答案：一千二百零五", "1205"),
        ("答案为二零二四年", "2024"),
        ("3乘4得12。\n答：他买了12个，付了60元。\n以上。", "12"),
        ("答案是巴黎。", "巴黎"),
        ("先买３个，再买４个。\n一共是１２元。", "12"),
        ("他一直在家。", "他 一 直 在 家"),
        ("所以一共是二十四个苹果。", "24"),
        ("答案是三万零五十", "30050"),
        ("", None),
        ("?!\n...", None),
    ],
)
def test_final_answers_are_read_in_one_form(text: str, final: str | None) -> None:
    assert final_answer(text) == ("巴 黎" if final == "巴黎" else final)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("It could be positive, but on the whole it is Negative.", "negative"),
        ("It is not very negative", "very negative"),
        ("Negatively put, hm", None),
        ("不是正面，应该是负面。", "负面"),
        ("", None),
    ],
)
def test_labels_are_found_where_they_stand_last(text: str, label: str | None) -> None:
    assert final_answer(text, ("positive", "negative", "very negative", "正面", "负面")) == label


WEATHER = '[{"type": "function", "function": {"name": "weather"}}]'
CALL = ToolCall("c", "weather", '{"city": "Rome"}')


def test_a_prompt_with_tools_is_asked_with_them_and_may_be_answered_by_a_call() -> None:
    asked = Sample(id="t", messages=(Message("user", "Is it warm in Rome?"),), tools=WEATHER)
    whole, ask = answered(Respond(), asked, Reply("", "stop", 9, 9, reasoning="Hm.", tool_calls=(CALL,)))
    assert ask.asked[0][1]["tools"] == WEATHER == whole.tools and whole.dropped is None
    assert whole.messages[-1] == Message("assistant", None, "Hm.", (CALL,))


def test_a_conversation_that_ends_with_a_result_is_answered_as_it_is() -> None:
    turns = (
        Message("user", "Warm?"),
        Message("assistant", None, None, (CALL,)),
        Message("tool", "31", tool_call_id="c"),
    )
    whole, ask = answered(Respond(), Sample(id="t", messages=turns, tools=WEATHER), "Yes, 31 degrees.")
    assert ask.asked[0][0] == turns and whole.messages == (*turns, Message("assistant", "Yes, 31 degrees."))
