"""The JSON forms of Label Studio and Argilla: what goes out, what comes in, and what is wrong with it, by place."""

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.generation.labels.people import ANONYMOUS, HumanAnswer, QueueEntry, files, read, text_for_people

IDS = ("a" * 32, "b" * 32)
ASKED = [
    QueueEntry(IDS[0], "送餐很快，味道也好。", "好评", 0.5),
    QueueEntry(IDS[1], 'It was "fine" & <cold>', "差评", 0.75),
]
LABELS = ("好评", "差评")
PERSON = "3fa85f64-5717-4562-b3fc-2c963f66afa6"


def exported(task: dict[str, Any], *answers: tuple[object, Any], cancelled: bool = False) -> dict[str, Any]:
    """The task as Label Studio's JSON export has it, annotated by these people."""
    annotations = [
        {
            "id": 1000 + n,
            "completed_by": person,
            "result": [
                {
                    "value": value,
                    "id": "x1",
                    "from_name": "label",
                    "to_name": "text",
                    "type": "choices" if "choices" in value else "textarea",
                    "origin": "manual",
                }
            ],
            "was_cancelled": cancelled,
            "ground_truth": False,
            "lead_time": 4.2,
            "task": 7,
        }
        for n, (person, value) in enumerate(answers)
    ]
    return {"id": 7, "annotations": annotations, "drafts": [], "predictions": [], "data": task["data"], "project": 3}


def answered(record: dict[str, Any], *answers: tuple[str, object]) -> dict[str, Any]:
    """The record as Argilla's `Record.to_dict` spells it, with responses of these people."""
    responses = {"label": [{"value": value, "user_id": person} for person, value in answers]}
    return {**record, "responses": responses, "status": "completed", "_server_id": None}


def parsed(written: dict[str, bytes]) -> list[dict[str, Any]]:
    return list(json.loads(written["queue.json"]))


def said(*entries: object) -> tuple[list[HumanAnswer], list[str]]:
    return read(json.dumps(list(entries)).encode(), "x.json")


def test_a_task_of_label_studio_has_data_and_a_prediction_and_the_interface_names_all_that_it_needs() -> None:
    written = files("label_studio", ASKED, LABELS, suggest=True)
    assert "送餐很快" in written["queue.json"].decode(), "Chinese stays readable"
    first, second = parsed(written)
    assert first["data"] == {"sample_id": IDS[0], "text": ASKED[0].text, "confidence": 0.5}
    (prediction,) = second["predictions"]
    assert prediction["score"] == 0.75
    (result,) = prediction["result"]
    assert (result["type"], result["value"]) == ("choices", {"choices": ["差评"]})
    view = ElementTree.fromstring(written["label_config.xml"].decode())
    text, choices = view.find("Text"), view.find("Choices")
    assert text is not None
    assert choices is not None
    assert (choices.get("name"), choices.get("toName")) == (result["from_name"], result["to_name"])
    assert (text.get("name"), text.get("value")) == (result["to_name"], "$text")
    assert [choice.get("value") for choice in choices] == list(LABELS)


def test_a_record_of_argilla_has_fields_and_a_suggestion_and_the_settings_name_both() -> None:
    written = files("argilla", ASKED, LABELS, suggest=True)
    first, _ = parsed(written)
    assert (first["id"], first["fields"]) == (IDS[0], {"text": ASKED[0].text})
    assert first["suggestions"] == {"label": {"value": "好评", "score": 0.5, "agent": "gristmill"}}
    assert first["metadata"] == {"confidence": 0.5}
    settings = json.loads(written["settings.json"])
    (question,) = settings["questions"]
    assert question["name"] in first["suggestions"]
    assert [option["value"] for option in question["settings"]["options"]] == list(LABELS)
    assert [field["name"] for field in settings["fields"]] == list(first["fields"])
    assert [entry["name"] for entry in settings["metadata"]] == list(first["metadata"])


@pytest.mark.parametrize("form", ["label_studio", "argilla"])
def test_people_need_not_be_led_and_labels_that_are_xml_survive(form: Any) -> None:
    written = files(form, ASKED, ('<"a" & b>', "c"), suggest=False)
    assert all(not entry.get("predictions") and not entry.get("suggestions") for entry in parsed(written))
    if form == "label_studio":
        view = ElementTree.fromstring(written["label_config.xml"].decode())
        assert [choice.get("value") for choice in view.iter("Choice")] == ['<"a" & b>', "c"]


@pytest.mark.parametrize("form", ["label_studio", "argilla"])
def test_without_labels_people_write(form: Any) -> None:
    written = files(form, ASKED, (), suggest=True)
    if form == "label_studio":
        assert parsed(written)[0]["predictions"][0]["result"][0]["value"] == {"text": ["好评"]}
        assert b"<TextArea" in written["label_config.xml"]
    else:
        assert json.loads(written["settings.json"])["questions"][0]["settings"]["type"] == "text"


def test_what_several_people_said_in_label_studio_comes_in() -> None:
    first, second = parsed(files("label_studio", ASKED, LABELS, suggest=True))
    entries = [
        exported(first, (1, {"choices": ["差评"]}), ({"id": 2, "email": "a@b.c"}, {"choices": ["好评"]})),
        exported(second, (None, {"text": [" 不好吃 "]})),
    ]
    found, problems = said(*entries)
    assert not problems
    assert [(s.sample, s.person, s.answer) for s in found] == [
        (IDS[0], "1", "差评"),
        (IDS[0], "2", "好评"),
        (IDS[1], ANONYMOUS, "不好吃"),
    ]


def test_what_people_said_in_argilla_comes_in() -> None:
    first, second = parsed(files("argilla", ASKED, LABELS, suggest=True))
    drafted = answered(second, (PERSON, "好评"))
    drafted["responses"]["label"][0]["status"] = "draft"
    found, problems = said(answered(first, (PERSON, "差评"), ("x", None)), drafted)
    assert not problems
    assert [(s.sample, s.person, s.answer) for s in found] == [(IDS[0], PERSON, "差评")]


def test_entries_without_an_answer_say_nothing() -> None:
    task, record = parsed(files("label_studio", ASKED, LABELS, suggest=True))[0], {"id": IDS[0], "responses": {}}
    skipped = exported(task, (1, {"choices": ["好评"]}), cancelled=True)
    other = exported(task, (1, {"choices": ["好评"]}))
    other["annotations"][0]["result"][0]["from_name"] = "certainty"
    empty = exported(task, (1, {"choices": ["好评"]}))
    empty["annotations"][0]["result"] = []
    assert said(exported(task), skipped, other, empty, record) == ([], [])
    assert read(b"[]", "x.json") == ([], [])


def test_lines_of_json_and_a_single_object_are_read_too() -> None:
    task = parsed(files("label_studio", ASKED, LABELS, suggest=True))[0]
    entry = json.dumps(exported(task, (1, {"choices": ["好评"]})), ensure_ascii=False)
    assert len(read(f"{entry}\n\n{entry}\n".encode(), "x")[0]) == 2
    assert len(read(b"\xef\xbb\xbf" + entry.encode(), "x")[0]) == 1


GOOD = {"data": {"sample_id": IDS[0]}, "annotations": []}


def with_value(value: object) -> dict[str, Any]:
    return {**GOOD, "annotations": [{"completed_by": 1, "result": [{"from_name": "label", "value": value}]}]}


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (3, "is 3, must be a table"),
        ({"text": "x"}, "has neither 'annotations' nor 'responses'"),
        ({"id": 1, "annotation_id": 5, "label": "x"}, "JSON_MIN"),
        ({**GOOD, "data": None}, "field 'data' is absent, must be a table"),
        (
            {**with_value({"choices": ["x"]}), "data": {}},
            "field 'data.sample_id' is absent, must be the id of a sample",
        ),
        ({**GOOD, "annotations": 1}, "field 'annotations' is 1, must be a list"),
        ({**GOOD, "annotations": ["x"]}, "field 'annotations[0]' is 'x', must be a table"),
        ({**GOOD, "annotations": [{"result": None}]}, "field 'annotations[0].result' is absent, must be a list"),
        (with_value(None), "field 'annotations[0].result[0].value' is absent, must be a table"),
        (with_value({"choices": ["a", "b"]}), "value' is a list of 2, must be one answer"),
        (with_value({"rating": 3}), "value' is absent, must be one answer"),
        (with_value({"text": [" "]}), "must be one answer"),
        ({"id": IDS[0], "responses": [1]}, "field 'responses' is a list of 1, must be a table"),
        ({"id": IDS[0], "responses": {"label": "x"}}, "field 'responses.label' is 'x', must be a list"),
        ({"id": IDS[0], "responses": {"label": [3]}}, "field 'responses.label[0]' is 3, must be a table"),
        ({"id": IDS[0], "responses": {"label": [{"value": 3}]}}, "'responses.label[0].value' is 3, must be one answer"),
        ({"id": None, "responses": {"label": [{"value": "x"}]}}, "field 'id' is absent, must be the id of a sample"),
    ],
)
def test_a_bad_entry_is_named_by_file_and_place_and_the_others_are_read(entry: object, problem: str) -> None:
    found, problems = said(with_value({"choices": ["好评"]}), entry)
    assert [s.answer for s in found] == ["好评"]
    assert len(problems) == 1
    assert problems[0].startswith("x.json: entry 2: ")
    assert problem in problems[0]


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"label,text\n"])
def test_what_is_no_json_is_named_by_its_file(data: bytes) -> None:
    found, problems = read(data, "x.json")
    assert not found
    assert problems[0].startswith("x.json: is not JSON")


def test_people_see_the_text_alone_or_the_turns_by_role() -> None:
    turns = (Message("user", "很好"), Message("assistant", "好评"))
    assert text_for_people(Sample(IDS[0], turns)) == "很好"
    assert text_for_people(Sample(IDS[0], turns[:1])) == "很好"
    assert text_for_people(Sample(IDS[0], (Message("system", "Grade."), *turns))) == "[system]\nGrade.\n\n[user]\n很好"


def test_a_line_that_cannot_be_read_costs_itself_alone() -> None:
    entry = {"id": "s", "fields": {"text": "a\u2028b"}, "responses": {"label": [{"value": "pos", "user_id": "u"}]}}
    good = json.dumps(entry, ensure_ascii=False)
    half = json.dumps({**entry, "responses": {"label": [{"value": "\ud83d", "user_id": "u"}]}})
    said, problems = read(f"{good}\n{{oops\n{half}\n{good}".encode(), "x.json")
    assert [(each.answer, each.where) for each in said] == [("pos", "x.json: entry 1"), ("pos", "x.json: entry 4")]
    assert problems[0].startswith("x.json: entry 2: is '{oops', must be a table")
    assert problems[1].startswith("x.json: entry 3: field 'responses.label[0].value' holds half a surrogate pair")
