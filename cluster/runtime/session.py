"""The only call of `ray.init`. It uses the cluster that a job was submitted to, a named cluster, or a local one."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import gristmill
from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.runtime import interrupt, temporary

ENV = {
    "RAY_worker_niceness": "0",  # Ray's default is 15: workers get too little time when other processes run
    "RAY_task_oom_retries": "0",  # Ray's default is endless, with a page of text each; we count ourselves
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_DEDUP_LOGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "INFO",
}
"""Environment variables of our processes, which stop messages and telemetry of other libraries, among other things."""
HOME = "gristmill-"
"""Beginning of the names of our session folders in the temporary folder. The driver's process id follows it."""
LOCAL = "local"
"""Ray's name for a local cluster."""
LOOPBACK = "127.0.0.1"
"""Address of a local Ray. No other machine can reach it."""
REARM_S = 0.01
"""Seconds after which our signal handlers are set again, as long as Ray shuts down, which takes 2 s."""


@contextmanager
def session(
    address: str | None, num_cpus: int | None, num_gpus: int | None, *, dashboard: bool = False, quiet: bool = True
) -> Iterator[None]:
    """Keep a Ray session open while the block runs.

    Inside `ray job submit`, or if `RAY_ADDRESS` is set, the running cluster is used. Otherwise a local cluster is
    started, which takes 10 to 15 s on two cores, and ends with the block. It listens only on the loopback address. Its
    processes end with the driver, so that no memory stays in use after a `kill -9`.

    Args:
        address: address of a running cluster. By default it is the cluster that we are in, else a local one is started.
        num_cpus: cores of a local cluster. By default it has all cores of the machine.
        num_gpus: GPUs of a local cluster. By default it has all GPUs of the machine.
        dashboard: whether a local cluster has Ray's dashboard, which takes 1.3 % of two cores. Ray Train needs it:
            without it, its placement group cleaner logs an error every second. Metrics are always served.
        quiet: whether Ray's own log is not shown on the terminal.

    Raises:
        JobError: if a named cluster does not answer.
        RunError: if the local cluster does not start.
    """
    import ray

    if ray.is_initialized():  # a test or a notebook has started its own session
        yield
        return
    os.environ.update({key: value for key, value in ENV.items() if key not in os.environ})
    settings: dict[str, Any] = {"log_to_driver": not quiet, "logging_level": logging.ERROR if quiet else logging.INFO}
    existing = address or os.environ.get("RAY_ADDRESS") or LOCAL
    home = None
    if existing != LOCAL:
        settings["address"] = existing
    else:
        temporary.delete_orphans(HOME)
        home = temporary.make_folder(f"{HOME}{os.getpid()}-")
        settings |= _local(home, num_cpus, num_gpus, dashboard=dashboard)
    try:
        _start(settings)
    except Exception as error:  # Ray raises a bare one when a node times out during start-up
        _end(home, keep_logs=True)
        if existing != LOCAL and isinstance(error, ConnectionError | ValueError | TimeoutError):
            must = "start it or leave the key out"
            raise JobError(f"cluster.address: {existing} does not answer ({error}); {must}") from error
        raise RunError(f"Ray did not start: {error}; see {home}/session_latest/logs, and run again") from error
    except BaseException:
        _end(home)
        raise
    try:
        yield
    finally:
        _end(home)


def _local(home: Path, num_cpus: int | None, num_gpus: int | None, *, dashboard: bool) -> dict[str, Any]:
    """Return the arguments of `ray.init` for a local cluster of our own."""
    return {
        "address": LOCAL,
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "include_dashboard": dashboard,
        "dashboard_host": LOOPBACK,
        "_node_ip_address": LOOPBACK,
        "_temp_dir": str(home),
        "runtime_env": {"env_vars": {"PYTHONPATH": _python_path(), "GLOO_SOCKET_IFNAME": "lo"}},
    }


def _start(settings: Mapping[str, Any]) -> None:
    """Start a cluster or join one. A signal during the start is handled when Ray has started and can be shut down.

    Ray's own handler of SIGTERM would exit in the middle of the start, and leave Ray's processes running. The handler
    that Ray's core installs dumps the stack and aborts. It is active for the last milliseconds of the start, until our
    handlers are set again.
    """
    import ray
    from ray._private import ray_constants, utils

    with ExitStack() as stack:
        stack.enter_context(interrupt.defer())
        stack.enter_context(_replaced(utils, "set_sigterm_handler", lambda handler: None))
        if settings["address"] == LOCAL:
            # Ray replaces the loopback address by the machine's own, so that other machines can join, except where it
            # supports no clusters of machines (macOS)
            stack.enter_context(_replaced(ray_constants, "ENABLE_RAY_CLUSTER", False))
        ray.init(**settings)


@contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:  # noqa: ANN401
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _end(home: Path | None, *, keep_logs: bool = False) -> None:
    """Leave Ray. End every process of a local cluster, even if it did not start, and delete its folder.

    While it shuts down, Ray restores the default action of SIGTERM. This would end our process before Ray's processes.
    So Ray shuts down in another thread, and this thread sets our handlers again and again.
    """
    import ray

    with interrupt.defer() as put_back:
        processes = _started(home) if home else []
        with ThreadPoolExecutor(1) as pool:
            shutdown = pool.submit(ray.shutdown)
            while not shutdown.done():
                put_back()
                wait([shutdown], REARM_S)
        put_back()
        _kill(processes)
        if home and not keep_logs:
            shutil.rmtree(home, ignore_errors=True)
    shutdown.result()


def _started(home: Path) -> list[Any]:
    """Return our child processes with a session's folder in their command line, and all descendants of these."""
    import psutil  # psutil comes with Ray

    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it ended meanwhile
            if any(str(home) in word for word in child.cmdline()):
                found += [child, *child.children(recursive=True)]
    return found


def _kill(processes: Sequence[Any]) -> None:
    import psutil

    for process in processes:
        with suppress(psutil.Error):
            process.kill()  # psutil compares start times, so a new process with the same id is safe
    psutil.wait_procs(processes, timeout=10)


def _python_path() -> str:
    """Return a `PYTHONPATH` with which workers can import gristmill as the driver does, wherever it was started.

    Our path comes after the paths of the user.
    """
    root = str(Path(gristmill.__file__).resolve().parent.parent)
    return os.pathsep.join(dict.fromkeys([*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), root]))
