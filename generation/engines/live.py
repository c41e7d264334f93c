"""Engines in their places: which backend a setting means, an engine as an actor of its own, and such actors as one."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from cluster.engine import Engine, Reply, Request
from cluster.log import to_file
from generation.engines.endpoint import EndpointEngine
from generation.engines.placement import environment
from generation.engines.vllm import VllmEngine

__all__ = ["EngineActor", "LiveEngine", "OpenEngine", "RemoteEngine", "environment", "open_engine"]


class LiveEngine(Protocol):
    """What answers requests: vLLM in this process, an endpoint, actors elsewhere, or the fake of the tests."""

    async def ready(self) -> dict[str, Any]:
        """Return facts of the start, once it has started."""
        ...

    async def ask(self, request: Request) -> Reply:
        """Return the reply to one request; a refused one comes back with finish `error: …`."""
        ...

    def stats(self) -> Mapping[str, float]:
        """Return `running`, `waiting`, `steps` and counters of tokens, which grow as tokens are made or replies end."""
        ...


OpenEngine = Callable[[Engine], LiveEngine]


def open_engine(engine: Engine) -> LiveEngine:
    """Return the engine of this process: a client where the settings name an endpoint, else vLLM."""
    return EndpointEngine(engine) if engine.endpoint else VllmEngine(engine)


class EngineActor:
    """An engine as an actor of its own, for callers that bring their requests; see `cluster.engine.start`."""

    def __init__(self, engine: Engine, logs: str | None, name: str) -> None:
        """Begin to start the engine; what it and its libraries print goes to `<logs>/<name>.log`."""
        to_file(logs, name)
        self._engine = open_engine(engine)

    async def ready(self) -> dict[str, Any]:
        """Return the resolved settings and seconds to start, once it has started."""
        return await self._engine.ready()

    async def ask(self, request: Request) -> Reply:
        """Return the reply to one request."""
        return await self._engine.ask(request)

    async def ask_all(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies in the order of the requests, which share the batch with everybody else's."""
        return list(await asyncio.gather(*(self._engine.ask(request) for request in requests)))

    async def stats(self) -> dict[str, float]:
        """Return the engine's counters."""
        return dict(self._engine.stats())


class RemoteEngine:
    """Engine actors as one engine: each request goes to the actor that has the fewest of this worker's."""

    def __init__(self, actors: Sequence[Any]) -> None:
        """Take the handles of `EngineActor`s that are starting or running."""
        self._actors = tuple(actors)
        self._load = [0] * len(self._actors)
        self._totals = {"steps": 0, "prompt_tokens": 0, "reply_tokens": 0, "cached_tokens": 0}

    async def ready(self) -> dict[str, Any]:
        """Return the facts of the first actor's start, once all have started."""
        facts: list[dict[str, Any]] = await asyncio.gather(*(actor.ready.remote() for actor in self._actors))
        return facts[0]

    async def ask(self, request: Request) -> Reply:
        """Return the reply to one request; Ray repeats it when its actor dies and starts again."""
        place = self._load.index(min(self._load))
        self._load[place] += 1
        try:
            reply: Reply = await self._actors[place].ask.remote(request)
        finally:
            self._load[place] -= 1
        self._totals["steps"] += 1
        self._totals["prompt_tokens"] += reply.prompt_tokens
        self._totals["reply_tokens"] += reply.reply_tokens
        self._totals["cached_tokens"] += reply.cached_tokens
        return reply

    def stats(self) -> dict[str, float]:
        """Return what this worker has asked of them; tokens count when a reply ends."""
        return {**self._totals, "running": float(sum(self._load)), "waiting": 0.0}
