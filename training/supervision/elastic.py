"""The number of workers: how many the cluster has room for now, of the numbers that divide the global batch."""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from gristmill.cluster.contract.errors import BusyError
from gristmill.cluster.runtime.activity import waiting
from gristmill.cluster.runtime.resources import Need
from gristmill.training.supervision.heartbeat import Beat

log = logging.getLogger(__name__)
SETTLE_S = 10.0
"""Seconds to wait at a start for the places of processes that have just ended."""
MACHINES_S = 900.0
"""Seconds to wait for machines after some were lost, if there are too few for the smallest number of workers."""
LOOK_S = 1.0


def room(need: Need, free: Iterable[Mapping[str, float]]) -> int:
    """Return the number of workers for which machines with these free resources have room."""
    wanted = need.bundle()
    return sum(
        min(int((have.get(what, 0.0) + 1e-6) / amount) for what, amount in wanted.items() if amount) for have in free
    )


def free(need: Need, own: Sequence[Beat] = ()) -> list[dict[str, float]]:
    """Return the free resources of each machine of the cluster, with those that our own workers hold.

    Args:
        need: what each worker holds.
        own: the beats of our running workers.
    """
    import ray

    held = Counter(beat.node for beat in own)
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    found = []
    for node, resources in ray._private.state.available_resources_per_node().items():
        if node in alive:
            have = dict(resources)
            for what, amount in need.bundle().items():
                have[what] = have.get(what, 0.0) + amount * held[node]
            found.append(have)
    return found


def largest(worlds: Sequence[int], places: int) -> int:
    """Return the largest number of workers for which there are places, or 0."""
    return max((world for world in worlds if world <= places), default=0)


def choose(worlds: Sequence[int], need: Need, *, wait_s: float, settle_s: float = SETTLE_S) -> int:
    """Return the number of workers to start now: the largest that the cluster has room for.

    Wait a little for the largest number, because processes that have just ended free their places late, and long for
    the smallest number.

    Raises:
        BusyError: if there is no room for the smallest number after `wait_s` seconds.
    """
    with waiting("room", f"room for {worlds[0]} workers of train.workers"):
        return _choose(worlds, need, wait_s, settle_s)


def _choose(worlds: Sequence[int], need: Need, wait_s: float, settle_s: float) -> int:
    began, said = time.monotonic(), False
    while True:
        places = room(need, free(need))
        found, waited = largest(worlds, places), time.monotonic() - began
        if found == worlds[-1] or (found and waited > min(settle_s, wait_s)):
            return found
        if waited > wait_s:
            raise BusyError(
                f"train.workers: the cluster has room for {places} workers after {wait_s:.0f} s, must have room for "
                f"{worlds[0]}; run again when its machines are up, to continue from the last checkpoint"
            )
        if waited > settle_s and not said:
            said = True
            log.warning("waiting for room for %d workers; the cluster has room for %d", worlds[0], places)
        time.sleep(LOOK_S)
