"""Calls of actors: the only part of a pool that knows Ray. The simulator of the tests has another one."""

import logging
import socket
import textwrap
import time
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from gristmill.cluster.contract.errors import EngineError, GristmillError, RunError
from gristmill.cluster.runtime import deaths

log = logging.getLogger(__name__)

Cause = Literal["machine", "memory", "itself"]
"""Why an actor died: its machine was lost or taken away, its machine's memory was full, or anything else."""
CONNECT_S = 2.0
"""Seconds in which the Ray process of a living machine accepts a connection."""


class Calls(Protocol):
    """The calls that a pool makes of actors: `RayCalls`, or those of the simulator."""

    def now(self) -> float:
        """Return the time in seconds, from an arbitrary start."""
        ...

    def start(self, actor: Any) -> Any:  # noqa: ANN401 - actors and references are of Ray
        """Return a reference that is ready when the actor has a machine and its process runs, or when it has died."""
        ...

    def machine(self, actor: Any) -> str:  # noqa: ANN401
        """Return the id of the machine of an actor that has started, or the empty string if it is not known."""
        ...

    def wait(self, refs: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Return all references that are ready, as soon as there is one, or none after `timeout_s` seconds."""
        ...

    def result(self, ref: Any, piece: object) -> tuple[Any, Exception | None]:  # noqa: ANN401
        """Return (result, None), or (None, error) if the actor or its engine has died.

        Raises:
            GristmillError: if the piece of work raised an error.
        """
        ...

    def cause(self, error: Exception, machine: str) -> Cause:
        """Return why an actor on this machine died with this error."""
        ...

    def end(self, actor: Any) -> None:  # noqa: ANN401
        """End an actor, whether it has started or not."""
        ...


class RayCalls:
    """The calls of Ray's actors."""

    def now(self) -> float:
        """Return the time in seconds, which no change of the clock moves."""
        return time.monotonic()

    def start(self, actor: Any) -> Any:  # noqa: ANN401
        """Return a reference that is ready when the actor has a machine and its process runs, or when it has died."""
        return actor.__ray_ready__.remote()

    def machine(self, actor: Any) -> str:  # noqa: ANN401
        """Return the id of the node of an actor that has started, or the empty string if it is not known."""
        from ray._private import state  # Ray's public call asks the dashboard, which a local session does not have

        found: str = state.actors(actor._actor_id.hex()).get("Address", {}).get("NodeID", "")
        return found

    def wait(self, refs: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Return all references that are ready, as soon as there is one, or none after `timeout_s` seconds."""
        import ray

        ready, rest = ray.wait(list(refs), num_returns=1, timeout=timeout_s)
        if ready and rest:
            ready += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        found: list[Any] = ready
        return found

    def result(self, ref: Any, piece: object) -> tuple[Any, Exception | None]:  # noqa: ANN401
        """Return (result, None), or (None, error) if the actor or its engine has died.

        Raises:
            GristmillError: if the piece of work raised an error. An error of another class becomes a `RunError` of one
                line.
        """
        import ray

        try:
            return ray.get(ref), None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, GristmillError) and not isinstance(error.cause, EngineError):
                raise error.cause from error
            log.info("%s: %s", piece, error)
            if isinstance(error.cause, EngineError):  # its own words, without those of the stack
                return None, error.cause
            what = textwrap.shorten(f"{type(error.cause).__name__}: {error.cause}", deaths.LONGEST)
            raise RunError(f"{piece}: {what}") from error
        except deaths.deaths() as error:
            return None, error

    def cause(self, error: Exception, machine: str) -> Cause:
        """Return why an actor on this node died with this error.

        After the loss of a node, the driver sees the deaths of its actors up to 20 seconds before Ray knows that the
        node is lost. So the Ray process of the node is tried: a node that is alive accepts a connection.
        """
        if deaths.out_of_memory(error):
            return "memory"
        if getattr(error, "preempted", False):
            return "machine"
        return "itself" if not machine or _answers(machine) else "machine"

    def end(self, actor: Any) -> None:  # noqa: ANN401
        """End an actor, whether it has started or not."""
        import ray

        ray.kill(actor)


def _answers(machine: str) -> bool:
    """Return whether the Ray process of a node accepts connections."""
    import ray

    node = next((node for node in ray.nodes() if node["NodeID"] == machine), None)
    if node is None or not node["Alive"]:
        return False
    try:
        with socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=CONNECT_S):
            return True
    except OSError:
        return False
