"""Questions with choices come in as public sets have them, and a row that names no single choice is a bad one."""

import json
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.io.ingest import read
from tests.cluster.io.sources import lines, put, source

FORMS: dict[str, dict[str, Any]] = {
    "MMLU": {"question": "q", "subject": "", "choices": ["red", "blue", "1"], "answer": 1},
    "ARC": {"question": "q", "choices": {"text": ["red", "blue", "1"], "label": ["1", "2", "3"]}, "answerKey": "2"},
    "OpenBookQA": {
        "question_stem": "q",
        "choices": {"text": ["red", "blue", "1"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    },
    "CMMLU": {"Question": "q", "A": "red", "B": "blue", "C": "1", "Answer": "B"},
    "MedQA": {"question": "q", "options": {"A": "red", "B": "blue", "C": "1"}, "answer": "blue", "answer_idx": "B"},
    "tables": {
        "question": "q",
        "choices": [{"label": "(a)", "text": "red"}, {"label": "(b)", "text": "blue"}, {"label": "(c)", "text": 1}],
        "answer": "(b)",
    },
    "JSON text": {"question": "q", "choices": '["red", "blue", "1"]', "answer": "blue"},
    "letter in brackets": {"question": "q", "choices": ["red", "blue", "1"], "answer": "(b)."},
    "gold": {"query": "q", "choices": ["red", "blue", "1"], "gold": 1},
}


@pytest.mark.parametrize("form", FORMS)
def test_public_forms_have_the_choices_as_a_tag_and_the_right_one_as_the_answer(form: str, tmp_path: Path) -> None:
    [sample] = read(source(put(tmp_path, "x.jsonl", lines(FORMS[form]))))
    assert [turn.content for turn in sample.messages] == ["q", "blue"]
    assert json.loads(sample.tags["choices"]) == ["red", "blue", "1"]


def test_a_csv_file_of_cmmlu_is_read_and_numbers_count_from_0(tmp_path: Path) -> None:
    text = ",Question,A,B,C,D,Answer\n0,哪条河最长？,长江,黄河,珠江,淮河,A\n1,2 + 2 = ?,3,4,5,0,4\n"
    one, two = read(source(put(tmp_path, "x.csv", text)))
    assert (one.answer, two.answer) == ("长江", "4"), "4 is the text of a choice before it is a number"
    [sample] = read(source(put(tmp_path, "y.csv", "question,a,b,answer\nq,red,blue,1\n")))
    assert sample.answer == "blue"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"choices": ["red", "red"], "answer": 0}, "field 'choices' has two choices of the same text"),
        ({"choices": ["red"], "answer": 0}, "field 'choices' has fewer than two choices"),
        ({"choices": ["red", "blue"], "answer": 2}, "field 'answer' is the number 2 and names no choice"),
        ({"choices": ["red", "blue"], "answer": -1}, "field 'answer' is the number -1 and names no choice"),
        ({"choices": ["B", "A"], "answer": "A"}, "names two different choices"),
        ({"choices": ["red", "blue"], "answer": "red", "answer_idx": 1}, "'answer' and 'answer_idx' are different"),
        ({"choices": ["red", None], "answer": "red"}, "field 'choices' is absent, must be text"),
        ({"choices": {"text": ["red", "blue"], "label": ["A"]}, "answer": "A"}, "must be a list of 2 labels"),
        ({"choices": "red or blue", "answer": "red"}, "field 'choices' is"),
        ({"choices": [{"label": "A"}, {"text": "x"}], "answer": "A"}, "is absent, must be"),
        ({"choices": ["red", "blue"], "answer": True}, "names no choice"),
        ({"choices": {"A": "red", "a": "blue"}, "answer": "a"}, "two"),
    ],
)
def test_a_row_that_names_no_single_choice_is_dropped_with_its_reason(
    row: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    good = {"question": "q", "choices": ["red", "blue"], "answer": "blue"}
    rows = lines(good, {"question": "q2", **row})
    bad = [one for one in read(source(put(tmp_path, "x.jsonl", rows), on_bad_row="drop")) if one.dropped]
    assert len(bad) == 1 and problem in str(bad[0].dropped), bad


def test_choices_without_an_answer_are_refused_as_before(tmp_path: Path) -> None:
    from gristmill.cluster.contract.errors import JobError

    with pytest.raises(JobError, match="column 'choices' is not read"):
        list(read(source(put(tmp_path, "x.jsonl", lines({"text": "q", "choices": ["a", "b"]})))))
