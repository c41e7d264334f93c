"""The one rule that gives cores and GPUs to a process in the cluster, and the start of actors and tasks with them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.runtime.autoscaling import autoscales, await_machines

Found = TypeVar("Found")


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
