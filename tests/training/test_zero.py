"""What is asked of an engine of DeepSpeed: whether all that it trains is finite."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from gristmill.training import zero


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of this process alone."""
    import torch.distributed as dist

    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def stepped() -> Any:
    """An engine as at stage 0, which is PyTorch's optimizer itself, after one step."""
    import torch

    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(2)).sum().backward()
    optimizer.step()
    return SimpleNamespace(module=module, optimizer=optimizer, device="cpu")


@pytest.mark.usefixtures("group")
def test_a_weight_or_a_state_that_is_not_finite_is_found() -> None:
    engine = stepped()
    assert zero.finite(engine)
    engine.module.bias.data[1] = float("nan")
    assert not zero.finite(engine)
    engine = stepped()
    engine.optimizer.state[engine.module.weight]["exp_avg_sq"][0, 0] = float("inf")
    assert not zero.finite(engine)
    engine = stepped()
    engine.module.bias.requires_grad_(False).data[1] = float("inf")
    engine.optimizer.param_groups[0]["params"] = [engine.module.weight]
    del engine.optimizer.state[engine.module.bias]
    assert zero.finite(engine), "what is frozen is the base model's own"
