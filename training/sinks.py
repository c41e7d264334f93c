"""The adapters of experiment trackers, each around one library, which is imported when its tracker is opened."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol


class Sink(Protocol):
    """A run in a tracker."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send the numbers of a step."""
        ...

    def close(self) -> None:
        """Send what is left, and end the run."""
        ...


@dataclass(frozen=True, slots=True)
class Opening:
    """What a tracker is opened with."""

    project: str
    name: str
    """Name of the training's folder. The run in the tracker has it as its name and, where that can be, as its id."""
    folder: Path
    """The tracker's own folder, which exists."""
    config: Mapping[str, Any]
    """The settings of the training."""
    first: int
    """The first step that will be sent."""
    online: bool
    """Whether data may be sent to the tracker's own server."""
    mlflow_uri: str
    """Address of an MLflow server; empty for a database in `folder`."""


class TensorBoard:
    """Event files that TensorBoard shows, written by tensorboardX."""

    def __init__(self, opening: Opening) -> None:
        """Open another event file in the folder of the run; TensorBoard reads all of them as one run."""
        from tensorboardX import SummaryWriter

        again = opening.first > 1
        self._writer = SummaryWriter(
            str(opening.folder / opening.project / opening.name),
            purge_step=opening.first if again else None,
            filename_suffix=f".{opening.first}",  # else two files of one second have one name
        )
        if not again:
            self._writer.add_text("config", f"```json\n{json.dumps(opening.config, indent=1)}\n```", 0)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write the numbers of a step to the disk."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class MLflow:
    """A run of MLflow, found again by its name."""

    def __init__(self, opening: Opening) -> None:
        """Open the run of this name in the experiment, or make it."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        uri = opening.mlflow_uri or f"sqlite:///{opening.folder / 'mlflow.db'}"
        self._client, self._metric = MlflowClient(uri), Metric
        project = opening.project
        experiment = self._client.get_experiment_by_name(project)
        artifacts = None if opening.mlflow_uri else (opening.folder / "artifacts").as_uri()
        number = experiment.experiment_id if experiment else self._client.create_experiment(project, artifacts)
        found = self._client.search_runs([number], f"attributes.run_name = '{opening.name}'")
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, "RUNNING")
        else:
            self._run = self._client.create_run(number, run_name=opening.name).info.run_id
            params = [Param(name, json.dumps(value)[:6000]) for name, value in opening.config.items()]
            self._client.log_batch(self._run, params=params)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write the numbers of a step."""
        now = int(time.time() * 1000)
        self._client.log_batch(self._run, [self._metric(name, value, now, step) for name, value in values.items()])

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run)


class _Module:
    """A tracker whose module has the functions `init`, `log` and `finish`, or whose run has the last two."""

    def __init__(self, run: Any) -> None:  # noqa: ANN401 - of the tracker
        self._run = run

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def _wandb(opening: Opening) -> Sink:
    import wandb

    quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True)
    mode: Literal["online", "offline"] = "online" if opening.online else "offline"
    return _Module(
        wandb.init(
            project=opening.project, id=opening.name, name=opening.name, dir=str(opening.folder), mode=mode,
            config=dict(opening.config), resume="allow" if opening.online else None, settings=quiet,
        )
    )  # fmt: skip


def _swanlab(opening: Opening) -> Sink:
    import swanlab

    online = opening.online
    return _Module(
        swanlab.init(
            project=opening.project, name=opening.name, id=opening.name.replace("-", ""),
            log_dir=str(opening.folder), mode="online" if online else "offline", config=dict(opening.config),
            resume="allow" if online else None,
        )
    )  # fmt: skip


def _trackio(opening: Opening) -> Sink:
    os.environ["TRACKIO_DIR"] = str(opening.folder)  # it has no argument for this, and reads it when it is imported
    import trackio

    return _Module(
        trackio.init(
            opening.project, name=opening.name, config=dict(opening.config), resume="allow", embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )
    )  # fmt: skip


OPENERS: Mapping[str, Callable[[Opening], Sink]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": _wandb,
    "swanlab": _swanlab,
    "trackio": _trackio,
}
