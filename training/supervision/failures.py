"""Why the workers of an attempt ended: an error of the code, full memory, a lost machine, or a hang.

Each cause has its own consequence. Full memory would be full again with the same settings, so the run ends. A machine
that was lost or taken back is nobody's error, and has a budget of its own.
"""

import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gristmill.cluster.runtime import deaths
from gristmill.training.supervision.heartbeat import Beat, oom_kills

Kind = Literal["code", "memory", "lost", "hang"]
PROBE_S = 30.0
"""Seconds in which a machine must run a small task; if it does not, it is lost."""
ALLOCATORS = ("out of memory", "can't allocate memory", "cannot allocate memory", "std::bad_alloc", "not enough memory")
"""Parts of the texts of errors by which allocators of torch and C++ say that memory is full."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt ended, in one line."""

    kind: Kind
    what: str


def full(error: BaseException) -> bool:
    """Return whether an error says that memory is full: of Python, of torch on a CPU or GPU, or of Ray's monitor."""
    from ray.exceptions import OutOfMemoryError

    if isinstance(error, MemoryError | OutOfMemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | OSError) and any(text in str(error).lower() for text in ALLOCATORS)


def failure_of(error: Exception, beats: Mapping[int, Beat]) -> Failure:
    """Return why the workers ended.

    Full memory comes first: the other workers fail too, because they wait for the one that ended. Then lost machines.

    Args:
        error: the error that Ray Train raised.
        beats: the last beats of the workers.
    """
    causes = _causes(error)
    for rank, cause in causes.items():
        if full(cause):
            return Failure("memory", _memory(rank, cause, beats))
    if any(_preempted(cause) for cause in [error, *causes.values()]):
        return Failure("lost", "a machine was taken back")
    kills = _probe({beat.node for beat in beats.values()})
    lost = sorted(rank for rank, beat in beats.items() if kills.get(beat.node, 0) is None)
    if lost:
        return Failure("lost", f"the machine of worker {', '.join(map(str, lost))} was lost")
    for rank in sorted(causes):
        beat = beats.get(rank)
        now = kills.get(beat.node) if beat else None
        if beat and now is not None and now > beat.oom_kills >= 0 and _killed(causes[rank]):
            return Failure("memory", f"the kernel ended worker {rank} because memory was full")
    rank, cause = next(iter(causes.items()), (-1, error))
    who = f"worker {rank}" if rank >= 0 else "the workers"
    return Failure("code", deaths.ended(who, cause) if _killed(cause) else f"{who} failed: {_line(cause)}")


def _memory(rank: int, cause: Exception, beats: Mapping[int, Beat]) -> str:
    who = f"worker {rank}" if rank >= 0 else "a worker"
    beat = beats.get(rank)
    at = f" at step {beat.step}" if beat and beat.phase == "step" else f" in the phase `{beat.phase}`" if beat else ""
    if deaths.out_of_memory(cause):
        return f"{deaths.ended(who, cause)}{at}"
    return f"{who} had no more memory{at} ({_line(cause)})"


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[: deaths.LONGEST]}" if text else type(error).__name__


def _causes(error: Exception) -> dict[int, Exception]:
    """Return the error of each failed worker by rank, without the errors that Ray Train wraps around it.

    An error that is not of one worker has rank -1.
    """
    failures = getattr(error, "worker_failures", None)
    if failures:
        return {rank: _unwrapped(failure) for rank, failure in sorted(failures.items())}
    return {-1: _unwrapped(error)}


def _unwrapped(error: Exception) -> Exception:
    for name in ("health_check_failure", "controller_failure", "_base_exc", "cause"):
        inner = getattr(error, name, None)
        if isinstance(inner, Exception):
            return _unwrapped(inner)
    return error


def _preempted(error: Exception) -> bool:
    return type(error).__name__ == "PreemptionError" or bool(getattr(error, "preempted", False))


def _killed(error: Exception) -> bool:
    return isinstance(error, deaths.deaths())


def _probe(nodes: Iterable[str]) -> dict[str, int | None]:
    """Return for each machine the number of processes that its kernel has ended for full memory; None if it is lost."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    found: dict[str, int | None] = {node: None for node in nodes if node not in alive}
    asked = {node: _on(node, oom_kills) for node in nodes if node in alive and node != here}
    if here in nodes:
        found[here] = oom_kills()
    if asked:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=PROBE_S)
    for node, reply in asked.items():
        try:
            found[node] = ray.get(reply, timeout=0)
        except ray.exceptions.RayError:  # no answer within the time, or the machine ended in the meantime
            found[node] = None
    return found


def kill(beats: Mapping[int, Beat]) -> None:
    """End the processes of workers at once, also stopped ones, which do not handle Ray's request to end."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    asked = [_on(beat.node, end_process, beat.pid) for beat in beats.values() if beat.node != here]
    for beat in beats.values():
        if beat.node == here:
            end_process(beat.pid)
    ray.wait(asked, num_returns=len(asked), timeout=PROBE_S) if asked else None


def end_process(pid: int) -> None:
    """End a process of this machine, if it is there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _on(node: str, function: Any, *args: Any) -> Any:  # noqa: ANN401 - any function, and Ray's reference
    """Call a function on a machine of the cluster."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    place = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    return ray.remote(max_retries=0)(function).options(num_cpus=0, scheduling_strategy=place).remote(*args)
