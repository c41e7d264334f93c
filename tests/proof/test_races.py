"""Three races of each kind of `make proof`: undisturbed, with a kill, and with a process that is stopped."""

from pathlib import Path

import pytest

from tests.proof import races


def test_a_dataset_is_whole_and_clean_after_races_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # the server of moto is for `make proof`
    found = races.races(tmp_path, 3)
    assert [one["races"] for one in found.values()] == [3, 3]
    assert [one["disturbed"].get("stopped", 0) for one in found.values()] == [0, 1]
