"""Templates: the user's turn, solved cases, the case in question, placeholders, words to choose; reasons of drops."""

from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gristmill.cluster.cli.explain import classes, example_of
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message
from gristmill.cluster.contract.settings import Step
from gristmill.cluster.jobs.recipe import load
from gristmill.cluster.text.replies import cut_off, flat, refuse
from gristmill.cluster.text.template import NUMBERS, Prompts, parse, slots, write
from gristmill.generation.filters import AnyFilter
from gristmill.generation.methods import AnyMethod

SAFE = """\
Is it safe?
---
Text: Boil it.
Why: It is food.
Verdict: safe

Text: {text}
Why: {reason}
Verdict:{verdict: safe| toxic}"""


def test_a_template_is_the_users_turn_and_how_the_reply_begins() -> None:
    prompt = parse("Do {what}.\n---\nGiven: {text}\nDone: ").begin(what="it", text="a\n---\nb {what}")
    assert prompt == {"messages": (Message("user", "Do it."),), "prefix": "Given: a\n---\nb {what}\nDone: "}
    assert parse("Do {what}.").begin(what="that") == {"messages": (Message("user", "Do that."),), "prefix": ""}
    assert parse("Do it.\n--- \nGo:") == parse("Do it.\n---\nGo:"), "a blank that nobody sees changes nothing"
    assert parse("{{what}} {what} {why} {a b}").text(what=1) == "{what} 1 {why} {a b}"


def test_a_reply_begins_at_a_placeholder_and_its_words_are_the_choices() -> None:
    template = parse(SAFE)
    prompt = template.begin("verdict", text="Run!", reason="It warns.")
    assert prompt["choices"] == (" safe", " toxic")
    assert prompt["prefix"] == f"{template.shots}Text: Run!\nWhy: It warns.\nVerdict:"
    written = template.begin("reason", text="Run!")
    assert "choices" not in written and written["prefix"].endswith("Text: Run!\nWhy:"), "blanks are the model's"


def test_a_line_without_a_value_is_left_out_of_the_case_and_on_demand_of_the_shots() -> None:
    template = parse(SAFE)
    assert template.begin("verdict", text="Run!")["prefix"] == f"{template.shots}Text: Run!\nVerdict:"
    without = template.without("reason")
    assert without.begin("verdict", text="Run!")["prefix"] == "Text: Boil it.\nVerdict: safe\n\nText: Run!\nVerdict:"
    assert template.without("nothing") == template


def test_a_shot_is_laid_out_as_the_case() -> None:
    english, chinese = parse("Q\n---\nText: {text}\nLabel:"), parse("Q\n---\n文字：{text}\n标签：")
    assert english.shot("good", text="a") == "Text: a\nLabel: good\n\n"
    assert chinese.shot("好", text="a") == "文字：a\n标签：好\n\n"
    assert english.begin("", english.shot("good", text="a"), text="b")["prefix"].count("Text: ") == 2
    assert english.stops(0, -1, 7) == ("\nText:", "\nLabel:")


def test_what_is_written_from_parts_reads_as_what_is_written_out() -> None:
    case = "Text: {text}\nWhy: {reason}\nVerdict:{verdict: safe| toxic}"
    assert write("Is it safe?", case, ("Boil it.", "It is food.", "safe")) == SAFE
    assert write("Again", "{text}\nAgain:", ("a", "b")) == "Again\n---\na\nAgain: b\n\n{text}\nAgain:"


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ({"zh": SAFE}, "has no prompt for `en`"),
        ({"en": SAFE, "zh": "好吗？"}, "zh: lacks the line ---"),
        ({"en": SAFE, "zh": "好吗？\n---\n{reason}"}, "zh: lacks {text}, {verdict}, must contain it"),
        ({"en": SAFE + "{word}"}, "en: has {word}, must be one of {text}, {reason}, {verdict}; {{word}} is"),
        ({"en": SAFE.replace("| toxic", "")}, "en: {verdict} has  safe, must list 2 words"),
    ],
)
def test_what_a_template_lacks_or_has_too_much_is_said(prompts: Prompts, says: str) -> None:
    checked: TypeAdapter[Any] = TypeAdapter(Annotated[Prompts, slots("text", may=("reason",), verdict=2)])
    assert checked.validate_python({"en": SAFE}) == {"en": SAFE}
    with pytest.raises(ValidationError) as error:
        checked.validate_python(prompts)
    assert says in str(error.value)


def test_grades_are_whole_numbers() -> None:
    checked: TypeAdapter[Any] = TypeAdapter(Annotated[str, slots(grade=NUMBERS)])
    assert checked.validate_python("Q\n---\n{grade:0|10}")
    with pytest.raises(ValidationError, match="two or more whole numbers"):
        checked.validate_python("Q\n---\n{grade:low|high}")


def test_a_wrong_template_names_its_setting() -> None:
    judge = {"kind": "judge", "prompts": {"en": "Grade\n---\n{answers}"}}
    method = {"kind": "self_instruct", "prompts": {"zh": "写指令"}}
    recipe = {"generate": {"input": "seeds.jsonl", "methods": [method], "filters": [judge]}}
    with pytest.raises(JobError) as error:
        load(recipe)
    assert "generate.filters[0].prompts: en: lacks {instruction}, {grade}" in str(error.value)
    assert "generate.methods[0].prompts: has no prompt for `en`, must have one" in str(error.value)


@pytest.mark.parametrize("step", [*classes(AnyMethod), *classes(AnyFilter)], ids=lambda step: step.__name__)
def test_the_templates_of_a_step_pass_its_own_checks(step: type[Step]) -> None:
    one = example_of(step)
    assert type(one).model_validate(one.model_dump()) == one


def test_the_first_rule_that_holds_is_the_reason() -> None:
    assert refuse({"a": False, "b": True, "c": True}) == "b" and refuse({"a": False}) is None
    assert refuse(cut_off("error: full", "text")) == "error: full" and refuse(cut_off("stop", "text")) is None
    assert refuse(cut_off("length", "text")) == refuse(cut_off("repetition", "text")) == "text cut off"
    assert flat(" a \n\n \nb") == "a\nb"
