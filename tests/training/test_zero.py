"""Real engines of DeepSpeed in a process group of one: how gradients add up, and whether all they train is finite."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from gristmill.training import zero
from gristmill.training.tuning.model import load
from gristmill.training.zero import Batching


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of this process alone, which DeepSpeed has adopted."""
    import torch.distributed as dist

    store = tmp_path_factory.mktemp("group") / "store"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("DS_ACCELERATOR", "cpu")):
            patch.setenv(name, value)
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
        zero.begin(gpu=False)
        yield
        dist.destroy_process_group()


def gradients(tiny: str, stage: int, rows: list[int], accumulation: int) -> dict[str, Any]:
    """Return the gradients of some rows in bf16, summed up by DeepSpeed."""
    import torch
    from deepspeed.utils import safe_get_full_grad

    cut = Batching(1, accumulation, 1)
    settings = zero.config(zero.Zero.model_validate({"stage": stage}), cut, clip=0.0, bf16=True, gpu=False)
    with zero.partition(settings):
        model = load(tiny, "bf16")
    engine = zero.engine(model, settings, lr=1e-3, weight_decay=0.0)
    for place in rows:
        ids = torch.randint(0, 250, (1, 64), generator=torch.Generator().manual_seed(place))
        engine.backward(engine(input_ids=ids, labels=ids, use_cache=False).loss * len(rows))
        if place != rows[-1]:
            engine.step()
    found = {name: safe_get_full_grad(p).float().clone() for name, p in engine.module.named_parameters()}
    engine.step()
    engine.destroy()
    return found


@pytest.mark.flow
@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_gradients_of_micro_batches_in_bf16_add_up_exactly(tiny: str, stage: int) -> None:
    """In bf16 their relative error is 2e-3 and more."""
    each = [gradients(tiny, stage, [place], 1) for place in range(3)]
    found = gradients(tiny, stage, [0, 1, 2], 3)
    error = sum(float((found[name] - sum(one[name] for one in each)).square().sum()) for name in found)
    size = sum(float(value.square().sum()) for value in found.values())
    assert size > 0.1
    assert (error / size) ** 0.5 < 1e-6


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
