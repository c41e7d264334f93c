"""Each scorer judges one reply as its source says; expected values are theirs, or arithmetic done by hand."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.models.engine import Score as Likelihood
from gristmill.training.evaluate.scorers import AnyScorer
from gristmill.training.evaluate.scorers.checks import Checks
from gristmill.training.evaluate.scorers.choice import Choice
from gristmill.training.evaluate.scorers.contract import OWN, Item, Scorer
from gristmill.training.evaluate.scorers.entities import Entities
from gristmill.training.evaluate.scorers.exact_match import ExactMatch
from gristmill.training.evaluate.scorers.labels import Labels
from gristmill.training.evaluate.scorers.loss import Loss
from gristmill.training.evaluate.scorers.multi_label import MultiLabel
from gristmill.training.evaluate.scorers.numeric import Numeric
from gristmill.training.evaluate.scorers.pairwise import Pairwise
from gristmill.training.evaluate.scorers.squad import Squad
from gristmill.training.evaluate.scorers.summary import Summary
from gristmill.training.evaluate.scorers.translation import Translation
from tests.training.evaluate.items import item, likes, rates, says

SCORER: TypeAdapter[Scorer] = TypeAdapter(AnyScorer)


def scorer(kind: str, **settings: Any) -> Scorer:
    return SCORER.validate_python({"kind": kind, "input": "test.jsonl", **settings})


def values(judge: Scorer, one: Item, *replies: Reply | str, shared: Sequence[Reply] = ()) -> dict[str, float | None]:
    told = [says(reply) if isinstance(reply, str) else reply for reply in replies]
    return {name: score.value for name, score in judge.score(one, told, shared).items()}


def value(judge: Scorer, one: Item, *replies: Reply | str) -> float:
    found = values(judge, one, *replies)[OWN]
    assert found is not None
    return found


def test_settings_of_no_kind_are_refused_with_the_kinds_there_are() -> None:
    with pytest.raises(ValidationError, match="'checks', 'choice'"):
        scorer("exactmatch")


@pytest.mark.parametrize(
    ("said", "answer", "expected", "exact"),
    [
        ('["red", "hot pink"]', '["hot pink", "red"]', 1, 1),
        ('Here: ["RED"].', '["red", "hot pink"]', 2 / 3, 0),
        ("It is red and hot pink, not redder.", '["red", "hot pink"]', 1, 1),
        ('["red", "zebra"]', '["red"]', 2 / 3, 0),
        ("[]", "[]", 1, 1),
        ("nothing fits", "[]", 1, 1),
        ("red", "[]", 0, 0),
        ('["蓝"]', "蓝", 1, 1),
    ],
)
def test_several_labels_are_compared_as_sets(said: str, answer: str, expected: float, exact: float) -> None:
    judge = scorer("multi_label", labels=["red", "hot pink", "蓝"])
    assert values(judge, item("colours?", answer), said) == {OWN: pytest.approx(expected), "exact": exact}


def test_the_labels_of_a_suite_are_those_of_its_items_or_set() -> None:
    items = [item("a", '["red", "blue"]'), item("b", "green"), item("c", "[]")]
    fitted = scorer("multi_label").fitted(items)
    assert isinstance(fitted, MultiLabel) and fitted.labels == ("blue", "green", "red")
    strict = scorer("multi_label", labels=["red", "blue"])
    assert [strict.refuse(one) for one in items] == ["", "answer has a label that is none of the labels", ""]


def test_loss_is_the_mean_over_the_tokens_of_the_answer() -> None:
    judge = scorer("loss")
    one = item("2 + 2?", "4")
    assert judge.requests(one) == [Likelihood(one.prompt, "4")]
    assert values(judge, item("2 + 2?", "4"), rates(-6.0, 3)) == {OWN: -2.0, "tokens": 3.0}


@pytest.mark.parametrize(
    ("said", "answer", "strict", "expected"),
    [
        (" The  Elbe. ", "elbe", False, 1),
        ("The Elbe.", "elbe", True, 0),
        ("elbe\n", "elbe", True, 1),
        ("易北河。", "易北河", False, 1),
        ("易 北 河", "易北河", False, 1),
        ("The Oder", "elbe", False, 0),
    ],
)
def test_exact_match_is_normalised_as_squad_unless_strict(said: str, answer: str, strict: bool, expected: int) -> None:
    assert value(scorer("exact_match", strict=strict), item("Which river?", answer), said) == expected


def test_further_right_answers_are_in_a_tag() -> None:
    one = item("Which city?", "NYC", answers='["New York", "New York City"]')
    assert [value(scorer("exact_match"), one, said) for said in ("new york city", "NYC")] == [1, 0]
    assert item("x", "NYC", answers="no list").answers == ("NYC",)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("3 + 4 = 7, so\n#### 7", 1),
        ("The answer is 7.", 1),
        (r"So \boxed{7.0}", 1),
        ("There are 3 and 4, which makes 7 in all, no more", 1),
        ("答案是七", 1),
        ("It is 8", 0),
        ("I do not know", 0),
    ],
)
def test_numbers_are_read_as_gsm8k_writes_them_or_the_last_one_counts(said: str, expected: int) -> None:
    assert value(scorer("numeric"), item("3 + 4?", "Three and four.\n#### 7"), said) == expected


def test_a_tolerance_is_a_share_of_the_right_number() -> None:
    near = item("Pi?", "3.14159")
    assert [value(scorer("numeric", tolerance=t), near, "3.14") for t in (0.0, 0.001)] == [0, 1]
    assert scorer("numeric").refuse(item("Pi?", "no idea")) == "answer has no number"


def test_choices_are_compared_by_their_likelihood_whole_and_by_length() -> None:
    one = item("The sky is", "blue as the sea", choices='["red", "blue as the sea"]')
    judge = scorer("choice")
    assert judge.requests(one) == [Likelihood(one.prompt, text) for text in ("red", "blue as the sea")]
    assert values(judge, one, rates(-3.0, 1), rates(-6.0, 4)) == {OWN: 1, "undivided": 0}, "-1 and -0.4 a character"
    assert values(scorer("choice", per="token"), one, rates(-3.0, 1), rates(-6.0, 4))[OWN] == 1
    assert judge.refuse(item("x", "green", choices='["red", "blue"]')) == "answer is none of the choices"
    assert judge.refuse(item("x", "red")) == "fewer than two different choices"
    assert scorer("choice", choices=["red", "blue"]).refuse(item("x", "red")) == ""


def test_choices_can_be_listed_with_letters_as_mmlu_does() -> None:
    one = item("The sky is", "blue", choices='["red", "blue"]')
    judge = scorer("choice", letters=True)
    listed = (Message("user", "The sky is\nA. red\nB. blue"),)
    assert judge.requests(one) == [Likelihood(listed, "A"), Likelihood(listed, "B")]
    begun = replace(one, prefix="Answer:")
    assert judge.requests(begun) == [Likelihood(listed, f" {letter}", prefix="Answer:") for letter in "AB"]
    assert values(judge, one, rates(-3.0, 1), rates(-2.0, 1)) == {OWN: 1, "undivided": 1}
    many = item("x", "0", choices=json.dumps([str(n) for n in range(27)]))
    assert judge.refuse(many) == "more than 26 choices" and scorer("choice").refuse(many) == ""


LABELS = {"labels": ["good", "bad"], "prompt": "Say good or bad.\n\n{prompt}\n---\nIt is "}


def test_labels_are_divided_by_what_the_model_says_of_texts_without_content() -> None:
    """By hand: 0.6 / 0.8 = 0.75 is less than 0.4 / 0.2 = 2, so the label changes."""
    judge = scorer("labels", **LABELS, calibrate="blank")
    blank = judge.shared([])
    assert [request.messages[0].text for request in blank] == [
        f"Say good or bad.\n\n{text}" for text in ("N/A", "[MASK]", "")
    ]
    assert {request.prefix for request in blank} == {"It is "}
    shared = [likes(good=0.7, bad=0.3), likes(good=0.9, bad=0.1), likes(good=0.8, bad=0.2)]
    told = judge.score(item("Cold soup", "bad"), [likes(good=0.6, bad=0.4), says("It was good")], shared)
    assert {name: score.value for name, score in told.items()} == {OWN: 1, "raw": 0, "written": 0}
    assert json.loads(told[OWN].reply) == pytest.approx({"good": 0.75 / 2.75, "bad": 2 / 2.75}, abs=1e-6)
    assert scorer("labels", **LABELS, calibrate="none").shared([item("Cold soup")]) == []


def test_labels_are_divided_by_their_mean_over_some_items_whose_answers_are_not_read() -> None:
    judge = scorer("labels", **LABELS)
    many = [item(f"text {n}", "good") for n in range(100)]
    asked = judge.shared(many)
    assert len(asked) == 64 == len({request.messages for request in asked})
    assert asked == judge.shared([replace(one, answer="bad") for one in reversed(many)])
    assert len(judge.shared(many[:8])) == 8 and judge.shared(many[:7]) == [], "the mean of a few says little"


def test_labels_follow_from_the_items_where_none_are_given() -> None:
    fitted = scorer("labels").fitted([item("a", "x"), item("b", "y"), item("c", "x")])
    assert isinstance(fitted, Labels) and fitted.labels == ("x", "y")
    assert scorer("labels", **LABELS).refuse(item("a", "mixed")) == "answer is none of the labels"


@pytest.mark.parametrize(("said", "expected"), [("Bad!", 1), ("not good, rather bad", 1), ("goodness", 0), ("", 0)])
def test_a_written_label_is_the_reply_or_the_last_in_it(said: str, expected: int) -> None:
    told = values(scorer("labels", **LABELS), item("x", "bad"), likes(good=1.0, bad=0.0), said)
    assert told["written"] == expected


def test_entities_count_whole_and_with_their_label() -> None:
    """The two sentences of seqeval's README, in words: one entity has a word too many, one is right."""
    judge = scorer("entities")
    one = item("x", '[{"text": "Long Island Jazz", "label": "MISC"}, {"text": "John Smith", "label": "PER"}]')
    said = "Here: [the Long Island Jazz](MISC) by [John Smith](PER)"
    assert values(judge, one, said) == {OWN: 0.5, "hits": 1, "found": 2, "wanted": 2}
    assert value(judge, one, '{"MISC": ["Long Island Jazz"], "PER": ["John Smith"]}') == 1
    assert value(judge, one, "none that I see") == 0
    assert value(judge, item("x", "[]"), "[]") == 1, "nothing was there, and nothing was found"
    assert judge.refuse(item("x", "John Smith")) == "answer has no entities in JSON or marks"
    assert value(judge, one, '[{"text": 3, "label": "PER"}, "x", {"text": "John Smith", "label": "PER"}]') == 2 / 3


def test_squad_has_the_values_of_its_script_and_characters_for_chinese() -> None:
    judge = scorer("squad")
    assert values(judge, item("Who?", "the cat sat"), "A cat sat down!") == {OWN: pytest.approx(0.8), "exact": 0}
    assert values(judge, item("Who?", "The cat."), "cat") == {OWN: 1, "exact": 1}
    assert value(judge, item("哪条河？", "易北河"), "是易北河") == pytest.approx(6 / 7)
    assert value(judge, item("x", "no", answers='["no", "a small dog"]'), "small dog") == 1


def test_squad_takes_an_empty_reply_or_the_words_for_it_as_no_answer() -> None:
    judge, none = scorer("squad", no_answer="unanswerable"), item("Who?", "", answers="[]")
    for said, right in (("", 1), ("Unanswerable.", 1), ("Anna", 0)):
        assert values(judge, none, said) == {OWN: right, "exact": right}
    assert values(judge, item("Who?", "unanswerable"), "") == {OWN: 1, "exact": 1}
    assert values(judge, item("Who?", "Anna"), "") == {OWN: 0, "exact": 0}


def test_rouge_has_the_values_of_the_readme_of_rouge_score() -> None:
    one = item("x", "The quick brown fox jumps over the lazy dog")
    found = values(scorer("summary"), one, "The quick brown dog jumps on the log.")
    assert found[OWN] == pytest.approx(0.5882352941176471)
    assert found["rouge1"] == pytest.approx(0.7058823529411765)
    assert found["rouge2"] == pytest.approx(2 * 2 / (7 + 8)), "the quick, quick brown"
    assert values(scorer("summary"), one, "") == {OWN: 0, "rouge1": 0, "rouge2": 0}


@pytest.mark.parametrize("chinese", ["characters", "words"])
def test_rouge_of_equal_chinese_texts_is_1(chinese: str) -> None:
    text = "明天北京有雨，请带伞。"
    judge = scorer("summary", chinese=chinese)
    assert values(judge, item("x", text), text) == {OWN: 1, "rouge1": 1, "rouge2": 1}
    assert 0 < value(judge, item("x", text), "北京明天下雨") < 1


def test_a_translation_has_the_chrf_of_sacrebleu() -> None:
    judge = scorer("translation")
    assert value(judge, item("x", "The dog bit the man."), "The dog bit the man.") == pytest.approx(1)
    assert value(judge, item("x", "狗咬了那个人。"), "狗咬了人。") > 0.3
    several = item("x", "It was expected.", answers='["No one was surprised.", "Nobody wondered."]')
    assert value(judge, several, "Nobody wondered.") == pytest.approx(1)


@pytest.mark.parametrize(
    ("rules", "good", "bad"),
    [
        ({"max_words": 3}, "one two three", "one two three four"),
        ({"min_words": 4}, "明天北京有雨", "下雨"),
        ({"contains": ["rain", "umbrella"]}, "Rain: take an Umbrella", "rainy, umbrella"),
        ({"contains_any": ["雨", "雪"]}, "明天有雨", "明天晴"),
        ({"excludes": ["sorry"]}, "Yes", "Sorry, no"),
        ({"begins": "{", "ends": "}"}, "{}", "{} "),
        ({"pattern": r"^\d+$"}, "42", "42!"),
        ({"form": "json"}, '```json\n{"a": 1}\n```', '{"a": 1'),
        ({"form": "list"}, "- a\n- b", "a, b"),
        ({"json_schema": '{"required": ["a"]}'}, '{"a": null}', '{"b": 1}'),
        ({"language": "zh"}, "明天北京有雨", "It will rain tomorrow in the city"),
    ],
)
def test_each_rule_tells_a_reply_that_keeps_it_from_one_that_does_not(rules: Any, good: str, bad: str) -> None:
    judge = scorer("checks", rules=rules)
    found = [value(judge, item("x"), text) for text in (good, f"{bad}.")]
    assert found == [1, 0], judge.score(item("x"), [says(bad)], ())


def test_checks_say_the_share_of_rules_and_name_those_that_are_broken() -> None:
    judge = scorer("checks", rules={"stops": True, "max_words": 2, "contains": ["rain"]})
    told = judge.score(item("x"), [says("rain in May again", "length")], ())
    assert (told[OWN].value, told["share"].reply) == (0, "stops, max_words")
    assert told["share"].value == pytest.approx(1 / 3)


def test_an_item_may_have_rules_of_its_own() -> None:
    judge = scorer("checks", rules={"max_words": 2})
    own = item("x", checks='{"max_words": 4, "ends": "!"}')
    assert [value(judge, own, text) for text in ("one two three!", "one two three")] == [1, 0]
    assert judge.refuse(item("x", checks='{"colour": 1}')).startswith("tag checks: colour: Extra inputs")
    assert judge.refuse(item("x", checks="[]")) == "tag checks: is no JSON table"
    assert scorer("checks").refuse(item("x")) == "no rule for it"
    for wrong in ({"pattern": "("}, {"json_schema": "{"}, {"json_schema": "{}", "form": "list"}):
        with pytest.raises(ValidationError):
            scorer("checks", rules=wrong)


def test_a_judge_sees_both_orders_and_a_win_counts_only_in_both() -> None:
    judge = scorer("pairwise")
    assert isinstance(judge, Pairwise)
    one = item("Name a river.")
    first, second = judge.duel(one, "The Elbe.", "A lake.")
    assert first.choices == second.choices == (" A", " B")
    assert first.prefix.index("The Elbe.") < first.prefix.index("A lake.")
    assert second.prefix.index("A lake.") < second.prefix.index("The Elbe.")
    sure = {" A": 0.9, " B": 0.1}
    turned = {" A": 0.1, " B": 0.9}
    for replies, expected, flip in (((sure, turned), 1, 0), ((turned, sure), 0, 0), ((sure, sure), 0.5, 1)):
        found = judge.verdict(one, [Reply("", "stop", 1, 1, chances) for chances in replies])
        assert (found[OWN].value, found["flip"].value) == (expected, flip)
    assert judge.duel(one, "same", "same") == []
    assert judge.verdict(one, [])[OWN].value == 0.5
    refused = judge.verdict(one, [Reply("", "error: too long", 0, 0), says("x")])
    assert refused[OWN] == (None, "judge: error: too long")


def test_a_judge_is_tested_on_right_answers_beside_those_to_other_items() -> None:
    """By hand: 5 of 5 right has p = 1 / 32, 8 of 10 has p = 56 / 1024, and 9 of 10 has p = 11 / 1024."""
    judge = scorer("pairwise")
    assert isinstance(judge, Pairwise)
    made = [item(f"question {n}", f"answer {n % 3}") for n in range(40)]
    pairs = judge.known(made)
    assert len(pairs) == 30 and all(one.answer != other for one, other in pairs)
    assert judge.known(made[:4]) == [] == judge.known([item(f"{n}", "the same") for n in range(9)])
    assert judge.known([item(f"{n}") for n in range(9)]) == []
    for right, wrong, fit in ((5, 0, True), (8, 2, False), (9, 1, True), (0, 0, False), (0, 10, False)):
        said = judge.unfit([1.0] * right + [0.0] * wrong + [0.5] * 3, [1.0] * 50)
        assert (said == "") is fit, (right, wrong)
    assert "30 of 50 change with their order" in judge.unfit([], [1.0] * 30 + [0.0] * 20)
    assert judge.unfit([], [1.0] * 10 + [0.0] * 40) == judge.unfit([], []) == ""


def test_a_chinese_item_is_judged_in_chinese() -> None:
    judge = scorer("pairwise")
    assert isinstance(judge, Pairwise)
    assert "回复A" in judge.duel(item("说出一条河。"), "易北河", "湖")[0].prefix


@pytest.mark.parametrize(
    "kind",
    [Checks, Choice, Entities, ExactMatch, Labels, Loss, Numeric, Pairwise, Squad, Summary, Translation],
)
def test_what_is_asked_is_the_same_each_time_and_settings_come_back(kind: type[Scorer]) -> None:
    name = str(kind.model_fields["kind"].default)
    judge = scorer(name, **({"choices": ["a", "b"]} if name == "choice" else {}))
    one = item("What?", "a")
    assert judge.requests(one) == judge.requests(one) != []
    assert SCORER.validate_python(judge.model_dump(mode="json")) == judge
