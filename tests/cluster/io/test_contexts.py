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


def test_a_row_without_an_answer_is_a_bad_one(tmp_path: Path) -> None:
    rows = [FORMS["SQuAD"], {**BOTH, "answers": {"text": [], "answer_start": []}}, {**BOTH, "answers": [3]}]
    rows += [{**FORMS["SQuAD"], "context": 3}, {**BOTH, "answers": {"text": 3}}, {**BOTH, "answers": None}]
    path = put(tmp_path, "x.jsonl", lines(*rows))
    with pytest.raises(JobError, match=r"x\.jsonl:2: field 'answers' is a table, must have the text of an answer"):
        list(read(source(path)))
    good, *bad = read(source(path, on_bad_row="drop"))
    assert good.dropped is None
    assert [str(one.dropped).count("must have the text of an answer") for one in bad] == [1, 1, 0, 1, 1]
    assert "field 'context' is" in str(bad[2].dropped)
