"""The train job around a scripted loop: search, folds, trackers and the commit, without workers."""

import json
import math
import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Store
from gristmill.training import job as module
from gristmill.training import memory, trackers, trials
from gristmill.training.figures import TrainFigures
from gristmill.training.job import Train
from gristmill.training.loop import validation
from gristmill.training.loop.state import WorkerPlan
from gristmill.training.supervision import elastic, supervisor
from tests.training.conftest import chats, dataset
from tests.training.rehearsal import settings
from tests.training.test_trackers import of_tensorboard

STEPS = 6


class Scripted:
    """A loop whose held-out loss is the distance of the rate from 1e-3, in powers of ten, and falls with the steps.

    The lower the rate, the higher the accuracy.
    """

    def __init__(self) -> None:
        self.ran: list[tuple[str, float]] = []

    def __call__(
        self, job: Train, plan: WorkerPlan, run: Run, planned: str = "", ended: threading.Event | None = None
    ) -> None:
        del planned
        rate, folder = job.learning_rate, run.store.folder(plan.output)
        self.ran.append((plan.output, rate))
        if rate > 1:
            plan.store.write_json({"error": "train, step 1: the loss is nan"}, plan.output, "failed.json")
            raise RunError("train, step 1: the loss is nan")
        lines: list[dict[str, Any]] = [{"start": 0, "precision": "fp32", "separation": "positions"}]
        for step in range(1, plan.steps + 1):
            loss = 1 / step + abs(math.log10(rate) + 3)
            lines.append({"step": step, "loss": loss, "tokens": 4, "trained_tokens": 2, "seconds": 1.0})
            if step % plan.eval_steps == 0 and step < plan.steps:
                lines[-1] |= {"holdout_loss": loss, "measures": {"accuracy": 1 - rate}}
                if (loss if job.metric == "loss" else rate) > plan.bars.get(step, math.inf):
                    break
        lines.append({"end": step, "holdout_loss": loss, "measures": {"accuracy": 1 - rate}, "kept": step})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if plan.exports:
            (folder / "merged").mkdir()
            (folder / "merged/config.json").write_text("{}")


class Said(Screen):
    """A screen that keeps what is said, and on which someone presses Ctrl-C at a line."""

    def __init__(self, at: str = "never") -> None:
        super().__init__(quiet=True)
        self.at, self.lines = at, list[str]()

    def say(self, line: str) -> None:
        self.lines.append(line)
        if self.at in line:
            raise KeyboardInterrupt


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch, store: Store) -> Scripted:
    made = Scripted()
    monkeypatch.setattr(supervisor, "fit", made)
    monkeypatch.setattr(trials, "side_by_side", lambda job: 1)
    monkeypatch.setattr(module, "require", lambda where, needs: None)
    monkeypatch.setattr(trackers, "POLL_S", 0.05)
    dataset(store, chats(30))
    return made


def job(tiny: str, **changed: Any) -> Train:
    return Train.model_validate({**settings(tiny), "steps": STEPS, "eval_steps": 2, "workers": 1, **changed})


def make(store: Store, job: Train, screen: Screen) -> TrainFigures:
    run = Run("test", store, Ledger(store, "runs/test"), screen, f"{store.uri}/runs/test/logs")
    return job.make(run, Work("train-0", job.fingerprint(), {"samples": "select-000000000000"}))


def test_the_best_trial_is_trained_and_a_stopped_search_goes_on(loop: Scripted, store: Store, tiny: str) -> None:
    space = {"learning_rate": [1e-3, 1e-5, 1e-9, 10.0], "seed": [5]}
    wanted = job(
        tiny, search={"method": "asha", "trials": 4, "eta": 2, "space": space}, trackers={"use": ["tensorboard"]}
    )
    with pytest.raises(KeyboardInterrupt):
        make(store, wanted, Said("train: trial 3 of 4"))
    assert len(loop.ran) == 2
    screen = Said()
    figures = make(store, wanted, screen)
    assert "train: 2 of 4 trials have ended before" in screen.lines
    assert sorted(rate for _, rate in loop.ran[:4]) == [1e-9, 1e-5, 1e-3, 10.0] and len(loop.ran) == 5
    assert loop.ran[4] == ("train-0", 1e-3)
    assert figures.chosen == {"learning_rate": 1e-3, "seed": 5} and figures.trials == 4
    trials = {trial["values"]["learning_rate"]: trial for trial in store.read_json("train-0", "trials.json")}
    assert trials[10.0]["state"] == "failed" and trials[10.0]["loss"] is None
    assert (trials[1e-3]["state"], trials[1e-3]["steps"]) == ("done", STEPS)
    assert trials[1e-3]["loss"] == pytest.approx(1 / STEPS)
    manifest = store.manifest("train-0")
    assert manifest.settings["learning_rate"] == 1e-3 and manifest.settings["seed"] == 5
    assert {shard.name for shard in manifest.shards} >= {"trials.json", "merged/config.json", "metrics.jsonl"}
    assert not store.exists("train-0", "trials") and not store.exists("train-0", "trackers.json")
    curve, _ = of_tensorboard(Path(store.uri) / "trackers", "gristmill", "train-0")
    assert [step for step, _ in curve] == [1, 2, 3, 4, 5, 6] and figures.untracked == {}
    text = "\n".join(screen.lines)
    assert "--set train.learning_rate=0.001 --set train.seed=5" in text


def test_a_trial_ends_early_where_earlier_ones_were_better(loop: Scripted, store: Store, tiny: str) -> None:
    wanted = job(tiny, search={"method": "asha", "trials": 3, "space": {"learning_rate": [1e-3, 1e-5, 1e-9]}})
    make(store, wanted, Said())
    trials = store.read_json("train-0", "trials.json")
    for number, trial in enumerate(trials):
        better = [one for one in trials[:number] if one["losses"][0][1] < trial["losses"][0][1]]
        late = number > 0 and len(better) == number
        assert (trial["state"], trial["steps"]) == (("stopped", 2) if late else ("done", STEPS)), trials


def test_the_metric_decides_which_trial_is_the_best_and_which_ends_early(
    loop: Scripted, store: Store, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "names", lambda store, dataset, job: ("good", "bad"))
    space = {"learning_rate": [1e-3, 1e-1, 1e-6]}
    screen, asha = Said(), {"method": "asha", "trials": 3, "eta": 2, "seed": 2, "space": space}
    figures = make(store, job(tiny, metric="accuracy", folds=2, search=asha), screen)
    assert figures.chosen == {"learning_rate": 1e-6} and figures.metric == "accuracy"
    assert figures.measures == {"accuracy": pytest.approx(1 - 1e-6)}
    trials = store.read_json("train-0", "trials.json")
    rates = [one["values"]["learning_rate"] for one in trials]
    late = [n > 0 and rate > np.median(rates[:n]) for n, rate in enumerate(rates)]
    assert any(late) and [one["state"] == "stopped" for one in trials] == late
    assert list(figures.fold_measures["accuracy"]) == pytest.approx([1 - 1e-6] * 2)
    text = "\n".join(screen.lines)
    assert "is the best one, held-out accuracy 1.0000" in text and "train: held-out accuracy of 2 folds 1.0000" in text


def test_trials_side_by_side_are_those_in_turn_and_go_on_after_a_kill(
    loop: Scripted, store: Store, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"learning_rate": [1e-3, 1e-5, 1e-9, 10.0]}
    wanted = job(tiny, search={"method": "grid", "space": space})
    figures = make(store, wanted, Said())
    in_turn = store.read_json("train-0", "trials.json")
    shutil.rmtree(store.folder("train-0"))
    monkeypatch.setattr(trials, "side_by_side", lambda job: 2)
    loop.ran.clear()
    both, whole = threading.Barrier(2, timeout=60), supervisor.fit

    def broken(job: Train, plan: WorkerPlan, run: Run, planned: str = "", ended: threading.Event | None = None) -> None:
        if not plan.output.endswith(("0000", "0001")):  # begun after the second one has ended
            assert ended and ended.wait(60)
            raise RunError("train: ended because another training failed")
        both.wait()  # two trials run at a time
        if plan.output.endswith("0001"):
            whole(job, plan, run)
        both.wait()
        if plan.output.endswith("0000"):
            raise RunError("train: a machine is gone")

    monkeypatch.setattr(supervisor, "fit", broken)
    with pytest.raises(RunError, match="a machine is gone"):
        make(store, wanted, Said())
    assert not store.exists("train-0", "trials.json"), "the second trial is not there without the first"
    monkeypatch.setattr(supervisor, "fit", whole)
    screen = Said()
    assert make(store, wanted, screen).chosen == figures.chosen == {"learning_rate": 1e-3}
    assert store.read_json("train-0", "trials.json") == in_turn
    ran = Counter(name.rpartition("/")[2] for name, _ in loop.ran)
    assert ran == {"0000": 1, "0001": 1, "0002": 1, "0003": 1, "train-0": 1}, "no trial is run again that has ended"
    assert "train: 2 trials at a time" in screen.lines and not store.exists("train-0", "trials")


def test_as_many_trials_run_at_a_time_as_have_room(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = [{"CPU": 4.0, "memory": 1e12}, {"CPU": 3.0, "memory": 1e12, "GPU": 2.0}]
    monkeypatch.setattr(elastic, "free", lambda need: machines)
    assert trials.side_by_side(job(tiny, gpus_per_worker=0)) == 7
    assert trials.side_by_side(job(tiny, gpus_per_worker=0, workers=2)) == 3
    assert trials.side_by_side(job(tiny, gpus_per_worker=0, cpus_per_worker=2)) == 3
    assert trials.side_by_side(job(tiny, gpus_per_worker=1)) == 2
    shape = memory.shape_of(tiny)
    assert shape
    machines[0]["memory"] = 2.5 * memory.forecast(shape, job(tiny), 1, gpu=False).peak
    machines[1]["memory"] = 0.0
    assert trials.side_by_side(job(tiny, gpus_per_worker=0)) == 2
    machines[0]["CPU"] = 0.0
    assert trials.side_by_side(job(tiny, gpus_per_worker=0)) == 1


def test_folds_hold_out_every_row_once_and_go_on_after_a_stop(loop: Scripted, store: Store, tiny: str) -> None:
    wanted = job(tiny, folds=3)
    with pytest.raises(KeyboardInterrupt):
        make(store, wanted, Said("train: fold 2 of 3"))
    figures = make(store, wanted, Said())
    assert [name for name, _ in loop.ran] == [*(f"train-0/trials/fold-{n}" for n in (1, 2, 3)), "train-0"]
    folds = store.read_json("train-0", "folds.json")
    assert sum(fold["held"] for fold in folds) == 30 and len(figures.fold_losses) == 3
    assert all(fold["held"] + fold["trained"] == 30 for fold in folds)
    assert figures.trials == 0 and not store.exists("train-0", "trials")


def test_a_search_in_which_nothing_can_be_trained_is_an_error(loop: Scripted, store: Store, tiny: str) -> None:
    with pytest.raises(JobError, match="none of 2 trials ended with a finite loss"):
        make(store, job(tiny, search={"space": {"learning_rate": [10.0, 20.0]}}), Said())


def test_wrong_numbers_of_folds_are_refused(tiny: str) -> None:
    assert job(tiny, folds=1).fold_problems() == ["folds: 1, must be 0 for none, or at least 2"]
    (line,) = job(tiny, folds=2, validation_split="seeds").fold_problems()
    assert line.startswith("folds: is set, must not be with validation samples of their own")
