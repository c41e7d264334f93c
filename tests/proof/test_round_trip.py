"""The small form of `make proof`: what goes in comes out of the store, and of the forms that hold all of it."""

import json
import re
from pathlib import Path

import pytest

from gristmill.cluster.io.ingest import Source, read
from tests.paths import ROOT
from tests.proof.round_trip import refused_by_name, tried
from tests.proof.rows import SHAPES


def test_rows_of_every_shape_come_out_as_they_went_in(tmp_path: Path) -> None:
    found = tried(tmp_path, seed=10_000, count=len(SHAPES) * 20)
    assert found.keys() == {shape.__name__ for shape in SHAPES}
    wrong = {
        shape: counts
        for shape, counts in found.items()
        if counts["refused"] or any(count for name, count in counts.items() if name.startswith("changed"))
    }
    assert wrong == {}


def test_what_cannot_be_kept_is_refused_by_the_name_of_its_field(tmp_path: Path) -> None:
    assert refused_by_name(tmp_path) == []


EXAMPLES = [
    line
    for block in re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "rows.md").read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_of_a_public_shape_is_read_whole(
    line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "x.jsonl").write_text(line + "\n", encoding="utf-8")
    samples = list(read(Source(path=(str(tmp_path / "x.jsonl"),))))
    candidates = {"chosen", "rejected_response", "preferred_output", "responses"} & json.loads(line).keys()
    assert [sample.dropped for sample in samples] == [None] * (2 if candidates else 1)
    assert "not read" not in caplog.text
