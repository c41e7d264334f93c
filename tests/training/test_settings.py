"""What the jobs refuse and plan, the configuration that DeepSpeed gets, and which checkpoint is taken."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.jobs.recipe import open_recipe
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Store
from gristmill.training import checkpoint, checks
from gristmill.training.evaluate.held_out import require_talk
from gristmill.training.evaluate.job import Evaluate
from gristmill.training.job import Train
from gristmill.training.loop.state import precision_of
from gristmill.training.optim import schedule
from gristmill.training.optim.muon import Muon
from gristmill.training.supervision.supervisor import say_other_world
from gristmill.training.tuning.freeze import Freeze
from gristmill.training.tuning.full import Full
from gristmill.training.tuning.lora import Lora
from gristmill.training.tuning.model import Precision
from gristmill.training.zero import Batching, Zero, config

CUT = Batching(micro=2, accumulation=3, world=4)


def built(zero: Zero, *, gpu: bool = False) -> dict[str, Any]:
    return config(zero, CUT, clip=0.5, precision="bf16", gpu=gpu)


def test_the_configuration_follows_the_settings() -> None:
    made = built(Zero(stage=2))
    assert made["train_batch_size"] == 24
    assert made["gradient_clipping"] == 0.5
    assert made["bf16"] == {"enabled": True}
    assert made["zero_optimization"] == {"stage": 2, "overlap_comm": False, "contiguous_gradients": False}
    assert built(Zero(stage=2), gpu=True)["zero_optimization"]["overlap_comm"]


def test_gradients_in_bf16_are_summed_up_in_fp32_where_there_are_several() -> None:
    assert built(Zero(stage=2))["data_types"] == {"grad_accum_dtype": "fp32"}
    assert "communication_data_type" not in built(Zero(stage=2))
    assert built(Zero(stage=1))["communication_data_type"] == "fp32"
    halves: tuple[tuple[Batching, Precision], ...] = ((Batching(2, 1, 4), "bf16"), (CUT, "fp32"))
    for cut, precision in halves:
        assert "data_types" not in config(Zero(), cut, clip=0.5, precision=precision, gpu=False)


def test_losses_in_fp16_are_scaled_and_need_a_gpu(tiny: str) -> None:
    made = config(Zero(stage=1), CUT, clip=0.5, precision="fp16", gpu=True)
    assert made["fp16"] == {
        "enabled": True, "loss_scale": 0, "initial_scale_power": 16, "loss_scale_window": 1000, "hysteresis": 2,
    }  # fmt: skip
    assert made["bf16"] == {"enabled": False} and made["data_types"] == {"grad_accum_dtype": "fp32"}
    assert "fp16" not in built(Zero())
    for gpus in (None, 0):
        assert (
            Train(model=tiny, precision="fp16", gpus_per_worker=gpus)
            .check(Path())[0]
            .startswith("precision: fp16 without GPUs")
        )
    assert Train(model=tiny, precision="fp16", gpus_per_worker=1).check(Path()) == []
    assert len(Train(model=tiny, precision="fp16", gpus_per_worker=1, zero=Zero(stage=0)).check(Path())) == 1


def test_open_arguments_are_laid_over_what_is_built() -> None:
    made = built(Zero(args={"zero_optimization": {"reduce_bucket_size": 7}, "wall_clock_breakdown": True}))
    assert made["zero_optimization"]["reduce_bucket_size"] == 7
    assert made["zero_optimization"]["stage"] == 1
    assert made["wall_clock_breakdown"] is True


def test_offloading_is_placed_on_the_host() -> None:
    made = built(Zero(stage=3, offload_optimizer="cpu", offload_params="cpu"))["zero_optimization"]
    assert made["offload_optimizer"]["device"] == made["offload_param"]["device"] == "cpu"


def test_offloading_to_files_has_a_folder_for_each_run() -> None:
    zero = Zero(stage=3, offload_optimizer="nvme", offload_params="nvme", offload_folder="/fast")
    made = config(zero, CUT, clip=0.5, precision="fp32", gpu=True, run="train-1")["zero_optimization"]
    wanted = {"device": "nvme", "pin_memory": True, "nvme_path": "/fast/train-1"}
    assert made["offload_optimizer"] == made["offload_param"] == wanted


def compiler(folder: Path, code: int) -> str:
    """Write a C compiler that always ends with this code."""
    folder.mkdir()
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\ncat > /dev/null\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


def test_offloading_to_files_needs_what_deepspeed_needs_for_it(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(**given: Any) -> list[str]:
        return Train.model_validate({"model": tiny, "zero": given}).check(tmp_path)

    whole = {"stage": 3, "offload_optimizer": "nvme", "offload_folder": str(tmp_path)}
    monkeypatch.setenv("CC", compiler(tmp_path / "good", 0))
    assert found(**whole) == []
    wanted = (
        "zero.offload_folder: is not set, must be a folder",
        "zero.offload_optimizer: nvme at stage 2, must be cpu",
    )
    for line, start in zip(found(stage=2, offload_optimizer="nvme"), wanted, strict=True):
        assert line.startswith(start)
    (line,) = found(stage=3, offload_params="nvme", offload_folder="/fast")
    assert line.startswith("zero.offload_optimizer: none with offload_params nvme, must be nvme")
    (line,) = found(offload_folder="/fast")
    assert line.startswith("zero.offload_folder: is set, must not be")
    muon = Train.model_validate({"model": tiny, "zero": whole, "optimizer": {"kind": "muon"}})
    assert [line.split(",")[0] for line in muon.check(tmp_path)] == [
        "optimizer.kind: muon with zero.offload_optimizer nvme"
    ]
    for missing in (compiler(tmp_path / "bad", 1), str(tmp_path / "none")):
        monkeypatch.setenv("CC", missing)
        (line,) = found(**whole)
        assert line.startswith("zero: nvme needs the library libaio with its header and a C compiler")


def test_where_states_are_kept_has_the_identity_of_before(tiny: str) -> None:
    fields = [Zero(stage=3, offload_optimizer=where).identity()["fields"] for where in ("none", "cpu", "nvme")]
    assert [each["offload_optimizer"] for each in fields] == [False, True, "nvme"]
    assert Zero(offload_folder="/a").identity() == Zero().identity()


def test_workers_that_share_the_tokens_of_a_row_need_a_model_and_a_batch_that_fit(tiny: str, tmp_path: Path) -> None:
    def found(**given: Any) -> list[str]:
        return Train.model_validate({"model": tiny, "sequence_parallel": 2, **given}).check(tmp_path)

    assert found() == []
    assert Train(model=tiny, sequence_parallel=2, workers=(1, 8), global_batch_size=4).worlds == (2, 4, 8)
    cut = Train(model=tiny, sequence_parallel=2, workers=4, global_batch_size=8).batching(4)
    assert (cut.world, cut.teams, cut.accumulation) == (4, 2, 4)
    assert found(workers=3) == ["workers: 3, must be a multiple of sequence_parallel = 2"]
    assert found(workers=4, global_batch_size=3)[0].startswith(
        "global_batch_size: 3 rows, must be a multiple of micro_batch_size x workers / sequence_parallel = 4 / 2; try 4"
    )
    assert found(neftune_alpha=5.0, attention="eager") == [
        "sequence_parallel: 2 with attention eager, must be 1",
        "sequence_parallel: 2 with neftune_alpha, must be 1",
    ]
    heads = "sequence_parallel: 3, must divide the 2 attention heads"
    assert found(sequence_parallel=3, workers=3, global_batch_size=3)[0].startswith(heads)
    folder = tmp_path / "windows"
    shutil.copytree(tiny, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "sliding_window": 128}))
    (line,) = found(model=str(folder), max_length=256)
    assert line.endswith("sees 128; must be 1")
    assert found(model=str(folder), max_length=128) == []


def test_every_fault_of_the_settings_is_named(tiny: str) -> None:
    job = Train.model_validate(
        {
            "model": tiny,
            "global_batch_size": 5,
            "workers": 2,
            "zero": {"offload_params": "cpu", "args": {"optimizer": {}}},
        }
    )
    found = job.check(Path())
    assert len(found) == 3
    assert any(
        f.startswith("global_batch_size: 5 rows, must be a multiple of micro_batch_size x workers = 2; try 6")
        for f in found
    )
    assert len(Train(model=tiny, zero=Zero(stage=0), precision="bf16").check(Path())) == 1
    assert Train(model=tiny, zero=Zero(stage=0)).check(Path()) == [], "auto becomes fp32 there"
    split = Train(model=tiny, zero=Zero(stage=3), tuning=Lora(dora=True))
    assert split.check(Path()) == [
        "tuning.dora: true at zero.stage 3, must be 0, 1 or 2; it begins with whole weights of the base"
    ]
    assert Train(model="builtin:none").check(Path())[0].startswith("model: builtin:none: no such builtin model")
    assert Train(model=tiny).check(Path()) == []


def test_only_what_changes_the_model_changes_its_identity(tiny: str) -> None:
    base = Train(model=tiny).fingerprint()
    assert Train(model=tiny, workers=1, save_steps=3, gradient_checkpointing=True).fingerprint() == base
    assert Train(model=tiny, learning_rate=2e-3).fingerprint() != base
    assert Train(model=tiny, tuning=Full()).fingerprint() != base


def test_the_default_rate_follows_the_tuning(tiny: str) -> None:
    rates = {kind: Train(model=tiny, tuning=kind).learning_rate for kind in (Lora(), Full(), Freeze(last_layers=1))}
    assert list(rates.values()) == [1e-3, 1e-4, 1e-4]
    assert Train(model=tiny, tuning=Full(), learning_rate=3e-4).learning_rate == 3e-4


def test_what_an_optimizer_or_a_schedule_cannot_be_with_is_refused(tiny: str) -> None:
    found = Train(model=tiny, optimizer=Muon(), schedule="constant", min_ratio=0.1).check(Path())
    assert found == [
        "min_ratio: is set, must not be with schedule constant, only with cosine, linear, wsd, reduce_lr_on_plateau",
    ]
    assert Train(model=tiny, optimizer=Muon(), zero=Zero(stage=3), schedule="wsd", decay_ratio=0.2).check(Path()) == []


def test_states_of_the_optimizer_in_bf16_need_a_computation_in_bf16(tiny: str) -> None:
    pure = Train(model=tiny, optimizer_states="bf16", precision="bf16")
    assert pure.check(Path()) == []
    made = config(Zero(stage=2), CUT, clip=0.5, precision="bf16", gpu=False, states="bf16")
    assert made["bf16"] == {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
    assert "data_types" not in made
    found = Train(model=tiny, optimizer_states="bf16", zero=Zero(offload_optimizer="cpu")).check(Path())
    assert [line.partition(",")[0] for line in found] == [
        'precision: auto with optimizer_states "bf16"',
        "optimizer_states: bf16 with zero.offload_optimizer",
    ]


def test_new_settings_leave_the_identity_alone_until_they_are_used(tiny: str) -> None:
    base = Train(model=tiny)
    named = base.identity()["fields"].keys()
    assert Train.newer and not Train.newer & named
    assert Train(model=tiny, dropout=0.1).identity()["fields"].keys() == named | {"dropout"}
    assert Train(model=tiny, dropout=0.1).fingerprint() != base.fingerprint()


def test_a_schedule_that_follows_the_held_out_loss_needs_its_measurements(tiny: str) -> None:
    given = {"model": tiny, "schedule": "reduce_lr_on_plateau", "min_ratio": 0.1, "plateau_patience": 2}
    assert Train.model_validate({**given, "eval_steps": 5}).check(Path()) == []
    assert Train.model_validate(given).check(Path()) == [
        "eval_steps: 0 with schedule reduce_lr_on_plateau, must be the steps between two measurements"
    ]
    assert Train(model=tiny, plateau_factor=0.5).check(Path()) == [
        "plateau_factor: is set, must not be with schedule cosine, only with reduce_lr_on_plateau"
    ]


def test_dropout_is_refused_for_a_model_that_has_none(store: Store, samples: str, tmp_path: Path, tiny: str) -> None:
    from transformers import MambaConfig

    MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1).save_pretrained(str(tmp_path))
    work = Work("train-x", "x", {"samples": "absent"})
    assert Train(model=tiny, dropout=0.1).plan(store, work).state == "to do"
    with pytest.raises(JobError, match=r"train\.dropout: 0\.1, but the config of .* has no dropout"):
        Train(model=str(tmp_path), dropout=0.1).plan(store, work)


def test_the_held_out_loss_must_be_measured_where_something_depends_on_it(tiny: str) -> None:
    found = Train(model=tiny, early_stopping=2, keep="best").check(Path())
    assert [line.partition(",")[0] for line in found] == [
        "eval_steps: 0 with early_stopping",
        'eval_steps: 0 with keep = "best"',
    ]
    assert Train(model=tiny, early_stopping=2, keep="best", eval_steps=5).check(Path()) == []


def test_a_metric_is_a_measure_of_the_task(tiny: str) -> None:
    assert Train(model=tiny, metric="accuracy").check(Path()) == []
    [line] = Train(model=tiny, metric="bleu").check(Path())
    assert line.startswith("metric: bleu with task.kind causal_lm, must be one of loss, accuracy, macro_f1; what needs")
    head = {"kind": "question_answering"}
    assert checks.setting_problems(Train.model_validate({"task": head, "metric": "f1", "eval_steps": "epoch"})) == []
    assert schedule.eval_every("epoch", 21, 4) == 6 and schedule.eval_every(5, 21, 4) == 5
    asha = {"method": "asha", "space": {"seed": [1, 2]}}
    [line] = Train.model_validate({"model": tiny, "eval_steps": "epoch", "search": asha}).check(Path())
    assert line == "eval_steps: epoch with search.method asha, must be the number of steps to the first rung"


def test_attention_that_needs_a_package_is_refused_without_it(tiny: str) -> None:
    found = Train(model=tiny, attention="flash_attention_2").check(Path())
    assert found == [] if find_spec("flash_attn") else "flash-attn is not installed" in found[0]


def test_plans_load_nothing_and_know_what_is_there(store: Store, samples: str, tiny: str) -> None:
    plan = Train(model=tiny).plan(store, Work("train-x", "x", {"samples": samples}))
    assert (plan.state, plan.samples, plan.cpus) == ("to do", 60, 2)
    assert plan.tokens > 0
    store.folder("train-x")
    assert Train(model=tiny).plan(store, Work("train-x", "x", {"samples": samples})).state == "continues"
    assert Train(model=tiny).plan(store, Work("train-y", "y", {"samples": "absent"})).samples == 0
    assert Evaluate().plan(store, Work("evaluate-x", "x", {"model": "train-x"})).state == "to do"


def test_a_recipe_hands_its_seeds_and_the_files_of_train_to_training(tmp_path: Path, tiny: str) -> None:
    line = '{"instruction": "Name a river.", "output": "The Elbe."}\n'
    for name in ("seeds", "exam", "people"):
        (tmp_path / f"{name}.jsonl").write_text(line, encoding="utf-8")
    given = {"store": str(tmp_path / "runs"), "generate": {"input": str(tmp_path / "seeds.jsonl")}}
    train = {"model": tiny, "validation_split": "seeds", "test": [str(tmp_path / "exam.jsonl")]}
    _, works = open_recipe({**given, "train": train})
    assert works["train"].inputs.keys() == {"samples", "seeds", "test"}
    assert works["train"].inputs["seeds"] == works["generate"].inputs["samples"]
    assert works["train"].inputs["samples"] == works["generate"].output
    _, works = open_recipe({**given, "train": {**train, "validation": str(tmp_path / "people.jsonl")}})
    assert works["train"].inputs.keys() == {"samples", "validation", "test"}
    with pytest.raises(JobError, match=r'validation_split: "seeds", but no job before train has an input'):
        open_recipe({"store": given["store"], "train": {"input": str(tmp_path / "seeds.jsonl"), **train}})
    with pytest.raises(JobError, match=r"train.validation: 2, must be less than 1"):
        open_recipe({**given, "train": {"model": tiny, "validation": 2}})


def test_evaluation_needs_a_trained_model_and_no_other() -> None:
    assert Evaluate().needs({"train": "train-x"}) == {"model": "train-x"}
    with pytest.raises(JobError, match="no \\[train\\]"):
        Evaluate().needs({"select": "select-x"})
    assert Evaluate.model_validate({"engine": {"model": "other"}}).check(Path())
    assert Evaluate().check(Path()) == []


def test_the_newest_committed_checkpoint_is_found_and_orphans_are_swept(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "absent") is None
    for step in (5, 10, 15, 20):
        (tmp_path / f"step-{step:08d}" / "zero").mkdir(parents=True)
        if step != 20:
            checkpoint.commit(tmp_path / f"step-{step:08d}", step, 2, "fp32")
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert (found.step, found.world) == (15, 2)
    checkpoint.sweep(tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000015"]


def test_it_is_said_when_another_number_of_workers_continues(
    store: Store, tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store.folder("train-x") / "checkpoints/step-00000010"
    path.mkdir(parents=True)
    checkpoint.commit(path, 10, 3, "fp32")
    run = Run("test", store, Ledger(store, "runs/test"), Screen(), None)
    say_other_world(Train(model=tiny), run, store.folder("train-x"), 3)
    assert not capsys.readouterr().err
    say_other_world(Train(model=tiny), run, store.folder("train-x"), 2)
    assert "continues from step 10 with 2 workers instead of 3" in capsys.readouterr().err
    with pytest.raises(JobError, match=r"workers: 2, must be 3 with zero\.stage 3"):
        say_other_world(Train(model=tiny, zero=Zero(stage=3)), run, store.folder("train-x"), 2)


def reply(text: str, finish: str) -> dict[str, Any]:
    return {"reply": text, "finish": finish}


def test_a_model_that_says_nothing_or_never_stops_fails_the_smoke_test() -> None:
    require_talk([reply("", "stop"), reply("endless", "length"), reply("fine", "stop")])
    with pytest.raises(RunError, match="all 2 replies are empty"):
        require_talk([reply(" ", "stop"), reply("", "length")])
    with pytest.raises(RunError, match="must stop by itself"):
        require_talk([reply("and on and on", "length")])


def test_a_run_that_goes_on_keeps_the_precision_of_its_checkpoint(tmp_path: Path, tiny: str) -> None:
    checkpoint.commit(tmp_path, 10, 2, "bf16")
    path = tmp_path.rename(tmp_path.with_name("step-00000010"))
    found = checkpoint.newest(path.parent)
    assert precision_of(Train(model=tiny), found) == ("bf16", "as the checkpoint of step 10")
    assert precision_of(Train(model=tiny, precision="fp32"), found) == ("fp32", "as the recipe says")
    assert precision_of(Train(model=tiny, zero=Zero(stage=0)), None)[0] == "fp32"
