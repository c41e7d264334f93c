"""Cases after public bug reports about files that were misread, or read in part without a word."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.export import export
from gristmill.cluster.io.ingest import Source, ingest, read
from gristmill.cluster.store.store import Store

HERE = Path(__file__).parent


def source(number: int, pattern: str = "in.*") -> Source:
    [folder] = HERE.glob(f"{number:02d}-*")
    return Source(path=(str(folder / pattern),), on_bad_row="drop")


def said(number: int, pattern: str = "in.*") -> list[tuple[str, str] | str]:
    """What came out of a case: question and answer of each row, or why it was dropped."""
    return [s.dropped or (s.instruction, s.answer) for s in read(source(number, pattern))]


def answers(number: int) -> list[str]:
    return [sample.dropped or sample.answer for sample in read(source(number))]


def test_an_open_quote_costs_its_own_row() -> None:  # 07
    assert said(7) == [
        ("fine film", "pos"),
        "ingest: line 3: opens a quote at character 5 that is never closed, must close it",
        ("lovely songs", "pos"),
        ("bad sound", "neg"),
        ("great cast", "pos"),
    ]


@pytest.mark.parametrize(
    ("number", "names"), [(9, "columns 1 and 3 are called 'text' and 'text'"), (75, "is UTF-16, must be UTF-8")]
)
def test_a_file_that_cannot_be_meant_is_refused(number: int, names: str) -> None:
    with pytest.raises(JobError, match=names):
        said(number)


def test_keys_that_are_one_column_make_a_bad_row() -> None:  # 10
    with pytest.raises(JobError, match="keys 'Text' and 'text' are one column, must have two names"):
        list(read(source(10).model_copy(update={"on_bad_row": "error"})))
    with pytest.raises(JobError, match="key 'text' comes twice, must come once"):  # 67
        list(read(source(67).model_copy(update={"on_bad_row": "error"})))


def test_a_label_has_the_name_or_the_number_that_is_meant() -> None:
    assert answers(12) == ["positive", "negative", "positive"]
    assert answers(13) == ["1", "0", "ingest: row 3: field 'label' is absent, must be a word or a number"]
    assert answers(37) == ["1", "2"]


def test_files_that_were_cut_or_joined_are_told_apart() -> None:
    with pytest.raises(JobError, match="Truncated compressed stream"):
        said(18)
    assert len(said(20)) == 2
    with pytest.raises(JobError, match="ends after row 1000 without the marker that ends an Arrow stream"):
        said(22)
    assert [isinstance(row, tuple) for row in said(39)] == [True, True]


def test_hidden_folders_are_left_out() -> None:
    assert len(said(23, "data/**/*.jsonl")) == 1
    assert len(said(23, "data/.ipynb_checkpoints/*.jsonl")) == 1


def test_the_shape_is_told_by_many_rows() -> None:
    first, *others = said(25)
    assert first == "ingest: line 1: field 'label' is absent, must be a word or a number"
    assert all(isinstance(row, tuple) and row[1] for row in others)


def test_one_object_is_one_row() -> None:
    assert said(26) == [("One?", "Yes.")]


def test_line_ends_and_separators_are_found_out() -> None:
    assert said(32) == [("good", "pos"), ("bad", "neg")]
    assert said(33) == [("good, really", "pos"), ("bad", "neg")]


def test_bytes_of_another_encoding_are_named_or_repaired() -> None:
    assert said(76) == ["ingest: line 2: byte 0xe9 at character 4 is not UTF-8, must be UTF-8"]
    repaired = source(76).model_copy(update={"repair_text": True})
    assert [sample.instruction for sample in read(repaired)] == ["caf\ufffd tr\ufffds bon"]


def test_an_export_is_what_its_suffix_says(store: Store, tmp_path: Path) -> None:  # 55
    name = ingest(store, source(55))
    export(store, name, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").num_rows == len(said(55))
    for suffix in (".csv", ".arrow"):
        with pytest.raises(JobError, match="is no form, must be one of"):
            export(store, name, tmp_path / f"out{suffix}")


def test_odd_roles_and_turns_are_read_or_named() -> None:
    assert said(71) == [("hi", "me")]
    ai, model, *others = said(35)
    assert (ai, model) == (("a", "b"), "ingest: same conversation as line 1")
    assert all(isinstance(row, str) for row in others)
    assert "must be within" in said(92)[0] and isinstance(said(92)[1], tuple)


def test_an_answer_may_be_a_number() -> None:
    assert answers(46) == ["8", "4.5"]


def test_a_column_of_the_user_that_means_something_else_is_asked_about() -> None:  # 77
    with pytest.raises(JobError, match=r"in\.jsonl:1: column 'dropped' is not read by the shape completion, must be"):
        said(77)
    ignored = source(77).model_copy(update={"ignore": ("dropped",)})
    assert [(s.answer, s.dropped) for s in read(ignored)] == [("He let it go.", None), ("c", None)]


def test_a_list_of_paths_is_an_input() -> None:  # 69
    [folder] = HERE.glob("69-*")
    assert len(list(read(Source.model_validate(["a.jsonl", "b.jsonl"], context={"base": folder})))) == 2
