"""Scores that outside data brings along."""

import json
from pathlib import Path

import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io import ingest


def written(path: Path, *rows: dict[str, object]) -> ingest.Source:
    path.write_text(
        "".join(json.dumps({"instruction": "Name a river.", "output": "The Elbe.", **row}) + "\n" for row in rows)
    )
    return ingest.Source(path=(str(path),))


@pytest.mark.parametrize("value", [{"judge": 4.5, "ifd": None}, [["judge", 4.5]], [{"key": "judge", "value": 4.5}]])
def test_scores_are_read_from_a_table_or_pairs(tmp_path: Path, value: object) -> None:
    (sample,) = ingest.read(written(tmp_path / "a.jsonl", {"scores": value}))
    assert sample.scores == {"judge": 4.5}


def test_a_row_without_scores_has_none(tmp_path: Path) -> None:
    first, second = ingest.read(written(tmp_path / "a.jsonl", {}, {"output": "The Rhine.", "scores": None}))
    assert first.scores == second.scores == {}


@pytest.mark.parametrize(
    ("value", "said"), [({"judge": "good"}, "scores.judge"), ({"judge": True}, "scores.judge"), ("4.5", "scores")]
)
def test_what_is_no_number_is_a_bad_row(tmp_path: Path, value: object, said: str) -> None:
    with pytest.raises(JobError, match=rf"a.jsonl:1: field '{said}' is .*, must be"):
        list(ingest.read(written(tmp_path / "a.jsonl", {"scores": value})))
