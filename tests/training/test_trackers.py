"""Trackers: each gets every step once, also when a training continues, and none of them can stop a training."""

import json
import re
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.jobs.recipe import load
from gristmill.training import sinks, trackers
from gristmill.training.job import Train
from gristmill.training.trackers import Trackers, following

NAME = "train-0123456789ab"
Curve = list[tuple[int, float]]


def line(step: int) -> dict[str, Any]:
    facts = {"step": step, "loss": 1 / step, "lr": 0.1, "grad_norm": None, "tokens": 5, "seconds": 0.5}
    return {**facts, "holdout_loss": 2.0} if step == 2 else facts


def journal(root: Path, steps: range) -> Path:
    folder = root / NAME
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line(n)) + "\n" for n in steps))
    return folder


def follow(kind: str, root: Path, steps: range) -> tuple[dict[str, int], list[str]]:
    """Follow a journal that is there already, as after a kill, and return what was lost and said."""
    said: list[str] = []
    how = Trackers.model_validate({"use": [kind], "project": "mill"})
    with following(how, journal(root, steps), root, {"model": "tiny", "steps": 8}, said.append) as lost:
        pass
    return lost, said


def of_tensorboard(root: Path, project: str = "mill", name: str = NAME) -> tuple[Curve, str]:
    """Read the event files: a length of 8 bytes, its checksum of 4, the event, and the checksum of that."""
    from tensorboardX.proto.event_pb2 import Event

    found, text = [], ""
    for path in sorted((root / "tensorboard" / project / name).glob("events*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            for value in event.summary.value:
                if value.tag == "train/loss":
                    found.append((event.step, value.simple_value))
                elif value.tag.startswith("config"):
                    text = str(value.tensor)
    return found, text


def of_mlflow(root: Path) -> tuple[Curve, str]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow/mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "mill"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == NAME and run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    return sorted((one.step, one.value) for one in history), str(run.data.params)


def logged(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file in the form of LevelDB's logs, after its own header of 7 bytes.

    In blocks of 32 KiB, a part of a record has a checksum of 4 bytes, a length of 2 and a kind of 1; 1 is a whole
    record, and 4 the last part of one.
    """
    at, part = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield part
            part = b""


def of_wandb(root: Path) -> tuple[Curve, str]:
    """Read the offline runs, of which both have the id of the training, so that `wandb sync` joins them."""
    from wandb.proto import wandb_internal_pb2

    found, config = [], ""
    for path in sorted((root / "wandb").glob(f"wandb/offline-run-*-{NAME}/*.wandb")):
        for data in logged(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            config += str(record.run.config) if record.HasField("run") else ""
            row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            if "train/loss" in row:
                found.append((record.history.step.num, float(row["train/loss"])))
    return found, config


def of_trackio(root: Path) -> tuple[Curve, str]:
    (path,) = (root / "trackio").glob("mill*.db")
    with sqlite3.connect(path) as base:
        rows = [(step, json.loads(text)) for step, text in base.execute("select step, metrics from metrics")]
        config = str(base.execute("select * from configs").fetchall())
    return sorted((step, row["train/loss"]) for step, row in rows), config


def of_swanlab(root: Path) -> tuple[Curve, str]:
    """Read the files of the runs: after its name, a number has its step as a varint, and ends in its 8 bytes."""
    found, text, name = [], "", b"j.*\n\ntrain/loss\x10(.)"
    for path in sorted((root / "swanlab").glob("run-*/*.swanlab")):
        for record in logged(path.read_bytes()):
            steps = re.findall(name, record, re.DOTALL)
            found += [(step[0], struct.unpack("<d", record[-8:])[0]) for step in steps]
        text += (path.parent / "files/config.yaml").read_text()
    return found, text


READERS: Mapping[str, Callable[[Path], tuple[Curve, str]]] = {
    "tensorboard": of_tensorboard,
    "mlflow": of_mlflow,
    "wandb": of_wandb,
    "swanlab": of_swanlab,
    "trackio": of_trackio,
}


@pytest.mark.parametrize("kind", READERS)
def test_a_tracker_gets_every_step_once_when_a_training_continues(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = Trackers.model_validate({"use": [kind]}).problems()
    if lacking:
        pytest.skip(lacking[0])
    monkeypatch.setattr(trackers, "POLL_S", 0.05)
    assert follow(kind, tmp_path, range(1, 6)) == ({kind: 0}, [])
    # killed after step 5, and continued from the checkpoint of step 3: steps 4 and 5 are done again
    assert follow(kind, tmp_path, range(1, 9)) == ({kind: 0}, [])
    curve, config = READERS[kind](tmp_path / "trackers")
    assert [step for step, _ in curve] == list(range(1, 9))
    assert [value for _, value in curve] == pytest.approx([1 / n for n in range(1, 9)])
    assert "tiny" in config


class Broken:
    """A tracker that fails at one step."""

    def __init__(self, at: int) -> None:
        self.at, self.got = at, list[int]()

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step == self.at:
            raise OSError("no space left\non the device")
        self.got.append(step)

    def close(self) -> None:
        raise RuntimeError("closed twice")


def test_a_tracker_that_fails_is_said_and_counted_and_gets_the_other_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Broken(3)
    monkeypatch.setattr(trackers, "POLL_S", 0.05)
    monkeypatch.setattr(trackers, "OPENERS", {**sinks.OPENERS, "wandb": lambda opening: broken})
    said: list[str] = []
    folder = journal(tmp_path, range(1, 9))
    with following(Trackers(use=("wandb",)), folder, tmp_path, {}, said.append) as lost:
        time.sleep(0.5)
    assert broken.got == [1, 2, 4, 5, 6, 7, 8] and lost == {"wandb": 1}
    assert said[0] == "train: tracker wandb: OSError: no space left; training goes on"
    assert said[-1] == f"train: tracker wandb did not get 1 steps; {folder}/metrics.jsonl has all of them"


def refuses(opening: sinks.Opening) -> sinks.Sink:
    raise ConnectionError("no route to host")


def hangs(opening: sinks.Opening) -> sinks.Sink:
    time.sleep(3)
    return Broken(0)


@pytest.mark.parametrize("opener", [refuses, hangs])
def test_a_tracker_that_cannot_be_opened_costs_all_steps_and_no_training(
    opener: Callable[[sinks.Opening], sinks.Sink], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "POLL_S", 0.05)
    monkeypatch.setattr(trackers, "END_S", 0.5)
    monkeypatch.setattr(trackers, "OPENERS", {**sinks.OPENERS, "wandb": opener})
    said: list[str] = []
    began = time.monotonic()
    with following(Trackers(use=("wandb",)), journal(tmp_path, range(1, 9)), tmp_path, {}, said.append) as lost:
        time.sleep(0.3)
    assert time.monotonic() - began < 2
    assert lost == {"wandb": 8}
    assert any("did not get 8 steps" in one for one in said), said


def test_numbers_that_are_not_finite_are_left_out() -> None:
    measures = {"f1": 0.5, "roc_auc": float("nan")}
    told = {"step": 1, "loss": float("nan"), "lr": 0.5, "grad_norm": None, "holdout_loss": 2.0, "measures": measures}
    found = trackers.values(told)
    assert found == {"train/learning_rate": 0.5, "eval/loss": 2.0, "eval/f1": 0.5}


def test_a_tracker_without_its_package_is_refused_by_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        return None if name in ("wandb", "sqlalchemy") else find_spec(name) or sys

    monkeypatch.setattr(trackers, "find_spec", absent)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"instruction": "Hi", "output": "Ho"}))
    wanted = {"train": {"input": str(tmp_path / "rows.jsonl"), "trackers": {"use": ["tensorboard", "wandb", "mlflow"]}}}
    with pytest.raises(ValueError, match=r"trackers\.use: wandb") as error:
        load(wanted)
    first, second = str(error.value).splitlines()
    assert first.endswith("wandb, but wandb is not installed; pip install wandb, or leave wandb out")
    assert second.endswith("mlflow, but sqlalchemy is not installed; pip install sqlalchemy, or leave mlflow out")
    elsewhere = Trackers(use=("mlflow",), mlflow_uri="http://tracking:5000")
    assert elsewhere.problems() == []


def test_trackers_do_not_change_which_model_it_is() -> None:
    assert Train(trackers=Trackers(use=("tensorboard",))).fingerprint() == Train().fingerprint()
