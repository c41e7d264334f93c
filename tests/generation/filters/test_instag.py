"""InsTag: open intents of an instruction, held to a schema, in one form, and never a drop."""

import asyncio
import json

import jsonschema
import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.scripts import is_chinese
from gristmill.generation.contracts import Verdict
from gristmill.generation.filters.instag import PROMPTS, Instag, intents, schema
from tests.fakes import ScriptedAsk

EN, ZH = ("Name a river in Asia.", "The Mekong."), ("用一句话介绍长江。", "长江是中国最长的河。")


def sample(*turns: str) -> Sample:
    roles = ("user", "assistant") * len(turns)
    return Sample(id="s", messages=tuple(Message(role, text) for role, text in zip(roles, turns, strict=False)))


def judged(step: Instag, what: Sample, *replies: Reply | str) -> tuple[Verdict, ScriptedAsk]:
    ask = ScriptedAsk(*replies)
    return asyncio.run(step.judge(what, ask)), ask


def said(*names: object) -> str:
    return json.dumps({"intents": names})


def test_intents_are_a_tag_and_their_number_a_score() -> None:
    verdict, ask = judged(Instag(), sample(*EN), said("factual question", "geography"))
    assert verdict == Verdict({"num_intents": 2.0}, tags={"intents": '["factual question", "geography"]'})
    ((messages, settings),) = ask.asked
    assert messages[0].role == "user" and "each in one to three words" in messages[0].text
    assert settings["prefix"].endswith("\n\nInstruction: Name a river in Asia.\n")
    assert "Mekong" not in settings["prefix"], "the answer has no part in it"
    assert settings["temperature"] == 0 and json.loads(settings["json_schema"])["required"] == ["intents"]


def test_chinese_instructions_get_chinese_intents() -> None:
    verdict, ask = judged(Instag(), sample(*ZH), said("介绍", "地理", "一句话"))
    assert verdict.tags == {"intents": '["介绍", "地理", "一句话"]'} and verdict.scores == {"num_intents": 3.0}
    assert "请说出每条指令想要什么" in ask.asked[0][0][0].text
    assert ask.asked[0][1]["prefix"].endswith("\n\n指令：用一句话介绍长江。\n")


def test_all_turns_of_the_user_are_read() -> None:
    _, ask = judged(Instag(), sample("Hello", "Hi!", "Name a\n\nriver", "The Nile"), said("greeting"))
    assert ask.asked[0][1]["prefix"].endswith("Instruction: Hello\nName a\nriver\n")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("Formal Tone", " formal-tone ", "formal  tone."), ["formal tone"]),
        (("C++", "C#", "C"), ["c++", "c#", "c"]),
        (("ＪＳＯＮ format", "snake_case"), ["json format", "snake case"]),
        (("...", "", "写诗！"), ["写诗"]),
        ((), []),
    ],
)
def test_intents_have_one_form_and_stand_once(names: tuple[str, ...], found: list[str]) -> None:
    """Lu et al. 2023, section 3: lower case, and special characters as spaces."""
    assert intents(said(*names)) == found


@pytest.mark.parametrize(
    "text", ["", "none", "[]", "7", '{"intents": "a"}', '{"intents": {"a": 1}}', '{"intents": ["a']
)
def test_a_reply_that_is_no_list_lets_the_sample_pass_without_intents(text: str) -> None:
    assert judged(Instag(), sample(*EN), text)[0] == Verdict()


def test_a_refused_call_and_an_instruction_without_words_drop_nothing() -> None:
    assert judged(Instag(), sample(*EN), Reply("", "error: prompt has 9000 tokens", 9000, 0))[0] == Verdict()
    verdict, ask = judged(Instag(), sample(" \n", "An answer."))
    assert verdict == Verdict() and not ask.asked


def test_the_schema_takes_so_many_short_names_and_nothing_else() -> None:
    jsonschema.validate({"intents": ["a", "写诗"]}, json.loads(schema(2)))
    several: list[list[str]] = [[], ["a", "b", "c"], ["x" * 41], ['a"b']]
    for wrong in (*({"intents": names} for names in several), ["a"]):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, json.loads(schema(2)))
    verdict, _ = judged(Instag(max_intents=2), sample(*EN), said("a", "b", "c"))  # an endpoint that held to nothing
    assert verdict == Verdict({"num_intents": 2.0}, tags={"intents": '["a", "b"]'})


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_shown_intents_are_what_the_model_is_held_to(language: str) -> None:
    shown = [line for line in PROMPTS[language].splitlines() if line.startswith("{") and "intents" in line]
    assert len(shown) == 7
    for line in shown:
        jsonschema.validate(json.loads(line), json.loads(schema(6)))
        assert intents(line) == json.loads(line)["intents"], "in the form that is stored"
    assert len({len(json.loads(line)["intents"]) for line in shown}) >= 4, "few and many"
    assert is_chinese(PROMPTS[language]) == (language == "zh")


def test_a_recipe_brings_its_own_prompts() -> None:
    step = Instag(prompts={"en": "Tag it.\n---\n{instruction} ->"})
    _, ask = judged(step, sample(*ZH), said("介绍"))
    assert ask.asked[0][0] == (Message("user", "Tag it."),)
    assert ask.asked[0][1]["prefix"] == "用一句话介绍长江。 ->"
    assert step.fingerprint() != Instag().fingerprint()
