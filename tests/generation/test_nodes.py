"""Two machines on a real Ray, of which one is lost without a spare and comes back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gristmill.cluster.store.store import Store
from tests.generation.ground import WORK, ground, job, with_seeds
from tests.generation.nodes import TARGET
from tests.invariants import check_dataset, samples_of
from tests.paths import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.long]


def test_the_other_machine_goes_on_and_the_one_that_comes_back_is_used(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.generation.nodes", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    figures = json.loads((tmp_path / "nodes.json").read_text())
    sys.stderr.write(f"{figures}\n")
    assert figures["noticed_s"] < 30
    assert figures["one"] >= 0.4 * figures["two"], "the rest keeps its rate; the machine may be busy meanwhile"
    assert figures["two_again"] > 1.3 * figures["one"]
    whole = with_seeds(Store(str(tmp_path / "whole")))
    ground(whole, job(target=TARGET))
    rows = check_dataset(Store(str(tmp_path / "store")), WORK.output, "seeds")
    assert not [row for row in rows if "engines down" in (row.dropped or "")], "nobody is blamed"
    assert rows == samples_of(whole, WORK.output)
