"""Hyper-parameter search: several trainings with other settings, of which the best value of `metric` decides.

The settings of a trial, and the step at which it is stopped, depend only on the seed and on the trials before it, so a
search that was killed goes on where it was. The trials of `random` and `grid` do not depend on each other, so several
may run at a time, with the same results. Those of `asha` and `optuna` run one after the other.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from pydantic import Field, ValidationError, model_validator

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.ids import digest
from gristmill.cluster.contract.settings import Settings

FIXED = (
    "input", "model", "validation", "validation_split", "test", "max_length", "too_long", "template", "template_args",
    "earlier_answers", "max_lost", "task", "metric", "search", "folds", "trackers",
)  # fmt: skip
"""Settings that may not be searched. They change what is measured on the held-out rows, or no model."""
MOST_TRIALS = 1000
TRIALS = "trials.json"
"""File with the trials that have ended, in the folder of the training."""
REDRAWS = 100
"""Number of draws after which no more new values are expected."""
J = TypeVar("J", bound=Settings)


class Range(Settings):
    """Numbers between two ends. If both ends are whole numbers, whole numbers are drawn."""

    low: int | float
    """The lowest value."""
    high: int | float
    """The highest value."""
    log: bool = False
    """Whether the logarithm is drawn evenly, as suits learning rates."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low}, must be below high, which is {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}, must be above 0 with log")
        return self

    @property
    def whole(self) -> bool:
        """Whether whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def at(self, share: float) -> int | float:
        """Return the value at a share of the range, between 0 and 1."""
        low, high = float(self.low), float(self.high) + self.whole  # each whole number has a range of its own
        value = math.exp(math.log(low) + share * math.log(high / low)) if self.log else low + share * (high - low)
        return min(int(value), int(self.high)) if self.whole else value


class Search(Settings):
    """`[train.search]`: try several settings, and train the model with the best ones."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"parallel"})

    method: Literal["random", "grid", "asha", "optuna"] = "random"
    """`random`: values are drawn at random (Bergstra and Bengio 2012, JMLR 13). `grid`: all combinations of lists.
    `asha`: random, and a trial ends early when its `metric` is worse than those of the best `1 / eta` of the trials
    before it (Li et al. 2018, arXiv:1810.05934, in the form that stops trials, as Ray Tune has it); needs `eval_steps`.
    `optuna`: each trial depends on those before it (TPE; needs the package optuna)."""
    trials: int = Field(default=8, gt=0, le=MOST_TRIALS)
    """Number of trials. The method `grid` makes all combinations, whatever this is."""
    space: dict[str, Range | list[Any]] = Field(default_factory=dict)
    """The settings that are searched, by their dotted names within `[train]`, such as `"tuning.r"`. A list has the
    values; a table with `low` and `high` is a range. Without any there is no search."""
    eta: int = Field(default=3, ge=2)
    """With `asha`: one of so many trials goes on from a rung. The rungs are at `eval_steps` steps, and at `eta` times
    the steps of the rung before."""
    seed: int = 0
    """Seed of the draws."""
    parallel: int | None = Field(default=None, gt=0)
    """Largest number of trials that run at a time. The default is as many as the cluster has cores, GPUs and memory
    for. With `asha` and `optuna`, and with `workers` as a range, trials run one after the other."""

    @property
    def independent(self) -> bool:
        """Whether no trial depends on another one."""
        return self.method in ("random", "grid")

    @property
    def count(self) -> int:
        """Number of trials."""
        if not self.space:
            return 0
        return self.trials if self.method == "optuna" else len(self.draws())

    def problems(self, job: Settings, check: Callable[[Any], list[str]]) -> list[str]:
        """Return the problems of the search, for a job with the settings `job`.

        Args:
            job: the settings that are varied.
            check: returns the problems of a job beyond its types.
        """
        if not self.space:
            return ["search.space: empty, must name at least one setting"] if self.model_fields_set else []
        found = [
            f"search.space.{name}: must not be searched; trials with other values are not comparable"
            for name in self.space
            if name.split(".")[0] in FIXED
        ]
        for name, values in self.space.items():
            if isinstance(values, Range) and self.method == "grid":
                found.append(f"search.space.{name}: a range, must be a list of values with the method grid")
            if values == []:
                found.append(f"search.space.{name}: an empty list, must have values")
        every = getattr(job, "eval_steps", 0)
        if self.method == "asha" and (not every or not isinstance(every, int)):
            found.append(f"eval_steps: {every} with search.method asha, must be the number of steps to the first rung")
        if self.method == "optuna" and not find_spec("optuna"):
            found.append("search.method: optuna, but optuna is not installed; pip install optuna, or take random")
        if found:
            return found
        count = math.prod(len(values) for values in self.space.values() if isinstance(values, list))
        if self.method == "grid" and count > MOST_TRIALS:
            return [f"search.space: a grid of {count} trials, must have at most {MOST_TRIALS}; take random"]
        own = set(check(job))
        alone = [line for values in self._ends() for line in _refused(job, values, check, own)]
        if alone or self.method == "optuna":
            return list(dict.fromkeys(alone))
        return next((found for values in self.draws() if (found := [*_refused(job, values, check, own)])), [])

    def _ends(self) -> Iterator[dict[str, Any]]:
        """Yield each value of a list, and both ends of each range, alone."""
        for name, values in self.space.items():
            ends = [values.low, values.high] if isinstance(values, Range) else values
            yield from ({name: value} for value in ends)

    def draws(self) -> list[dict[str, Any]]:
        """Return the values of all trials of `random`, `grid` and `asha`; none are there twice."""
        if self.method == "grid":
            return [dict(zip(self.space, some, strict=True)) for some in itertools.product(*self.space.values())]
        found: dict[str, dict[str, Any]] = {}
        rng, repeated = np.random.default_rng(self.seed), 0
        while len(found) < self.trials and repeated < REDRAWS:
            values = {name: _draw(one, float(rng.random())) for name, one in self.space.items()}
            key = digest(values)
            repeated = repeated + 1 if key in found else 0
            found.setdefault(key, values)
        return list(found.values())


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial that has ended."""

    values: Mapping[str, Any]
    """The settings by their dotted names."""
    state: Literal["done", "stopped", "failed"]
    """`stopped`: ended early at a rung. `failed`: its numbers were not finite, or it could not be trained."""
    loss: float | None
    """The held-out loss in nats, or 1 minus the measure that is `train.metric`; None if there is none."""
    steps: int
    losses: Sequence[tuple[int, float]] = ()
    """The same while training, with the steps."""


Try = Callable[[int, Mapping[str, Any], Mapping[int, float]], Trial]
"""Runs a trial. It takes the number of the trial, its values, and the highest loss with which it may go on, by step."""


def changed(job: J, values: Mapping[str, Any]) -> J:
    """Return settings with other values, by dotted names, checked as those of a recipe are.

    Raises:
        ValidationError: when a name is unknown, or a value is out of its bounds.
    """
    raw: dict[str, Any] = job.model_dump(mode="json", exclude_unset=True)
    for name, value in values.items():
        *tables, last = name.split(".")
        place: dict[str, Any] = raw
        at: Any = job
        for table in tables:
            at = getattr(at, table, None)
            whole = at.model_dump(mode="json") if isinstance(at, Settings) else {}
            place[table] = {**whole, **(place.get(table) or {})}
            place = place[table]
        place[last] = value
    return type(job).model_validate(raw)


def _refused(
    job: Settings, values: Mapping[str, Any], check: Callable[[Any], list[str]], own: set[str]
) -> Iterator[str]:
    shown = ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
    try:
        trial = changed(job, values)
    except ValidationError as error:
        for one in error.errors():
            if one["type"] == "default_factory_not_called":  # a default that follows from the wrong value
                continue
            where = ".".join(str(part) for part in one["loc"])
            what = "unknown key" if one["type"] == "extra_forbidden" else one["msg"].removeprefix("Value error, ")
            yield f"search.space: {shown}: {where}: {what[0].lower()}{what[1:]}"
        return
    yield from (f"search.space: {shown}: {line}" for line in check(trial) if line not in own)


def _draw(values: Range | list[Any], share: float) -> Any:  # noqa: ANN401 - a setting's value
    return values.at(share) if isinstance(values, Range) else values[int(share * len(values))]


def rungs(first: int, eta: int, steps: int) -> list[int]:
    """Return the steps at which ASHA compares trials."""
    found = []
    while first < steps:
        found.append(first)
        first *= eta
    return found


def bars(done: Sequence[Trial], at: Sequence[int], eta: int) -> dict[int, float]:
    """Return the highest loss with which a trial may go on, by rung.

    It is the `1 / eta` quantile of the losses of the earlier trials at the rung, so a rung without any has none. This
    is the rule of Ray Tune's ASHAScheduler.
    """
    found = {}
    for rung in at:
        losses = [dict(trial.losses)[rung] for trial in done if rung in dict(trial.losses)]
        if losses:
            found[rung] = float(np.nanpercentile(losses, 100 / eta))
    return found


def run(
    search: Search,
    done: list[Trial],
    at: Sequence[int],
    try_: Try,
    keep: Callable[[list[Trial]], None],
    most: int = 1,
    stop: Callable[[], None] = lambda: None,
) -> Trial:
    """Run the trials that have not ended yet, and return the best one.

    Args:
        search: the settings of the search.
        done: the trials that have ended; new ones are appended, in the order of their numbers.
        at: steps of the rungs; none unless the method is `asha`.
        try_: runs a trial. Several threads call it if `most` is above 1.
        keep: writes the trials that have ended.
        most: largest number of trials at a time; 1 unless they are independent.
        stop: ends the trials that still run, when one of them failed or an interrupt came.

    Raises:
        JobError: when no trial ended with a finite loss.
    """
    values = _values(search, done)
    for number, before in enumerate([trial.values for trial in done]):
        if before != next(values, None):
            raise JobError(f"search: trial {number + 1} had other values before; change search.seed to begin anew")
    left = enumerate(values, len(done))
    ended = _side_by_side(left, try_, most, stop) if most > 1 else _in_turn(left, done, search, at, try_)
    for trial in ended:
        done.append(trial)
        keep(done)
    best = min(done, key=lambda trial: (_order(trial), done.index(trial)))
    if not math.isfinite(_order(best)):
        raise JobError(
            f"search: none of {len(done)} trials ended with a finite loss, at least one must; narrow the space"
        )
    return best


Left = Iterator[tuple[int, dict[str, Any]]]
"""The numbers and values of the trials that have not ended."""


def _in_turn(left: Left, done: list[Trial], search: Search, at: Sequence[int], try_: Try) -> Iterator[Trial]:
    """Run trials one after the other, and yield each."""
    for number, values in left:
        yield try_(number, values, bars(done, at, search.eta))


def _side_by_side(left: Left, try_: Try, most: int, stop: Callable[[], None]) -> Iterator[Trial]:
    """Run up to `most` independent trials at a time, and yield them in the order of their numbers."""
    with ThreadPoolExecutor(most, "trial") as pool:
        trials = [pool.submit(try_, *one, {}) for one in itertools.islice(left, most)]
        running = set(trials)
        try:
            while running:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for trial in ended:
                    trial.result()  # raises what the trial raised
                more = [pool.submit(try_, *one, {}) for one in itertools.islice(left, len(ended))]
                trials += more
                running |= set(more)
                while trials and trials[0].done():
                    yield trials.pop(0).result()
        finally:
            stop()


def _order(trial: Trial) -> float:
    usable = trial.state == "done" and trial.loss is not None and math.isfinite(trial.loss)
    return trial.loss if usable and trial.loss is not None else math.inf


def _values(search: Search, done: list[Trial]) -> Iterator[dict[str, Any]]:
    """Yield the values of each trial; with Optuna, those of a trial follow from the losses of the trials before it."""
    if search.method != "optuna":
        yield from search.draws()
        return
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=search.seed))
    for number in range(search.trials):
        asked = study.ask()
        yield {name: _suggest(asked, name, one) for name, one in search.space.items()}
        loss = _order(done[number])
        study.tell(asked, loss if math.isfinite(loss) else None, state=None if math.isfinite(loss) else _failed())


def _failed() -> Any:  # noqa: ANN401 - of Optuna
    import optuna

    return optuna.trial.TrialState.FAIL


def _suggest(asked: Any, name: str, values: Range | list[Any]) -> Any:  # noqa: ANN401 - of Optuna
    if isinstance(values, list):  # Optuna takes only plain values
        return values[asked.suggest_categorical(name, list(range(len(values))))]
    kind = asked.suggest_int if values.whole else asked.suggest_float
    return kind(name, values.low, values.high, log=values.log)


def read(path: Path) -> list[Trial]:
    """Return the trials of a file, or none if it does not exist."""
    raw = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [Trial(**{**one, "losses": tuple((step, loss) for step, loss in one["losses"])}) for one in raw]


def as_json(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return trials as JSON values."""
    return [asdict(trial) for trial in trials]


def as_settings(values: Mapping[str, Any]) -> str:
    """Return values as arguments of the command line."""
    return " ".join(f"--set train.{name}={json.dumps(value)}" for name, value in values.items())
