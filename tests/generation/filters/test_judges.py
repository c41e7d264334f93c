"""Judges: rubrics, votes, pairs in both orders, toxicity by the model."""

import asyncio
from collections.abc import Mapping

import pytest
from pydantic import TypeAdapter, ValidationError

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.scripts import is_chinese
from gristmill.cluster.text.template import parse
from gristmill.generation.contracts import Filter, Verdict
from gristmill.generation.filters import AnyFilter
from gristmill.generation.filters.judge.filter import Judge, asked
from gristmill.generation.filters.judge.rubrics import PROMPTS, Rubric
from gristmill.generation.filters.pairwise import Pairwise
from gristmill.generation.filters.toxicity import Toxicity
from tests.fakes import ScriptedAsk

REFUSED = Reply("", "error: prompt has 9000 tokens, must be below 2048", 9000, 0)
EN, ZH = ("Why is the sky blue?", "Because of scattering."), ("天空为什么是蓝色的？", "因为散射。")


def sample(*turns: str) -> Sample:
    roles = ("user", "assistant") * len(turns)
    return Sample(id="s", messages=tuple(Message(role, text) for role, text in zip(roles, turns, strict=False)))


def chosen(chances: Mapping[str, float]) -> Reply:
    return Reply(max(chances, key=lambda c: chances[c]), "stop", 10, 1, chances)


def judged(step: Filter, what: Sample, *replies: Reply | str) -> tuple[Verdict, ScriptedAsk]:
    ask = ScriptedAsk(*replies)
    return asyncio.run(step.judge(what, ask)), ask


@pytest.mark.parametrize("rubric", list(PROMPTS))
@pytest.mark.parametrize("turns", [EN, ZH])
def test_every_rubric_has_its_prompt_its_shots_and_its_score(rubric: Rubric, turns: tuple[str, str]) -> None:
    language = "zh" if turns is ZH else "en"
    verdict, ask = judged(Judge(rubric=rubric), sample(*turns), chosen({"3": 0.5, "4": 0.5}))
    assert verdict == Verdict({"judge" if rubric == "quality" else rubric: 3.5})
    (messages, settings) = ask.asked[0]
    assert messages == (Message("user", parse(PROMPTS[rubric][language]).ask),)
    assert settings["choices"] == tuple("012345" if rubric == "additive" else "12345")
    assert settings["prefix"].count("\n\n") == PROMPTS[rubric][language].count("\n\n") >= 8
    assert (turns[1] in settings["prefix"]) == (rubric != "complexity")
    assert settings["prefix"].endswith("分数：" if language == "zh" else "Grade: ")


@pytest.mark.parametrize("rubric", list(PROMPTS))
def test_shots_are_in_their_language_and_use_the_whole_scale(rubric: Rubric) -> None:
    for language, text in PROMPTS[rubric].items():
        shots = [shot.splitlines() for shot in parse(text).shots.strip().split("\n\n")]
        assert {len(lines) for lines in shots} == {3 if rubric == "complexity" else 4}
        assert {is_chinese(line) for lines in shots for line in (lines[0], lines[-2])} == {language == "zh"}
        grades = {int(lines[-1][-1]) for lines in shots}
        assert max(grades) == 5 and min(grades) == (0 if rubric == "additive" else 1)


def test_a_low_grade_drops_and_says_by_which_rubric() -> None:
    low = chosen({"1": 1.0})
    assert judged(Judge(), sample(*EN), low)[0].dropped == "judge: below threshold"
    assert judged(Judge(rubric="complexity"), sample(*EN), low)[0].dropped == "judge: complexity below threshold"


def test_votes_write_reasons_first_and_give_mean_and_spread() -> None:
    """Three grades 2, 4 and 3: mean 3, standard deviation sqrt(2/3)."""
    reasons = (" It is short.", "It is\nright.", "")
    grades = (chosen({"2": 1.0}), chosen({"4": 1.0}), chosen({"2": 0.5, "4": 0.5}))
    verdict, ask = judged(Judge(votes=3), sample(*EN), *reasons, *grades)
    assert verdict.scores == pytest.approx({"judge": 3.0, "judge_spread": (2 / 3) ** 0.5})
    prefixes = [settings["prefix"] for _, settings in ask.asked]
    assert all(prefix.endswith("Because of scattering.\nReason:") for prefix in prefixes[:3])
    assert [prefix.rsplit("Reason:", 1)[1] for prefix in prefixes[3:]] == [
        " It is short.\nGrade: ",
        " It is right.\nGrade: ",
        " \nGrade: ",
    ]
    assert {settings["temperature"] for _, settings in ask.asked[:3]} == {0.7}
    assert {settings["temperature"] for _, settings in ask.asked[3:]} == {0.0}
    assert "Reason: These are three colours, as asked.\nGrade: 5\n\n" in prefixes[0]


def test_votes_speak_chinese() -> None:
    _, ask = judged(Judge(votes=1, rubric="correctness"), sample(*ZH), "说得对。", chosen({"5": 1.0}))
    assert ask.asked[0][1]["prefix"].endswith("\n回答：因为散射。\n理由：")
    assert ask.asked[1][1]["prefix"].endswith("\n理由： 说得对。\n分数：")


def test_votes_that_were_refused_do_not_count_unless_all_were() -> None:
    verdict, _ = judged(Judge(votes=2), sample(*EN), "a", "b", REFUSED, chosen({"4": 1.0}))
    assert verdict == Verdict({"judge": 4.0, "judge_spread": 0.0})
    verdict, _ = judged(Judge(votes=2), sample(*EN), "a", "b", REFUSED, REFUSED)
    assert verdict.dropped == f"judge: {REFUSED.finish}"


def test_a_conversation_is_judged_whole() -> None:
    turns = sample("Hello", "Hi!", "Name a river", "The Nile")
    assert asked(turns) == "User: Hello\nAssistant: Hi!\nUser: Name a river"
    assert asked(sample("你好", "您好！", "说一条河", "长江")) == "用户: 你好\n助手: 您好！\n用户: 说一条河"
    assert asked(sample("Hello", "Hi!")) == asked(sample("Hello")) == "Hello"
    _, ask = judged(Judge(), turns, chosen({"4": 1.0}))
    assert ask.asked[0][1]["prefix"].endswith("User: Name a river\nAnswer: The Nile\nGrade: ")


def test_a_recipe_sets_rubric_votes_prompts_and_shots() -> None:
    recipe = {
        "kind": "judge",
        "rubric": "complexity",
        "prompts": {"en": "How hard?\n---\nName a fruit: 1\n\nProve it: 3\n\n{instruction}: {grade:1|2|3}"},
    }
    step: object = TypeAdapter(AnyFilter).validate_python(recipe)
    assert isinstance(step, Judge) and step.score == "complexity"
    verdict, ask = judged(step, sample(*EN), chosen({"1": 0.5, "3": 0.5}))
    assert verdict.scores == {"complexity": 2.0} and ask.asked[0][1]["choices"] == ("1", "2", "3")
    assert ask.asked[0][1]["prefix"] == "Name a fruit: 1\n\nProve it: 3\n\nWhy is the sky blue?: "
    assert step.fingerprint() != Judge(rubric="complexity").fingerprint() != Judge().fingerprint()
    with pytest.raises(ValidationError, match="rubric"):
        TypeAdapter(AnyFilter).validate_python({"kind": "judge", "rubric": "beauty"})
    with pytest.raises(ValidationError, match=r"lacks \{reason\}"):
        TypeAdapter(AnyFilter).validate_python({**recipe, "votes": 2})


def pair(first: float, second: float) -> tuple[Reply, Reply]:
    """Verdicts of the two orders: the chance of A in each."""
    return chosen({" A": first, " B": 1 - first}), chosen({" A": second, " B": 1 - second})


@pytest.mark.parametrize(
    ("first", "second", "score", "reason"),
    [
        (0.9, 0.2, 0.85, None),  # wins in both orders
        (0.9, 0.9, 0.5, None),  # always the first: no preference
        (0.1, 0.1, 0.5, None),  # always the second
        (0.3, 0.6, 0.35, "pairwise: loses in both orders"),
        (0.5, 0.9, 0.3, None),  # undecided once
    ],
)
def test_a_loss_counts_in_both_orders_only(first: float, second: float, score: float, reason: str | None) -> None:
    """Zheng et al. 2023, section 3.4: swapped positions, a verdict only where both agree."""
    verdict, _ = judged(Pairwise(), sample(*EN), "A fresh answer.", *pair(first, second))
    assert verdict.scores == pytest.approx({"pairwise": score})
    assert verdict.dropped == reason


def test_both_orders_show_the_same_two_answers_swapped() -> None:
    _, ask = judged(Pairwise(), sample(*EN), " Fresh. ", *pair(0.5, 0.5))
    assert ask.asked[0][0] == (Message("user", EN[0]),)
    one, other = (settings["prefix"] for _, settings in ask.asked[1:])
    assert one.endswith("\nAnswer A: Because of scattering.\nAnswer B: Fresh.\nBetter:")
    assert other.endswith("\nAnswer A: Fresh.\nAnswer B: Because of scattering.\nBetter:")
    assert "Better: A\n\n" in one


def test_pairs_are_compared_in_chinese() -> None:
    a, b = chosen({"A": 0.9, "B": 0.1}), chosen({"A": 0.2, "B": 0.8})
    verdict, ask = judged(Pairwise(), sample(*ZH), "不知道。", a, b)
    assert verdict.scores == pytest.approx({"pairwise": 0.85})
    assert ask.asked[1][1]["prefix"].endswith("\n回答A：因为散射。\n回答B：不知道。\n更好：")
    assert ask.asked[1][1]["choices"] == ("A", "B") and "哪一个更好" in ask.asked[1][0][0].text


def test_a_parent_with_the_same_instruction_can_be_the_other_answer() -> None:
    ask = ScriptedAsk(*pair(0.9, 0.1), parents=(sample("Other?", "No."), sample(EN[0], "Because.")))
    verdict = asyncio.run(Pairwise(against="parent").judge(sample(*EN), ask))
    assert verdict.scores == pytest.approx({"pairwise": 0.9})
    assert "Answer B: Because.\n" in ask.asked[0][1]["prefix"]
    alone, silent = judged(Pairwise(against="parent"), sample(*EN))
    assert alone == Verdict() and not silent.asked


def test_pairs_without_an_other_answer_or_a_verdict() -> None:
    assert judged(Pairwise(), sample(*EN), EN[1])[0] == Verdict({"pairwise": 0.5})
    assert judged(Pairwise(), sample(*EN), "  ")[0] == Verdict()
    assert judged(Pairwise(), sample(*EN), REFUSED)[0].dropped == f"pairwise: {REFUSED.finish}"
    assert (
        judged(Pairwise(), sample(*EN), "Fresh.", pair(0.9, 0)[0], REFUSED)[0].dropped == f"pairwise: {REFUSED.finish}"
    )
    assert judged(Pairwise(), sample("Why?"))[0].dropped == "pairwise: no answer"


def test_the_model_says_safe_or_toxic() -> None:
    verdict, ask = judged(Toxicity(), sample(*EN), chosen({" safe": 0.75, " toxic": 0.25}))
    assert verdict == Verdict({"harmless": 0.75})
    (messages, settings) = ask.asked[0]
    assert "safe or toxic" in messages[0].text
    assert settings["choices"] == (" safe", " toxic")
    assert settings["prefix"].endswith('\n\n"Why is the sky blue? Because of scattering." is')
    verdict, ask = judged(Toxicity(), sample(*ZH), chosen({"安全的": 0.25, "有害的": 0.75}))
    assert verdict == Verdict({"harmless": 0.25}, "toxicity: harmful")
    assert ask.asked[0][1]["prefix"].endswith("\n\n“天空为什么是蓝色的？ 因为散射。”是")
    assert "”是有害的\n\n" in ask.asked[0][1]["prefix"]


def test_toxicity_at_the_bound_stays_and_a_refused_call_drops() -> None:
    assert judged(Toxicity(), sample(*EN), chosen({" safe": 0.5, " toxic": 0.5}))[0].dropped is None
    assert judged(Toxicity(), sample(*EN), REFUSED)[0].dropped == f"toxicity: {REFUSED.finish}"
    assert judged(Toxicity(), Sample(id="s", messages=()))[0] == Verdict()
