"""The beginning of a round: whether it is due, and its recipe, in which pointers to models and datasets are put.

This file has all keys of other sections that a line knows, as literal texts.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.secrets import public_settings
from gristmill.cluster.io.ingest import STORED
from gristmill.cluster.jobs.recipe import Recipe
from gristmill.cluster.models.names import SMOLLM2
from gristmill.cluster.refresh import diagnosis, mlflow, replay
from gristmill.cluster.refresh.registry import Line, Round, champion_before, depth_of, model_path
from gristmill.cluster.refresh.settings import RefreshSettings
from gristmill.cluster.store.store import Store

WRITER, START = "generate.engine.model", "train.model"
"""Keys that get the path of a model of the line."""
JOURNAL = "metrics.jsonl"
"""File of a training that has times, and one line for each start."""
SEEDS = ("generate.input", "select.input", "train.input")
"""Keys of the inputs that have rows of people; the first one that the recipe has is meant."""
PEOPLE = "refresh.people"
SUITES = "evaluate.suites."
"""Beginning of the keys of the items of suites."""
TAKEN = ("train.replay", "train.replay_input")
"""Keys that only a line sets."""
SEED = "generate.seed"
"""Key of the seed to which the number of the round is added, so that each round has other draws."""
ENDPOINT, TASK, GATE = "generate.engine.endpoint", "train.task.kind", "evaluate.gate"
HELD_BACK, GATE_ROUND = "evaluate.gate.held_back", "evaluate.gate.round"
DECIDING = "evaluate.gate.suites"
ANCHOR, AGAINST = "evaluate.gate.anchor", "evaluate.against"
DAY_S = 86_400


@dataclass(frozen=True)
class Tick:
    """One call of `gristmill refresh`."""

    key: str
    """Key of the tick, by which the same tick is known again; empty for none."""
    alarm: str = ""
    """Why a round must begin without new rows; empty if none must."""


@dataclass(frozen=True)
class Opening:
    """What a round begins with, whatever the line has done before. The fields are those of `Round`."""

    key: str
    alarm: str
    inputs: dict[str, str]
    settings: dict[str, Any]
    tables: dict[str, Any]


def key_of(settings: RefreshSettings, now: float) -> str:
    """Return the key of the slot of time in which `now` is, in seconds since 1970; empty without slots."""
    return f"slot-{int(now // (settings.every_days * DAY_S))}" if settings.every_days else ""


def problems(recipe: Recipe) -> Iterator[str]:
    """Yield what a recipe lacks for a line, as `key: what is, what must be`."""
    settings = recipe.refresh
    if settings is None:
        yield "refresh: absent, must be a section; add [refresh]"
        return
    tables = {name: job.model_dump(exclude_unset=True) for name, job in recipe.jobs.items()}
    if get(tables, GATE) is None:
        yield f"{GATE}: absent, must be the rule that decides on a challenger; add [train], [evaluate] and [{GATE}]"
    if "generate" in tables and "select" not in tables:
        yield "select: absent, must be a section; in it new rows are compared with those of earlier rounds"
    steer, deciding = settings.steer, get(tables, DECIDING, [])
    if steer and get(tables, f"{SUITES}{steer}") is None:
        yield f"refresh.steer: {steer} is no suite, must be one of [evaluate.suites]"
    elif steer and (not deciding or steer in deciding):
        yield f"refresh.steer: {steer} decides, must not; name the suites that do in {DECIDING}"
    if settings.mlflow and (problem := mlflow.missing(settings.mlflow)):
        yield f"refresh.mlflow: {problem}"
    yield from (f"{key}: is set, must not be in a line; [refresh] sets it" for key in TAKEN if get(tables, key))
    if settings.writer == "champion" and "generate" in tables:
        if get(tables, ENDPOINT):
            yield f'{ENDPOINT}: is set, so the champion cannot write; set refresh.writer = "recipe"'
        if get(tables, TASK) not in (None, "causal_lm"):
            yield f'{TASK}: {get(tables, TASK)}, whose model writes no text; set refresh.writer = "recipe"'


def waits(settings: RefreshSettings, rounds: Sequence[Round], tick: Tick, now: float) -> str:
    """Return why no round may begin at this time; the empty string if one may."""
    same = next((one for one in rounds if tick.key and one.key == tick.key), None)
    if same is None:
        return ""
    if tick.key != key_of(settings, now):
        return f"round {same.number} has the key {tick.key}"
    end = (int(now // (settings.every_days * DAY_S)) + 1) * settings.every_days * DAY_S
    return f"round {same.number} began in this slot of time; the next begins {_utc(end)}"


def lacks(store: Store, settings: RefreshSettings, rounds: Sequence[Round], inputs: Mapping[str, str]) -> str:
    """Return how many new rows the inputs lack; the empty string if one of them has enough.

    Raises:
        JobError: if a key of `min_new` is that of no input.
    """
    found = []
    for key, least in settings.min_new.items():
        if key not in inputs:
            known = ", ".join(inputs) or "none"
            raise JobError(f"refresh.min_new: {key!r} is no input of the recipe, must be one of {known}")
        older = next((one.inputs[key] for one in reversed(rounds) if key in one.inputs), "")
        new = replay.num_new(store, inputs[key], older)
        if new >= least:
            return ""
        found.append(f"{key} has {new} new rows of {least}")
    return " and ".join(found)


def begin(line: Line, recipe: Recipe, tick: Tick) -> Round | str:
    """Return a new round, or why none begins. Inputs are copied into the store; nothing else is written."""
    settings, rounds, store = recipe.refresh, line.rounds(), line.store
    assert settings is not None
    tables, inputs = replay.fix_inputs(store, recipe.jobs)
    lacking = "" if tick.alarm else lacks(store, settings, rounds, inputs)
    if lacking:
        return lacking
    if settings.people:
        inputs[PEOPLE] = settings.people.dataset or replay.fixed(store, settings.people)
    said = public_settings(settings.model_dump(mode="json", exclude={"people"}, exclude_unset=True))
    return opened(line, Opening(tick.key, tick.alarm, inputs, said, tables))


def opened(line: Line, new: Opening) -> Round:
    """Return the next round of a line, with its pointers to models and to rows of earlier rounds."""
    settings, rounds, champion = RefreshSettings.model_validate(new.settings), line.rounds(), line.aliases().champion
    gone = replay.quarantined(line.rollbacks())
    earlier = replay.whole(line.store, replay.written(rounds), gone)
    replayed = replay.history(line.store, earlier, gone, settings.replay_rows) if settings.replay else ""
    writer = _writer(rounds, champion, settings)
    depth = depth_of(rounds, writer) + 1 if "generate" in new.tables else 0
    deepest = max(depth, depth_of(rounds, champion), *(one.depth for one in rounds if one.rows in earlier))
    return Round(
        number=len(rounds) + 1, start=champion, writer=writer, depth=depth, earlier=tuple(earlier), replayed=replayed,
        trained_depth=deepest, **vars(new),
    )  # fmt: skip


def _writer(rounds: Sequence[Round], champion: str, settings: RefreshSettings) -> str:
    """Return the newest champion that writes rows which are not too deep; the base model writes rows of depth 1."""
    if settings.writer == "recipe":
        return ""
    while champion and depth_of(rounds, champion) >= settings.max_depth:
        champion = champion_before(rounds, champion)
    return champion


DEFAULT_STEPS: tuple[dict[str, Any], ...] = ({"kind": "exact"}, {"kind": "minhash"}, {"kind": "semantic"})
"""The steps of a section `[select]` without steps."""


def recipe_of_round(line: Line, one: Round, recipe: Recipe) -> dict[str, Any]:
    """Return the tables of the recipe of a round, with pointers put in. Cluster and store are those of `recipe`."""
    tables: dict[str, Any] = copied(one.tables)
    _point_to_datasets(line.store, one, tables)
    if one.start:
        put(tables, START, model_path(line.store, one.start))
    if one.writer and "generate" in tables:
        put(tables, WRITER, model_path(line.store, one.writer))
    for place, weights in diagnosis.quotas(line.store, line.rounds()[: one.number - 1], one).items():
        tables["generate"]["methods"][place]["quota"] = weights
    if get(tables, HELD_BACK):
        put(tables, GATE_ROUND, one.number)
    ground = recipe.ground.model_dump(exclude_unset=True)
    return {"name": f"{line.name}-{one.number:04d}", "store": recipe.store, "cluster": ground, **tables}


def _point_to_datasets(store: Store, one: Round, tables: dict[str, Any]) -> None:
    """Put rows of earlier rounds, rows of people and the items of suites into the tables of a round."""
    settings = RefreshSettings.model_validate(one.settings)
    suites = list(dict.fromkeys(name for key, name in one.inputs.items() if key.startswith(SUITES)))
    people = next((one.inputs[key] for key in (PEOPLE, *SEEDS) if key in one.inputs), "")
    if "generate" in tables:
        put(tables, SEED, get(tables, SEED, 0) + one.number)
    if "select" in tables:
        steps = [{"kind": "against", "datasets": _stored(one.earlier)}] if one.earlier else []
        steps += [{"kind": "decontaminate", "sets": _stored(suites)}] if suites else []
        put(tables, "select.steps", [*get(tables, "select.steps", DEFAULT_STEPS), *steps])
    put(tables, "train.test", [*get(tables, "train.test", []), *_stored(suites)])
    if people and "train.input" not in one.inputs and replay.has_answers(store, people):
        part = {"input": f"{STORED}{people}", "min_share": round(1 - settings.max_synthetic, 6)}
        put(tables, "train.mixture", [*get(tables, "train.mixture", []), part])
    if one.replayed:
        put(tables, "train.replay", settings.replay)
        put(tables, "train.replay_input", f"{STORED}{one.replayed}")
    if one.start and settings.anchor and not get(tables, ANCHOR) and _may_lose(tables):
        base = get(tables, START, SMOLLM2)
        put(tables, AGAINST, [*get(tables, AGAINST, []), base])
        put(tables, ANCHOR, base)


def _may_lose(tables: Mapping[str, Any]) -> bool:
    """Say whether there is a suite in which the challenger may be worse than the champion."""
    suites, margins = get(tables, SUITES.rstrip("."), {}), get(tables, f"{GATE}.margins", {})
    return any(
        margins[name] < 0 if name in margins else one.get("role", "target") != "target" for name, one in suites.items()
    )


def get(tables: Mapping[str, Any], key: str, default: Any = None) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value at a dotted key, or the default if a part of it is absent."""
    found: Any = tables
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return default
        found = found[part]
    return found


def put(tables: dict[str, Any], key: str, value: object) -> None:
    """Put a value at a dotted key, and make the tables that are absent."""
    *parts, last = key.split(".")
    for part in parts:
        tables = tables.setdefault(part, {})
    tables[last] = value


def copied(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a copy of a JSON value."""
    if isinstance(value, Mapping):
        return {name: copied(inner) for name, inner in value.items()}
    return [copied(inner) for inner in value] if isinstance(value, list | tuple) else value


def _stored(names: Sequence[str]) -> list[str]:
    return [f"{STORED}{name}" for name in names]


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
