"""The planned memory by the figures of the ZeRO paper and by hand, and what the plan says of it."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from gristmill.cluster.jobs.job import Work
from gristmill.cluster.models import names
from gristmill.cluster.store.store import Store
from gristmill.training import memory
from gristmill.training.job import Train
from gristmill.training.memory import GIB, Shape
from gristmill.training.tuning.freeze import Freeze
from gristmill.training.tuning.full import Full
from gristmill.training.tuning.lora import Lora
from gristmill.training.zero import Zero

LARGE = Shape(7_500_000_000, 32, 4096, 11008, 4096, 0)
SMALL = Shape(weights=1_552, layers=2, hidden=8, inner=16, keys=4, vocabulary=50)


def test_weights_and_states_are_those_of_the_figure_of_the_zero_paper() -> None:
    """7.5 billion weights on 64 workers: 31.4 and 1.9 GB with bf16 gradients of 15 and 15 / 64 GB (figure 1)."""
    job = Train(tuning=Full(), precision="bf16", workers=64, global_batch_size=64)
    for stage, whole, gradients in ((1, 31.4, 15.0), (3, 1.9, 15 / 64)):
        found = memory.forecast(LARGE, job, 64, gpu=True, stage=stage)
        assert (found.weights + found.states) / 1e9 + gradients == pytest.approx(whole, abs=0.05)


def test_activations_and_logits_are_counted_as_by_hand() -> None:
    job = Train(tuning=Full(), precision="fp32", max_length=10, micro_batch_size=3, logits_at_once=0)
    layer = 6 * 8 + 4 * 8 + 4 * 16
    mask, logits = 3 * 10 * 10, 30 * (1 - 0.4**3) * 50 * 12
    assert memory.activations(SMALL, job, 4) == pytest.approx(30 * 2 * layer * 4 + logits + mask)
    again = job.model_copy(update={"gradient_checkpointing": True})
    assert memory.activations(SMALL, again, 4) == pytest.approx(30 * (2 * 8 + layer) * 4 + logits + mask)
    few = job.model_copy(update={"logits_at_once": 5})
    assert memory.activations(SMALL, few, 4) == 30 * 2 * layer * 4 + 5 * 50 * 12 + mask
    lora = job.model_copy(update={"tuning": Lora()})
    assert memory.activations(SMALL, lora, 4) == pytest.approx(30 * 2 * (layer - 16) * 4 + logits + mask)
    shared = job.model_copy(update={"sequence_parallel": 2})
    assert memory.activations(SMALL, shared, 4) == pytest.approx(15 * 2 * layer * 4 + logits / 2 + mask)


def test_layers_in_the_manner_of_bert_keep_less_and_probabilities_that_drop_out_on_a_cpu() -> None:
    bert = replace(SMALL, weights=400 + 2 * (2 * 8 * 12 + 2 * 8 * 16))
    assert (SMALL.form, bert.form, replace(SMALL, weights=1_952).form) == ((3, 1), (2, 1), (3, 2))
    job = Train.model_validate(
        {"task": {"kind": "sequence_classification"}, "tuning": {"kind": "full"}, "max_length": 10, "precision": "fp32"}
    )
    layer = 4 * 8 + 4 * 8 + 2 * 16
    assert memory.activations(bert, job, 4, gpu=False) == 10 * 2 * layer * 4
    drops = replace(bert, dropout=0.1, heads=3)
    assert memory.activations(drops, job, 4, gpu=True) == 10 * 2 * layer * 4
    assert memory.activations(drops, job, 4, gpu=False) == 10 * (2 * (layer * 4 + 3 * 120 + 2 * 4 * 8) + 10 * 120)


def test_small_activations_of_a_head_on_a_cpu_stay_when_the_gradients_come() -> None:
    job = Train.model_validate(
        {"task": {"kind": "sequence_classification"}, "tuning": {"kind": "full"}, "max_length": 128,
         "precision": "fp32", "micro_batch_size": 8}
    )  # fmt: skip
    bert = Shape(weights=50_000_000, layers=4, hidden=768, inner=3072, keys=768, vocabulary=30_000, heads=12)
    begin = memory.activations(bert, job, 4, gpu=False) + 30_000 * 768 * 4
    small = memory.forecast(bert, job, 1, gpu=False, stage=0)
    assert small.step == pytest.approx(begin + 50_000_000 * 4), "tensors of 13 MB"
    assert memory.forecast(bert, job, 1, gpu=True, stage=0).step < begin + 50_000_000 * 4
    longer = job.model_copy(update={"micro_batch_size": 32})
    large = memory.activations(bert, longer, 4, gpu=False) + 30_000 * 768 * 4
    assert memory.forecast(bert, longer, 1, gpu=False, stage=0).step == pytest.approx(large), "tensors of 50 MB"


def test_without_zero_16_bits_have_master_weights_and_gradients_in_fp32() -> None:
    job = Train(tuning=Full(), precision="bf16")
    assert memory.forecast(LARGE, job, 1, gpu=True, stage=0).states == 4 * 4 * LARGE.weights
    whole = job.model_copy(update={"precision": "fp32"})
    assert memory.forecast(LARGE, whole, 1, gpu=True, stage=0).states == 2 * 4 * LARGE.weights


def test_what_is_offloaded_leaves_a_gpu_and_adds_buffers_to_a_process_on_cpus() -> None:
    job = Train(tuning=Full(), precision="bf16", zero=Zero(stage=2))
    away = job.model_copy(update={"zero": Zero(stage=2, offload_optimizer="cpu")})
    assert memory.forecast(LARGE, away, 4, gpu=True).states == 0
    more = [memory.forecast(LARGE, one, 4, gpu=False).states for one in (job, away)]
    assert more[1] - more[0] == 6 * LARGE.weights / 4


def test_trained_weights_and_checkpoints_are_those_of_the_tuning() -> None:
    llama = memory.shape_of(names.SMOLLM2)
    assert llama is not None and llama.weights == 134_515_008
    # q and o 576 x 576, k and v 576 x 192, three of 576 x 1536, 30 layers, rank 16: peft says 4,884,480
    assert memory.trained(llama, Train()) == 16 * 30 * (2 * 1152 + 2 * 768 + 3 * 2112) == 4_884_480
    assert memory.trained(llama, Train(tuning=Freeze(last_layers=2))) == 2 * llama.layer
    full = Train(tuning=Full(), precision="fp32")
    assert memory.checkpoint_bytes(llama, full) == 16 * 134_515_008
    assert memory.checkpoint_bytes(llama, full.model_copy(update={"zero": Zero(stage=0)})) == 12 * 134_515_008


def test_more_workers_and_higher_stages_never_need_more_for_weights_and_states() -> None:
    job = Train(tuning=Full(), precision="bf16")
    held = [
        [
            one.weights + one.states
            for stage in (1, 2, 3)
            for one in [memory.forecast(LARGE, job, world, gpu=True, stage=stage)]
        ]
        for world in (1, 2, 8)
    ]
    assert all(a >= b for row in held for a, b in itertools.pairwise(row))
    assert all(a > b for one, more in itertools.pairwise(held) for a, b in zip(one, more, strict=True))


def test_the_plan_says_memory_checkpoints_and_time(store: Store, samples: str, tiny: str, tmp_path: Path) -> None:
    notes = Train(model=tiny, workers=(1, 4)).plan(store, Work("train-x", "x", {"samples": samples})).notes
    (said,) = [note for note in notes if note.startswith("memory of a worker in GiB at ZeRO 0, 1, 2 and 3 is about ")]
    assert "with 1; " in said and said.endswith(" with 4 workers")
    assert any(
        note.startswith("a checkpoint is ") and note.endswith("2 are kept (train.save_total_limit)") for note in notes
    )
    assert any(note.startswith("the steps take about ") for note in notes)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text("{}")
    assert list(memory.notes(Train(model=str(tmp_path / "odd")), 10)) == [
        "memory and time are not known, because the files of the model do not say its shape"
    ]
    assert memory.planned(Train(model=tiny), gpu=False).endswith(" GiB were planned; ")


def test_the_speed_of_products_is_that_of_a_core_of_today() -> None:
    assert 1e9 < memory.product_rate() < 1e13
    shape = memory.shape_of(names.SMOLLM2)
    assert shape is not None
    assert memory.operations(shape, Train(tuning=Full()), 10) == 6 * 134_515_008 * 10
    assert GIB == 1_073_741_824
