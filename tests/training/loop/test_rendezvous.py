"""Workers of a training on one machine find each other without a socket that other machines reach."""

import os
import threading
import time
from pathlib import Path

import pytest

from tests.listening import family_of, is_loopback, listening

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def add(config: dict[str, str]) -> None:
    """Use the process group, a second one too, and stay until the test has looked."""
    import torch
    import torch.distributed as dist

    ones = torch.ones(1)
    dist.all_reduce(ones)
    dist.all_reduce(ones, group=dist.new_group(backend="gloo"))
    folder = Path(config["folder"])
    (folder / f"rank-{dist.get_rank()}").write_text(f"{os.getpid()} {ones.item():g}")
    while not (folder / "seen").exists():
        time.sleep(0.1)


def test_two_workers_with_gloo_listen_on_the_loopback_address_alone(tmp_path: Path) -> None:
    import ray.train
    from ray.train.torch import TorchTrainer

    from gristmill.training.loop.rendezvous import Rendezvous

    trainer = TorchTrainer(
        add,
        train_loop_config={"folder": str(tmp_path)},
        torch_config=Rendezvous(backend="gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=2, use_gpu=False, resources_per_worker={"CPU": 0.1}),
        run_config=ray.train.RunConfig(name="try", storage_path=str(tmp_path / "ray")),
    )
    fit = threading.Thread(target=trainer.fit, daemon=True)
    fit.start()
    ranks = [tmp_path / f"rank-{rank}" for rank in range(2)]
    while not all(rank.exists() and rank.read_text() for rank in ranks):
        assert fit.is_alive(), "the training ended before both ranks had added"
        time.sleep(0.1)
    found = listening(family_of(os.getpid()))
    (tmp_path / "seen").touch()
    fit.join(60)
    assert not fit.is_alive()
    pids, sums = zip(*(rank.read_text().split() for rank in ranks), strict=True)
    assert sums == ("4", "4")
    assert all(any(name.startswith(f"{pid} ") for name, _, _ in found) for pid in pids)
    assert [entry for entry in found if not is_loopback(entry[1])] == []
