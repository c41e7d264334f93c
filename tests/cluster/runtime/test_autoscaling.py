"""A cluster with no GPU up that can bring one: a job waits for it, and says when it cannot come."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.runtime.test_session import processes_of

pytestmark = pytest.mark.ray

DRIVER = """
import sys
from gristmill.cluster.contract.errors import BusyError, JobError
from gristmill.cluster.runtime import log
from gristmill.cluster.runtime.autoscaling import autoscales, await_machines
from gristmill.cluster.runtime.resources import Need, need_of, require, spawn
from gristmill.cluster.runtime.session import session

class Where:
    def gpus(self):
        import ray
        return ray.get_gpu_ids()

log.driver(None)
with session(sys.argv[1], None, None):
    import ray
    print("autoscales", autoscales(), flush=True)
    print("set", need_of("lift.gpus", None, 1.0), flush=True)
    try:
        need_of("lift.gpus", None, None)
    except JobError as error:
        print(error, flush=True)
    require("lift.cpus", [Need(1, 1)])
    print("gpus", ray.cluster_resources().get("GPU"), need_of("lift.gpus", None, None).gpus, flush=True)
    print("runs on", ray.get(spawn(Where, Need(1, 1)).gpus.remote()), flush=True)
    try:
        await_machines("lift.cpus", [{"GPU": 4.0}], "4 GPU", wait_s=1)
    except BusyError as error:
        print(error, flush=True)
"""
TOKEN = secrets.token_hex(32)
GPU = {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1}
HEAD = {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0}
LISTS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
STARTS = ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude")


def settings(address: str) -> dict[str, Any]:
    """Return what Ray's own autoscaler needs to start processes of this machine as if they were machines."""
    return {
        "cluster_name": "tests",
        "max_workers": 1,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 1.0,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "gcs_address": address,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "foreground_node_launch": True,
        },
        "available_node_types": {"head": HEAD, "gpu": GPU},
        "head_node_type": "head",
        **{name: [] for name in (*LISTS, *STARTS, "rsync_filter")},
        **{name: {} for name in ("docker", "auth", "file_mounts")},
        "file_mounts_sync_continuously": False,
    }


def environment() -> dict[str, str]:
    """Return the environment of a cluster that only those with our token may join."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return clean | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of one machine without a GPU, which may bring one that says it has one."""
    from ray._private.services import get_node_ip_address

    folder = Path("/tmp") / f"scale-{os.getpid()}"  # a socket's path may have 107 bytes
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"{get_node_ip_address()}:{free.getsockname()[1]}"
    config = tmp_path_factory.mktemp("scale") / "cluster.json"
    config.write_text(json.dumps(settings(address)))
    port = f"--port={address.rpartition(':')[2]}"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", port, "--num-cpus=1"]
    command += ["--num-gpus=0", "--include-dashboard=false", f"--temp-dir={folder}", "--object-store-memory=80000000"]
    own = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    with subprocess.Popen(
        [*command, f"--autoscaling-config={config}"], env=environment() | own, stdout=subprocess.PIPE, text=True
    ) as head:
        assert head.stdout is not None
        for line in head.stdout:
            if "Ray runtime started" in line:
                break
        yield address
        for process in processes_of(str(folder)):
            os.kill(process, signal.SIGKILL)
        head.kill()
    deadline = time.monotonic() + 10
    while processes_of(str(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(str(folder)) == []
    shutil.rmtree(folder)


def test_a_job_waits_for_the_machines_that_a_cluster_brings(cluster: str) -> None:
    driver = subprocess.run(
        [sys.executable, "-c", DRIVER, cluster],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        check=False,
    )
    said = driver.stdout + driver.stderr
    assert driver.returncode == 0, said
    assert "autoscales True" in said
    assert "set Need(cpus=1.0, gpus=1.0" in said
    assert "lift.gpus: is not set, and the cluster has no GPU up but may bring some" in said
    assert "warning: lift.cpus: waiting for 1 GPU, which the cluster has not yet; it autoscales" in said
    assert "gpus 1.0 1.0" in said
    assert "runs on" in said
    assert re.search(r"lift.cpus: needs 4 GPU; the cluster autoscales, but has \d CPU and \d GPU after 1 s", said), said
