"""A whole `gristmill generate` on a slow scripted engine, which the tests interrupt.

python -m tests.generation.drive RECIPE SECONDS
"""

import asyncio
import sys
from functools import partial

from gristmill.cluster.cli.main import main
from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.models.engine import Engine, Reply, Request
from gristmill.generation.engines.actors import LiveEngine
from gristmill.generation.figures import GenerateFigures
from gristmill.generation.job import Generate
from tests.fakes import ScriptedEngine, open_hashing_encoder


class SlowEngine(ScriptedEngine):
    """Takes its time for each request."""

    seconds = 0.0

    async def ask(self, request: Request) -> Reply:
        await asyncio.sleep(self.seconds)
        return await super().ask(request)


def slow(settings: Engine, seconds: float) -> LiveEngine:
    engine = SlowEngine(settings)
    engine.seconds = seconds
    return engine


def make(self: Generate, run: Run, work: Work) -> GenerateFigures:
    return self.make_on(run, work, partial(slow, seconds=float(sys.argv[2])), open_hashing_encoder)


if __name__ == "__main__":
    Generate.make = make  # type: ignore[method-assign]  # the command line opens its engines itself
    sys.exit(main(["generate", sys.argv[1], "--quiet"]))
