"""Models with a head whose training is killed: the finished model is the one of an unbroken run, bit for bit."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.store.store import Store
from gristmill.training.supervision import heartbeat
from tests.training.conftest import dataset
from tests.training.drive import train
from tests.training.rehearsal import journal
from tests.training.tasks.rows import TASKS, rows_of
from tests.training.test_train_flow import at_step

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ray_session")]
STEPS, SAVE_STEPS, KILL_AT = 40, 5, 12
FILES = ("model.safetensors", "config.json", "task.json")


def facts(store: Store, output: str) -> list[dict[str, Any]]:
    """Return what the journal says of the steps and of the end, without times."""
    kept = ("step", "loss", "lr", "holdout_loss", "measures", "end", "kept")
    lines = [{name: line[name] for name in kept if name in line} for line in journal(store, output)]
    return [line for line in lines if "step" in line or "end" in line]


@pytest.mark.parametrize(
    ("base", "task"),
    [
        ("bert", "sequence_classification"),
        pytest.param("bert", "token_classification", marks=pytest.mark.long),
        pytest.param("distilbert", "question_answering", marks=pytest.mark.long),
    ],
)
def test_a_killed_worker_changes_no_bit_of_a_model_with_a_head(
    base: str, task: str, bases: dict[str, str], shelf: Path
) -> None:
    settings = {
        "model": bases[base], "task": TASKS[task], "steps": STEPS, "save_steps": SAVE_STEPS, "eval_steps": 10,
        "keep": "best", "metric": "loss", "precision": "fp32", "max_length": 64, "global_batch_size": 8,
        "validation": 0.25, "workers": 2, "tuning": {"kind": "full"}, "learning_rate": 1e-3,
    }  # fmt: skip
    stores = {name: Store(str(shelf / f"{task}-{name}")) for name in ("unbroken", "killed")}
    for store in stores.values():
        dataset(store, rows_of(task, 64))
    output = train(stores["unbroken"].uri, settings)
    killer = at_step(stores["killed"], KILL_AT, lambda folder: os.kill(heartbeat.read(folder)[1].pid, signal.SIGKILL))
    assert train(stores["killed"].uri, settings) == output
    assert not killer.is_alive()
    starts = [line["start"] for line in journal(stores["killed"], output) if "start" in line]
    assert starts[0] == 0
    assert len(starts) == 2, "no worker was killed while it trained"
    assert KILL_AT - SAVE_STEPS <= starts[1] < STEPS, "it began anew"
    assert facts(stores["killed"], output) == facts(stores["unbroken"], output)
    for name in FILES:
        made = [(store.folder(output) / "merged" / name).read_bytes() for store in stores.values()]
        assert made[0] == made[1], name
