"""The state of a run, and the numbers of a job that both the summary and the report show."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from gristmill.cluster.contract.errors import TRY_AGAIN
from gristmill.cluster.jobs import heartbeat
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.jobs.heartbeat import Beat
from gristmill.cluster.store.ledger import RunState, State, state
from gristmill.cluster.store.store import Store

STAGE = ("rows in", "kept", "prompt tokens", "tokens", "seconds", "tokens/s")
"""Names of the columns that the summary and the report show for a job."""


RUNS = "runs"
"""Folder of the store that holds the runs."""


@dataclass(frozen=True)
class StoredRecipe:
    """The `recipe.json` of a run: its jobs with all settings, and the folder of each job's output, by job."""

    name: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)


def recipe_of(store: Store, run_id: str) -> StoredRecipe:
    """Return the recipe of a run.

    Raises:
        StoreError: if it is absent, or was altered.
    """
    return store.read_as(StoredRecipe, RUNS, run_id, "recipe.json")


def state_of(store: Store, run_id: str) -> RunState:
    """Return the state of a run according to its ledger."""
    return state(store, f"{RUNS}/{run_id}")


def beat_of(store: Store, run_id: str) -> Beat | None:
    """Return the last heartbeat of a run; None if it has ended in order, or if the heartbeat cannot be read."""
    return heartbeat.read(store, f"{RUNS}/{run_id}")


EXIT_CODES: dict[State, int | None] = {"running": None, "stopped": TRY_AGAIN, "done": 0, "failed": 1}
"""The exit code of a command whose run has this state. A run that was killed counts as interrupted."""


def json_of(store: Store, run_id: str) -> dict[str, Any]:
    """Return the state of a run as JSON values, with its exit code and, while it runs, its heartbeat with ages."""
    run = state_of(store, run_id)
    value = {"run": run_id, **asdict(run), "exit_code": EXIT_CODES[run.state], "heartbeat": None}
    beat = beat_of(store, run_id) if run.state == "running" else None
    if beat is not None:
        now = time.time()
        ages = {"age_s": round(now - beat.time, 1), "progress_age_s": round(now - beat.step.progressed, 1)}
        value["heartbeat"] = {**asdict(beat), **ages}
    return value


def stage(figures: Figures | None) -> tuple[str, ...]:
    """Return the cells of the columns `STAGE` for a job. They are empty for a job without figures."""
    if figures is None:
        return ("",) * len(STAGE)
    counts = (figures.rows, figures.kept, figures.prompt_tokens, figures.tokens)
    numbers = (*counts, figures.seconds, figures.tokens_per_s)
    return tuple("" if n is None else f"{n:,.1f}" if isinstance(n, float) else f"{n:,}" for n in numbers)
