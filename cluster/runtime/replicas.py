"""Several copies of one HTTP server on the machines of a cluster, behind one address, by Ray Serve.

Each replica starts the server in a child process on a free port of its machine, and hands requests on to it. If the
server ends, Ray Serve starts the replica anew. The answers of a stream are handed on as they come.
"""

import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.runtime import child
from gristmill.cluster.runtime.resources import Need
from gristmill.cluster.runtime.session import LOOPBACK

HEALTH_PERIOD_S = 2.0
"""Seconds between two looks of Ray Serve at a replica. After three bad ones the replica is started anew."""
IN_FLIGHT = 1000
"""Largest number of requests that a replica has at once. The server itself queues those that it has no room for."""
NOT_HANDED_ON = frozenset({"host", "content-length", "connection", "transfer-encoding", "keep-alive"})
"""Headers that hold for one connection only."""

Command = Callable[[tuple[str, int]], tuple[list[str], dict[str, str]]]
"""Returns the command line and the environment of a server that listens on an address."""


class Replica:
    """One server in a child process, and the requests that are handed on to it."""

    def __init__(self, command: Command, name: str, files: str) -> None:
        """Start the server and wait until it answers.

        Args:
            command: returns the command line and the whole environment of the server.
            name: name of the log, in the temporary folder of the machine.
            files: folder that the server reads.

        Raises:
            JobError: when this machine does not have the folder.
            RunError: when the server does not start.
        """
        import aiohttp

        if not Path(files).exists():
            raise JobError(f"{files}: absent on machine {socket.gethostname()}, must be on a disk that all share")
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port = probe.getsockname()[1]
        words, environment = command((LOOPBACK, port))
        self._base = f"http://{LOOPBACK}:{port}"
        self._log = Path(gettempdir()) / f"{name}-{port}.log"
        self._stack = ExitStack()
        self._process = self._stack.enter_context(child.serving(words, environment, self._log))
        child.await_health(self._process, f"{self._base}/health", self._log)
        self._client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False)

    async def __call__(self, request: Any) -> Any:  # noqa: ANN401 - requests and responses of Starlette
        """Hand a request on to the server, and return its answer."""
        import aiohttp
        from starlette.responses import JSONResponse, StreamingResponse

        path = f"{self._base}{request.url.path}" + (f"?{request.url.query}" if request.url.query else "")
        body = await request.body()
        try:
            answer = await self._client.request(request.method, path, data=body, headers=_handed_on(request.headers))
        except aiohttp.ClientConnectionError:
            error = {"message": "the server of this replica has ended and is started anew; try again", "code": 503}
            return JSONResponse({"error": error}, 503)

        async def parts() -> AsyncIterator[bytes]:
            async with answer:
                async for part in answer.content.iter_any():
                    yield part

        return StreamingResponse(parts(), answer.status, _handed_on(answer.headers))

    def check_health(self) -> None:
        """Raise an error if the server has ended; Ray Serve calls this."""
        if self._process.poll() is not None:
            raise RunError(
                f"the server ended by itself (exit code {self._process.returncode}); see {self._log}\n"
                f"{child.last_lines(self._log)}"
            )

    def __del__(self) -> None:
        """End the server; Ray Serve calls this when the replica is taken away."""
        if hasattr(self, "_stack"):
            self._stack.close()


def _handed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in NOT_HANDED_ON}


@contextmanager
def replicated(
    command: Command, name: str, files: str, need: Need, replicas: int, address: tuple[str, int]
) -> Iterator[Callable[[], str]]:
    """Run replicas of a server while the block runs, in the session of Ray that is open.

    Args:
        command: returns the command line and the whole environment of one server.
        name: name of the application of Ray Serve.
        files: folder that the servers read, which must be on every machine.
        need: cores and GPUs of one replica.
        replicas: number of replicas.
        address: host and port on which every machine of the cluster answers.

    Yields:
        a function that returns the state of the application in one word and, if it is not well, why.

    Raises:
        RunError: when the replicas do not start.
    """
    from ray import serve

    serve.start(proxy_location="EveryNode", http_options={"host": address[0], "port": address[1]})
    options = {"num_cpus": need.cpus, "num_gpus": need.gpus}
    made: Any = serve.deployment(
        num_replicas=replicas, ray_actor_options=options, max_ongoing_requests=IN_FLIGHT,
        health_check_period_s=HEALTH_PERIOD_S,
    )(Replica)  # fmt: skip
    try:
        try:
            serve.run(made.bind(command, name, files), name=name, route_prefix="/")
        except RuntimeError as error:
            raise RunError(f"serve: the replicas did not start: {_why(name) or error}") from error
        yield lambda: _why(name)
    finally:
        serve.delete(name)


def _why(name: str) -> str:
    """Return why an application of Ray Serve is not well; empty if it is."""
    from ray import serve

    found = serve.status().applications.get(name)
    if found is None:
        return "it has been deleted"
    if found.status == "RUNNING":
        return ""
    return next((part.message for part in found.deployments.values() if part.message), found.message)
