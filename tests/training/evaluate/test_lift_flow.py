"""The lift job as people run it: the command line, files, the default encoder, and fine-tuning that confirms."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from gristmill.cluster.cli.main import main
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.jobs.recipe import open_recipe
from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.lift import LIFT
from gristmill.training.figures import LiftFigures
from tests.invariants import check_dataset
from tests.training.evaluate.reviews import reviews

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ray_session")]
RECIPE = """
name = "reviews"
[lift]
seeds = "seeds.jsonl"
test = "test.jsonl"
unlabelled = "texts.jsonl"
labelled = "labelled.jsonl"
validation = 0.5
confirm = { model = "ENCODER", steps = 60, learning_rate = 3e-3 }
"""


def write(path: Path, samples: Sequence[Sample], *, label: bool = True) -> None:
    rows = ({"text": s.instruction, **({"label": s.answer} if label else {})} for s in samples)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_texts_without_a_label_help_and_a_second_run_does_nothing(
    tmp_path: Path, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "seeds.jsonl", reviews(4, 5))
    write(tmp_path / "test.jsonl", reviews(240, 2))
    write(tmp_path / "texts.jsonl", reviews(160, 4), label=False)
    write(tmp_path / "labelled.jsonl", reviews(120, 6))
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("ENCODER", encoder), encoding="utf-8")
    where = f"store={tmp_path / 'store'}"
    command = ["run", str(tmp_path / "recipe.toml"), "--set", where]
    assert main(command) == 0
    store = Store(str(tmp_path / "store"))
    _, works = open_recipe(tmp_path / "recipe.toml", [where])
    figures = LiftFigures.read(store.figures(works["lift"].output))
    found = store.read_json(works["lift"].output, LIFT)
    assert (figures.features, figures.rows) == ("encoder", 4 + 240 + 160 + 120)
    assert [line["arm"] for line in found["test"]] == ["seeds", "seeds + self-training", "people's labels"]
    assert figures.tuned == "seeds + self-training"
    assert figures.verdict in {"helps", "not shown", "not confirmed"}
    assert [line["arm"] for line in found["fine_tuned"]["test"]] == ["seeds", "seeds + self-training"]
    kept = check_dataset(store, works["lift"].output, *works["lift"].inputs.values())
    assert len(kept) in ((4,) if figures.verdict == "not confirmed" else (4 + 79, 4 + 80))
    said = capsys.readouterr()
    assert "fine-tuned: lift" in said.out + said.err
    assert figures.tuned_seconds is not None and 0 < figures.tuned_seconds < (figures.seconds or 0)
    (run,) = store.names("runs")
    assert "Lift when fine-tuned" in store.read_bytes("runs", run, "report.html").decode()
    assert main(command) == 0
    assert "is complete, nothing to do" in "".join(capsys.readouterr())
