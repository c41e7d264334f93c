"""QLoRA: what it refuses, and a base model in 4 bits where bitsandbytes is installed."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Store
from gristmill.training.job import Train
from gristmill.training.tuning.model import load, trainable
from gristmill.training.tuning.qlora import Qlora
from gristmill.training.zero import Zero


def test_it_is_refused_without_gpus_at_stage_3_and_with_pissa(tiny: str) -> None:
    assert Train(model=tiny, tuning=Qlora(), gpus_per_worker=1).check(Path()) == []
    for job, where in (
        (Train(model=tiny, tuning=Qlora()), "tuning.kind: qlora without GPUs"),
        (Train(model=tiny, tuning=Qlora(), gpus_per_worker=0), "tuning.kind: qlora without GPUs"),
        (
            Train(model=tiny, tuning=Qlora(), gpus_per_worker=1, zero=Zero(stage=3)),
            "tuning.kind: qlora at zero.stage 3",
        ),
        (Train(model=tiny, tuning=Qlora(init="pissa"), gpus_per_worker=1), 'tuning.init: "pissa" with kind qlora'),
    ):
        assert [line.partition(",")[0] for line in job.check(Path())] == [where]
    assert Train(model=tiny, tuning=Qlora()).learning_rate == 1e-3


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_a_missing_package_is_named_in_the_plan_and_before_anything_is_made(store: Store, tiny: str) -> None:
    job, work = Train(model=tiny, tuning=Qlora(), gpus_per_worker=1), Work("train-x", "x", {"samples": "absent"})
    said = "qlora needs the package bitsandbytes, which is not installed; install it"
    assert job.plan(store, work).notes[-1].endswith(said) or any(
        note.endswith(said) for note in job.plan(store, work).notes
    )
    with pytest.raises(JobError, match=f"train.tuning.kind: {said}"):
        job.make(Run("test", store, Ledger(store, "runs/test"), Screen(quiet=True), None), work)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_the_base_is_in_4_bits_and_its_adapters_learn(tiny: str, kind: str) -> None:
    import torch

    chosen = Qlora.model_validate({"quantization": kind, "r": 4, "alpha": 8})
    model = trainable(load(tiny, "bf16", tuning=chosen), chosen, 0, recompute=False)
    assert model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight.dtype == torch.uint8
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name and p.dtype == torch.bfloat16 for name, p in trained.items())
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    ids = torch.tensor([range(30, 60)])
    losses = []
    for _ in range(10):
        losses.append(float(model(input_ids=ids, labels=ids).loss))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.3
    exact = load(tiny, "bf16")(input_ids=ids).logits
    coarse = load(tiny, "bf16", tuning=chosen)(input_ids=ids).logits
    assert 1e-3 < (exact - coarse).float().std() / exact.float().std() < 0.5
