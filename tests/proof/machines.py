"""Machines that come and go: workers = [1, 2] on a real cluster of Ray with two machines, of which one is lost.

    python -m tests.proof.machines

The run starts with one worker, gets a second one when a machine comes, and continues with one when that machine is
lost, although `max_failures` is 0. Its losses equal those of a run of one worker within 1e-5. It takes two minutes.
"""

import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from socket import socket
from typing import Any

from gristmill.cluster.store.store import Store
from gristmill.training.loop.journal import METRICS, read_journal
from tests.fakes import two_layer_model
from tests.training.conftest import chats, dataset
from tests.training.drive import train
from tests.training.rehearsal import journal

STEPS, NEAR = 1_000, 1e-5


def settings(model: str) -> dict[str, Any]:
    """Return the settings of the run that follows the cluster."""
    return {
        "model": model, "steps": STEPS, "save_steps": 5, "precision": "fp32", "global_batch_size": 2, "max_length": 256,
        "validation": 0.2, "workers": [1, 2], "max_failures": 0, "tuning": {"kind": "lora", "r": 4},
    }  # fmt: skip


def shelf(folder: Path) -> Store:
    """Return a store with the samples."""
    store = Store(str(folder))
    dataset(store, chats(60))
    return store


def wait(store: Store, there: Callable[[list[dict[str, Any]]], bool]) -> None:
    """Wait until the journal is so, at most ten minutes."""
    for _ in range(6000):
        if any(there(read_journal(folder / METRICS)) for folder in Path(store.uri).glob("train-*")):
            return
        time.sleep(0.1)


def main() -> int:
    """Run it and say whether it was as it must be."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ.update(GLOO_SOCKET_IFNAME="lo", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
    folder = Path(tempfile.mkdtemp(prefix="machines-"))
    model = two_layer_model(folder / "model")
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head: dict[str, Any] = {"num_cpus": 1, "dashboard_port": port}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    variables = {"PYTHONPATH": os.pathsep.join(sys.path), "GLOO_SOCKET_IFNAME": "lo"}
    ray.init(
        address=cluster.address, log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": variables}
    )
    alone, store = shelf(folder / "alone"), shelf(folder / "follows")
    steady = train(alone.uri, settings(model) | {"workers": 1})
    outputs: list[str] = []
    # in another thread, because Ray adds machines in the main one only
    follows = threading.Thread(target=lambda: outputs.append(train(store.uri, settings(model))), daemon=True)
    follows.start()
    wait(store, lambda lines: any(m.get("step", 0) >= 5 for m in lines))
    added = cluster.add_node(num_cpus=1)
    wait(store, lambda lines: any(m.get("workers") == 2 for m in lines) and "step" in lines[-1])
    cluster.remove_node(added, allow_graceful=False)
    follows.join()
    output = outputs[0]
    lines, others = journal(store, output), journal(alone, steady)
    starts = [(m["start"], m["workers"]) for m in lines if "start" in m]
    losses, losses_alone = ([m["loss"] for m in found if "step" in m] for found in (lines, others))
    apart = max(abs(one - other) for one, other in zip(losses, losses_alone, strict=True))
    sys.stdout.write(f"starts (step, workers): {starts}; largest difference of a loss: {apart:.2g}\n")
    ray.shutdown()
    cluster.shutdown()
    followed = [workers for _, workers in starts] == [1, 2, 1] and starts[1][0] > 0 and starts[2][0] >= starts[1][0]
    return 0 if followed and apart <= NEAR else 1


if __name__ == "__main__":
    sys.exit(main())
