"""The generate job on real actors with the scripted engine."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.contract.errors import BusyError, JobError, RunError
from gristmill.cluster.jobs.job import Run
from gristmill.cluster.models import dtypes
from gristmill.cluster.models.engine import Engine, Reply, Request, Write
from gristmill.cluster.store.store import Store
from gristmill.generation.contracts import MAIN
from gristmill.generation.engines.actors import LiveEngine
from gristmill.generation.engines.placement import Placement
from tests.fakes import ScriptedEngine, open_hashing_encoder
from tests.generation.ground import WORK, a_run, ground, job, with_seeds
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
    figures = generate.make_on(with_logs(store, tmp_path / "logs"), WORK, engine, open_hashing_encoder)
    assert marker.exists(), "no actor died"
    check_dataset(store, WORK.output, "seeds")
    assert figures.kept == 30
    assert samples_of(store, WORK.output) == samples_of(whole, WORK.output)


def recording(settings: Engine, path: str) -> LiveEngine:
    """The scripted engine; it leaves the type that it was opened with."""
    Path(path).write_text(settings.dtype)
    return ScriptedEngine(settings)


def test_the_type_of_the_first_engine_is_written_to_the_dataset_and_kept_when_it_is_continued(tmp_path: Path) -> None:
    generate = job(target=10, engine=Engine(cpus=1))
    here = dtypes.choose(generate.engine.model).dtype
    for name, began in (("new", here), ("continued", "bfloat16"), ("continued", "float32")):
        store = with_seeds(Store(str(tmp_path / f"{name}-{began}")))
        if name == "continued":
            choice = dtypes.DTypeChoice(began, "the machine of yesterday")
            dtypes.write(store, WORK.output, {"engine": choice, "encoder": choice})
        opens = partial(recording, path=str(tmp_path / "opened"))
        generate.make_on(with_logs(store, tmp_path / "logs"), WORK, opens, open_hashing_encoder)
        assert (tmp_path / "opened").read_text() == began
        manifest = store.manifest(WORK.output)
        assert manifest.metadata["dtype of engine"] == began
        assert manifest.settings["engine"]["dtype"] == "auto"
        assert not store.exists(WORK.output, dtypes.DTYPES), "a complete folder holds what its manifest lists"


class PoisonedEngine(ScriptedEngine):
    """Dies of every request with one seed."""

    poison = 0

    async def ask(self, request: Request) -> Reply:
        if isinstance(request, Write) and request.seed == self.poison:
            os._exit(1)
        return await super().ask(request)


def poisoned(settings: Engine, poison: int) -> LiveEngine:
    engine = PoisonedEngine(settings)
    engine.poison = poison
    return engine


def test_a_row_that_kills_engines_is_quarantined_and_nothing_else_is_lost(tmp_path: Path) -> None:
    whole, store = (with_seeds(Store(str(tmp_path / name))) for name in ("whole", "actors"))
    generate = job(target=30, engine=Engine(actors=2, cpus=1))
    ground(whole, generate)
    victim = next(row for row in samples_of(whole, WORK.output) if row.dropped)
    assert victim.origin is not None
    opens = partial(poisoned, poison=victim.origin.seed)
    generate.make_on(with_logs(store, tmp_path / "logs"), WORK, opens, open_hashing_encoder)
    rows = {row.id: row for row in check_dataset(store, WORK.output, "seeds")}
    assert rows[victim.id].dropped == "engine: took two engines down"
    assert rows[victim.id].parents == victim.parents
    others = [row for row in samples_of(whole, WORK.output) if row.id != victim.id]
    assert [rows[row.id] for row in others] == others


class HangingEngine(ScriptedEngine):
    """Stops answering at its twentieth request, once; it says that requests are running."""

    marker = ""

    async def ask(self, request: Request) -> Reply:
        if self.asked == 20:
            self.hang_once()
        return await super().ask(request)

    def hang_once(self) -> None:
        if not Path(self.marker).exists():
            Path(self.marker).touch()
            time.sleep(600)  # the whole process hangs, as in a native call


def hanging(settings: Engine, marker: str) -> LiveEngine:
    engine = HangingEngine(settings)
    engine.marker = marker
    return engine


def test_a_hung_engine_is_ended_and_its_shards_are_made_elsewhere(tmp_path: Path) -> None:
    whole, store = (with_seeds(Store(str(tmp_path / name))) for name in ("whole", "actors"))
    generate = job(target=30, engine=Engine(actors=1, cpus=1, hang_s=8.0))
    ground(whole, generate)
    opens = partial(hanging, marker=str(tmp_path / "hung"))
    generate.make_on(with_logs(store, tmp_path / "logs"), WORK, opens, open_hashing_encoder)
    assert (tmp_path / "hung").exists(), "no engine hung"
    assert samples_of(store, WORK.output) == samples_of(whole, WORK.output)


class BrokenEngine(ScriptedEngine):
    """Does not start, as with a model that does not fit."""

    async def ready(self) -> dict[str, float]:
        from gristmill.cluster.contract.errors import EngineError

        raise EngineError("engine tiny: did not start: out of memory")


def broken(settings: Engine) -> LiveEngine:
    return BrokenEngine(settings)


def test_an_engine_that_cannot_start_fails_the_run_with_its_reason(tmp_path: Path) -> None:
    store = with_seeds(Store(str(tmp_path / "store")))
    run = with_logs(store, tmp_path / "logs")
    with pytest.raises(RunError, match="did not start: out of memory"):
        job(engine=Engine(cpus=1)).make_on(run, WORK, broken, open_hashing_encoder)


def test_places_are_reserved_together_and_given_back() -> None:
    from ray.util import placement_group_table

    def reserved() -> list[Any]:
        return [group for group in placement_group_table().values() if group["state"] == "CREATED"]

    before = len(reserved())
    placement = Placement({MAIN: Engine(cpus=1), "judge": Engine(cpus=1), "far": Engine(endpoint="http://x/v1")}, 60)
    placement.reserve()
    assert len(reserved()) == before + 2
    assert placement.need("judge", 0).cpus == 1
    placement.remove()
    time.sleep(0.5)
    assert len(reserved()) == before
    with pytest.raises(BusyError, match=r"cluster gave 0 within 2 s .* run again when others are done"):
        full = Placement({MAIN: Engine(cpus=1, actors=1), "judge": Engine(cpus=1)}, 60)
        full.reserve()
        try:
            Placement({MAIN: Engine(cpus=1)}, 0).reserve()
        finally:
            full.remove()
    with pytest.raises(JobError, match="needs 2 GPU, the cluster has 0"):
        Placement({MAIN: Engine(gpus=2)}, 60).reserve()
