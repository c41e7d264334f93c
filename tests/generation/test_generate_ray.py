"""The generate job on real actors with the scripted engine."""

from functools import partial
from pathlib import Path

import pytest

from cluster.engine import Engine
from cluster.errors import RunError
from cluster.job import Run
from cluster.store import Store
from generation.worker import LiveEngine
from tests.fakes import ScriptedEngine
from tests.generation.test_generate import WORK, a_run, ground, job, with_seeds
from tests.invariants import check_dataset, samples_of

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def with_logs(store: Store, folder: Path) -> Run:
    run = a_run(store)
    return Run(run.id, store, run.ledger, run.screen, str(folder))


def test_a_killed_actor_loses_no_row_and_doubles_none(tmp_path: Path) -> None:
    whole, store = (with_seeds(Store(str(tmp_path / name))) for name in ("whole", "actors"))
    generate = job(target=30, engine=Engine(actors=2, cpus=1))
    ground(whole, generate)
    marker = tmp_path / "crashed"
    engine = partial(ScriptedEngine, crash_at=40, crashed=str(marker))
    figures = generate.make_on(with_logs(store, tmp_path / "logs"), WORK, engine)
    assert marker.exists(), "no actor died"
    check_dataset(store, WORK.output, "seeds")
    assert figures["kept"] == 30
    assert samples_of(store, WORK.output) == samples_of(whole, WORK.output)


class BrokenEngine(ScriptedEngine):
    """Does not start, as with a model that does not fit."""

    async def ready(self) -> dict[str, float]:
        from cluster.errors import EngineError

        raise EngineError("engine tiny: did not start: out of memory")


def broken(settings: Engine) -> LiveEngine:
    return BrokenEngine(settings)


def test_an_engine_that_cannot_start_fails_the_run_with_its_reason(tmp_path: Path) -> None:
    store = with_seeds(Store(str(tmp_path / "store")))
    with pytest.raises(RunError, match="did not start: out of memory"):
        job(engine=Engine(cpus=1)).make_on(with_logs(store, tmp_path / "logs"), WORK, broken)
