"""Real engines of DeepSpeed in a process group of one: how gradients add up, and whether all they train is finite."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from pydantic import TypeAdapter

from gristmill.cluster.contract.errors import RunError
from gristmill.training import zero
from gristmill.training.loop import losses
from gristmill.training.optim import AnyOptimizer
from gristmill.training.optim.adamw import AdamW
from gristmill.training.optim.contracts import Group, Optimizer
from gristmill.training.optim.sgd import Sgd
from gristmill.training.tuning.contracts import Tuning
from gristmill.training.tuning.full import Full
from gristmill.training.tuning.lora import Lora
from gristmill.training.tuning.model import load, trainable
from gristmill.training.zero import Batching

SMALL = {"zero_optimization": {"sub_group_size": 400_000, "offload_param": {"buffer_size": 1_000_000}}}
"""Sizes of buffers that suit a small model; by default they take 2 GB."""


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
    settings = zero.config(zero.Zero.model_validate({"stage": stage}), cut, clip=0.0, precision="bf16", gpu=False)
    with zero.partition(settings):
        model = load(tiny, "bf16")
    engine = zero.engine(model, settings, AdamW(), lr=1e-3)
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


@pytest.mark.flow
@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["adamw", "sgd", "adafactor", "muon"])
def test_steps_under_deepspeed_are_those_of_pytorch(tiny: str, kind: str, stage: int) -> None:
    import torch
    from deepspeed.utils import safe_get_full_fp32_param

    chosen: Optimizer = TypeAdapter[Optimizer](AnyOptimizer).validate_python({"kind": kind, "weight_decay": 0.3})
    settings = zero.config(
        zero.Zero.model_validate({"stage": stage}), Batching(1, 1, 1), clip=0.0, precision="fp32", gpu=False
    )
    with zero.partition(settings):
        model = load(tiny, "fp32")
    engine, plain = zero.engine(model, settings, chosen, lr=0.9), load(tiny, "fp32")
    outer = plain.get_input_embeddings().weight
    parts: dict[tuple[bool, bool], list[Any]] = {}
    for p in plain.parameters():
        parts.setdefault((p.ndim == 2 and p is not outer, p.ndim >= 2), []).append(p)
    groups = [
        Group(some, matrices=matrix, decays=decays, relative_rate=1.0) for (matrix, decays), some in parts.items()
    ]
    optimizer = chosen.make(groups, 0.9)
    for step in range(4):
        ids = torch.randint(0, 250, (1, 64), generator=torch.Generator().manual_seed(step))
        zero.set_rate(engine, 0.01 / (step + 1))
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (step + 1)
        engine.backward(engine(input_ids=ids, labels=ids, use_cache=False).loss)
        engine.step()
        plain(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    first = load(tiny, "fp32").state_dict()
    for (name, p), wanted in zip(engine.module.named_parameters(), plain.parameters(), strict=True):
        found = safe_get_full_fp32_param(p) if stage else p
        assert (found - wanted).abs().max() < (1e-3 if kind == "muon" else 2e-4), name  # it rounds to bf16
        assert (wanted - first[name]).abs().max() > 1e-5, f"{name} has not moved"
    assert zero.finite(engine)
    engine.destroy()


@pytest.mark.flow
@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("chosen", [Full(), Lora(r=4, alpha=8)], ids=lambda chosen: str(chosen.kind))
def test_a_bound_of_the_logits_changes_no_step(tiny: str, stage: int, chosen: Tuning) -> None:
    import torch
    from deepspeed.utils import safe_get_full_fp32_param

    found = []
    for at_once in (0, 16):
        settings = zero.config(
            zero.Zero.model_validate({"stage": stage}), Batching(1, 1, 1), clip=0.0, precision="fp32", gpu=False
        )
        with zero.partition(settings):
            model = trainable(load(tiny, "fp32"), chosen, 0, recompute=False)
        engine = zero.engine(model, settings, Sgd(), lr=0.1)
        assert losses.bounds_work(engine, "fp32", "positions", "cpu")
        for step in range(3):
            ids = torch.randint(0, 250, (1, 64), generator=torch.Generator().manual_seed(step))
            batch = {"input_ids": ids, "labels": ids, "position_ids": torch.arange(64)[None]}
            values, _ = losses.token_losses(engine, batch, "positions", losses.How(at_once))
            engine.backward(values.sum() / 63)
            engine.step()
        trained = [(name, p) for name, p in engine.module.named_parameters() if p.requires_grad]
        found.append({name: safe_get_full_fp32_param(p).clone() for name, p in trained})
        engine.destroy()
    for name, weight in found[0].items():
        assert (weight - found[1][name]).abs().max() < 1e-6, name


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


@pytest.mark.flow
@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_states_in_bf16_take_half_the_memory_and_learn_too(tiny: str, stage: int) -> None:
    import torch

    def trained(states: Literal["fp32", "bf16"]) -> tuple[list[float], set[Any], set[Any]]:
        settings = zero.config(
            zero.Zero.model_validate({"stage": stage}), Batching(1, 2, 1), clip=1.0, precision="bf16", gpu=False,
            states=states,
        )  # fmt: skip
        with zero.partition(settings):
            model = load(tiny, "bf16")
        engine = zero.engine(model, settings, AdamW(), lr=1e-2)
        ids = torch.randint(0, 250, (1, 64), generator=torch.Generator().manual_seed(0))
        found = []
        for _ in range(12):
            found.append(float(engine(input_ids=ids, labels=ids, use_cache=False).loss))
            engine.backward(engine(input_ids=ids, labels=ids, use_cache=False).loss)
            zero.step(engine)
        inner = engine.optimizer.optimizer
        held = {t.dtype for s in inner.state.values() for t in s.values() if torch.is_tensor(t) and t.numel() > 1}
        weights = {p.dtype for group in inner.param_groups for p in group["params"]}
        assert zero.finite(engine)
        engine.destroy()
        return found, held, weights

    losses_, held, weights = trained("bf16")
    others, *_ = trained("fp32")
    assert held == {torch.bfloat16} and weights <= {torch.bfloat16}
    assert losses_[-1] < losses_[0] - 0.5
    assert losses_ == pytest.approx(others, abs=0.1)


def scaled_engine(tiny: str, stage: int) -> Any:
    settings = zero.config(
        zero.Zero.model_validate({"stage": stage}), Batching(1, 1, 1), clip=0.0, precision="fp16", gpu=False
    )
    with zero.partition(settings):
        model = load(tiny, "fp16")
    return zero.engine(model, settings, Sgd(), lr=0.1)


def fp16_step(engine: Any, number: int, factor: float = 1.0) -> tuple[float, float | None]:
    """Take a step on some random row, and return its loss and the norm of its gradients."""
    import torch

    ids = torch.randint(0, 250, (1, 64), generator=torch.Generator().manual_seed(number))
    loss = engine(input_ids=ids, labels=ids, use_cache=False).loss
    engine.backward(loss * factor)
    zero.step(engine)
    return float(loss), zero.gradient_norm(engine)


@pytest.mark.flow
@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_gradients_in_fp16_that_overflow_change_nothing_and_lower_the_scale(
    tiny: str, stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed refuses fp16 on a CPU, but PyTorch computes it there."""
    import torch
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda self: True)
    engine = scaled_engine(tiny, stage)
    assert (zero.loss_scale(engine), zero.overflowed(engine)) == (2**16, False)
    first, norm = fp16_step(engine, 0)
    plain = load(tiny, "fp32")
    ids = torch.randint(0, 250, (1, 64), generator=torch.Generator().manual_seed(0))
    wanted = plain(input_ids=ids, labels=ids, use_cache=False).loss
    wanted.backward()
    size = float(torch.stack([p.grad.norm() for p in plain.parameters() if p.grad is not None]).norm())
    assert first == pytest.approx(float(wanted), abs=1e-2)
    assert norm == pytest.approx(size, rel=1e-2)
    before = fp16_step(engine, 1)[0]
    for scale in (2**16, 2**15):  # the first overflow is forgiven
        assert fp16_step(engine, 1, 1e5)[1] == float("inf") and zero.overflowed(engine)
        assert zero.loss_scale(engine) == scale
    assert zero.finite(engine)
    again = fp16_step(engine, 1)[0]
    assert again < before and not zero.overflowed(engine), "the step before the overflows counts, they do not"
    engine.save_checkpoint(str(tmp_path), tag="zero")
    unbroken = [fp16_step(engine, 9, factor) for factor in (1.0, 1e5, 1.0)]
    engine.destroy()
    engine = scaled_engine(tiny, stage)
    zero.load(engine, str(tmp_path), "zero", anew=False, strict=True)
    assert zero.loss_scale(engine) == 2**15
    assert [fp16_step(engine, 9, factor) for factor in (1.0, 1e5, 1.0)] == unbroken
    with pytest.raises(RunError, match="not finite even with a loss scale of 1"):
        for _ in range(40):
            fp16_step(engine, 1, 1e30)
    engine.destroy()


@pytest.mark.flow
@pytest.mark.usefixtures("group")
@pytest.mark.skipif(not zero.files_work(), reason="libaio is not installed; test_settings tests the refusal")
@pytest.mark.parametrize("params", ["none", "nvme"])
def test_states_in_files_give_the_same_losses_and_continue_in_another_engine(params: str, tmp_path: Path) -> None:
    """DeepSpeed compiles its access to files at the first use, for minutes. It moves tensors of 1 MB and more."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=1024, **sizes)).save_pretrained(str(tmp_path / "model"))

    def made(where: str) -> Any:
        name = {"offload_optimizer": where, "offload_params": params if where == "nvme" else "none", "stage": 3}
        given = {**name, "offload_folder": str(tmp_path / "fast"), "args": SMALL}
        settings = zero.config(
            zero.Zero.model_validate(given), Batching(1, 1, 1), clip=1.0, precision="fp32", gpu=False, run="run"
        )
        with zero.partition(settings):
            model = load(str(tmp_path / "model"), "fp32")
        return zero.engine(model, settings, AdamW(), lr=1e-3)

    def losses_of(engine: Any, first: int, last: int) -> list[float]:
        found = []
        for step in range(first, last):
            ids = torch.randint(0, 250, (1, 64), generator=torch.Generator().manual_seed(step))
            found.append(engine(input_ids=ids, labels=ids, use_cache=False).loss)
            engine.backward(found[-1])
            zero.step(engine)
        return [float(loss.detach()) for loss in found]

    plain = made("none")
    wanted = losses_of(plain, 0, 4)
    plain.destroy()
    engine = made("nvme")
    found = losses_of(engine, 0, 2)
    zero.save(engine, str(tmp_path / "step"), "zero", only_trainable=False)
    found += losses_of(engine, 2, 4)
    assert found == pytest.approx(wanted, abs=1e-5)
    assert list((tmp_path / "fast").rglob("*.swp"))
    engine.destroy()
    again = made("nvme")
    zero.load(again, str(tmp_path / "step"), "zero", anew=False, strict=True)
    assert losses_of(again, 2, 4) == found[2:]
    assert zero.finite(again)
    again.destroy()
    zero.clear_files(again.config)
    assert not list((tmp_path / "fast").rglob("*.swp"))
