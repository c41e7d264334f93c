"""Serving: an inference engine that runs one model until all questions to it are asked."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from gristmill.cluster.contract.errors import EngineError, RunError
from gristmill.cluster.jobs.job import Run
from gristmill.cluster.models.engine import Engine, Reply, Request, ask_all, engine_need, start
from gristmill.cluster.runtime.deaths import advice, ended, lowerable, out_of_memory
from gristmill.cluster.runtime.resources import await_room

AskAll = Callable[[Sequence[Request]], list[Reply]]
"""Returns the replies in the order of the requests."""


@contextmanager
def serving(engine: Engine, run: Run, name: str, where: str) -> Iterator[AskAll]:
    """Start an engine for a block, and end the engine with the block.

    Args:
        engine: settings of the engine, with its model.
        run: the run, with the folder of the logs.
        name: name of the engine's log.
        where: path of the engine's settings in the recipe, for error messages.

    Raises:
        BusyError: when the engine's cores and GPUs stay in use.
        RunError: when the engine does not start, or dies and does not come back.
    """
    import ray

    need, logs = engine_need(where, engine, 1), run.logs
    await_room(where, [need], run.wait_s)
    actor = start(engine, logs, name, need)

    def ask(requests: Sequence[Request]) -> list[Reply]:
        try:
            return ask_all(actor, requests)
        except (ray.exceptions.RayError, EngineError) as error:
            what = f"{ended('the engine', error)} on {engine.model}"
            lower = lowerable(where, engine, "kv_cache_gib", "max_num_seqs")
            how = f"{advice(lower)}; see" if out_of_memory(error) else "see"
            raise RunError(f"evaluate, {name}: {what}; {how} {logs}") from error

    try:
        yield ask
    finally:
        ray.kill(actor)
