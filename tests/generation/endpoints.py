"""An endpoint engine on the fake server, quick to give up."""

import asyncio
from collections.abc import Awaitable, Callable

from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.engine import Abilities, Engine, Reply, Write
from gristmill.generation.engines.endpoint.engine import EndpointEngine
from gristmill.generation.engines.endpoint.http import Patience
from tests.fake_server import FakeServer

QUICK = Patience(attempts=4, first_s=0.01, hang_s=5)
ASK = Write((Message("user", "Name a river."),), 16, seed=1)


ABLE = Abilities(continues="plain", json_schema="json_schema", logprobs=True, seeds=True)


def at(
    server: FakeServer, patience: Patience = QUICK, abilities: Abilities | None = ABLE, **settings: int | str
) -> EndpointEngine:
    """Return an engine; without abilities it finds them out by calls, which the server sees first."""
    return EndpointEngine(Engine(model="fake", endpoint=server.url, abilities=abilities, **settings), patience)


def served(
    server: FakeServer,
    use: Callable[[EndpointEngine], Awaitable[Reply]],
    patience: Patience = QUICK,
    abilities: Abilities | None = ABLE,
) -> Reply:
    async def run() -> Reply:
        async with server:
            engine = at(server, patience, abilities)
            reply = await use(engine)
            engine.close()
            await asyncio.sleep(0)
            return reply

    return asyncio.run(run())
