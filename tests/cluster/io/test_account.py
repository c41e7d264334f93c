"""The account of ingest: every column is read, mapped, ignored by the recipe, printed, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.account import CARRIERS, account_rows
from gristmill.cluster.io.conversation import COMMON
from gristmill.cluster.io.ingest import Source, ingest, read
from gristmill.cluster.io.multiple_choice import CHOICES
from gristmill.cluster.store.store import Store
from tests.cluster.io.sources import lines, put, source

QA = {"question": "q", "answer": "a"}


def account(store: Store, path: Path, **settings: Any) -> list[tuple[str, str, str]]:
    return account_rows(store.manifest(ingest(store, source(path, **settings))).metadata)


# those every shape reads, and those of answers, of multiple choice and of questions about a context, are read
@pytest.mark.parametrize("name", sorted(CARRIERS - COMMON - {"label", "context", *CHOICES}))
def test_a_column_that_says_something_is_not_left_out_silently(name: str, tmp_path: Path, store: Store) -> None:
    path = put(tmp_path, "x.jsonl", lines({"question": "first", "answer": "a"}, {**QA, name: "yes"}))
    for on_bad_row in ("error", "drop"):
        with pytest.raises(JobError, match=rf"x\.jsonl:2: column '{name}' is not read by the shape completion, must"):
            ingest(store, source(path, on_bad_row=on_bad_row))
    assert store.names() == []
    assert account(store, path, ignore=[name.upper()]) == [("ignored", name, "50%")]


def test_the_second_of_two_columns_for_one_thing_is_asked_about(tmp_path: Path) -> None:
    path = put(tmp_path, "x.jsonl", lines({**QA, "system": "s", "system_prompt": "t"}))
    with pytest.raises(JobError, match="column 'system_prompt' is not read"):
        list(read(source(path)))


def test_columns_are_mapped_by_the_recipe(tmp_path: Path, store: Store) -> None:
    rows = ({"Subject": f"s{n}", "reply": "r", "Where": "shop"} for n in range(4))
    path = put(tmp_path, "x.jsonl", lines(*rows))
    settings = {"columns": {"instruction": "subject", "output": "reply", "context": "where"}}
    assert [s.instruction for s in read(source(path, **settings))] == [f"s{n}\n\nshop" for n in range(4)]
    assert account(store, path, **settings) == [
        ("mapped", "reply as output", "100%"),
        ("mapped", "subject as instruction", "100%"),
        ("mapped", "where as context", "100%"),
    ]


def test_a_mapping_onto_a_column_that_is_there_is_a_bad_row(tmp_path: Path) -> None:
    path = put(tmp_path, "x.jsonl", lines({**QA, "other": "o"}))
    with pytest.raises(JobError, match="columns 'question' and 'other' are both 'question', must be one"):
        list(read(source(path, columns={"question": "other"})))
    [sample] = read(source(path, columns={"question": "other"}, ignore=["question"]))
    assert sample.instruction == "o"


def test_a_mapping_to_a_name_that_nothing_reads_is_refused() -> None:
    with pytest.raises(ValueError, match="'questoin' is no column that a shape reads, must be one of"):
        Source.model_validate({"path": "x.jsonl", "columns": {"questoin": "a"}})


def test_other_columns_and_keys_of_turns_are_counted_by_their_share(tmp_path: Path, store: Store) -> None:
    turns = [{"role": "user", "content": "a", "time": 3}, {"role": "assistant", "content": "b", "time": None}]
    rows = [{"messages": turns, "url": "u"}, {"messages": [{"role": "user", "content": "c"}], "url": None}]
    path = put(tmp_path, "x.jsonl", lines(*rows))
    assert account(store, path) == [("not read", "messages[].time", "50%"), ("not read", "url", "50%")]
    assert account(store, path, ignore=["url", "messages[].time"]) == [
        ("ignored", "messages[].time", "50%"),
        ("ignored", "url", "50%"),
    ]


def test_what_is_read_in_full_has_no_account_and_what_is_cut_counts_once(tmp_path: Path, store: Store) -> None:
    path = put(tmp_path, "x.jsonl", lines(QA, {**QA, "answer": "b", "tags": {"a": "b"}, "system": "s"}))
    assert account(store, path) == []
    long = put(tmp_path, "y.jsonl", lines(*({"text": f"{n} word " * 200, "url": "u"} for n in range(3))))
    assert account(store, long, chunk_chars=100) == [("not read", "url", "100%")]


def test_the_report_and_the_terminal_show_it(tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    path = put(tmp_path, "x.jsonl", lines({**QA, "url": "u"}))
    name = ingest(store, source(path))
    assert "not read: url (100% of the rows)" in caplog.text
    assert json.loads(store.manifest(name).metadata["columns"]) == {"rows": 1, "not read": {"url": 1}}


def test_a_cell_that_is_empty_is_not_there(tmp_path: Path, store: Store) -> None:
    assert account(store, put(tmp_path, "x.csv", "question,answer,context\nq,a,\nr,b,\n")) == []
