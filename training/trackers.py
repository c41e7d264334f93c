"""Experiment trackers, which get the numbers of a training while it runs.

The file `metrics.jsonl` in the folder of the training always has every number. A tracker gets a copy of them, for
people who compare runs there. One thread for each tracker reads that file in the driver's process and sends the new
lines. So a tracker that fails, or hangs, never stops training.

A training that continues appends to the same run of the tracker. `trackers.json` in its folder has the last step that
each tracker was sent. It is written before the step is sent, so no step is there twice. A `kill -9` in between costs
one step in the tracker.
"""

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from gristmill.cluster.contract.settings import Settings
from gristmill.training.loop.journal import METRICS, read_journal
from gristmill.training.sinks import OPENERS, Opening, Sink

Kind = Literal["tensorboard", "mlflow", "wandb", "swanlab", "trackio"]
NEEDS: Mapping[Kind, tuple[str, ...]] = {
    "tensorboard": ("tensorboardX",),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
    "swanlab": ("swanlab",),
    "trackio": ("trackio",),
}
"""The modules that each tracker needs. The names of their packages are the same."""
DATABASE = ("sqlalchemy", "alembic")
"""The modules that MLflow also needs to write a database of its own. `mlflow` brings them, `mlflow-skinny` does not."""
NAMES = {
    "loss": "train/loss",
    "lr": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "tokens": "train/tokens",
    "trained_tokens": "train/trained_tokens",
    "seconds": "train/seconds",
    "holdout_loss": "eval/loss",
}
"""Names of the numbers in the trackers. Those of losses and rates are the ones that transformers uses."""
FOLDER, STATE = "trackers", "trackers.json"
POLL_S = 2.0
"""Seconds between two looks at the journal."""
END_S, INTERRUPTED_S = 60.0, 5.0
"""Seconds that a tracker has to send the last steps, at the end of the training and when it is interrupted."""
TRIES = 3
"""Number of errors after which a tracker gets no more steps."""


Found = TypeVar("Found")


class Trackers(Settings):
    """`[train.trackers]`: where the numbers of a training are sent, besides its own `metrics.jsonl`."""

    use: tuple[Kind, ...] = ()
    """The trackers: `tensorboard`, `mlflow`, `wandb` (Weights & Biases), `swanlab` or `trackio`. Each needs its
    package, except `tensorboard`, which needs none to be written. A tracker that fails does not stop training; the
    steps that it did not get are counted."""
    project: str = Field(default="gristmill", min_length=1)
    """Name of the project, or experiment, in the tracker. The name of the run there is that of the folder of the
    training, such as `train-0123456789ab`."""
    folder: str = ""
    """Folder for the files of the trackers. The default is `trackers` in the store."""
    mlflow_uri: str = ""
    """Address of an MLflow server. By default MLflow writes a database in the folder."""
    online: bool = False
    """Whether W&B and SwanLab may send data to their servers, with the key that they find in the environment. By
    default they write files in the folder, which `wandb sync` and `swanlab sync` send later."""

    def problems(self) -> list[str]:
        """Return the trackers whose packages are not installed."""
        found = []
        for kind in dict.fromkeys(self.use):
            needs = NEEDS[kind] + (DATABASE if kind == "mlflow" and not self.mlflow_uri else ())
            missing = [name for name in needs if not find_spec(name)]
            if missing:
                found.append(
                    f"trackers.use: {kind}, but {' and '.join(missing)} is not installed; "
                    f"pip install {' '.join(missing)}, or leave {kind} out"
                )
        return found


class Following:
    """The threads that send the journal of a training to its trackers."""

    def __init__(
        self, settings: Trackers, folder: Path, files: Path, config: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        """Start to follow.

        Args:
            settings: the trackers.
            folder: folder of the training.
            files: folder for the files of the trackers.
            config: the settings of the training.
            say: a function that prints one line.
        """
        self._settings, self._folder, self._files, self._config, self._say = settings, folder, files, config, say
        self._state: dict[str, int] = json.loads(_text(folder / STATE) or "{}")
        self._done, self._lock = threading.Event(), threading.Lock()
        self.lost: dict[str, int] = dict.fromkeys(settings.use, 0)
        """Number of steps that each tracker did not get."""
        self._threads = {
            kind: threading.Thread(target=self._follow, args=(kind,), daemon=True, name=f"tracker-{kind}")
            for kind in dict.fromkeys(settings.use)
        }
        for thread in self._threads.values():
            thread.start()

    def end(self, within: float) -> None:
        """Let the trackers send the rest, and wait for each up to so many seconds."""
        self._done.set()
        for kind, thread in self._threads.items():
            thread.join(within)
            if thread.is_alive():
                self.lost[kind] += len(self._left(kind))
                self._say(f"train: tracker {kind} has not answered for {within:.0f} s, and the run ends without it")
        for name, count in self.lost.items():
            if count:
                self._say(f"train: tracker {name} did not get {count} steps; {self._folder / METRICS} has all of them")

    def _left(self, kind: Kind) -> list[dict[str, Any]]:
        """Return the lines of the journal that a tracker was not sent."""
        return [m for m in read_journal(self._folder / METRICS) if m.get("step", 0) > self._state.get(kind, 0)]

    def _follow(self, kind: Kind) -> None:
        sink: Sink | None = None
        errors, last = 0, False
        while not last and errors < TRIES:
            last = self._done.wait(POLL_S)
            lines = self._left(kind)
            if lines and sink is None:
                sink = self._try(kind, partial(self._open, kind))
                errors += sink is None
            errors += sink is not None and not self._send(kind, sink, lines)
        if sink:
            self._try(kind, sink.close)
        if errors >= TRIES:
            self._say(f"train: tracker {kind} gets no more steps, after {errors} errors")
            self._done.wait()
        self.lost[kind] += len(self._left(kind))

    def _try(self, kind: Kind, act: Callable[[], Found]) -> Found | None:
        """Return the result of a call of a tracker, or say its error and return None."""
        try:
            return act()
        except Exception as error:  # noqa: BLE001 - whatever a tracker does wrong, training goes on
            first = str(error).strip().splitlines() or [""]
            self._say(f"train: tracker {kind}: {type(error).__name__}: {first[0]}; training goes on")
            return None

    def _open(self, kind: Kind) -> Sink:
        own = self._files / kind
        own.mkdir(parents=True, exist_ok=True)
        first = self._state.get(kind, 0) + 1
        how = self._settings
        return OPENERS[kind](
            Opening(how.project, self._folder.name, own, self._config, first, how.online, how.mlflow_uri)
        )

    def _send(self, kind: Kind, sink: Sink, lines: Sequence[Mapping[str, Any]]) -> bool:
        """Send lines up to the first that fails, which is counted as lost; return whether all were sent."""
        for line in lines:
            self._note(kind, line["step"])
            if self._try(kind, partial(_log, sink, line)) is None:
                self.lost[kind] += 1
                return False
        return True

    def _note(self, kind: Kind, step: int) -> None:
        """Write that a step is sent, before it is."""
        with self._lock:
            self._state[kind] = step
            temporary = self._folder / f".{STATE}"
            temporary.write_text(json.dumps(self._state), encoding="utf-8")
            temporary.replace(self._folder / STATE)


@contextmanager
def following(
    settings: Trackers, folder: Path, store: Path, config: Mapping[str, Any], say: Callable[[str], None]
) -> Iterator[dict[str, int]]:
    """Send the journal of a training to its trackers while the block runs.

    Yields:
        The number of steps that each tracker did not get; complete after the block.
    """
    files = Path(settings.folder).expanduser().resolve() if settings.folder else store / FOLDER
    found = Following(settings, folder, files, config, say)
    try:
        yield found.lost
    except BaseException:
        found.end(INTERRUPTED_S)
        raise
    found.end(END_S)


def _log(sink: Sink, line: Mapping[str, Any]) -> bool:
    sink.log(values(line), int(line["step"]))
    return True


def values(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of the journal, by their names in trackers; numbers that are not finite are not."""
    found = {name: line[key] for key, name in NAMES.items() if line.get(key) is not None}
    found |= {f"eval/{name}": value for name, value in line.get("measures", {}).items()}
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
