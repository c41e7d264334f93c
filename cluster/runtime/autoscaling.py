"""Clusters that autoscale: functions that find out whether a cluster can add machines, and that wait for them."""

import json
import logging
import time
from collections.abc import Sequence

from gristmill.cluster.contract.errors import BusyError
from gristmill.cluster.runtime.activity import waiting

logger = logging.getLogger(__name__)
STATUS_S = 10.0
"""Seconds to wait for the first status of a cluster that has just started. Ray writes a status every 5 s."""
SCALE_S = 900.0
"""Seconds to wait for machines. With a GPU and an image of 10 GB, they took up to ten minutes on public clouds."""
SAY_EVERY_S, LOOK_EVERY_S = 60.0, 2.0
OWN_TYPE = "node_"
"""Beginning of the name that Ray makes up for the type of a machine without a configured type. An id follows it."""


def autoscales() -> bool:
    """Say whether the running cluster adds machines on request.

    Ray has no call for this. Its monitor runs in every cluster. If no autoscaler is configured, the monitor makes up a
    type for each machine. A local cluster that we started never grows.
    """
    import ray
    from ray._private import ray_constants, worker
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import _internal_kv_get

    node = worker._global_node  # Ray has no public name for it
    if node is None or node.is_head():
        return False
    if is_autoscaler_v2():
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        return _any_configured([str(node.ray_node_type_name) for node in (*status.active_nodes, *status.idle_nodes)])
    deadline = time.monotonic() + STATUS_S
    while True:
        raw = _internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS)
        if report := json.loads(raw or "{}").get("autoscaler_report"):
            return _any_configured([*report["active_nodes"], *(report["idle_nodes"] or ())])
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)


def _any_configured(types: Sequence[str]) -> bool:
    return any(name and not name.startswith(OWN_TYPE) for name in types)


def await_machines(where: str, bundles: Sequence[dict[str, float]], what: str, wait_s: float = SCALE_S) -> None:
    """Ask an autoscaling cluster for machines for all bundles at once, and wait until they are there.

    The request is a placement group, which ends with the driver. A request to the autoscaler itself would outlive the
    driver, and keep up machines that cost money. The placement group is removed as soon as the machines are there. They
    are in use again before the autoscaler takes them down for being idle.

    Raises:
        BusyError: if the machines are not there after `wait_s` seconds.
    """
    import ray
    from ray.util import placement_group, remove_placement_group

    logger.warning("%s: waiting for %s, which the cluster has not yet; it autoscales", where, what)
    began = said = time.monotonic()
    group = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")
    try:
        with waiting("machines", f"{what} of {where}, from an autoscaler"):
            while not group.wait(LOOK_EVERY_S):
                now = time.monotonic()
                if now - began > wait_s:
                    have = ray.cluster_resources()
                    raise BusyError(
                        f"{where}: needs {what}; the cluster autoscales, but has {have.get('CPU', 0):g} CPU and "
                        f"{have.get('GPU', 0):g} GPU after {wait_s:.0f} s; ask for fewer, let it have more machines, "
                        "or run again once they are up"
                    )
                if now - said > SAY_EVERY_S:
                    said = now
                    logger.warning("%s: still waiting for %s, for %.0f s now", where, what, now - began)
    finally:
        remove_placement_group(group)
    logger.warning("%s: %s came after %.0f s", where, what, time.monotonic() - began)
