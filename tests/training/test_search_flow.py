"""A search and a cross-validation with real trainings; the search is stopped after its first trial and goes on."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Store
from gristmill.training import trials
from gristmill.training.figures import TrainFigures
from gristmill.training.job import Train
from gristmill.training.supervision import supervisor
from tests.training.conftest import chats, dataset
from tests.training.rehearsal import settings
from tests.training.test_trackers import of_tensorboard

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ray_session")]


class Stopping(Screen):
    """A screen that keeps what is said, and on which someone presses Ctrl-C at a line."""

    def __init__(self, at: str = "never") -> None:
        super().__init__(quiet=True)
        self.at, self.said = at, list[str]()

    def say(self, line: str) -> None:
        self.said.append(line)
        if self.at in line:
            raise KeyboardInterrupt


def make(store: Store, job: Train, screen: Screen) -> TrainFigures:
    run = Run("test", store, Ledger(store, "runs/test"), screen, f"{store.uri}/runs/test/logs")
    return job.make(run, Work("train-0", job.fingerprint(), {"samples": "select-000000000000"}))


@pytest.mark.long
def test_the_best_settings_are_trained_after_a_stop_too_and_folds_say_the_spread(tiny: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    dataset(store, chats(30))
    wanted: dict[str, Any] = {**settings(tiny), "steps": 6, "eval_steps": 2, "workers": 1, "folds": 2}
    wanted["trackers"] = {"use": ["tensorboard"]}
    space = {"learning_rate": [1e-2, 1e-9], "schedule": ["constant"]}
    job = Train.model_validate(
        {**wanted, "search": {"method": "asha", "trials": 2, "eta": 2, "seed": 2, "space": space}}
    )
    with pytest.raises(KeyboardInterrupt):
        make(store, job, Stopping("train: trial 2 of 2"))
    first = json.loads((tmp_path / "train-0/trials.json").read_text())
    screen = Stopping()
    figures = make(store, job, screen)
    trials = store.read_json("train-0", "trials.json")
    assert trials[:1] == first and len(trials) == 2 == figures.trials
    assert "train: 1 of 2 trials have ended before" in screen.said
    assert not any("trial 1 of 2:" in line for line in screen.said), "it was run again"
    assert figures.chosen == {"learning_rate": 1e-2, "schedule": "constant"}
    assert store.manifest("train-0").settings["learning_rate"] == 1e-2
    by_rate = {trial["values"]["learning_rate"]: trial for trial in trials}
    assert [trial["values"]["learning_rate"] for trial in trials] == [1e-2, 1e-9]
    assert figures.holdout_loss == by_rate[1e-2]["loss"] < by_rate[1e-9]["losses"][0][1]
    assert (by_rate[1e-9]["state"], by_rate[1e-9]["steps"]) == ("stopped", 2)
    assert len(figures.fold_losses) == 2
    folds = store.read_json("train-0", "folds.json")
    assert sum(fold["held"] for fold in folds) == 30
    names = {shard.name for shard in store.manifest("train-0").shards}
    assert {"trials.json", "folds.json", "merged/model.safetensors"} <= names
    assert not (tmp_path / "train-0/trials").exists()
    curve, _ = of_tensorboard(tmp_path / "trackers", "gristmill", "train-0")
    assert [step for step, _ in curve] == [1, 2, 3, 4, 5, 6], "the model alone, each step once"
    assert curve[-1][1] == pytest.approx(figures.loss_last, rel=1e-6)
    assert figures.untracked == {} and not store.exists("train-0", "trackers.json")


@pytest.mark.long
def test_trials_side_by_side_end_as_those_in_turn_also_after_a_stop(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: dict[str, Any] = {**settings(tiny), "steps": 4, "eval_steps": 2, "workers": 1}
    space = {"learning_rate": [1e-2, 1e-9]}
    job = Train.model_validate({**wanted, "search": {"method": "grid", "space": space}})
    found = {}
    for name, most, stops in (("turn", 1, ["never"]), ("side", 2, ["trial 2: done", "never"])):
        monkeypatch.setattr(trials, "side_by_side", lambda job, most=most: most)
        store = Store(str(tmp_path / name))
        dataset(store, chats(30))
        for at in stops:
            screen = Stopping(at)
            run = Run("test", store, Ledger(store, "runs/test"), screen, f"{store.uri}/runs/test/logs")
            work = Work("train-0", job.fingerprint(), {"samples": "select-000000000000"})
            with pytest.raises(KeyboardInterrupt) if at != "never" else nullcontext():
                found[name] = trials.Trials(run, work, supervisor.fit).run_search(job)
    assert found["side"] == found["turn"] and found["side"][2].values == {"learning_rate": 1e-2}
    logs = tmp_path / "side/runs/test/logs"
    assert {path.name for path in logs.iterdir()} >= {"trial-0000", "trial-0001"}
