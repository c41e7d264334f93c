"""Our own local Ray goes with its driver, however that ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.listening import family_of, is_loopback, listening

pytestmark = pytest.mark.ray

DRIVER = """
import time
from gristmill.cluster.runtime.session import session
with session(None, 1, 0):
    import ray
    print(ray._private.worker._global_node.get_session_dir_path(), flush=True)
    time.sleep(600)
"""


def processes_of(folder: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it ended while we looked
            if folder in line:
                found.append(int(entry.name))
    return found


def test_killing_the_driver_leaves_no_process_behind() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    with subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True, env=environment) as driver:
        assert driver.stdout is not None
        folder = driver.stdout.readline().strip()
        assert len(processes_of(folder)) >= 2
        driver.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert processes_of(folder) == []


INTERRUPTED = """
import os, signal, tempfile, threading
from pathlib import Path
from gristmill.cluster.runtime.interrupt import interruptible
from gristmill.cluster.runtime.session import session
with interruptible():
    try:
        with session(None, 1, 0):
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    except KeyboardInterrupt as error:
        left = list(Path(tempfile.gettempdir()).glob(f"gristmill-{os.getpid()}-*"))
        print(error, left, flush=True)
"""


def test_a_signal_while_ray_shuts_down_waits_until_it_is_gone() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    command = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("SIGTERM []\n", "", 0)


def test_a_local_session_listens_on_the_loopback_address_alone(ray_session: None) -> None:
    """The session of all tests, which has the dashboard, with the driver and a worker of it."""
    import ray

    class Worker:
        def address(self) -> str:
            return str(ray.util.get_node_ip_address())

    worker: Any = ray.remote(num_cpus=0)(Worker).remote()
    assert ray.get(worker.address.remote()) == "127.0.0.1"
    found = listening(family_of(os.getpid()))
    for part in ("gcs_server", "raylet", "dashboard.py", "DashboardAgent", "RuntimeEnvAgent", "Worker"):
        assert any(part in name for name, _, _ in found), f"{part} listens nowhere: {found}"
    assert any(name.startswith(f"{os.getpid()} ") for name, _, _ in found), f"the driver listens nowhere: {found}"
    assert [entry for entry in found if not is_loopback(entry[1])] == []
