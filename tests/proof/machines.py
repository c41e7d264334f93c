"""Machines that come and go: workers = [1, 2] on a real cluster of Ray with two machines, of which one is lost.

    python -m tests.proof.machines [RESULT.json]

The run starts with one worker, gets a second one when a machine comes, and continues with one when that machine is
lost, although `max_failures` is 0. Then it is ended, and a run of one worker makes as many steps: the losses are equal
within 1e-5. It takes some minutes. The result has the seconds from each change of the machines to the next step.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from socket import socket
from typing import Any

from gristmill.cluster.runtime.session import ENV
from gristmill.cluster.store.store import Store
from gristmill.training.loop.journal import METRICS, read_journal
from tests.fakes import two_layer_model
from tests.paths import ROOT
from tests.training.conftest import chats, dataset

ENDLESS, NEAR = 100_000, 1e-5
LONGEST_S = 600.0
"""Seconds in which the run must follow a change of the machines, also where other programs use them."""
MACHINE = f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}"
Lines = list[dict[str, Any]]


def settings(model: str) -> dict[str, Any]:
    """Return the settings of the run that follows the cluster. Its losses do not depend on the number of steps."""
    return {
        "model": model, "steps": ENDLESS, "save_steps": 5, "precision": "fp32", "global_batch_size": 2,
        "max_length": 256, "validation": 0.2, "schedule": "constant", "warmup_ratio": 0.0, "workers": [1, 2],
        "max_failures": 0, "tuning": {"kind": "lora", "r": 4},
    }  # fmt: skip


class Driver:
    """The process that runs a train job on the cluster, in a store of its own."""

    def __init__(self, root: Path, address: str, job: Mapping[str, Any]) -> None:
        """Start it."""
        dataset(Store(str(root)), chats(60))
        self.root = root
        command = [sys.executable, "-m", "tests.training.drive", str(root), json.dumps(job)]
        self._said = (root / "driver.txt").open("w")
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"RAY_ADDRESS": address}, stdout=self._said, stderr=self._said
        )

    def lines(self) -> Lines:
        """Return the journal, which is empty before the first start of the workers."""
        return next((read_journal(folder / METRICS) for folder in self.root.glob("train-*")), [])

    def until(self, there: Callable[[Lines], bool], what: str) -> float:
        """Return the seconds until the journal is so.

        Raises:
            SystemExit: if the run ends before, or if it takes too long.
        """
        began = time.monotonic()
        while time.monotonic() - began < LONGEST_S:
            ended = self.process.poll() is not None
            if there(self.lines()):
                return time.monotonic() - began
            if ended:
                raise SystemExit(f"machines: the run ended before {what}; see {self.root}/driver.txt")
            time.sleep(0.1)
        raise SystemExit(f"machines: not within {LONGEST_S:.0f} s: {what}; see {self.root}")

    def close(self) -> None:
        """End the process if it runs, and with it its workers; close its log."""
        self.process.kill()
        self.process.wait()
        self._said.close()


def workers(lines: Lines) -> list[int]:
    """Return the number of workers of each start."""
    return [line["workers"] for line in lines if "start" in line]


def losses(lines: Lines) -> list[float]:
    """Return the losses of the steps."""
    return [line["loss"] for line in lines if "step" in line]


def stepped(*numbers: int) -> Callable[[Lines], bool]:
    """Return whether the starts had these numbers of workers, and the last one made a step."""
    return lambda lines: workers(lines) == [*numbers] and "step" in lines[-1]


def followed(root: Path, model: str, cluster: Any) -> tuple[Lines, dict[str, float]]:
    """Let a machine come and go during a run; return its journal, and the seconds from each change to a step."""
    run = Driver(root, cluster.address, settings(model))
    try:
        run.until(lambda lines: len(losses(lines)) >= 7, "its seventh step")
        added = cluster.add_node(num_cpus=1)
        grown = run.until(stepped(1, 2), "a step of two workers")
        made = len(losses(run.lines()))
        run.until(lambda lines: len(losses(lines)) >= made + 7, "seven steps of two workers")
        cluster.remove_node(added, allow_graceful=False)
        shrunk = run.until(stepped(1, 2, 1), "a step of one worker again")
        made = len(losses(run.lines()))
        run.until(lambda lines: len(losses(lines)) >= made + 7, "seven steps of one worker")
        lines = run.lines()
    finally:
        run.close()
    return lines, {"to_step_after_a_machine_comes": round(grown, 1), "to_step_after_its_loss": round(shrunk, 1)}


def alone(root: Path, model: str, cluster: Any, steps: int) -> Lines:
    """Return the journal of a run of so many steps with one worker."""
    run = Driver(root, cluster.address, settings(model) | {"workers": 1, "steps": steps})
    try:
        run.until(lambda lines: any("end" in line for line in lines), "its end")
        return run.lines()
    finally:
        run.close()


def compared(lines: Lines, others: Lines) -> dict[str, Any]:
    """Return the starts of a run, and how far its losses are from those of another run."""
    starts = [{"step": line["start"], "workers": line["workers"]} for line in lines if "start" in line]
    apart = [abs(one - other) for one, other in zip(losses(lines), losses(others), strict=True)]
    return {"steps": len(apart), "starts": starts, "largest_difference_of_a_loss": max(apart)}


def as_it_must_be(found: Mapping[str, Any]) -> bool:
    """Say whether the run had one worker, two, and one, each from a checkpoint, and the losses of one worker."""
    steps = [start["step"] for start in found["starts"]]
    onward = 0 == steps[0] < steps[1] < steps[2] < found["steps"]
    return bool(onward and found["largest_difference_of_a_loss"] <= NEAR)


def main(result: Path | None) -> int:
    """Run it, write and print what was found; return 0 if it was as it must be."""
    from ray.cluster_utils import Cluster

    os.environ.update({**ENV, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"})
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    folder = Path(tempfile.mkdtemp(prefix="machines-"))
    model = two_layer_model(folder / "model")
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head: dict[str, Any] = {"num_cpus": 1, "dashboard_port": port}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    try:
        lines, seconds = followed(folder / "follows", model, cluster)
        others = alone(folder / "alone", model, cluster, len(losses(lines)))
    finally:
        cluster.shutdown()
    found = compared(lines, others) | {"seconds": seconds}
    sys.stdout.write(f"{json.dumps(found)}\n")
    if result:
        facts = {"what": __doc__.splitlines()[0], "machine": MACHINE, "settings": settings("two layers"), **found}
        result.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if not as_it_must_be(found):
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
