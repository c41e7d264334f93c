"""The one rule that gives cores and GPUs to a process in the cluster, and the start of actors and tasks with them."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gristmill.cluster.contract.errors import BusyError, JobError
from gristmill.cluster.runtime.activity import waiting
from gristmill.cluster.runtime.autoscaling import autoscales, await_machines

Found = TypeVar("Found")
log = logging.getLogger(__name__)
SAY_S = 5.0
"""Seconds after which the terminal says that cores and GPUs are waited for."""
PLACE_S = 2.0
"""Seconds that Ray itself may take to reserve places that are free."""


@dataclass(frozen=True, slots=True)
class Need:
    """The cores and GPUs that one process needs."""

    cpus: float
    gpus: float = 0.0
    strategy: Any = None
    """Ray's scheduling strategy, if a place is reserved for the process."""

    def bundle(self) -> dict[str, float]:
        """Return the cores and GPUs under Ray's names, as placement groups and Ray Train take them."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}

    def options(self) -> dict[str, Any]:
        """Return the needs as arguments for `options` of Ray's actors and tasks."""
        place = {"scheduling_strategy": self.strategy} if self.strategy else {}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, **place}


def need_of(where: str, cpus: float | None, gpus: float | None, processes: int = 1, *, spans: int = 1) -> Need:
    """Return the needs of each of several equal processes. Numbers that are None follow from the running cluster.

    If the cluster has a GPU, a process gets `spans` GPUs, which is the number that its model needs, and one core. If it
    has none, the processes share all cores evenly, and none gets more cores than the largest machine has. Without a
    session of Ray, the cluster is this machine and counts as one without a GPU.

    Raises:
        JobError: if `gpus` is None and the cluster autoscales, but has no GPU now. The GPUs of further machines are not
            known.
    """
    cores, devices, largest = _cluster()
    if gpus is None and not devices and autoscales():
        must = f"set it to the GPUs of one process, such as {spans}, or to 0 for cores alone"
        raise JobError(f"{where}: is not set, and the cluster has no GPU up but may bring some; {must}")
    taken = gpus if gpus is not None else float(spans if devices else 0)
    share = 1.0 if taken else max(1.0, min(cores // processes, largest))
    return Need(cpus or share, taken)


def _cluster() -> tuple[float, float, float]:
    """Return the cores and GPUs of the cluster, and the cores of its largest machine."""
    import ray

    if not ray.is_initialized():
        cores = float(len(os.sched_getaffinity(0)))
        return cores, 0.0, cores
    have = ray.cluster_resources()
    largest = max((float(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=1.0)
    return have.get("CPU", 1.0), have.get("GPU", 0.0), largest


def require(where: str, needs: Sequence[Need]) -> None:
    """Refuse a job whose processes do not all fit into the cluster at once. If it autoscales, wait until they fit.

    Raises:
        JobError: if they do not fit. The message says what they need and what the cluster has.
        BusyError: if the machines of a cluster that autoscales do not come.
    """
    import ray

    have = ray.cluster_resources()
    for what, total in (("CPU", sum(need.cpus for need in needs)), ("GPU", sum(need.gpus for need in needs))):
        if total > have.get(what, 0):
            if autoscales():
                return await_machines(where, [need.bundle() for need in needs], f"{total:g} {what}")
            raise JobError(f"{where}: needs {total:g} {what}, the cluster has {have.get(what, 0):g}; ask for fewer")
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for need in needs:
        if not any(all(has.get(what, 0) >= each for what, each in need.bundle().items()) for has in machines):
            if autoscales():
                return await_machines(where, [each.bundle() for each in needs], "a machine of that size")
            one = " and ".join(f"{each:g} {what}" for what, each in need.bundle().items())
            raise JobError(f"{where}: needs {one} on one machine, and no machine has them; ask for fewer for a process")
    return None


def reserve(where: str, needs: Sequence[Need], wait_s: float) -> list[Any]:
    """Reserve a place for each of several processes, and return the placement groups of Ray in the same order.

    Raises:
        JobError: if they can never all fit into the cluster.
        BusyError: if their cores and GPUs are still in use after `wait_s` seconds.
    """
    import ray
    from ray.util import placement_group

    require(where, needs)
    groups = [placement_group([need.bundle()], strategy="STRICT_PACK") for need in needs]
    what = f"{sum(need.cpus for need in needs):g} cores and {sum(need.gpus for need in needs):g} GPUs"
    missing, wait_s = len(groups), max(wait_s, PLACE_S)
    try:
        missing = _missing(groups, min(SAY_S, wait_s))
        if missing and wait_s > SAY_S:
            log.warning("%s: waiting for %s, which are in use, at most %.0f s", where, what, wait_s)
            with waiting("room", f"{what} of {where}"):
                missing = _missing(groups, wait_s - SAY_S)
    finally:
        free = ray.available_resources() if missing else {}
        release(groups if missing else ())
    if missing:
        raise BusyError(
            f"{where}: needs {len(groups)} places of {what} in all, of which the cluster gave "
            f"{len(groups) - missing} within {wait_s:.0f} s (free now: {free.get('CPU', 0):g} cores, "
            f"{free.get('GPU', 0):g} GPUs); run again when others are done, set cluster.wait_s, or ask for fewer"
        )
    return groups


def _missing(groups: Sequence[Any], wait_s: float) -> int:
    """Return how many of the groups have no place after `wait_s` seconds."""
    deadline = time.monotonic() + wait_s
    return sum(not group.wait(max(0.0, deadline - time.monotonic())) for group in groups)


def release(groups: Sequence[Any]) -> None:
    """Return reserved places to the cluster. Processes in them are ended."""
    from ray.util import remove_placement_group

    for group in groups:
        remove_placement_group(group)


def await_room(where: str, needs: Sequence[Need], wait_s: float) -> None:
    """Wait until processes with these needs can all start. The places are not kept, so start them at once.

    Raises:
        JobError: if they can never all fit into the cluster.
        BusyError: if their cores and GPUs are still in use after `wait_s` seconds.
    """
    release(reserve(where, needs, wait_s))


def spawn(kind: type, need: Need, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - Ray's handles have no type
    """Start an actor of a class and return its handle at once. `options` are further options of Ray's actors."""
    import ray

    actor: Any = ray.remote(kind)
    return actor.options(**need.options(), **options).remote(*args)


def call(function: Callable[..., Found], need: Need, *args: Any) -> Found:  # noqa: ANN401 - of the function
    """Call a function in a process of the cluster and return its result.

    The process then ends, which frees its memory.
    """
    import ray

    found: Found = ray.get(ray.remote(max_calls=1)(function).options(**need.options()).remote(*args))
    return found
