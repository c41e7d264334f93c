"""Engines and actors: an engine in this process, an engine in an actor, and several such actors as one engine."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from gristmill.cluster.contract.errors import RunError
from gristmill.cluster.models.engine import Engine, Reply, Request
from gristmill.cluster.runtime import deaths
from gristmill.cluster.runtime.log import to_file
from gristmill.generation.engines.endpoint.engine import EndpointEngine
from gristmill.generation.engines.placement import environment, host
from gristmill.generation.engines.vllm import VllmEngine

__all__ = ["EngineActor", "LiveEngine", "OpenEngine", "RemoteEngine", "environment", "host", "open_engine"]
log = logging.getLogger(__name__)

TRIES = 4
"""Largest number of attempts at a request when Ray ends the engine because memory is full. Ray starts an engine four
times."""
RESTART_S = 2.0
"""Seconds until Ray knows that an actor is gone. Earlier calls fail at once; later calls wait for the next process."""


class LiveEngine(Protocol):
    """Anything that answers requests: vLLM in this process, an endpoint, remote actors, or the fake of the tests."""

    async def ready(self) -> dict[str, Any]:
        """Return facts about the start, once the engine has started."""
        ...

    async def ask(self, request: Request) -> Reply:
        """Return the reply to one request; a refused request gets the finish `error: …`."""
        ...

    def stats(self) -> Mapping[str, float]:
        """Return `running`, `waiting`, `steps` and counters of tokens.

        Some engines count tokens as they are made, others when a reply ends.
        """
        ...


OpenEngine = Callable[[Engine], LiveEngine]


def open_engine(engine: Engine) -> LiveEngine:
    """Return the engine of this process: a client if the settings name an endpoint, else vLLM."""
    return EndpointEngine(engine) if engine.endpoint else VllmEngine(engine)


class EngineActor:
    """An engine in an actor of its own. Callers send it requests; see `models.engine.start`."""

    def __init__(self, engine: Engine, logs: str | None, name: str) -> None:
        """Begin to start the engine. Its output and the output of its libraries go to `<logs>/<name>.log`."""
        to_file(logs, name)
        self._engine = open_engine(engine)

    async def ready(self) -> dict[str, Any]:
        """Return the resolved settings and the seconds of the start, after the engine has started."""
        return await self._engine.ready()

    async def ask(self, request: Request) -> Reply:
        """Return the reply to one request."""
        return await self._engine.ask(request)

    async def ask_all(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies in the order of the requests. All callers share one batch."""
        return list(await asyncio.gather(*(self._engine.ask(request) for request in requests)))

    async def stats(self) -> dict[str, float]:
        """Return the engine's counters, and the id of this process, which shows a restart."""
        return {**self._engine.stats(), "pid": float(os.getpid())}


class RemoteEngine:
    """Several engine actors as one engine. A request goes to the actor with the fewest open requests of this worker."""

    def __init__(self, actors: Sequence[Any], name: str = "engine") -> None:
        """Take the handles of `EngineActor`s that are starting or running, and their name in `[generate.engines]`."""
        self._actors, self._name = tuple(actors), name
        self._load = [0] * len(self._actors)
        self._totals = {"steps": 0, "prompt_tokens": 0, "reply_tokens": 0, "cached_tokens": 0}

    async def ready(self) -> dict[str, Any]:
        """Return facts about the first actor's start, once all have started."""
        facts: list[dict[str, Any]] = await asyncio.gather(*(actor.ready.remote() for actor in self._actors))
        return facts[0]

    async def ask(self, request: Request) -> Reply:
        """Return the reply to one request; the request is repeated when its actor dies and starts again.

        Raises:
            RunError: when the actor is gone for good.
        """
        place = self._load.index(min(self._load))
        self._load[place] += 1
        try:
            reply = await self._asked(self._actors[place], request)
        finally:
            self._load[place] -= 1
        self._totals["steps"] += 1
        self._totals["prompt_tokens"] += reply.prompt_tokens
        self._totals["reply_tokens"] += reply.reply_tokens
        self._totals["cached_tokens"] += reply.cached_tokens
        return reply

    async def _asked(self, actor: Any, request: Request, tries: int = TRIES) -> Reply:  # noqa: ANN401 - Ray's handle
        """Ask one actor. Ray repeats a call after most deaths, but raises an error after some deaths by full memory."""
        import ray

        try:
            reply: Reply = await actor.ask.remote(request)
        except ray.exceptions.RayTaskError:  # raised by a living actor
            raise
        except deaths.deaths() as error:
            if tries == 1 or not deaths.out_of_memory(error):
                lower = f"generate.engines.{self._name}.kv_cache_gib, max_num_seqs or actors"
                what = f"{deaths.ended(f'engine {self._name}', error)}, and it does not come back"
                raise RunError(f"generate: {what}; {deaths.advice(lower)}") from error
            log.warning("engine %s: asking again: %s", self._name, error)
        else:
            return reply
        await asyncio.sleep(RESTART_S)
        return await self._asked(actor, request, tries - 1)

    def stats(self) -> dict[str, float]:
        """Return counters of this worker's requests. Tokens count when a reply ends."""
        return {**self._totals, "running": float(sum(self._load)), "waiting": 0.0}
