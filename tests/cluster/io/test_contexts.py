"""Questions about a context come in as SQuAD and others have them."""

import json
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.ingest import read
from tests.cluster.io.sources import lines, put, source

BOTH: dict[str, Any] = {"id": "1", "question": "谁去了？", "context": "李娜去了上海。", "title": ""}
FORMS: dict[str, Any] = {
    "SQuAD": {**BOTH, "answers": {"text": ["李娜", "李"], "answer_start": [0, 0]}},
    "JSON text": {**BOTH, "answers": '{"text": ["李娜", "李"], "answer_start": [0, 0]}'},
    "CMRC": {**BOTH, "answers": [{"text": "李娜", "answer_start": 0}, {"text": "李", "answer_start": 0}]},
    "texts": {**BOTH, "answers": ["李娜", "李", "李娜"]},
    "one text": {**BOTH, "answer": " 李娜 "},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_context_follows_the_question_and_all_answers_are_a_tag(form: str, tmp_path: Path) -> None:
    [sample] = read(source(put(tmp_path, "x.jsonl", lines(FORMS[form]))))
    assert [turn.content for turn in sample.messages] == ["谁去了？\n\n李娜去了上海。", "李娜"]
    assert json.loads(sample.tags.get("answers", '["李娜", "李"]')) == ["李娜", "李"]
    assert sample.tags.get("answer_start", "") == ("0" if form in ("SQuAD", "JSON text", "CMRC") else "")
    assert sample.dropped is None


def test_a_row_without_a_context_is_its_question_alone(tmp_path: Path) -> None:
    rows = [
        {"question": "q", "answer": "a"},
        {**BOTH, "answer": "李娜"},
        {"question": "q", "context": " ", "answer": "b"},
    ]
    found = list(read(source(put(tmp_path, "x.jsonl", lines(*rows)))))
    assert [one.instruction for one in found] == ["q", "谁去了？\n\n李娜去了上海。", "q"]
    assert all(one.dropped is None for one in found)


def test_an_empty_line_in_a_question_does_not_end_it(tmp_path: Path) -> None:
    row = {"question": " Who\n \nwon? ", "context": "A.\n\nB.", "answers": ["A"]}
    [sample] = read(source(put(tmp_path, "x.jsonl", lines(row))))
    assert sample.instruction.partition("\n\n") == ("Who\nwon?", "\n\n", "A.\n\nB.")


EMPTY: dict[str, Any] = {"text": [], "answer_start": []}


@pytest.mark.parametrize(
    "none",
    [
        {"answers": EMPTY}, {"answers": "[]"}, {"answers": [], "is_impossible": True}, {"is_impossible": "true"},
        {"answers": json.dumps(EMPTY), "is_impossible": 1, "plausible_answers": [{"text": "李", "answer_start": 0}]},
    ],
)  # fmt: skip
def test_an_empty_list_of_answers_says_that_there_is_none(none: dict[str, Any], tmp_path: Path) -> None:
    rows = [{**FORMS["SQuAD"], "is_impossible": False}, {**BOTH, **none, "id": "2", "question": "谁没去？"}]
    with_answer, without = read(source(put(tmp_path, "x.jsonl", lines(*rows))))
    assert (with_answer.answer, with_answer.dropped) == ("李娜", None)
    assert [turn.content for turn in without.messages] == ["谁没去？\n\n李娜去了上海。", ""]
    assert (without.tags["answers"], without.dropped) == ("[]", None)
    assert "answer_start" not in without.tags


def test_the_two_columns_of_squad_2_must_agree(tmp_path: Path) -> None:
    rows = [{**FORMS["SQuAD"], "is_impossible": True}, {**BOTH, "answers": EMPTY, "is_impossible": False}]
    rows += [FORMS["SQuAD"], {**FORMS["SQuAD"], "is_impossible": "perhaps"}]
    *bad, good, odd = read(source(put(tmp_path, "x.jsonl", lines(*rows)), on_bad_row="drop"))
    assert good.dropped is None
    assert "field 'answers' has 2 answers and field 'is_impossible' is true, must agree" in str(bad[0].dropped)
    assert "field 'answers' has 0 answers and field 'is_impossible' is false, must agree" in str(bad[1].dropped)
    assert "field 'is_impossible' is 'perhaps', must be true or false" in str(odd.dropped)


def test_the_files_of_squad_and_cmrc_are_read_as_they_are_published(tmp_path: Path) -> None:
    qas = [
        {"id": "a", "question": "谁去了？", "answers": [{"text": "李娜", "answer_start": 0}], "is_impossible": False},
        {"id": "b", "question": "谁没去？", "answers": [], "is_impossible": True, "plausible_answers": []},
    ]
    article = {"title": "t", "paragraphs": [{"context": "李娜去了上海。", "qas": qas}, {"context": "李", "qas": []}]}
    for form in ({"version": "v2.0", "data": [article, article]}, [article]):
        path = put(tmp_path, "x.json", json.dumps(form, ensure_ascii=False))
        found = [one for one in read(source(path)) if one.dropped is None]
        assert [(one.instruction, one.answer) for one in found] == [
            ("谁去了？\n\n李娜去了上海。", "李娜"), ("谁没去？\n\n李娜去了上海。", ""),
        ]  # fmt: skip
    broken = {"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": "none"}]}]}
    with pytest.raises(JobError, match="the columns paragraphs, title fit no shape"):
        list(read(source(put(tmp_path, "x.json", json.dumps(broken)))))


def test_a_row_without_an_answer_is_a_bad_one(tmp_path: Path) -> None:
    rows = [FORMS["SQuAD"], {**BOTH, "answers": {"text": [""]}}, {**BOTH, "answers": [3]}]
    rows += [{**FORMS["SQuAD"], "context": 3}, {**BOTH, "answers": {"text": 3}}, {**BOTH, "answers": None}]
    path = put(tmp_path, "x.jsonl", lines(*rows))
    with pytest.raises(JobError, match=r"x\.jsonl:2: field 'answers' is a table, must have the text of an answer"):
        list(read(source(path)))
    good, *bad = read(source(path, on_bad_row="drop"))
    assert good.dropped is None
    assert [str(one.dropped).count("must have the text of an answer") for one in bad] == [1, 1, 0, 1, 1]
    assert "field 'context' is" in str(bad[2].dropped)
